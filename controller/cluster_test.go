package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
)

// waitLimit bounds what a test waits for; a loaded machine takes its time.
const waitLimit = 5 * time.Minute

// env is a control plane with Velero on which deploy/install.yaml was applied.
type env struct {
	cluster.ControlPlane
	velero     *cluster.Velero
	admin      client.Client
	kubeconfig string // of the controller's service account
}

// TestCluster runs everything that needs a cluster on one, in order: a control plane and Velero
// take longer to start than all of it takes to run.
func TestCluster(t *testing.T) {
	cp := cluster.Start(t)
	cp.StartControllers(t)
	t.Run("without Velero", func(t *testing.T) { testWithoutVelero(t, cp) })
	e := &env{ControlPlane: cp, velero: cluster.StartVelero(t, cp), admin: cp.Client(t, v1alpha1.AddToScheme)}
	t.Run("manifests", e.testManifests)
	if t.Failed() {
		return
	}
	t.Run("documented manifests", e.testDocumentedManifests)
	t.Run("OpenShift", e.testOpenShift)
	t.Run("agent", e.testAgent)
	e.kubeconfig = e.tokenOf(t, "vmfr-system", "vmfr-controller")
	t.Run("roles", e.testRoles)
	t.Run("references", e.testReferences)
	t.Run("leader election", e.testLeaderElection)
	t.Run("adrift", e.testAdrift)
	t.Run("acceptance", e.testAcceptance)
}

// testWithoutVelero: what an administrator reads who installs things in another order.
func testWithoutVelero(t *testing.T, cp cluster.ControlPlane) {
	admin := []string{"KUBECONFIG=" + cp.Kubeconfig}
	code, _, stderr := call(t, admin, "--holder-image=vmfr")
	if code != exitError || !strings.Contains(stderr, "neither namespace openshift-adp nor velero exists") || !strings.Contains(stderr, "--velero-namespace") {
		t.Errorf("no namespace of Velero: %d, %s", code, stderr)
	}
	code, _, stderr = call(t, admin, "--holder-image=vmfr", "--velero-namespace=elsewhere")
	if code != exitError || !strings.Contains(stderr, "there is no namespace elsewhere") {
		t.Errorf("a namespace that does not exist: %d, %s", code, stderr)
	}
	p := startController(t, cp.Kubeconfig, "--velero-namespace=default")
	cluster.Await(t, waitLimit, func() error {
		return p.logged("the cluster does not serve virtualmachinebackupsdiscoveries.oadp.openshift.io/v1alpha1", "apply deploy/crds of this release, install Velero 1.18")
	})
	if p.ready() == nil {
		t.Error("it is ready although nothing that it needs is installed")
	}
	if err := p.get("/healthz"); err != nil {
		t.Errorf("it waits, so it lives: %v", err)
	}
	if code := p.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("SIGTERM while it waits: exit code %d", code)
	}
}

// testManifests applies what deploy/ renders, which is what everything after it depends on.
func (e *env) testManifests(t *testing.T) {
	if out, err := e.Kubectl("", "apply", "--server-side", "-f", "../deploy/install.yaml"); err != nil {
		t.Fatalf("deploy/install.yaml: %v\n%s", err, out)
	}
	// A second time as a dry run, and by kustomize: everything exists, so everything is validated and
	// nothing changes.
	out, err := e.Kubectl("", "apply", "--server-side", "--dry-run=server", "-k", "../deploy/overlays/kubernetes")
	if err != nil || strings.Contains(strings.ToLower(out), "warning") {
		t.Errorf("a dry run: %v\n%s", err, out)
	}
	// Its pods are admitted at the restricted level, by its own service account and priority.
	cluster.Await(t, waitLimit, func() error {
		out, err := e.Kubectl("", "-n", "vmfr-system", "get", "pods", "-l", "app.kubernetes.io/name=vmfr-controller", "-o", "name")
		if n := strings.Count(out, "pod/"); err == nil && n != 2 {
			return fmt.Errorf("%d pods of the controller: %s", n, out)
		}
		return err
	})
	// kubectl cannot be told to let no pods in; the processes of these tests are the controllers.
	if out, err := e.Kubectl("", "-n", "vmfr-system", "scale", "deployment/vmfr-controller", "--replicas=0"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// tokenOf returns a kubeconfig with a token of a service account, as its pod would have.
func (e *env) tokenOf(t testing.TB, namespace, account string) string {
	t.Helper()
	clients, err := kubernetes.NewForConfig(e.Config)
	if err != nil {
		t.Fatal(err)
	}
	r, err := clients.CoreV1().ServiceAccounts(namespace).CreateToken(context.Background(), account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	err = clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: e.Config.Host, CertificateAuthorityData: e.Config.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {Token: r.Status.Token}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	}, path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// as returns a client of somebody, by impersonation.
func (e *env) as(t testing.TB, user string, groups ...string) client.Client {
	t.Helper()
	config := rest.CopyConfig(e.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: append(groups, "system:authenticated")}
	c, err := client.New(config, client.Options{Scheme: e.admin.Scheme(), Mapper: e.admin.RESTMapper()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// asAccount returns a client of a service account.
func (e *env) asAccount(t testing.TB, namespace, name string) client.Client {
	return e.as(t, "system:serviceaccount:"+namespace+":"+name, "system:serviceaccounts", "system:serviceaccounts:"+namespace)
}

// controller is a running vmfr-controller.
type controller struct {
	cmd     *exec.Cmd
	probes  string // host:port
	numbers string // host:port of the metrics
	done    chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

// Write takes the log.
func (p *controller) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

// startController starts the program; it ends with the test. Its log is shown where the test failed.
func startController(t testing.TB, kubeconfig string, args ...string) *controller {
	t.Helper()
	// An address of its own in 127.0.0.0/8: nobody takes a port between this and the program.
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	ports := freePorts(t, host, 2)
	p := &controller{probes: ports[0], numbers: ports[1], done: make(chan struct{})}
	p.cmd = exec.Command(program, append([]string{
		"--holder-image=registry.example/vmfr:test", "--log-level=debug", "--metrics-bind-address=" + p.numbers, "--health-probe-bind-address=" + p.probes,
	}, args...)...)
	p.cmd.Env = []string{"KUBECONFIG=" + kubeconfig, "HOME=" + t.TempDir()}
	p.cmd.Stderr = p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		p.stop(syscall.SIGTERM)
		if t.Failed() {
			b := p.text()
			t.Logf("the end of the controller's log:\n%s", b[max(0, len(b)-16<<10):])
		}
	})
	return p
}

// freePorts are ports of a host that nobody listens on, no two the same.
func freePorts(t testing.TB, host string, n int) (ports []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", host+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().String())
	}
	return ports
}

// stop ends the program by a signal and returns its exit code.
func (p *controller) stop(s syscall.Signal) int {
	_ = p.cmd.Process.Signal(s)
	select {
	case <-p.done:
	case <-time.After(waitLimit):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *controller) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// logged is nil if the log holds all of want.
func (p *controller) logged(want ...string) error {
	log := p.text()
	for _, w := range want {
		if !strings.Contains(log, w) {
			return fmt.Errorf("%q is not in the log", w)
		}
	}
	return nil
}

func (p *controller) get(path string) error {
	address := p.probes
	if path == "/metrics" {
		address = p.numbers
	}
	_, err := fetch("http://" + address + path)
	return err
}

// ready is nil if the program says that it is.
func (p *controller) ready() error { return p.get("/readyz") }

func (p *controller) awaitReady(t testing.TB) {
	t.Helper()
	cluster.Await(t, waitLimit, func() error {
		select {
		case <-p.done:
			return nil
		default:
			return p.ready()
		}
	})
	if p.cmd.ProcessState != nil {
		t.Fatalf("the controller ended: %s", p.text())
	}
}

func fetch(url string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, b)
	}
	return string(b), err
}

// read returns a file of this repository.
func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
