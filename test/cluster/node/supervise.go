package node

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

//go:embed files
var files embed.FS

// supervisor starts a node's programs and ends when one of them does.
type supervisor struct {
	settings
	dir    string
	began  time.Time
	report *json.Encoder
	ended  chan error // one for each program that has ended
}

// supervise runs in all of the node's namespaces as its second process.
func supervise(dir string) error {
	report := os.NewFile(reportFD, "report")
	unix.CloseOnExec(reportFD)
	s := &supervisor{dir: dir, began: time.Now(), report: json.NewEncoder(report), ended: make(chan error, 16)}
	var err error
	if s.settings, err = readSettings(dir); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	if err := s.start(ctx); err != nil {
		return err
	}
	s.say(event{What: s.Name() + " is up", Up: true})
	_ = report.Close()
	return <-s.ended
}

// say reports an event; nobody may listen any more.
func (s *supervisor) say(e event) {
	e.After = time.Since(s.began)
	_ = s.report.Encode(e)
	fmt.Fprintf(os.Stderr, "%s %s\n", e.After.Round(time.Millisecond), e.What)
}

// start starts everything, in the order of who needs whom.
func (s *supervisor) start(ctx context.Context) error {
	if err := s.connect(); err != nil {
		return err
	}
	if err := s.writePKI(s.pki(""), filepath.Join(s.clusterDir(s.dir), "pki")); err != nil {
		return err
	}
	if err := s.configure(); err != nil {
		return err
	}
	g, both := errgroup.WithContext(ctx)
	g.Go(func() error { return s.startContainers(both) })
	g.Go(func() error {
		if s.first() {
			if err := s.startControlPlane(both); err != nil {
				return err
			}
		}
		return s.run("kube-proxy", "--config", s.config("kube-proxy.yaml"))
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := s.run("kubelet", "--config", s.config("kubelet.yaml"), "--kubeconfig", s.pki("kubelet.kubeconfig"), "--node-ip", s.Address(), "--v=2"); err != nil {
		return err
	}
	if err := s.await(ctx, "kubelet", s.nodeReady); err != nil {
		return err
	}
	return s.await(ctx, "kube-proxy", servicesReached)
}

// translated is what kube-proxy tells of itself, and when, as soon as the kernel has had its first rules. It is healthy
// before that, too: from its start.
const translated = `kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}`

// servicesReached tells why a Service's address would not be translated yet.
func servicesReached(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:10249/metrics", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return err
	case answer.StatusCode != http.StatusOK:
		return fmt.Errorf("it answers %s", answer.Status)
	case !bytes.Contains(b, []byte(translated)):
		return errors.New("it has not written its rules yet")
	}
	return nil
}

// configure writes the programs' configurations.
func (s *supervisor) configure() error {
	values := map[string]string{
		"Pause": s.Pause, "CNIPlugins": cniPlugins, "Config": configDir(s.dir), "Snapshotter": "overlayfs", "PodCIDR": PodCIDR, "NodePodCIDR": s.podCIDR(),
		"GroupRoot": groupRoot(s.id()), "PKI": s.pki(""), "Node": s.Name(), "ProxyMode": proxyMode(),
	}
	if err := overlayWorks(s.dir); err != nil {
		values["Snapshotter"] = "native"
		s.say(event{What: fmt.Sprintf("containers' roots are copies, not overlays: %v", err)})
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.dir, &fs); err == nil && fs.Type == unix.TMPFS_MAGIC {
		s.say(event{What: s.dir + " is in memory: so are all images and volumes"})
	}
	if values["ProxyMode"] != "iptables" {
		s.say(event{What: "kube-proxy uses nftables: iptables lacks something here"})
	}
	all, err := template.ParseFS(files, "files/*")
	if err != nil {
		return err
	}
	for name, to := range map[string]string{"containerd.toml": "containerd.toml", "cni.conflist": "cni/10-pods.conflist", "kubelet.yaml": "kubelet.yaml", "kube-proxy.yaml": "kube-proxy.yaml"} {
		var b bytes.Buffer
		if err := all.ExecuteTemplate(&b, name, values); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(s.config(to)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(s.config(to), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// startContainers starts containerd and loads the first images.
func (s *supervisor) startContainers(ctx context.Context) error {
	if err := s.run("containerd", "--config", s.config("containerd.toml")); err != nil {
		return err
	}
	if err := s.await(ctx, "containerd", func(ctx context.Context) error { return probe("ctr", "version") }); err != nil {
		return err
	}
	for _, archive := range s.Archives {
		if err := loadImage(ctx, archive, exec.CommandContext); err != nil {
			return err
		}
	}
	s.say(event{What: "images are loaded"})
	return nil
}

// startControlPlane starts etcd, the API server, and what needs nothing but that.
func (s *supervisor) startControlPlane(ctx context.Context) error {
	const etcd = "http://127.0.0.1:2379"
	if err := s.run("etcd", "--data-dir", "/var/lib/etcd", "--unsafe-no-fsync", "--log-level", "warn",
		"--listen-client-urls", etcd, "--advertise-client-urls", etcd); err != nil {
		return err
	}
	if err := s.run("kube-apiserver", "--etcd-servers", etcd, "--secure-port", fmt.Sprint(apiPort), "--advertise-address", s.Address(),
		"--service-cluster-ip-range", ServiceCIDR, "--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
		"--allow-privileged", "--client-ca-file", s.pki("ca.crt"),
		"--tls-cert-file", s.pki("kube-apiserver.crt"), "--tls-private-key-file", s.pki("kube-apiserver.key"),
		"--kubelet-certificate-authority", s.pki("ca.crt"), "--kubelet-preferred-address-types", "InternalIP",
		"--kubelet-client-certificate", s.pki("apiserver-kubelet-client.crt"), "--kubelet-client-key", s.pki("apiserver-kubelet-client.key"),
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", s.pki("accounts.key"),
		"--service-account-signing-key-file", s.pki("accounts.key"),
		// etcd 3.4 does not tell the progress of a watch when asked, which this waits for in vain.
		"--feature-gates", "SizeBasedListCostEstimate=false"); err != nil {
		return err
	}
	client, err := s.client()
	if err != nil {
		return err
	}
	if err := s.await(ctx, "kube-apiserver", func(ctx context.Context) error {
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	}); err != nil {
		return err
	}
	for _, p := range [][]string{
		// Its many controllers would wait for each other's requests.
		{"kube-controller-manager", "--kube-api-qps", "1000", "--kube-api-burst", "1000", "--leader-elect=false", "--use-service-account-credentials", "--root-ca-file", s.pki("ca.crt"),
			"--service-account-private-key-file", s.pki("accounts.key"),
			"--cluster-signing-cert-file", s.pki("ca.crt"), "--cluster-signing-key-file", s.pki("ca.key")},
		{"kube-scheduler", "--leader-elect=false"},
	} {
		config := s.pki(p[0] + ".kubeconfig")
		if err := s.run(p[0], append(p[1:], "--kubeconfig", config, "--authentication-kubeconfig", config, "--authorization-kubeconfig", config)...); err != nil {
			return err
		}
	}
	return nil
}

// client is an administrator's.
func (s *supervisor) client() (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig(s.clusterDir(s.dir)))
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	return kubernetes.NewForConfig(config)
}

// nodeReady tells why a Pod could not run yet.
func (s *supervisor) nodeReady(ctx context.Context) error {
	client, err := s.client()
	if err != nil {
		return err
	}
	n, err := client.CoreV1().Nodes().Get(ctx, s.Name(), metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return fmt.Errorf("node: %s", c.Message)
		}
	}
	if len(n.Spec.Taints) > 0 {
		return fmt.Errorf("node has the taint %s", n.Spec.Taints[0].Key)
	}
	_, err = client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
	return err
}

// run starts a program, whose end is the node's.
func (s *supervisor) run(name string, args ...string) error {
	path, err := lookPath(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	log, err := os.OpenFile(s.logPath(s.dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		_ = cmd.Wait()
		s.ended <- fmt.Errorf("%s ended: %s; the end of its log:\n%s", name, cmd.ProcessState, tail(log.Name(), 0, logTail))
	}()
	return nil
}

// attempt is how long one probe may take.
const attempt = 5 * time.Second

// await waits until a program is ready, or one has ended.
func (s *supervisor) await(ctx context.Context, name string, ready func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case err := <-s.ended:
			s.ended <- err // for whoever waits next
			cancel(err)
		case <-done:
		}
	}()
	err := await(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, attempt)
		defer cancel()
		return ready(ctx)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	s.say(event{What: name + " is ready"})
	return nil
}

func (s *supervisor) pki(file string) string    { return filepath.Join(s.dir, "pki", file) }
func (s *supervisor) config(file string) string { return filepath.Join(configDir(s.dir), file) }

// logTail is how much of a log is shown, in bytes.
const logTail = 8 << 10

// tail is the end of a file, in whole lines, of what comes after a size that it had.
func tail(path string, after int64, limit int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	b = b[min(after, int64(len(b))):]
	if len(b) > limit {
		_, b, _ = bytes.Cut(b[len(b)-limit:], []byte("\n"))
	}
	return strings.TrimSpace(string(b))
}
