package node_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vmfr/test/cluster"
	"vmfr/test/cluster/node"
	"vmfr/test/fixture"
)

// insideEnv makes this program the one whose tests run on a node, and TestInside its test.
const insideEnv = "VMFR_TEST_INSIDE"

func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) != "" {
		node.Main(m)
	}
	node.Init()
	os.Exit(m.Run())
}

// limit is for what takes seconds on an idle machine.
const limit = 4 * time.Minute

// insideLimit is for all of TestInside: one node after another is started there, each of which may take minutes.
const insideLimit = 3 * limit

// TestNode starts a node as another package's tests do, uses it from outside its cluster, and kills
// the process that started it. The kernel must end everything, and what it does not free must be
// found and freed by whoever comes next.
func TestNode(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a node")
	}
	fixture.NeedRoot(t)
	fixture.Need(t, "mke2fs", "busybox", "containerd", "ctr", "curl", "etcd", "ip", "iptables", "losetup", "nsenter", "runc", "setpriv")
	cluster.Kubernetes.Need(t)
	began := time.Now()
	// The node's directory has to be where containers' roots can be, which is not /tmp.
	cache, err := os.MkdirTemp(cluster.CacheDir(), "test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		dirs, _ := filepath.Glob(filepath.Join(cache, "node-*"))
		for _, dir := range dirs { // of a test that failed
			if err := node.Down(context.Background(), dir); err != nil {
				t.Error(err)
			}
		}
		_ = os.RemoveAll(cache)
	})
	kubernetes, _, err := cluster.Kubernetes.Programs()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(kubernetes, filepath.Join(cache, filepath.Base(kubernetes))); err != nil {
		t.Fatal(err)
	}
	// Somebody else's: the node's mount namespace is not to keep its device busy.
	other := fixture.Mount(t, fixture.Ext4(t, "", 4<<20), "ext4", "ro,noload", 0, 0)
	tests := exec.Command("/proc/self/exe", "-test.run=^TestInside$", "-test.v", "-test.timeout="+insideLimit.String())
	tests.Env = append(os.Environ(), insideEnv+"=1", cluster.CacheEnv+"="+cache)
	tests.Stderr = os.Stderr
	tests.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := tests.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tests.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	defer func() {
		if !killed {
			_ = tests.Process.Signal(os.Interrupt)
			_ = tests.Wait()
		}
	}()
	var loops []string
	lines := bufio.NewScanner(stdout)
	for loops == nil && lines.Scan() {
		t.Logf("%s %s", time.Since(began).Round(10*time.Millisecond), lines.Text())
		if _, list, ok := strings.Cut(lines.Text(), "inside: "); ok {
			loops = strings.Fields(list)
		}
	}
	if loops == nil {
		t.Fatal("the tests on the node did not come to their end")
	}
	dirs, err := filepath.Glob(filepath.Join(cache, "node-*"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("directories of nodes: %q, %v", dirs, err)
	}
	n, err := node.Open(dirs[0])
	if err != nil {
		t.Fatal(err)
	}
	fixture.Unmount(t, other)
	inside := processes(t, n)
	if len(inside) < 10 {
		t.Errorf("%d processes run in the node: %q", len(inside), inside)
	}

	killed = true
	if err := tests.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, stdout) // to its end: the tests', who have it as well
	_ = tests.Wait()
	for _, p := range inside {
		eventually(t, "the node to end", func() error {
			if now, err := os.ReadFile(filepath.Join("/proc", p, "cgroup")); err == nil && bytes.Contains(now, []byte(n.ClusterID())) {
				return fmt.Errorf("process %s is still there", p)
			}
			return nil
		})
	}
	// What is tested would mean nothing if there were nothing to free.
	if groups, err := node.Groups(n.ClusterID()); err != nil || len(groups) == 0 {
		t.Errorf("control groups of a killed node: %q, %v", groups, err)
	}
	if found, err := node.Loops(n.Dir()); err != nil || !slices.Equal(found, loops) {
		t.Errorf("loop devices of a killed node: %q, %v, want %q", found, err, loops)
	}

	if _, err := node.Open(n.Dir()); !errors.Is(err, node.ErrNotRunning) {
		t.Errorf("a killed node: %v", err)
	}
	if err := node.RemoveDead(t.Context(), cache); err != nil {
		t.Fatal(err)
	}
	if groups, err := node.Groups(n.ClusterID()); err != nil || len(groups) > 0 {
		t.Errorf("left: control groups %q, %v", groups, err)
	}
	for _, loop := range loops {
		// The device may be another's by now.
		backing, _ := os.ReadFile("/sys/block/" + filepath.Base(loop) + "/loop/backing_file")
		if b := string(backing); strings.Contains(b, loopFile) || slices.Contains(loops, strings.TrimSpace(b)) {
			t.Errorf("left: %s of %s", loop, b)
		}
	}
	if _, err := os.Stat(n.Dir()); !os.IsNotExist(err) {
		t.Errorf("left: %s (%v)", n.Dir(), err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(n.Dir())) {
		t.Errorf("left: mounts of %s (%v)", n.Dir(), err)
	}
}

// loopFile is the name of the file of TestInside's loop device.
const loopFile = "inside.img"

// TestInside runs outside the cluster of TestNode's node.
func TestInside(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		t.Skip("TestNode runs it on a node")
	}
	c := node.Current(t)
	n := c.Node(t)
	ctx := t.Context()
	kubectl := func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, "kubectl", args...) // of the node's version, by PATH and KUBECONFIG
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", cmd, err, out)
		}
		return string(out)
	}
	began := time.Now()
	kubectl(fmt.Sprintf(web, n.Tools(), n.Name()), "apply", "-f", "-")
	kubectl("", "wait", "--for=condition=Ready", "pod/web", "--timeout="+limit.String())
	t.Logf("a Pod is ready after %s", time.Since(began).Round(10*time.Millisecond))
	address := kubectl("", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	eventually(t, "the Service", func() error {
		r, err := (&http.Client{Timeout: 5 * time.Second}).Get("http://" + address)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if b, err := io.ReadAll(r.Body); err != nil || string(b) != "hello from a Pod\n" {
			return fmt.Errorf("%q, %w", b, err)
		}
		return nil
	})
	// A Pod reaches itself by its Service, and nothing that is not in the node.
	if out := kubectl("", "exec", "web", "--", "wget", "-qO-", "http://"+address); !strings.Contains(out, "hello") {
		t.Errorf("the Service from the Pod: %q", out)
	}
	if out, err := exec.CommandContext(ctx, "kubectl", "exec", "web", "--", "wget", "-qO-", "http://192.0.2.1").CombinedOutput(); err == nil || !strings.Contains(string(out), "No route to host") {
		t.Errorf("a Pod and an address that nobody has: %v: %s", err, out)
	}
	canceled(t, n)
	joins(t, n, address, kubectl)
	if _, err := n.Join(ctx, nil); err != nil { // for TestNode, which ends all at once
		t.Fatal(err)
	}
	// Left for TestNode: a loop device of a file in the node, and kubelet's way to keep that in use.
	var loops []string
	for _, of := range []string{"/var/lib/" + loopFile, ""} {
		if of == "" {
			of = loops[0]
		} else if out, err := n.Command(ctx, "truncate", "-s", "1M", of).CombinedOutput(); err != nil {
			t.Fatalf("truncate: %v: %s", err, out)
		}
		out, err := n.Command(ctx, "losetup", "--find", "--show", of).CombinedOutput()
		if err != nil {
			t.Fatalf("losetup: %v: %s", err, out)
		}
		loops = append(loops, strings.TrimSpace(string(out)))
	}
	if t.Failed() {
		return // TestNode waits for the next line in vain
	}
	slices.Sort(loops)
	fmt.Printf("inside: %s\n", strings.Join(loops, " "))
	<-ctx.Done() // TestNode kills this process
}

// canceled: a command on the node ends with its context, although it is in another PID namespace.
func canceled(t *testing.T, n *node.Node) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := n.Command(ctx, "sh", "-c", "echo started; exec sleep 86399")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "started\n" {
		t.Fatalf("%q, %v", line, err)
	}
	sleeps := func() error {
		list, err := n.Command(t.Context(), "ps", "-A", "-o", "args=").Output()
		if err == nil && strings.Contains(string(list), "sleep 86399") {
			err = errors.New("it still runs")
		}
		return err
	}
	if sleeps() == nil {
		t.Error("a command does not run on the node")
	}
	cancel()
	_ = cmd.Wait()
	eventually(t, "a canceled command", sleeps)
}

const web = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: %[2]s
  terminationGracePeriodSeconds: 0
  containers:
  - name: web
    image: %[1]s
    command: [/bin/sh, -c, "mkdir /www; echo hello from a Pod > /www/index.html; exec httpd -f -p 8080 -h /www"]
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`

// joins: a second node has what the first one has, and leaves nothing.
func joins(t *testing.T, first *node.Node, service string, kubectl func(stdin string, args ...string) string) {
	t.Helper()
	began := time.Now()
	n, err := first.Join(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s has joined after %s", n.Name(), time.Since(began).Round(10*time.Millisecond))
	if all, err := first.Nodes(); err != nil || len(all) != 2 || all[1].Name() != n.Name() || all[1].Pid() != n.Pid() {
		t.Errorf("the cluster's nodes: %v, %v", all, err)
	}
	if found, err := n.Find(first.Name()); err != nil || found.Pid() != first.Pid() {
		t.Errorf("%s of %s's cluster: %v, %v", first.Name(), n.Name(), found, err)
	}
	manifest := strings.ReplaceAll(fmt.Sprintf(web, first.Tools(), n.Name()), "name: web", "name: further")
	kubectl(strings.ReplaceAll(manifest, "app: web", "app: further"), "apply", "-f", "-")
	kubectl("", "wait", "--for=condition=Ready", "pod/further", "--timeout="+limit.String())
	at := kubectl("", "get", "pod", "further", "-o", "jsonpath={.status.podIP}") + ":8080"
	if r, err := (&http.Client{Timeout: limit}).Get("http://" + at); err != nil {
		t.Errorf("a Pod on %s from the client: %v", n.Name(), err)
	} else {
		_ = r.Body.Close()
	}
	// Pods reach each other both ways, and the other's Service.
	web := kubectl("", "get", "pod", "web", "-o", "jsonpath={.status.podIP}") + ":8080"
	for _, x := range [][2]string{{"further", web}, {"further", service}, {"web", at}} {
		if out := kubectl("", "exec", x[0], "--", "wget", "-qO-", "http://"+x[1]); !strings.Contains(out, "hello") {
			t.Errorf("the Pod %s at %s: %q", x[0], x[1], out)
		}
	}
	// Files: its own, but for what all nodes share.
	if out, err := n.Command(t.Context(), "sh", "-ec", "hostname; hostname > "+node.Shared+"/by; hostname > /var/lib/by").CombinedOutput(); err != nil || string(out) != n.Name()+"\n" {
		t.Errorf("a command on %s: %v: %s", n.Name(), err, out)
	}
	if out, err := first.Command(t.Context(), "sh", "-c", "cat "+node.Shared+"/by; test ! -e /var/lib/by").CombinedOutput(); err != nil || string(out) != n.Name()+"\n" {
		t.Errorf("its files on %s: %v: %s", first.Name(), err, out)
	}
	if groups, err := node.Groups(n.ID()); err != nil || len(groups) == 0 {
		t.Errorf("control groups of %s: %q, %v", n.Name(), groups, err)
	}

	// The kernel may need longer for the links of a network than for the processes that were in it.
	network, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", n.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(2*time.Second, func() { _ = network.Close() })
	if err := n.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if groups, err := node.Groups(n.ID()); err != nil || len(groups) > 0 {
		t.Errorf("%s left control groups: %q, %v", n.Name(), groups, err)
	}
	for what, args := range map[string][]string{"processes": {"ps", "-A", "-o", "args="}, "mounts": {"cat", "/proc/self/mountinfo"},
		"links and routes": {"ip", "route", "show", "table", "all"}, "objects": {"kubectl", "get", "nodes,pods", "-A", "-o", "name"}} {
		out, err := first.Command(t.Context(), args[0], args[1:]...).CombinedOutput()
		if err != nil || len(out) == 0 || strings.Contains(string(out), n.Name()) || strings.Contains(string(out), "further") {
			t.Errorf("%s and %s that it left: %v:\n%s", n.Name(), what, err, out)
		}
	}
	if _, err := os.Stat(n.Dir()); !os.IsNotExist(err) {
		t.Errorf("%s left %s (%v)", n.Name(), n.Dir(), err)
	}
}

// processes are the identifiers, as this process sees them, of all in the node's control groups.
func processes(t *testing.T, n *node.Node) []string {
	t.Helper()
	groups, err := node.Groups(n.ClusterID())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, g := range groups {
		b, err := os.ReadFile(filepath.Join(g, "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.Fields(string(b))...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// eventually waits until ready returns nil.
func eventually(t *testing.T, what string, ready func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		err := ready()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// TestArguments: what a node took to start is taken from the time of the tests.
func TestArguments(t *testing.T) {
	got := node.Arguments([]string{"-test.timeout=10m0s", "-test.v", "-hold"}, 30*time.Second)
	if want := []string{"-test.timeout=9m30s", "-test.v", "-hold"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := node.Arguments([]string{"-test.timeout=0s"}, time.Minute); !slices.Equal(got, []string{"-test.timeout=0s"}) {
		t.Errorf("no limit became %q", got)
	}
}
