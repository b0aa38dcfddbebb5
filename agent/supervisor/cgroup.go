package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// groups makes a control group with a memory limit for each worker (cgroups(7)), so that one that
// needs too much is killed alone. A nil *groups makes none.
type groups struct {
	dir    string // below which they are made
	limit  string // the file of the limit
	events string // the file that counts kills, as a line "oom_kill N"
	swap   string // the file of the limit of swap, where that is one of its own; empty: it is not
}

// group is one worker's; nil: none.
type group struct {
	dir, events string
	alive       *os.File // dir, locked: its agent lives
}

const cgroupRoot = "/sys/fs/cgroup"

// newGroups finds where this process may make groups: version 2, else version 1.
func newGroups() (*groups, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var errs []error
	for line := range strings.Lines(string(b)) {
		// "0::/path" or "4:memory:/path"
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		var g *groups
		switch {
		case f[0] == "0":
			g, err = version2(filepath.Join(cgroupRoot, f[2]))
		case f[1] == "memory":
			g, err = version1(filepath.Join(cgroupRoot, "memory"), f[2])
		default:
			continue
		}
		if err == nil {
			return g, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(append(errs, errors.New("no memory controller may be used"))...)
}

// version2 moves this process into a group of its own: one that hands controllers on may hold
// no process itself.
func version2(dir string) (*groups, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return nil, err
	}
	if !strings.Contains(" "+strings.TrimSpace(string(b))+" ", " memory ") {
		return nil, fmt.Errorf("%s has no memory controller", dir)
	}
	if filepath.Base(dir) != "vmfr-supervisor" {
		own := filepath.Join(dir, "vmfr-supervisor")
		if err := os.Mkdir(own, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(own, "cgroup.procs"), []byte("0"), 0); err != nil {
			return nil, err
		}
	} else {
		dir = filepath.Dir(dir) // after a restart in place
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
		return nil, err
	}
	// A kubelet has the kernel kill a container as a whole (since Kubernetes 1.28). When the node
	// is out of memory that would be all sessions; their workers are chosen one by one where it lets us.
	_ = os.WriteFile(filepath.Join(dir, "memory.oom.group"), []byte("0"), 0)
	return &groups{dir: dir, limit: "memory.max", events: "memory.events", swap: "memory.swap.max"}, nil
}

// version1 makes groups below this process's own, or below the mount's root where that shows
// another part of the hierarchy than /proc tells, as in containers.
func version1(mount, path string) (*groups, error) {
	for _, dir := range []string{filepath.Join(mount, path), mount} {
		if _, err := os.Stat(filepath.Join(dir, "memory.limit_in_bytes")); err != nil {
			continue
		}
		probe, err := os.MkdirTemp(dir, "vmfr-probe-") // another agent may try at the same moment
		if err != nil {
			continue
		}
		if err := os.Remove(probe); err != nil {
			continue
		}
		return &groups{dir: dir, limit: "memory.limit_in_bytes", events: "memory.oom_control"}, nil
	}
	return nil, fmt.Errorf("no group can be made below %s", mount)
}

const groupPrefix = "vmfr-worker-"

// leftovers are the groups of a predecessor that was killed. Nil has none. Those of an agent that lives are not among
// them: they may be empty for a moment, and what they say of a process that was killed is still to be read.
func (g *groups) leftovers() (old []*group) {
	if g == nil {
		return nil
	}
	dirs, _ := filepath.Glob(filepath.Join(g.dir, groupPrefix+"*"))
	for _, dir := range dirs {
		if alive, err := claim(dir); err == nil {
			old = append(old, &group{dir: dir, alive: alive})
		}
	}
	return old
}

// claim locks a group's folder, which another agent may have done already.
func claim(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// add limits the memory of a process, in bytes.
func (g *groups) add(name string, pid int, limit int64) (x *group, err error) {
	if g == nil {
		return nil, errors.New("no memory controller may be used")
	}
	dir := filepath.Join(g.dir, groupPrefix+name+"-"+strconv.Itoa(pid))
	for range 100 {
		x, err = g.try(dir, pid, limit)
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		// An agent that began took it for left over before it was claimed.
	}
	return x, err
}

func (g *groups) try(dir string, pid int, limit int64) (*group, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	alive, err := claim(dir)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, g.limit), []byte(strconv.FormatInt(limit, 10)), 0)
	}
	if err == nil && g.swap != "" {
		err = os.WriteFile(filepath.Join(dir, g.swap), []byte("0"), 0)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) { // a kernel without swap has no such file
			err = nil
		}
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
	}
	if err != nil {
		_ = os.Remove(dir)
		_ = alive.Close() // nil, too
		return nil, err
	}
	return &group{dir, filepath.Join(dir, g.events), alive}, nil
}

// outOfMemory tells whether the kernel has killed a process of the group for its limit.
func (g *group) outOfMemory() bool {
	if g == nil {
		return false
	}
	b, _ := os.ReadFile(g.events)
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return n != "0"
		}
	}
	return false
}

const (
	// removeLimit is how long the kernel may take to forget a process that was killed.
	removeLimit = 2 * time.Second
	// jailLimit is how long a jail may take to end when its worker has ended: nobody kills it.
	jailLimit = 10 * time.Second
)

// remove removes the group of a process that has ended; where it has not within limit, the group stays.
func (g *group) remove(limit time.Duration) {
	if g == nil {
		return
	}
	defer g.alive.Close()
	for until := time.Now().Add(limit); errors.Is(os.Remove(g.dir), unix.EBUSY) && time.Now().Before(until); {
		time.Sleep(10 * time.Millisecond)
	}
}
