package guestfs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/guestfs/wire"
	"vmfr/agent/volume"
)

// withFake returns a backup of one disk whose helper misbehaves as kind says. One that hangs is not
// waited for; the others have the time that a process needs to start on a busy machine.
func withFake(t *testing.T, kind string) *Appliance {
	t.Helper()
	limit := time.Minute
	if kind == "hang" {
		limit = 2 * time.Second
	}
	f, err := New(Options{Command: []string{os.Args[0], "fake", kind}, Dir: t.TempDir(), CacheDir: t.TempDir(),
		limit: func(*wire.Request) time.Duration { return limit }})
	if err != nil {
		t.Fatal(err)
	}
	a := f.Backup("nightly", []volume.Disk{{Name: "disk", Reader: extent.Zeros(1 << 20)}}).(*Appliance)
	a.failures = 10 // so that the pause after the next one is the longest: the first one's is over in a second
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if left, err := filepath.Glob(filepath.Join(f.opts.Dir, "*")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	return a
}

// TestHostileHelper: a helper that hangs, ends or lies is an error, in bounded time.
func TestHostileHelper(t *testing.T) {
	for _, c := range []struct{ kind, want string }{
		{"hang", "did not answer within 2s"},
		{"exit", `it said "qemu is not installed"`},
		{"garbage", "does not keep to the protocol"},
		{"huge", "does not keep to the protocol"},
		{"stranger", "a reply to nothing"},
		{"disk 99", "does not keep to the protocol"},
		{"many volumes", "file systems"},
	} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			a := withFake(t, c.kind)
			_, err := a.Filesystems(context.Background())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if s := a.Status(); s.State != stateFailed || s.Err == nil {
				t.Errorf("status %+v", s)
			}
			if _, err := a.Filesystems(context.Background()); err == nil || !strings.Contains(err.Error(), "tried again in") {
				t.Errorf("at once again: %v", err)
			}
		})
	}
}

// TestHostileAnswers: what no file system can be like is an error of that object.
func TestHostileAnswers(t *testing.T) {
	list := func(f fsys.FS) error {
		_, err := f.ReadDir(f.Root(), 0, make([]fsys.Dirent, 10))
		return err
	}
	read := func(f fsys.FS) error {
		ino, err := f.Lookup(f.Root(), "file")
		if err != nil {
			return err
		}
		r, err := f.Open(ino)
		if err != nil {
			return err
		}
		_, err = r.ReadAt(make([]byte, 50), 0)
		return err
	}
	for _, c := range []struct {
		kind string
		do   func(fsys.FS) error
		is   error
		want string
	}{
		{"sound", read, nil, ""},
		{"slash", list, fsys.ErrCorrupt, "a name of 7 bytes"},
		{"twice", list, fsys.ErrCorrupt, "there twice"},
		{"negative size", list, fsys.ErrCorrupt, "size -1"},
		{"loop", list, fsys.ErrCorrupt, "somewhere else, too"},
		{"no dot", list, wire.ErrFrame, ""},
		{"short", read, nil, "1 of 100 bytes"},
		{"disk error", read, unix.EIO, "pread"},
		{"die", read, errGone, "exit status 3"},
		{"sound", func(f fsys.FS) error { _, err := f.(fsys.Xattrer).Xattrs(f.Root()); return err }, fsys.ErrCorrupt, "extended attribute"},
	} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			a := withFake(t, c.kind)
			found, err := a.Filesystems(context.Background())
			if err != nil || len(found) != 1 || found[0].FS == nil || found[0].Disk != "disk" {
				t.Fatalf("%+v, %v", found, err)
			}
			err = c.do(found[0].FS)
			switch {
			case c.is == nil && c.want == "":
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			case err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want):
				t.Errorf("error %v, want %v with %q", err, c.is, c.want)
			}
		})
	}
	t.Run("no root", func(t *testing.T) {
		found, err := withFake(t, "no root").Filesystems(context.Background())
		if err != nil || len(found) != 1 || found[0].FS != nil || !errors.Is(found[0].Err, wire.ErrFrame) {
			t.Errorf("%+v, %v", found, err)
		}
	})
}

// TestCloseWhileStarting: Close does not wait for a start that hangs.
func TestCloseWhileStarting(t *testing.T) {
	a := withFake(t, "hang")
	a.f.opts.limit = func(*wire.Request) time.Duration { return time.Hour }
	done := make(chan error)
	go func() {
		_, err := a.Filesystems(context.Background())
		done <- err
	}()
	waitUntil(t, func() bool { return a.Status().Stage == stageBoot })
	if s := a.Status(); s.State != stateStarting || s.Progress < 10 || s.Progress > 75 {
		t.Errorf("status %+v", s)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("a closed backup was listed")
	}
}

// TestPlaces: with one place, a second backup takes that of the first when it is unused.
func TestPlaces(t *testing.T) {
	a := withFake(t, "sound")
	a.f.pool.max = 1
	if _, err := a.Filesystems(context.Background()); err != nil {
		t.Fatal(err)
	}
	b := newAppliance(a.f, "other", a.disks)
	defer b.Close()
	if _, err := b.Filesystems(context.Background()); err != nil {
		t.Fatal(err)
	}
	if s := a.Status(); s.State != stateIdle {
		t.Errorf("the first: %+v", s)
	}
}

// TestEnded: who asks right after the helper's end is told of it, and its place is given back once,
// whoever notices first.
func TestEnded(t *testing.T) {
	a := withFake(t, "sound")
	for range 20 {
		p, release, err := a.use(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		release()
		if err := unix.Kill(p.pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-p.done
		if _, _, err := a.use(t.Context()); err == nil || !strings.Contains(err.Error(), "tried again in") {
			t.Fatalf("right after the end: %v", err)
		}
		a.mu.Lock()
		a.retryAt = time.Time{}
		a.mu.Unlock()
	}
	waitUntil(t, func() bool {
		a.f.pool.mu.Lock()
		defer a.f.pool.mu.Unlock()
		return a.f.pool.taken == 0 && len(a.f.pool.running) == 0
	})
}

// waitUntil waits until ok, at most a minute.
func waitUntil(t *testing.T, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("it did not happen within a minute")
		}
	}
}

// own starts a helper that hangs, says so, and waits to be killed.
func own(dir string) {
	f, err := New(Options{Command: []string{os.Args[0], "fake", "hang"}, Dir: dir, CacheDir: dir})
	if err != nil {
		panic(err)
	}
	a := f.Backup("nightly", []volume.Disk{{Name: "disk", Reader: extent.Zeros(1 << 20)}}).(*Appliance)
	go func() { _, _ = a.Filesystems(context.Background()) }()
	for a.Status().Stage != stageBoot {
		time.Sleep(time.Millisecond)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	if err != nil || len(children) == 0 {
		matches, _ := filepath.Glob("/proc/self/task/*/children")
		for _, m := range matches {
			if b, err := os.ReadFile(m); err == nil {
				children = append(children, b...)
			}
		}
	}
	fmt.Println(strings.TrimSpace(string(children)))
	select {}
}

// TestOwnerKilled: a worker that is killed takes its helper along, and the directory that it
// leaves is removed by the next.
func TestOwnerKilled(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "owner", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	var helper int
	if _, e := fmt.Sscan(line, &helper); err != nil || e != nil {
		t.Fatalf("%q: %v, %v", line, err, e)
	}
	stale, err := filepath.Glob(filepath.Join(dir, dirPrefix+"*"))
	if err != nil || len(stale) != 1 {
		t.Fatalf("%v, %v", stale, err)
	}
	removeStale(dir)
	if _, err := os.Stat(stale[0]); err != nil {
		t.Errorf("removed under its owner: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	waitUntil(t, func() bool { return unix.Kill(helper, 0) != nil })
	d, err := newOwnDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale[0]); err == nil {
		t.Error("the dead owner's directory is still there")
	}
	if err := d.remove(); err != nil {
		t.Error(err)
	}
}
