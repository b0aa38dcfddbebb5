package cluster

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/keyutil"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"vmfr/test/fixture"
)

// startLimit is generous: a loaded machine takes 30 s for what an idle one does in five.
const startLimit = 3 * time.Minute

// ControlPlane is a running kube-apiserver with its etcd.
//
// Admission is that of a real cluster: RBAC, Pod Security, ValidatingAdmissionPolicies and service
// accounts are enforced. So a Pod needs its ServiceAccount, which StartControllers makes.
type ControlPlane struct {
	Config     *rest.Config // of an administrator (system:masters)
	Kubeconfig string       // the path of a file with the same

	programs string // the directory of the Kubernetes programs
	dir      string // of keys and certificates
	address  string // of all servers

	controllers *sync.Once // starts them
}

// The tokens of --token-auth-file; what they are does not matter on loopback.
const (
	adminToken       = "admin"
	controllersToken = "controllers"
)

// Start starts a control plane with the CRDs of the given directories, until the test ends. Where
// the programs were not built it skips the test, or builds them where VMFR_TEST_REQUIRE is set.
func Start(t testing.TB, crds ...string) ControlPlane {
	t.Helper()
	fixture.Need(t, "etcd")
	cp := ControlPlane{programs: Kubernetes.Need(t), dir: t.TempDir(), address: loopback(), controllers: &sync.Once{}}
	etcd := "http://" + net.JoinHostPort(cp.address, "2379")
	peers := "http://" + net.JoinHostPort(cp.address, "2380")
	start(t, exec.Command("etcd", "--data-dir", filepath.Join(cp.dir, "etcd"), "--unsafe-no-fsync", "--log-level", "warn",
		"--listen-client-urls", etcd, "--advertise-client-urls", etcd,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers))

	cp.write(t, "tokens", fmt.Appendf(nil, "%s,admin,1,system:masters\n%s,system:kube-controller-manager,2\n", adminToken, controllersToken))
	key, err := keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	cp.write(t, "accounts.key", key)
	server := start(t, exec.Command(filepath.Join(cp.programs, "kube-apiserver"), "--etcd-servers", etcd,
		"--bind-address", cp.address, "--secure-port", "6443", "--cert-dir", cp.dir,
		// The Endpoints of the Service "kubernetes" must not be on loopback: an address that nobody has.
		"--advertise-address", "192.0.2.1", "--service-cluster-ip-range", "10.97.0.0/16",
		"--authorization-mode", "Node,RBAC", "--token-auth-file", filepath.Join(cp.dir, "tokens"),
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", filepath.Join(cp.dir, "accounts.key"),
		"--service-account-signing-key-file", filepath.Join(cp.dir, "accounts.key"), "--allow-privileged",
		// etcd 3.4 does not tell the progress of a watch when asked, which this waits for in vain.
		"--feature-gates", "SizeBasedListCostEstimate=false"))

	var clients *kubernetes.Clientset
	server.await(t, startLimit, func() error {
		ca, err := os.ReadFile(cp.ca())
		if err != nil {
			return err
		}
		cp.Config = &rest.Config{Host: "https://" + net.JoinHostPort(cp.address, "6443"), BearerToken: adminToken,
			TLSClientConfig: rest.TLSClientConfig{CAData: ca}, QPS: -1}
		if clients, err = kubernetes.NewForConfig(cp.Config); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return clients.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	cp.Kubeconfig = cp.kubeconfig(t, "admin", adminToken)
	if len(crds) > 0 {
		cp.install(t, envtest.CRDInstallOptions{Paths: crds})
	}
	return cp
}

// StartControllers starts kube-controller-manager unless it runs, until the test ends: namespaces are finalized,
// owned objects collected, Deployments get Pods (Pending: no kubelet takes them), claims are bound
// and protected, ClusterRoles aggregated, and each namespace gets its ServiceAccount "default" and
// the ConfigMap kube-root-ca.crt. Each controller acts as its own service account, as it does in a
// real cluster, which is what admission policies see.
func (cp ControlPlane) StartControllers(t testing.TB) {
	t.Helper()
	cp.controllers.Do(func() { cp.startControllers(t) })
}

func (cp ControlPlane) startControllers(t testing.TB) {
	t.Helper()
	p := start(t, exec.Command(filepath.Join(cp.programs, "kube-controller-manager"),
		"--kubeconfig", cp.kubeconfig(t, "controllers", controllersToken), "--use-service-account-credentials", "--leader-elect=false",
		"--kube-api-qps", "1000", "--kube-api-burst", "1000", "--bind-address", cp.address, "--root-ca-file", cp.ca(), "--service-account-private-key-file", filepath.Join(cp.dir, "accounts.key")))
	c := cp.Client(t)
	p.await(t, startLimit, func() error {
		return c.Get(context.Background(), client.ObjectKey{Namespace: "default", Name: "default"}, &corev1.ServiceAccount{})
	})
}

// Programs is the directory of the Kubernetes programs.
func (cp ControlPlane) Programs() string { return cp.programs }

// Kubectl runs the real kubectl as an administrator and returns all that it prints.
func (cp ControlPlane) Kubectl(stdin string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(cp.programs, "kubectl"), append([]string{"--kubeconfig", cp.Kubeconfig}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECACHEDIR="+filepath.Join(cp.dir, "kubectl"))
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Apply applies a manifest of any number of objects on the server's side, as an administrator.
func (cp ControlPlane) Apply(t testing.TB, manifest string) {
	t.Helper()
	if out, err := cp.Kubectl(manifest, "apply", "--server-side", "-f", "-"); err != nil {
		t.Fatalf("kubectl apply: %v: %s", err, out)
	}
}

// InstallCRDs installs CRDs and waits until they are served.
func (cp ControlPlane) InstallCRDs(t testing.TB, crds ...*apiextensionsv1.CustomResourceDefinition) {
	t.Helper()
	cp.install(t, envtest.CRDInstallOptions{CRDs: crds})
}

func (cp ControlPlane) install(t testing.TB, o envtest.CRDInstallOptions) {
	t.Helper()
	o.ErrorIfPathMissing, o.MaxTime, o.PollInterval = true, startLimit, 20*time.Millisecond
	if _, err := envtest.InstallCRDs(cp.Config, o); err != nil {
		t.Fatalf("CRDs: %v", err)
	}
}

// ca is the file of the certificate that the API server made for itself, with the CA's behind it.
func (cp ControlPlane) ca() string { return filepath.Join(cp.dir, "apiserver.crt") }

// kubeconfig writes a kubeconfig for the bearer of a token and returns its path.
func (cp ControlPlane) kubeconfig(t testing.TB, name, token string) string {
	t.Helper()
	b, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"test": {Server: cp.Config.Host, CertificateAuthorityData: bytes.Clone(cp.Config.CAData)}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: {Token: token}},
		Contexts:       map[string]*clientcmdapi.Context{"test": {Cluster: "test", AuthInfo: name}},
		CurrentContext: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	return cp.write(t, name+".kubeconfig", b)
}

func (cp ControlPlane) write(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(cp.dir, name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
