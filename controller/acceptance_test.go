package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
	"vmfr/test/cluster"
)

var update = flag.Bool("update", false, "write testdata/acceptance.yaml anew; review what changed")

const golden = "testdata/acceptance.yaml"

// testAcceptance is a file restore by README.md's commands, from the discovery to the files'
// addresses, and its removal, by the program under the roles of deploy/ against the real Velero.
// What needs a node is left out: nobody starts the pods, and the node's report is written here.
func (e *env) testAcceptance(t *testing.T) {
	ctx := context.Background()
	vm := session.VM{Name: "web", Namespace: "shop"}
	e.CreateVM(t, cluster.VM{Namespace: vm.Namespace, Name: vm.Name, Disks: []cluster.Disk{{Name: "root", DataVolume: true}, {Name: "data", Bus: "scsi", Filesystem: true, Size: "2Gi"}}})
	e.CreateVM(t, cluster.VM{Namespace: vm.Namespace, Name: "other", Disks: []cluster.Disk{{Name: "root"}}})
	e.velero.BackupOf(t, "nightly-1", vm.Namespace)
	e.velero.BackupOf(t, "nightly-2", vm.Namespace)
	p, stop := e.startAcceptance(t)
	defer stop()
	before := e.Inventory(t)

	if names := strings.Fields(e.shell(t, readmeCommands(t, "Find the backups"))); !slices.Contains(names, "nightly-1") || !slices.Contains(names, "nightly-2") {
		t.Errorf("the backups are not shown: %q", names)
	}
	d := &v1alpha1.VirtualMachineBackupsDiscovery{}
	d.Name, d.Namespace = "web-backups", "velero"
	cluster.Await(t, waitLimit, func() error {
		if err := e.admin.Get(ctx, client.ObjectKeyFromObject(d), d); err != nil {
			return err
		}
		if d.Status.Phase != v1alpha1.DiscoveryCompleted || len(d.Status.ValidBackups) != 2 {
			return fmt.Errorf("the discovery is %q: %+v", d.Status.Phase, d.Status)
		}
		return nil
	})
	e.testVariant(t)
	serve, wait, _ := strings.Cut(readmeCommands(t, "Serve their files"), "EOF\nkubectl")
	e.shell(t, serve+"EOF\n")
	v := &v1alpha1.VirtualMachineFileRestore{}
	v.Name, v.Namespace = "web-files", "velero"
	e.awaitPods(t, v, vm)
	names := plan.NewNames(v, vm)
	e.run(t, names.Session)
	said := e.report(t, v, names)
	cluster.Await(t, waitLimit, func() error {
		if err := e.admin.Get(ctx, client.ObjectKeyFromObject(v), v); err != nil {
			return err
		}
		if v.Status.Phase != v1alpha1.FileRestoreCompleted {
			return fmt.Errorf("the restore is %q: %+v", v.Status.Phase, v.Status.Conditions)
		}
		return nil
	})
	after := e.Inventory(t)
	e.checkGolden(t, before, after, v, names, said)
	e.shell(t, "kubectl"+wait)
	e.testPullCommands(t)
	testMonitoring(t, p)
	e.shell(t, readmeCommands(t, "Delete"))
	cluster.Await(t, waitLimit, func() error {
		now := e.Inventory(t)
		if left := cluster.Added(before, now); len(left) > 0 {
			return fmt.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
		if gone := cluster.Added(now, before); len(gone) > 0 {
			return fmt.Errorf("deleted although it was there before:\n%s", strings.Join(gone, "\n"))
		}
		return nil
	})
}

// startAcceptance starts the controller as deploy/ does, with an Ingress class.
func (e *env) startAcceptance(t *testing.T) (p *controller, stop func()) {
	p = startController(t, e.kubeconfig, "--leader-elect-namespace=vmfr-system", "--ingress-class=nginx", "--host-template={{.Name}}.files.example.com")
	p.awaitReady(t)
	return p, func() {
		if code := p.stop(syscall.SIGTERM); code != 0 {
			t.Errorf("SIGTERM: exit code %d", code)
		}
		if strings.Contains(p.text(), "is forbidden") {
			t.Error("the API server forbade something: see the controller's log")
		}
	}
}

// apply applies a manifest with kubectl, as users do.
func (e *env) apply(t testing.TB, manifest string) {
	t.Helper()
	if out, err := e.Kubectl(manifest, "apply", "-f", "-"); err != nil || strings.Contains(out, "Warning") {
		t.Fatalf("kubectl apply: %v: %s", err, out)
	}
}

// awaitPods waits until Velero has restored the volumes and each holder has a pod: admitted at
// the level of its namespace, and Pending without a node.
func (e *env) awaitPods(t *testing.T, v *v1alpha1.VirtualMachineFileRestore, vm session.VM) {
	t.Helper()
	ctx := context.Background()
	cluster.Await(t, waitLimit, func() error {
		if err := e.admin.Get(ctx, client.ObjectKeyFromObject(v), v); err != nil {
			return err
		}
		names := plan.NewNames(v, vm)
		for n := 1; n <= 2; n++ {
			var r velerov1.Restore
			if err := e.admin.Get(ctx, client.ObjectKey{Namespace: "velero", Name: names.Restore(n)}, &r); err != nil {
				return fmt.Errorf("%w: %+v", err, v.Status)
			}
			if r.Status.Phase != velerov1.RestorePhaseCompleted {
				return fmt.Errorf("%s is %q", r.Name, r.Status.Phase)
			}
		}
		for _, ns := range []string{names.Session, names.BackupNamespace(1), names.BackupNamespace(2)} {
			var pods corev1.PodList
			if err := e.admin.List(ctx, &pods, client.InNamespace(ns)); err != nil {
				return err
			}
			if len(pods.Items) != 1 || pods.Items[0].Status.Phase != corev1.PodPending {
				return fmt.Errorf("%d pods in %s: %+v", len(pods.Items), ns, v.Status.Conditions)
			}
			checkUnprivileged(t, &pods.Items[0])
		}
		return nil
	})
}

// checkUnprivileged: a holder is a small process without a capability, a device of its node or a
// folder of it but the agent's.
func checkUnprivileged(t *testing.T, p *corev1.Pod) {
	t.Helper()
	if p.Spec.HostNetwork || p.Spec.HostPID || p.Spec.HostIPC {
		t.Errorf("%s shares a namespace of its node", p.Name)
	}
	for _, v := range p.Spec.Volumes {
		if v.HostPath != nil && v.HostPath.Path != session.DirAgent {
			t.Errorf("%s mounts %s of its node", p.Name, v.HostPath.Path)
		}
	}
	for _, c := range append(p.Spec.InitContainers, p.Spec.Containers...) {
		s := c.SecurityContext
		if s == nil || s.Privileged == nil || *s.Privileged || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
			s.Capabilities == nil || len(s.Capabilities.Add) > 0 || !slices.Contains(s.Capabilities.Drop, "ALL") {
			t.Errorf("%s: %+v", p.Name, s)
		}
		if limit := c.Resources.Limits.Memory(); limit.IsZero() || limit.CmpInt64(128<<20) > 0 {
			t.Errorf("%s may use %s of memory", p.Name, limit)
		}
	}
}

// variantManifest uses what else a spec can say: an existing namespace, Secrets of another one, a
// public address.
const variantManifest = `
apiVersion: v1
kind: Namespace
metadata:
  name: serving
  labels: {pod-security.kubernetes.io/enforce: privileged}
---
apiVersion: v1
kind: Secret
metadata: {name: keys, namespace: shop}
stringData:
  username: alice
  authorized_keys: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMLtNslkEFGZXYxR0lbSZJzqFjrqIIbhGpUoQcxu1L2x alice
---
apiVersion: v1
kind: Secret
metadata: {name: luks, namespace: velero}
stringData: {rootdisk: open sesame}
---
apiVersion: oadp.openshift.io/v1alpha1
kind: VirtualMachineFileRestore
metadata: {name: variant, namespace: velero}
spec:
  backupsDiscoveryRef: web-backups
  selectedBackups: [nightly-2]
  restoreNamespace: serving
  ttl: 48h
  fileAccess:
    ssh: {credentialsSecretRef: {name: keys, namespace: shop}}
    fileBrowser: {exposeExternally: true}
  diskKeysSecretRef: {name: luks}
`

// testVariant shows that all of it works, and goes away, under the controller's own roles.
func (e *env) testVariant(t *testing.T) {
	ctx := context.Background()
	e.apply(t, variantManifest)
	v := &v1alpha1.VirtualMachineFileRestore{}
	v.Name, v.Namespace = "variant", "velero"
	var front string
	cluster.Await(t, waitLimit, func() error {
		if err := e.admin.Get(ctx, client.ObjectKeyFromObject(v), v); err != nil {
			return err
		}
		front = "vmfr-" + plan.Suffix(v.UID)
		for _, kind := range []string{"deployment", "service", "ingress", "networkpolicy", "rolebinding"} {
			if out, err := e.Kubectl("", "-n", "serving", "get", kind, front); err != nil {
				return fmt.Errorf("%w: %s: %+v", err, out, v.Status)
			}
		}
		i := v.Status.FileServingInfo
		if i == nil || i.FileBrowser == nil || i.FileBrowser.PublicAccess != "https://"+front+".files.example.com" {
			return fmt.Errorf("the public address is not told: %+v", i)
		}
		return nil
	})
	if v.Status.CreatedNamespace != "" || v.Status.ExpiresAt == nil {
		t.Errorf("%+v", v.Status)
	}
	for name, want := range map[string]string{front + "-ssh": "alice", front + "-diskkeys": "open sesame"} {
		out, err := e.Kubectl("", "-n", "serving", "get", "secret", name, "-o", `go-template={{range .data}}{{base64decode .}} {{end}}`)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("the Secret %s is no copy: %v", name, err)
		}
	}
	if out, err := e.Kubectl("", "-n", "velero", "delete", "vmfr/variant", "--timeout=120s"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// What is the namespace's own stays, and nothing else.
	out, err := e.Kubectl("", "-n", "serving", "get", "all,secrets,ingresses,networkpolicies,roles,rolebindings,configmaps,serviceaccounts", "-o", "name")
	if out = strings.TrimSpace(out); err != nil || out != "configmap/kube-root-ca.crt\nserviceaccount/default" {
		t.Errorf("left in serving: %v\n%s", err, out)
	}
	for _, o := range [][]string{{"namespace", "serving"}, {"-n", "shop", "secret", "keys"}, {"-n", "velero", "secret", "luks"}} {
		if out, err := e.Kubectl("", append([]string{"delete", "--wait=true"}, o...)...); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

// report writes what the node would say, as the only one who may: the front holder's account.
func (e *env) report(t *testing.T, v *v1alpha1.VirtualMachineFileRestore, names plan.Names) *session.Report {
	t.Helper()
	ctx := context.Background()
	var document corev1.ConfigMap
	if err := e.admin.Get(ctx, client.ObjectKey{Namespace: names.Session, Name: names.SessionConfig()}, &document); err != nil {
		t.Fatal(err)
	}
	s, err := session.Decode([]byte(document.Data[session.KeySession]))
	if err != nil {
		t.Fatal(err)
	}
	said := &session.Report{Version: session.Version, ID: s.ID, Node: "worker-1", Updated: time.Now().UTC().Truncate(time.Second), State: session.Serving}
	for _, b := range s.Backups {
		of := session.BackupReport{Name: b.Name, State: session.Readable}
		for _, d := range b.Disks {
			of.Disks = append(of.Disks, session.DiskReport{Name: d.Name, State: session.Readable, Format: "raw", Size: 1 << 30})
		}
		said.Backups = append(said.Backups, of)
	}
	text, err := json.Marshal(said)
	if err != nil {
		t.Fatal(err)
	}
	key := client.ObjectKey{Namespace: names.Session, Name: names.Report()}
	var cm corev1.ConfigMap
	if err := e.admin.Get(ctx, key, &cm); err != nil {
		t.Fatal(err)
	}
	cm.Data = map[string]string{session.KeyReport: string(text)}
	disks := e.asAccount(t, names.BackupNamespace(1), names.Object())
	if err := disks.Update(ctx, cm.DeepCopy()); !apierrors.IsForbidden(err) {
		t.Errorf("a disk holder's account writes the report: %v", err)
	}
	front := e.asAccount(t, names.Session, names.Object())
	for what, err := range map[string]error{
		"read a Secret of its own namespace": front.Get(ctx, client.ObjectKey{Namespace: names.Session, Name: names.Identity()}, new(corev1.Secret)),
		"write the session's document":       front.Update(ctx, &document),
		"list pods":                          front.List(ctx, new(corev1.PodList), client.InNamespace(names.Session)),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("the front holder's account may %s: %v", what, err)
		}
	}
	if err := front.Update(ctx, &cm); err != nil {
		t.Fatalf("the front holder's account writes the report: %v", err)
	}
	return said
}

// run does what a kubelet does for the pods of a namespace.
func (e *env) run(t *testing.T, namespace string) {
	t.Helper()
	var pods corev1.PodList
	if err := e.admin.List(t.Context(), &pods, client.InNamespace(namespace)); err != nil || len(pods.Items) == 0 {
		t.Fatalf("%s has %d pods: %v", namespace, len(pods.Items), err)
	}
	for i := range pods.Items {
		pods.Items[i].Status.Phase = corev1.PodRunning
		if err := e.admin.Status().Update(t.Context(), &pods.Items[i]); err != nil {
			t.Fatal(err)
		}
	}
}

// ours are the kinds that the controller makes; what else there is comes from Velero, from the
// storage and from Kubernetes.
var ours = []string{"ConfigMap", "Deployment", "Namespace", "NetworkPolicy", "Restore", "Role", "RoleBinding", "Secret", "Service", "ServiceAccount", "VirtualMachineFileRestore"}

// checkGolden compares the objects with those that were reviewed: all by name; in full those of the
// session and of its first backup, of which the second one's are copies, and the restore's status.
func (e *env) checkGolden(t *testing.T, before, after cluster.Inventory, v *v1alpha1.VirtualMachineFileRestore, names plan.Names, said *session.Report) {
	t.Helper()
	n := &normal{numbers: map[string]int{}, fixed: map[string]string{string(v.UID): "<uid of web-files>", names.Suffix: "SUFFIX", said.ID: "<session id>"}}
	for _, claim := range []string{"web-root", "web-data"} {
		n.fixed[string(before["PersistentVolumeClaim shop/"+claim].GetUID())] = "<uid of " + claim + ">"
	}
	var list, full []string
	for _, name := range cluster.Added(before, after) {
		o := after[name]
		if o.GetName() == "default" || o.GetName() == "kube-root-ca.crt" || o.GetKind() == "ReplicaSet" {
			continue // made by Kubernetes for every namespace, and for every Deployment
		}
		list = append(list, n.text(name))
		second := o.GetNamespace() == names.BackupNamespace(2) || o.GetName() == names.BackupNamespace(2) || o.GetName() == names.Restore(2)
		if !second && slices.Contains(ours, o.GetKind()) {
			full = append(full, n.object(t, o, o.GetKind() == "VirtualMachineFileRestore"))
		}
	}
	slices.Sort(list)
	got := "# Every object of a file restore of two backups, by name, and then those of the session and of its\n# first backup in full. Written by go test -run TestCluster/acceptance -update; review what changes.\nobjects:\n- " +
		strings.Join(list, "\n- ") + "\n---\n" + strings.Join(full, "---\n")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want := strings.Split(read(t, golden), "\n")
	for i, line := range strings.Split(got, "\n") {
		if i >= len(want) || line != want[i] {
			path := t.TempDir() + "/acceptance.yaml"
			_ = os.WriteFile(path, []byte(got), 0o644)
			t.Errorf("the objects differ from %s from line %d on: %q; to see all of it run with -update and look at git diff", golden, i+1, line)
			return
		}
	}
	if strings.Count(got, "\n")+1 != len(want) {
		t.Errorf("%s has %d lines more", golden, len(want)-strings.Count(got, "\n")-1)
	}
}
