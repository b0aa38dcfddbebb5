package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/test/cluster"
	"vmfr/test/cluster/install"
	"vmfr/test/cluster/node"
)

// process is a process of the node, by its number in the machine.
type process struct {
	pid, parent int
	args        []string
}

func (p process) is(words ...string) bool {
	return len(p.args) >= len(words) && slices.Equal(p.args[:len(words)], words)
}

// processes are all of the suite's own first node.
func (w *world) processes(t testing.TB) []process {
	t.Helper()
	return processes(t, w.node)
}

// processes are all of a node: what descends from its init, but for other nodes.
func processes(t testing.TB, n *node.Node) []process {
	t.Helper()
	nodes, err := n.Nodes()
	if err != nil {
		t.Fatal(err)
	}
	other := map[int]bool{}
	for _, o := range nodes {
		other[o.Pid()] = true
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	children := map[int][]process{}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		line, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if err != nil {
			continue
		}
		var p process
		p.pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(path)))
		// pid (name) state parent ...: the name may hold anything.
		if rest := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])); len(rest) > 1 {
			p.parent, _ = strconv.Atoi(rest[1])
		}
		p.args = strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
		children[p.parent] = append(children[p.parent], p)
	}
	var all []process
	for next := []int{n.Pid()}; len(next) > 0; next = next[1:] {
		for _, p := range children[next[0]] {
			if other[p.pid] {
				continue
			}
			all = append(all, p)
			next = append(next, p.pid)
		}
	}
	return all
}

// workerName is what a worker is called: its file is not in its own root directory.
const workerName = "vmfr-agent"

// agentProcess is the first process of the first node's agent; workers are the ones that serve.
func (w *world) agentProcess(t testing.TB) (agent process, workers []process) {
	t.Helper()
	return agentProcess(t, w.node)
}

func agentProcess(t testing.TB, n *node.Node) (agent process, workers []process) {
	t.Helper()
	all := processes(t, n)
	for _, p := range all {
		if p.is("/vmfr-agent", "node") {
			agent = p // parents come first: a child that has not begun its own program looks like it
			break
		}
	}
	for _, p := range all {
		if agent.pid != 0 && p.is(workerName, "work") {
			workers = append(workers, p)
		}
	}
	return agent, workers
}

// left is what a session may leave on a node, each thing by a name that is the same before and after.
type left map[string]string

// leftOn looks at a node itself; on somebody else's (nil) it sees nothing.
func leftOn(t testing.TB, n *node.Node) left {
	t.Helper()
	l := left{}
	if n == nil {
		return l
	}
	for _, p := range processes(t, n) {
		if name := strings.Join(p.args, " "); strings.Contains(name, "vmfr-agent") || strings.Contains(name, "rsync") {
			l.add("process", name)
		}
	}
	in := func(name string, args ...string) string {
		out, err := n.Command(context.Background(), name, args...).Output()
		if err != nil {
			t.Fatalf("%s %q on the node: %v", name, args, err)
		}
		return string(out)
	}
	for line := range strings.Lines(in("cat", "/proc/self/mountinfo")) {
		if f := strings.Fields(line); len(f) > 4 {
			l.add("mount", f[4])
		}
	}
	for _, file := range loopFiles(t, n) {
		l.add("loop device", file)
	}
	for _, dir := range []string{"/run/vmfr", "/var/lib/kubelet/pods"} {
		for line := range strings.Lines(in("sh", "-c", "ls -A "+dir+" 2>/dev/null || true")) {
			l.add("folder", dir+"/"+strings.TrimSpace(line))
		}
	}
	agent, _ := agentProcess(t, n)
	root := fmt.Sprintf("/proc/%d", agent.pid)
	if b, err := os.ReadFile(root + "/mountinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 4 {
				l.add("mount of the agent", f[4])
			}
		}
	}
	files, err := os.ReadDir(root + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		to, err := os.Readlink(root + "/fd/" + f.Name())
		// Connections to the API server and to probes come and go.
		if err == nil && !strings.HasPrefix(to, "socket:") {
			l.add("descriptor of the agent", to)
		}
	}
	_ = filepath.WalkDir(fmt.Sprintf("%s/root/sys/fs/cgroup", root), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, "vmfr-worker") {
			l.add("control group", filepath.Base(path))
		}
		return nil
	})
	return l
}

// loopFiles are the files of the loop devices that a node has: those that the test's storage attached
// for it (package csi), and those of the kubelet on top of them.
func loopFiles(t testing.TB, n *node.Node) (files []string) {
	t.Helper()
	devices, err := node.Loops(n.ClusterDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, device := range devices {
		of, file := loopOf(device)
		if file == "" { // detached meanwhile
			continue
		}
		if of == n.Name() {
			files = append(files, file)
		}
	}
	return files
}

// loopOf tells whose a loop device is and what file it has.
func loopOf(device string) (of, file string) {
	b, err := os.ReadFile("/sys/block/" + filepath.Base(device) + "/loop/backing_file")
	if err != nil {
		return "", ""
	}
	f, err := os.Open(device)
	if err != nil {
		return "", ""
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return "", ""
	}
	of, file = unix.ByteSliceToString(info.File_name[:]), strings.TrimSpace(string(b))
	if info.Rdevice != 0 { // of another device
		of, _ = loopOf(fmt.Sprintf("/dev/loop%d", unix.Minor(info.Rdevice)))
	}
	return of, file
}

// identifiers are what differs between two runs of one pod, process or container.
var identifiers = regexp.MustCompile(`[0-9a-f]{64}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\[[0-9]+\]|kube-api-access-[a-z0-9]{5}`)

// add counts a thing, by its name without identifiers.
func (l left) add(kind, name string) {
	name = identifiers.ReplaceAllString(name, "<id>")
	for i := 1; ; i++ {
		key := fmt.Sprintf("%s %s (%d)", kind, name, i)
		if _, ok := l[key]; !ok {
			l[key] = ""
			return
		}
	}
}

// beside are the things that are not in before, too.
func (l left) beside(before left) (more []string) {
	for name := range l {
		if _, ok := before[name]; !ok {
			more = append(more, name)
		}
	}
	slices.Sort(more)
	return more
}

// state is everything that a file restore must leave as it was.
type state struct {
	objects cluster.Inventory
	node    left
	bucket  map[string]string
}

// before takes the state; nothing is left when afterwards there is nothing that was not there.
func (w *world) state(t testing.TB) state {
	t.Helper()
	return state{objects: w.ours(w.Inventory(t)), node: leftOn(t, w.node), bucket: w.bucketSums(t)}
}

// replaced tells of an object whether others come and go for it, whatever a file restore does:
// Velero's requests for downloads expire by themselves, and pods are replaced when they are restarted.
func replaced(name string) bool {
	for _, p := range []string{"DownloadRequest ", "Pod " + agentNamespace + "/", "Pod " + install.Namespace + "/", "ControllerRevision " + agentNamespace + "/"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// awaitNothingLeft waits until the cluster, the node and the bucket are as they were.
func (w *world) awaitNothingLeft(t testing.TB, before state) {
	t.Helper()
	cluster.Await(t, serveLimit, func() error {
		now := w.state(t)
		var more []string
		for _, name := range cluster.Added(before.objects, now.objects) {
			if !replaced(name) {
				more = append(more, name)
			}
		}
		more = append(more, now.node.beside(before.node)...)
		for name, sum := range before.bucket {
			if now.bucket[name] != sum {
				more = append(more, "changed in the bucket: "+name)
			}
		}
		for _, name := range cluster.Added(now.objects, before.objects) {
			if !replaced(name) {
				more = append(more, "gone: "+name)
			}
		}
		if len(more) > 0 {
			slices.Sort(more)
			return fmt.Errorf("left behind:\n%s", strings.Join(more, "\n"))
		}
		return nil
	})
}

// sums are the SHA-256 of all files below a folder.
func sums(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		all[strings.TrimPrefix(path, dir)] = fmt.Sprintf("%x", h.Sum(nil))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// kill kills a process of the node.
func kill(t testing.TB, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatal("there is no such process")
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// cpuTime is the processor time that a process has used, in clock ticks (proc(5), stat 14 and 15).
func cpuTime(t testing.TB, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return user + system
}

// started is when a process was started (proc(5): stat 22, in clock ticks since the machine's start).
func started(t testing.TB, pid int) time.Time {
	t.Helper()
	const ticks = 100 // a second
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	up, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	begun, _ := strconv.ParseInt(strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))[19], 10, 64)
	now, err := strconv.ParseFloat(strings.Fields(string(up))[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Now().Add(time.Duration(begun)*time.Second/ticks - time.Duration(now*float64(time.Second)))
}
