package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/test/cluster"
)

// dirPrefix begins the names of directories that Start makes by itself.
const dirPrefix = "node-"

// DefaultDir is where people keep their one node.
func DefaultDir() string { return filepath.Join(cluster.CacheDir(), "node") }

// hidden are the folders of the machine that the node has its own of.
var hidden = []string{"/run", "/var/lib", "/var/log", "/proc", "/sys", "/dev"}

// claim makes a node's directory and locks it. What a dead node left in it is removed first, and
// if dir is empty, what all dead nodes left whose directories Start made.
//
// The lock is held by the node's init, so that it is free when the node has ended, however it did.
func claim(ctx context.Context, dir string) (string, *os.File, error) {
	cache := cluster.CacheDir()
	if dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", nil, err
		}
		dir, cache = abs, filepath.Dir(abs)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", nil, err
	}
	// Programs in the node's namespaces see this path, too.
	cache, err := filepath.EvalSymlinks(cache)
	if err != nil {
		return "", nil, err
	}
	for _, h := range hidden {
		if cache == h || strings.HasPrefix(cache, h+"/") {
			return "", nil, fmt.Errorf("%s: a node has a %s of its own; choose another directory (%s)", cache, h, cluster.CacheEnv)
		}
	}
	all, err := lockAll(ctx, cache)
	if err != nil {
		return "", nil, err
	}
	defer all.Close()
	if dir == "" {
		if err := removeDead(ctx, cache); err != nil {
			return "", nil, err
		}
		if dir, err = os.MkdirTemp(cache, dirPrefix); err != nil {
			return "", nil, err
		}
	} else {
		dir = filepath.Join(cache, filepath.Base(dir))
		if err := Remove(ctx, dir); err != nil {
			return "", nil, err
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return "", nil, err
		}
	}
	lock, err := lockDir(dir)
	return dir, lock, err
}

// lockAll waits until nobody makes or removes a node's directory in cache, and keeps others from it until the
// file is closed.
func lockAll(ctx context.Context, cache string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(cache, "nodes.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := flock(ctx, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// errBusy says that a node runs in a directory.
var errBusy = errors.New("a node is running there: end it first (nodectl down, make cluster-down)")

// lockDir locks a directory unless a node runs there.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errBusy
		}
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return f, nil
}

// flock waits for a lock.
func flock(ctx context.Context, f *os.File) error {
	return await(ctx, func() error {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		return nil
	})
}

// removeDead removes what nodes left that ended without Down.
func removeDead(ctx context.Context, cache string) error {
	dirs, err := filepath.Glob(filepath.Join(cache, dirPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := Remove(ctx, dir); err != nil && !errors.Is(err, errBusy) {
			return err
		}
	}
	return nil
}

// freeLimit is how long the kernel may take to end a node's processes.
const freeLimit = time.Minute

// Down ends the cluster of a directory, if it runs, and removes all that is left of it, the directory
// included. The kernel ends all other nodes with the first one.
func Down(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	// Whoever starts a node removes what dead ones left: not this one as soon as it is killed.
	all, err := lockAll(ctx, filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer all.Close()
	if n, err := Open(dir); err == nil {
		if err := n.kill(ctx); err != nil {
			return err
		}
	} else if !errors.Is(err, ErrNotRunning) {
		return err
	}
	return Remove(ctx, dir)
}

// kill ends init and with it everything in its PID namespace, and waits for that.
func (n *Node) kill(ctx context.Context) error {
	fd, err := unix.PidfdOpen(n.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return fmt.Errorf("process %d: %w", n.pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if findInit(n.settings.id()) != n.pid { // before the descriptor was opened
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d: %w", n.pid, err)
	}
	return await(ctx, func() error {
		// It is readable when init has ended, which the kernel lets it when all others have.
		ended, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if err == nil && ended == 0 {
			err = errors.New("its processes do not end")
		}
		return err
	})
}

// Remove removes what a node left that has ended.
func Remove(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, freeLimit)
	defer cancel()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(dir, settingsFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err != nil && filepath.Base(dir) != filepath.Base(DefaultDir()) && !strings.HasPrefix(filepath.Base(dir), dirPrefix) {
		// Not a node's: what people typed is never removed by mistake.
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			return fmt.Errorf("%s is not a node's directory: choose an empty or a new one", dir)
		}
	}
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	var s settings
	if len(b) > 0 {
		if err := json.Unmarshal(b, &s); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		if err := errors.Join(freeLoops(ctx, dir), removeGroups(ctx, s.Cluster)); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// await calls ready until it returns nil or the context ends.
func await(ctx context.Context, ready func() error) error {
	return cluster.Poll(ctx, pollInterval, ready)
}

// pollInterval is how often what cannot be waited for is asked again.
const pollInterval = 50 * time.Millisecond
