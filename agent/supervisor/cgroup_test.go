package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/test/fixture"
)

// TestMemoryLimit: a process that takes more than its group may is killed by the kernel, alone, and
// the group says so. It is about whichever version of control groups this machine has its memory
// controller in.
func TestMemoryLimit(t *testing.T) {
	fixture.NeedRoot(t)
	g, err := newGroups()
	if err != nil {
		t.Skipf("no group can be made here: %v", err)
	}
	if swap, _ := os.ReadFile("/proc/swaps"); g.swap == "" && bytes.Count(swap, []byte{'\n'}) > 1 {
		t.Skip("version 1 on a machine with swap: what is too much for memory goes there")
	}
	t.Logf("groups below %s, limited by %s", g.dir, g.limit)
	// tail keeps its input until a line ends.
	eater := exec.Command("tail", "-n1")
	feed, err := eater.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	calm := exec.Command("sleep", "1000")
	for _, c := range []*exec.Cmd{eater, calm} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	}
	const limit = 16 << 20
	small, err := g.add("small", eater.Process.Pid, limit)
	if err != nil {
		t.Fatal(err)
	}
	large, err := g.add("large", calm.Process.Pid, 4*limit)
	if err != nil {
		t.Fatal(err)
	}
	if small.outOfMemory() || large.outOfMemory() {
		t.Error("a group is out of memory before anything happens")
	}
	chunk := bytes.Repeat([]byte{'x'}, 1<<20)
	for range 16 * limit >> 20 {
		if _, err = feed.Write(chunk); err != nil {
			break
		}
	}
	if !errors.Is(err, unix.EPIPE) {
		t.Errorf("%d times its limit were eaten: %v", 16, err)
	}
	_ = eater.Wait()
	if s, ok := eater.ProcessState.Sys().(interface{ Signal() unix.Signal }); !ok || s.Signal() != unix.SIGKILL {
		t.Errorf("it ended with %v", eater.ProcessState)
	}
	if !small.outOfMemory() || large.outOfMemory() {
		t.Errorf("out of memory: %v, the other one %v", small.outOfMemory(), large.outOfMemory())
	}
	if err := calm.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("the other process: %v", err)
	}
	small.remove(removeLimit)
	if _, err := os.Stat(small.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the group is left: %v", err)
	}
	// What a killed predecessor left goes with its processes.
	var removed sync.WaitGroup
	_ = large.alive.Close()
	for _, old := range g.leftovers() {
		if old.dir == large.dir {
			removed.Go(func() { old.remove(removeLimit) })
		} else {
			_ = old.alive.Close()
		}
	}
	_ = calm.Process.Kill()
	_ = calm.Wait()
	removed.Wait()
	if _, err := os.Stat(large.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the predecessor's group is left: %v", err)
	}
}

// fakeJail is a process that ends when nobody has the other end of its socket any more, and takes its time.
type fakeJail struct {
	cmd            *exec.Cmd
	socket, device *os.File
}

func (j *fakeJail) Files() (socket, device *os.File) { return j.socket, j.device }
func (j *fakeJail) PID() int                         { return j.cmd.Process.Pid }
func (j *fakeJail) Close() error                     { return errors.Join(j.socket.Close(), j.device.Close()) }

// TestRsyncMemoryLimit: what a client makes rsync take is limited for a session as a whole, and is neither
// the agent's nor the worker's.
func TestRsyncMemoryLimit(t *testing.T) {
	fixture.NeedRoot(t)
	pids := make(chan int, 1)
	n := startNode(t, func(c *Config) {
		c.Rsync = func(start func(*exec.Cmd) error) (Jail, error) {
			p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			theirs := os.NewFile(uintptr(p[1]), "socket")
			defer theirs.Close()
			ends := &exec.Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", "read -r none; exec sleep 3"}, Stdin: theirs}
			j := &fakeJail{cmd: ends, socket: os.NewFile(uintptr(p[0]), "socket")}
			if j.device, err = os.Open(os.DevNull); err != nil {
				return nil, err
			}
			if err := start(j.cmd); err != nil {
				return nil, err
			}
			go func() { _ = j.cmd.Wait() }()
			pids <- j.cmd.Process.Pid
			return j, nil
		}
	})
	if n.groups == nil {
		t.Skip("no group can be made here")
	}
	r := n.newRestore()
	front := r.mustJoin(frontPart, "user")
	if _, err := r.greeting(); err != nil {
		t.Fatal(err)
	}
	pid := <-pids
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("%s%s-rsync-%d", groupPrefix, r.doc.ID[:12], pid)
	if !strings.Contains(string(b), name) {
		t.Errorf("rsync is in no group of its own but in\n%s", b)
	}
	limit, err := os.ReadFile(filepath.Join(n.groups.dir, name, n.groups.limit))
	if err != nil || strings.TrimSpace(string(limit)) != strconv.Itoa(rsyncMemory) {
		t.Errorf("its limit is %q, %v", limit, err)
	}
	_ = front.Close()
	eventually(t, func() error {
		if _, err := os.Stat(filepath.Join(n.groups.dir, name)); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("the group is left: %w", err)
		}
		return nil
	})
}

// TestVersion2Files: what is done to the files of version 2, on plain files that stand in for them: a
// machine whose memory controller belongs to version 1 has no others. What the kernel does about
// them is TestMemoryLimit's.
func TestVersion2Files(t *testing.T) {
	write := func(dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func(path ...string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(path...))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if _, err := version2(t.TempDir()); err == nil {
		t.Error("a folder without control files is taken for a group")
	}
	dir := t.TempDir()
	write(dir, "cgroup.controllers", "cpu io pids\n")
	if _, err := version2(dir); err == nil || !strings.Contains(err.Error(), "no memory controller") {
		t.Errorf("without a memory controller: %v", err)
	}
	write(dir, "cgroup.controllers", "cpu memory pids\n")
	write(dir, "cgroup.subtree_control", "")
	write(dir, "memory.oom.group", "1")
	own := filepath.Join(dir, "vmfr-supervisor")
	if err := os.Mkdir(own, 0o755); err != nil { // mkdir(2) there makes the files, too
		t.Fatal(err)
	}
	write(own, "cgroup.procs", "")
	g, err := version2(dir)
	if err != nil {
		t.Fatal(err)
	}
	if read(own, "cgroup.procs") != "0" || read(dir, "cgroup.subtree_control") != "+memory" || g.dir != dir {
		t.Errorf("%+v; moved %q, handed on %q", g, read(own, "cgroup.procs"), read(dir, "cgroup.subtree_control"))
	}
	if got := read(dir, "memory.oom.group"); got != "0" {
		t.Errorf("memory.oom.group is %q: the kernel would kill all sessions at once", got)
	}
	// After a restart in place the supervisor finds itself in its own group.
	write(own, "cgroup.controllers", "memory\n")
	if again, err := version2(own); err != nil || again.dir != dir {
		t.Errorf("after a restart: %+v, %v", again, err)
	}
	w, err := g.add("x", 7, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"memory.max": "1048576", "memory.swap.max": "0", "cgroup.procs": "7"} {
		if got := read(dir, groupPrefix+"x-7", name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if old := g.leftovers(); len(old) != 0 {
		t.Errorf("left over: %+v", old)
	}
	_ = w.alive.Close() // as when its agent is killed
	if old := g.leftovers(); len(old) != 1 || old[0].dir != w.dir {
		t.Errorf("left over: %+v", old)
	}
	write(w.dir, "memory.events", "low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\n")
	if w.outOfMemory() {
		t.Error("nothing was killed")
	}
	write(w.dir, "memory.events", "low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n")
	if !w.outOfMemory() {
		t.Error("one was killed")
	}
}

// TestOthersGroups: agents that start at the same moment all may make groups, and none takes those of one that lives
// for left over.
func TestOthersGroups(t *testing.T) {
	g, other := &groups{dir: t.TempDir(), limit: "limit"}, make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for {
			select {
			case <-other:
				return
			default:
			}
			for _, old := range g.leftovers() {
				old.remove(0)
			}
		}
	})
	end := sync.OnceFunc(func() { close(other); all.Wait() })
	defer end()
	for i := range 500 {
		x, err := g.add("x", i, 1)
		if err == nil {
			_, err = os.Stat(filepath.Join(x.dir, "cgroup.procs"))
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(x.dir); err != nil {
			t.Fatal(err)
		}
		_ = x.alive.Close()
	}
	end()
	if _, err := newGroups(); err != nil {
		t.Skipf("no group can be made here: %v", err)
	}
	for range 16 {
		all.Go(func() {
			for range 25 {
				if _, err := newGroups(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}
