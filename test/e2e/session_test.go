package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
	"vmfr/test/cluster"
	"vmfr/test/e2e/pull"
)

// discover asks which backups hold a machine and fails unless it is the given ones.
func (m *machine) discover(t *testing.T, name string, want ...string) {
	t.Helper()
	d := &v1alpha1.VirtualMachineBackupsDiscovery{
		ObjectMeta: metav1.ObjectMeta{Namespace: *veleroNamespace, Name: name},
		Spec:       v1alpha1.VirtualMachineBackupsDiscoverySpec{VirtualMachineName: m.spec.Name, VirtualMachineNamespace: m.spec.Namespace},
	}
	m.w.create(t, d)
	cluster.Await(t, serveLimit, func() error {
		if err := m.w.get(d); err != nil {
			return err
		}
		var found []string
		for _, b := range d.Status.ValidBackups {
			found = append(found, b.Name)
		}
		if d.Status.Phase != v1alpha1.DiscoveryCompleted || !sameSet(found, want) {
			return fmt.Errorf("the discovery is %q with %q: %+v %+v", d.Status.Phase, found, d.Status.Conditions, d.Status.InvalidBackups)
		}
		return nil
	})
}

// fileRestore is a VirtualMachineFileRestore and what was made for it.
type fileRestore struct {
	*v1alpha1.VirtualMachineFileRestore
	w     *world
	names plan.Names
	made  time.Time
}

// restore creates a file restore of a machine; it is deleted when the test ends.
func (m *machine) restore(t *testing.T, name, discovery string, change ...func(*v1alpha1.VirtualMachineFileRestoreSpec)) *fileRestore {
	t.Helper()
	r := &fileRestore{w: m.w, VirtualMachineFileRestore: &v1alpha1.VirtualMachineFileRestore{
		ObjectMeta: metav1.ObjectMeta{Namespace: *veleroNamespace, Name: name},
		Spec: v1alpha1.VirtualMachineFileRestoreSpec{BackupsDiscoveryRef: discovery,
			FileAccess: &v1alpha1.FileAccess{SSH: &v1alpha1.SSHAccess{}, FileBrowser: &v1alpha1.FileBrowserAccess{}}},
	}}
	for _, c := range change {
		c(&r.Spec)
	}
	r.made = time.Now()
	m.w.create(t, r.VirtualMachineFileRestore)
	r.names = plan.NewNames(r.VirtualMachineFileRestore, session.VM{Name: m.spec.Name, Namespace: m.spec.Namespace})
	t.Cleanup(func() {
		if t.Failed() {
			r.tell(t)
		}
	})
	return r
}

// backups selects backups by name.
func backups(names ...string) func(*v1alpha1.VirtualMachineFileRestoreSpec) {
	return func(s *v1alpha1.VirtualMachineFileRestoreSpec) { s.SelectedBackups = names }
}

// await waits until the restore has a phase.
func (r *fileRestore) await(t testing.TB, phase v1alpha1.FileRestorePhase) {
	t.Helper()
	cluster.Await(t, endLimit, func() error {
		if err := r.w.get(r.VirtualMachineFileRestore); err != nil {
			return err
		}
		if r.Status.Phase != phase {
			return fmt.Errorf("the file restore %s is %q: %s", r.Name, r.Status.Phase, r.text())
		}
		return nil
	})
}

// text is what the conditions say.
func (r *fileRestore) text() string {
	var b strings.Builder
	for _, c := range r.Status.Conditions {
		fmt.Fprintf(&b, "\n  %s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message)
	}
	for _, p := range r.Status.PVCRestores {
		for _, x := range p.Restores {
			fmt.Fprintf(&b, "\n  %s of %s: %s %s %s", p.PVCName, x.VeleroBackupName, x.State, x.Phase, x.FailureReason)
		}
	}
	return b.String()
}

// tell logs how the restore stands, with what its pods and the agent said.
func (r *fileRestore) tell(t testing.TB) {
	t.Helper()
	if err := r.w.get(r.VirtualMachineFileRestore); err != nil {
		t.Log(err)
	}
	t.Logf("%s is %s: %s", r.Name, r.Status.Phase, r.text())
	for _, args := range [][]string{
		{"get", "pods,pvc", "-A", "-o", "wide", "-l", v1alpha1.LabelOriginUUID + "=" + string(r.UID)},
		{"-n", r.names.Session, "get", "events"},
		{"-n", r.names.Session, "logs", "deployment/" + r.names.Object(), "--tail=30"},
		{"-n", agentNamespace, "logs", "daemonset/vmfr-agent", "--tail=50"},
		{"-n", controllerNamespace, "logs", "deployment/vmfr-controller", "--tail=50"},
	} {
		out, err := r.w.kubectl(context.Background(), args...)
		t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// delete deletes the restore as users do and returns how long that took.
func (r *fileRestore) delete(t testing.TB) time.Duration {
	t.Helper()
	from := time.Now()
	r.w.remove(t, r.VirtualMachineFileRestore)
	return time.Since(from)
}

// ref names an object beside the restore.
func (r *fileRestore) ref(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: r.Namespace, Name: name}
}

// holders are the pods of the session.
func (r *fileRestore) holders(t testing.TB) []corev1.Pod {
	t.Helper()
	var list corev1.PodList
	if err := r.w.admin.List(t.Context(), &list, client.MatchingLabels{v1alpha1.LabelOriginUUID: string(r.UID)}); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// report is the node's last account.
func (r *fileRestore) report() (*session.Report, error) {
	var cm corev1.ConfigMap
	if err := r.w.admin.Get(context.Background(), client.ObjectKey{Namespace: r.names.Session, Name: r.names.Report()}, &cm); err != nil {
		return nil, err
	}
	s := new(session.Report)
	return s, json.Unmarshal([]byte(cm.Data[session.KeyReport]), s)
}

// secret reads one value of a Secret that the status names.
func (r *fileRestore) secret(t testing.TB, ref *v1alpha1.SecretReference, key string) string {
	t.Helper()
	var s corev1.Secret
	if err := r.w.admin.Get(t.Context(), client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Data[key]) == 0 {
		t.Fatalf("the Secret %s/%s has no %s", ref.Namespace, ref.Name, key)
	}
	return string(s.Data[key])
}

// server is what the status tells a person: where the files are, who may log in, and what the
// server's keys are.
func (r *fileRestore) server(t testing.TB) pull.Server {
	t.Helper()
	cluster.Await(t, serveLimit, func() error {
		if err := r.w.get(r.VirtualMachineFileRestore); err != nil {
			return err
		}
		if i := r.Status.FileServingInfo; i == nil || i.SSH == nil || i.FileBrowser == nil || i.SSH.HostKey == "" || i.FileBrowser.CABundle == "" {
			return fmt.Errorf("the status does not tell how to reach the files: %s", r.text())
		}
		return nil
	})
	info := r.Status.FileServingInfo
	s := pull.Server{HostKey: strings.TrimSpace(info.SSH.HostKey), CA: info.FileBrowser.CABundle,
		User:  r.secret(t, info.SSH.CredentialsSecretRef, "username"),
		Login: r.secret(t, info.FileBrowser.CredentialsSecretRef, "username"), Password: r.secret(t, info.FileBrowser.CredentialsSecretRef, "password"),
		Key: filepath.Join(t.TempDir(), "key")}
	if err := os.WriteFile(s.Key, []byte(r.secret(t, info.SSH.CredentialsSecretRef, "privateKey")), 0o600); err != nil {
		t.Fatal(err)
	}
	ssh, err := url.Parse(info.SSH.ClusterAccess)
	if err != nil {
		t.Fatal(err)
	}
	https, err := url.Parse(info.FileBrowser.ClusterAccess)
	if err != nil {
		t.Fatal(err)
	}
	if *reach == "port-forward" {
		s.Host = "localhost"
		s.SSH, s.HTTPS = r.forward(t, ssh.Port(), https.Port())
		return s
	}
	var svc corev1.Service
	name, _, _ := strings.Cut(ssh.Hostname(), ".")
	if err := r.w.admin.Get(t.Context(), client.ObjectKey{Namespace: r.names.Session, Name: name}, &svc); err != nil {
		t.Fatal(err)
	}
	s.Host = ssh.Hostname()
	s.SSH, s.HTTPS = net.JoinHostPort(svc.Spec.ClusterIP, ssh.Port()), net.JoinHostPort(svc.Spec.ClusterIP, https.Port())
	awaitOpen(t, s.SSH)
	awaitOpen(t, s.HTTPS)
	return s
}

// awaitOpen waits until an address answers: kube-proxy hears of a Service's pod beside the controller, and takes
// a while to let it through.
func awaitOpen(t testing.TB, address string) {
	t.Helper()
	cluster.Await(t, serveLimit, func() error {
		c, err := net.DialTimeout("tcp", address, serveLimit)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

var forwarding = regexp.MustCompile(`Forwarding from (127\.0\.0\.1:\d+) -> (\d+)`)

// forward runs kubectl port-forward until the test ends and returns the addresses on this side.
func (r *fileRestore) forward(t testing.TB, ports ...string) (first, second string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	args := []string{"--kubeconfig", r.w.Kubeconfig, "-n", r.names.Session, "port-forward", "svc/" + r.names.Object()}
	for _, p := range ports {
		args = append(args, ":"+p)
	}
	cmd := exec.CommandContext(ctx, "kubectl", args...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	at := map[string]string{}
	for lines := bufio.NewScanner(out); len(at) < len(ports) && lines.Scan(); {
		if m := forwarding.FindStringSubmatch(lines.Text()); m != nil {
			at[m[2]] = m[1]
		}
	}
	if len(at) < len(ports) {
		t.Fatalf("kubectl port-forward: %v", at)
	}
	go func() { _, _ = bufio.NewReader(out).WriteTo(discard{}) }()
	return at[ports[0]], at[ports[1]]
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// sameSet tells whether two lists hold the same names.
func sameSet(a, b []string) bool {
	in := map[string]int{}
	for _, x := range a {
		in[x]++
	}
	for _, x := range b {
		in[x]--
	}
	for _, n := range in {
		if n != 0 {
			return false
		}
	}
	return true
}

// grep are the lines of a text that hold a word.
func grep(text string, words ...string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		for _, w := range words {
			if strings.Contains(line, w) {
				b.WriteString(line)
				break
			}
		}
	}
	return b.String()
}
