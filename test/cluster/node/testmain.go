package node

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"vmfr/test/cluster"
	"vmfr/test/fixture"
)

// What chooses the cluster of a test. KUBECONFIG alone never does: it may be that of a cluster in use.
const (
	DirEnv        = "VMFR_NODE"           // the directory of a running node (nodectl enter sets it)
	KubeconfigEnv = "VMFR_E2E_KUBECONFIG" // a kubeconfig of any other cluster
)

// unavailable is why this process has no cluster; Current skips its tests for it.
var unavailable error

// Main is TestMain of a package whose tests use Current. It starts a node, runs the package's
// tests outside its cluster, that is in the client's network namespace, and ends the node, whatever
// becomes of the tests: that network reaches Services and Pods, and no Internet.
//
// Where DirEnv names a node that runs, the tests run outside that one's cluster; where KubeconfigEnv
// names another cluster, they run on that, in this process. In short mode, and where programs are
// missing, they run without one: Current skips them, or fails them where fixture.RequireEnv is set.
func Main(m *testing.M) {
	Init()
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// run runs the tests here or in a process of its own.
func run(m *testing.M) (code int, err error) {
	dir, kubeconfig := os.Getenv(DirEnv), os.Getenv(KubeconfigEnv)
	switch {
	case flag.Lookup("test.list").Value.String() != "":
		return m.Run(), nil
	case dir != "":
		n, err := Open(dir)
		if err != nil {
			return 1, err
		}
		if outside, err := n.outside(); err != nil {
			return 1, err
		} else if outside {
			return m.Run(), nil
		}
		return n.runOutside(0)
	case kubeconfig != "":
		if err := os.Setenv("KUBECONFIG", kubeconfig); err != nil {
			return 1, err
		}
		return m.Run(), nil
	case testing.Short():
		unavailable = errors.New("a node takes long to start: it is left out in short mode")
		return m.Run(), nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	began, o := time.Now(), Options{}
	if testing.Verbose() {
		o.Log = os.Stderr
	}
	n, err := Start(ctx, o)
	switch {
	case errors.Is(err, cluster.ErrNotBuilt) || errors.Is(err, ErrMissing):
		unavailable = err
		return m.Run(), nil
	case err != nil:
		return 1, err
	}
	defer func() { err = errors.Join(err, Down(context.Background(), n.Dir())) }()
	return n.runOutside(time.Since(began))
}

// outside tells whether this process is in the client's network namespace already.
func (n *Node) outside() (bool, error) {
	var own, clients unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &own); err != nil {
		return false, err
	}
	if err := unix.Stat(n.clientNetwork(), &clients); err != nil {
		return false, err
	}
	return own.Dev == clients.Dev && own.Ino == clients.Ino, nil
}

// runOutside runs this program again in the client's network namespace, with the same arguments
// but a timeout that is shorter by what has passed, and returns its exit code. It gets the signals
// that this process gets, and is killed with it.
func (n *Node) runOutside(passed time.Duration) (code int, err error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	cmd := n.ClientCommand(context.Background(), self, arguments(os.Args[1:], passed)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // whose end Pdeathsig means
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s)
		case err := <-ended:
			if code := cmd.ProcessState.ExitCode(); code >= 0 {
				return code, nil
			}
			return 1, fmt.Errorf("the tests ended: %w", err)
		}
	}
}

// arguments are those of the test with a timeout that has begun before.
func arguments(args []string, since time.Duration) []string {
	const timeout = "-test.timeout="
	changed := make([]string, 0, len(args))
	for _, a := range args {
		if limit, ok := strings.CutPrefix(a, timeout); ok {
			if d, err := time.ParseDuration(limit); err == nil && d > 0 {
				a = timeout + max(d-since, time.Second).String()
			}
		}
		changed = append(changed, a)
	}
	return changed
}

// Cluster is the cluster that tests run on.
type Cluster struct {
	Kubeconfig string       // the path of an administrator's; in KUBECONFIG, too
	Config     *rest.Config // the same, without a limit of requests

	node *Node // nil: not ours
}

// Current returns the cluster that Main chose. If the test fails, it shows what the cluster logged
// since this call.
func Current(t testing.TB) *Cluster {
	t.Helper()
	if unavailable != nil {
		if os.Getenv(fixture.RequireEnv) != "" && !testing.Short() {
			t.Fatal(unavailable)
		}
		t.Skip(unavailable)
	}
	c := &Cluster{Kubeconfig: os.Getenv(KubeconfigEnv)}
	if dir := os.Getenv(DirEnv); dir != "" {
		n, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		c.node, c.Kubeconfig = n, n.Kubeconfig()
	}
	if c.Kubeconfig == "" {
		t.Fatal("no cluster: TestMain is to call node.Main")
	}
	var err error
	if c.Config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig); err != nil {
		t.Fatal(err)
	}
	c.Config.QPS = -1
	c.showLogs(t)
	return c
}

// Node is the node of the cluster; a test that needs one is skipped where the cluster is not ours.
func (c *Cluster) Node(t testing.TB) *Node {
	t.Helper()
	if c.node == nil {
		t.Skipf("%s names a cluster whose node cannot be entered", KubeconfigEnv)
	}
	return c.node
}

// shown are the logs of which a failed test shows what was added.
var shown = []string{"kubelet", "containerd"}

// logs are the files of the logs that are shown, of all nodes that there are or were, with their
// sizes in bytes.
func (c *Cluster) logs() map[string]int64 {
	sizes := map[string]int64{}
	if c.node == nil {
		return sizes
	}
	for _, name := range shown {
		path := c.node.LogPath(name)
		joined, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*", filepath.Base(path)))
		for _, path := range append(joined, path) {
			if st, err := os.Stat(path); err == nil {
				sizes[path] = st.Size()
			}
		}
	}
	return sizes
}

// showLogs shows what the cluster logged and its events, if the test fails.
func (c *Cluster) showLogs(t testing.TB) {
	began, before := time.Now().Add(-time.Second), c.logs() // events have whole seconds
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for path := range c.logs() {
			t.Logf("the end of %s since this test began:\n%s", path, tail(path, before[path], logTail))
		}
		t.Logf("events since this test began:\n%s", c.events(began))
	})
}

// events are the cluster's since a time, one on a line.
func (c *Cluster) events(since time.Time) string {
	client, err := kubernetes.NewForConfig(c.Config)
	if err != nil {
		return err.Error()
	}
	ctx, cancel := context.WithTimeout(context.Background(), attempt)
	defer cancel()
	list, err := client.CoreV1().Events("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	slices.SortStableFunc(list.Items, func(a, b corev1.Event) int { return a.LastTimestamp.Compare(b.LastTimestamp.Time) })
	var lines strings.Builder
	for _, e := range list.Items {
		if at := cmp.Or(e.LastTimestamp, metav1.Time(e.EventTime)); !at.Time.Before(since) {
			_, _ = fmt.Fprintf(&lines, "%s %s %s %s/%s %s: %s\n", at.UTC().Format(time.TimeOnly), e.Type, e.InvolvedObject.Kind, e.Namespace, e.InvolvedObject.Name, e.Reason, e.Message)
		}
	}
	return lines.String()
}
