package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Join starts a further node of the cluster whose first one n is, and returns when Pods can run on
// it. It has the images that n has then. It ends with Leave, or with the cluster, however that ends.
func (n *Node) Join(ctx context.Context, log io.Writer) (joined *Node, err error) {
	if !n.settings.first() {
		return nil, fmt.Errorf("%s is not its cluster's first node", n.Name())
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	w := &Node{settings: n.settings}
	if w.settings.Number, w.dir, err = n.claimPlace(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Leave(context.WithoutCancel(ctx)))
		}
	}()
	images := filepath.Join(w.dir, "images.tar")
	if err := n.saveImages(ctx, images); err != nil {
		return nil, err
	}
	w.settings.Archives = []string{images}
	if err := w.prepare(); err != nil {
		return nil, err
	}
	network, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", n.pid))
	if err != nil {
		return nil, err
	}
	defer network.Close()
	starter := process{name: joinName, files: map[int]*os.File{firstNetFD: network}, enter: n.enterProcesses}
	if err := w.launch(ctx, starter, log); err != nil {
		return nil, err
	}
	return w, os.Remove(images)
}

// enterProcesses lets what this thread starts be in the node's PID namespace.
func (n *Node) enterProcesses() error {
	pids, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", n.pid))
	if err != nil {
		return err
	}
	defer pids.Close()
	return unix.Setns(int(pids.Fd()), unix.CLONE_NEWPID)
}

// claimPlace makes the directory of the first number that no node of the cluster has.
func (n *Node) claimPlace() (int, string, error) {
	if err := os.MkdirAll(nodesDir(n.dir), 0o755); err != nil {
		return 0, "", err
	}
	for number := firstNumber + 1; number <= lastNumber; number++ {
		dir := place{n.settings.Cluster, number}.dir(n.dir)
		if err := os.Mkdir(dir, 0o700); !errors.Is(err, os.ErrExist) {
			return number, dir, err
		}
	}
	return 0, "", fmt.Errorf("the cluster has %d nodes, which are all that there are addresses for", lastNumber)
}

// Nodes are the cluster's that run, n itself among them, by their numbers.
func (n *Node) Nodes() ([]*Node, error) {
	first, err := Open(n.ClusterDir())
	if err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob(filepath.Join(nodesDir(first.dir), "*"))
	if err != nil {
		return nil, err
	}
	all := []*Node{first}
	for _, dir := range dirs {
		switch w, err := Open(dir); {
		case err == nil:
			all = append(all, w)
		case !errors.Is(err, ErrNotRunning):
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b *Node) int { return a.settings.Number - b.settings.Number })
	return all, nil
}

// Leave ends a node that has joined, and takes it and its Pods out of the cluster. It is to have been
// drained: loop devices of Pods' volumes that were attached there are freed when the cluster ends.
func (n *Node) Leave(ctx context.Context) error {
	if n.settings.first() {
		return errors.New("a cluster's first node ends with the cluster")
	}
	ctx, cancel := context.WithTimeout(ctx, freeLimit)
	defer cancel()
	if n.pid = findInit(n.settings.id()); n.pid != 0 {
		if err := n.kill(ctx); err != nil {
			return err
		}
	}
	if err := errors.Join(removeGroups(ctx, n.settings.id()), n.forget(ctx)); err != nil {
		return err
	}
	return os.RemoveAll(n.dir)
}

// forget removes a node that has ended from the API server, with its Pods, which nobody else ends, and waits
// until its link is gone.
func (n *Node) forget(ctx context.Context) error {
	first, err := Open(n.ClusterDir())
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"delete", "node", n.Name(), "--ignore-not-found"}, // first: nothing is scheduled there any more
		{"delete", "pods", "--all-namespaces", "--field-selector", "spec.nodeName=" + n.Name(), "--force", "--grace-period=0"},
	} {
		if out, err := first.Command(ctx, "kubectl", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("kubectl %q: %w: %s", args, err, bytes.TrimSpace(out))
		}
	}
	return await(ctx, func() error { return first.unlinked(n.Name()) })
}

// unlinked is nil when a node that has ended has no link to n any more. The kernel removes it, and the routes over it,
// some time after the node's last process; until then the next node of that name could not be linked.
func (n *Node) unlinked(name string) error {
	links, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", n.pid))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(links)) {
		if link, _, _ := strings.Cut(line, ":"); strings.TrimSpace(link) == name {
			return fmt.Errorf("the link to %s is still there", name)
		}
	}
	return nil
}

// Find returns the node of n's cluster that has a name.
func (n *Node) Find(name string) (*Node, error) {
	all, err := n.Nodes()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(w *Node) bool { return w.Name() == name })
	if i < 0 {
		return nil, fmt.Errorf("the cluster has no node %s, but %d others", strconv.Quote(name), len(all))
	}
	return all[i], nil
}
