package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// hierarchy is a mounted control group hierarchy, of cgroups(7) version 1 or 2.
type hierarchy struct {
	dir string
	v2  bool
}

// hierarchies are those that this process sees mounted below /sys/fs/cgroup, each once.
func hierarchies() ([]hierarchy, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var all []hierarchy
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line) // device, directory, type, options
		if len(f) < 4 || !strings.HasPrefix(f[2], "cgroup") || !strings.HasPrefix(f[1], "/sys/fs/cgroup") {
			continue
		}
		if h := (hierarchy{f[1], f[2] == "cgroup2"}); !slices.Contains(all, h) {
			all = append(all, h)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no control groups are mounted below /sys/fs/cgroup")
	}
	return all, nil
}

// groupRoot is the control group below which a cluster or a node has all of its own, as kubelet names it.
func groupRoot(id string) string { return "/vmfr-" + id }

// joinGroups makes a node's control groups below its cluster's and moves this process into one of them.
func joinGroups(id string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	// Beside version 1, version 2 has what systemd keeps there and no controller that is of use.
	onlyV2 := !slices.ContainsFunc(all, func(h hierarchy) bool { return !h.v2 })
	for _, h := range all {
		if onlyV2 {
			if err := handOn(h.dir); err != nil {
				return err
			}
		}
		root := filepath.Join(h.dir, groupRoot(id))
		own := filepath.Join(root, "programs")
		for _, dir := range []string{filepath.Dir(root), root, own} {
			switch err := os.Mkdir(dir, 0o755); {
			case errors.Is(err, os.ErrExist): // the cluster's
				continue
			case err != nil:
				return err
			}
			if err := inheritCPUs(dir); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(own, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
		if onlyV2 {
			if err := errors.Join(handOn(filepath.Dir(root)), handOn(root)); err != nil {
				return err
			}
		}
	}
	return nil
}

// handOn gives a version 2 group's children all of its controllers. Only the root of all may have
// processes beside such children.
func handOn(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for c := range strings.FieldsSeq(string(b)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
			return fmt.Errorf("hand the controller %s to control groups below %s, which may hold no process itself: %w", c, dir, err)
		}
	}
	return nil
}

// inheritCPUs gives a version 1 group its parent's processors and memory nodes: it has none at first.
func inheritCPUs(dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		if _, err := os.Stat(filepath.Join(dir, "cpuset.sched_load_balance")); err != nil {
			return nil // no cpuset, or of version 2
		}
		b, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0); err != nil {
			return err
		}
	}
	return nil
}

// removeGroups removes a cluster's or a node's control groups when its processes have left them.
func removeGroups(ctx context.Context, id string) error {
	return await(ctx, func() error {
		groups, err := Groups(id)
		for _, dir := range groups {
			if e := os.Remove(dir); e != nil && !errors.Is(e, os.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
		return err
	})
}

// Groups are the directories of a cluster's or a node's control groups, children before their parents.
func Groups(id string) ([]string, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var groups []string
	for _, h := range all {
		err := filepath.WalkDir(filepath.Join(h.dir, groupRoot(id)), func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, os.ErrNotExist):
				return nil
			case err == nil && d.IsDir():
				groups = append(groups, path)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Reverse(groups)
	return groups, nil
}
