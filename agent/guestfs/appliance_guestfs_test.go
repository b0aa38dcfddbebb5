//go:build guestfs

package guestfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/engine"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/agent/guestfs/wire"
	"vmfr/test/fixture"
)

// withAppliance returns an engine whose helper is this test's program. It has three times as long as
// usual: without KVM, beside other tests, ten disks can take longer than people would wait for.
func withAppliance(t *testing.T, o Options) *Fallback {
	t.Helper()
	o.limit = func(r *wire.Request) time.Duration { return 3 * limitOf(r) }
	o.Command = []string{os.Args[0], "appliance"}
	o.Dir = t.TempDir()
	o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	f, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestAppliance reads one backup of ten disks in one appliance.
func TestAppliance(t *testing.T) {
	began := time.Now()
	im := makeImages(t)
	t.Logf("images: %v", time.Since(began))
	f := withAppliance(t, Options{Keys: []Key{{Secret: []byte("wrong")}, {Disk: "luks", Secret: []byte(passphrase)}}})
	a := f.Backup("nightly", im.disks).(*Appliance)
	defer a.Close()
	if s := a.Status(); s.State != stateNew {
		t.Errorf("status %+v", s)
	}
	began = time.Now()
	found, err := a.Filesystems(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("appliance: %v", time.Since(began))
	byPlace := map[string]engine.Found{}
	for _, x := range found {
		t.Logf("%s %s/%d %s/%s encrypted=%v sub=%q %d default=%v %s %q %s err=%v", x.Device, x.Disk, x.Partition, x.VG, x.LV, x.Encrypted,
			x.Subvolume, x.SubvolID, x.Default, x.Type, x.Label, x.UUID, x.Err)
		key := x.Disk
		if x.VG != "" {
			key = x.VG + "/" + x.LV
		}
		if x.Type == "btrfs" {
			key += ":" + x.Subvolume
		}
		if key == "" {
			key = "array"
		}
		if _, twice := byPlace[key]; twice {
			t.Errorf("%s is there twice", key)
		}
		byPlace[key] = x
	}
	for _, c := range []struct{ place, oracle string }{
		{"btrfs:", "btrfs:"}, {"btrfs:root", "btrfs:root"}, {"btrfs:snap 1", "btrfs:snap 1"}, {"ext4", "ext4"}, {"xfs", "xfs"},
		{"exfat", "plain"}, {"cvg/root", "posix"}, {"array", "posix"}, {"tvg/data", "posix"}, {"squash", "squash"},
	} {
		t.Run(c.place, func(t *testing.T) {
			x := byPlace[c.place]
			if x.FS == nil {
				t.Fatalf("not read: %v", x.Err)
			}
			if c.place == "exfat" { // its root has no times: Linux shows when it was mounted
				a, err := x.FS.Stat(x.FS.Root())
				if err != nil {
					t.Fatal(err)
				}
				e := im.oracle[c.oracle]["."]
				e.Mtime = a.Mtime.UnixNano()
				im.oracle[c.oracle]["."] = e
			}
			began := time.Now()
			fsystest.Run(t, x.FS, im.oracle[c.oracle])
			t.Log(time.Since(began))
		})
	}
	if x := byPlace["locked"]; !errors.Is(x.Err, fsys.ErrNoKey) || !strings.Contains(x.Err.Error(), "no key that was given opens it") || !x.Encrypted {
		t.Errorf("locked: %+v", x)
	}
	t.Run("killed", func(t *testing.T) { testKilled(t, f, a, byPlace["exfat"].FS) })
}

// testKilled ends qemu, then the helper: what is asked while they die fails, and what is asked
// later is answered by another appliance that knows the same numbers.
func testKilled(t *testing.T, f *Fallback, a *Appliance, fs fsys.FS) {
	ino, err := fsystest.Find(fs, "sub/b")
	if err != nil {
		t.Fatal(err)
	}
	p := running(t, a)
	// The helper is the first process of its namespace, so qemu is one of its descendants.
	qemus := descendants(t, p.pid, "qemu")
	if len(qemus) == 0 {
		t.Fatal("there is no qemu below the helper")
	}
	if err := unix.Kill(qemus[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	f.forget(a) // what is kept needs no appliance
	if _, err := fs.Stat(ino); err == nil {
		// The answer can have been on its way; the next cannot.
		<-p.done
	}
	<-p.done
	if left, err := filepath.Glob(filepath.Join(f.opts.Dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	waitUntil(t, func() bool { return a.Status().State == stateFailed })
	a.mu.Lock()
	if a.retryAt.IsZero() {
		t.Error("the next start may be at once")
	}
	a.retryAt = a.retryAt.Add(time.Minute) // a second may be over by now
	a.mu.Unlock()
	if _, err := fs.Stat(ino); err == nil || !strings.Contains(err.Error(), "tried again in") {
		t.Errorf("at once after the end: %v", err)
	}
	a.mu.Lock()
	a.retryAt = time.Time{}
	a.mu.Unlock()
	f.forget(a)
	at, err := fs.Stat(ino)
	if err != nil || at.Size != 1<<20 || at.Ino != ino {
		t.Fatalf("after another start: %+v, %v", at, err)
	}
	p = running(t, a)
	qemus = descendants(t, p.pid, "qemu")
	if err := unix.Kill(p.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.done
	for _, q := range qemus {
		waitUntil(t, func() bool { return unix.Kill(q, 0) != nil })
	}
	if left, err := filepath.Glob(filepath.Join(f.opts.Dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// running returns the appliance's process.
func running(t *testing.T, a *Appliance) *process {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.proc == nil {
		t.Fatalf("no appliance runs: %v", a.err)
	}
	return a.proc
}

// forget empties the caches of a.
func (f *Fallback) forget(a *Appliance) {
	fresh := newAppliance(f, a.name, nil)
	a.content, a.dirs, a.attrs, a.xattrs = fresh.content, fresh.dirs, fresh.attrs, fresh.xattrs
}

// descendants finds the processes below pid whose program's name holds name.
func descendants(t *testing.T, pid int, name string) []int {
	t.Helper()
	var out []int
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range children {
		b, err := os.ReadFile(c)
		if err != nil {
			continue
		}
		for _, word := range strings.Fields(string(b)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child)); err == nil && strings.Contains(string(comm), name) {
				out = append(out, child)
			}
			out = append(out, descendants(t, child, name)...)
		}
	}
	return out
}

// TestIdle: an appliance that nobody uses ends and leaves nothing; without a key the encrypted
// volume says what to do.
func TestIdle(t *testing.T) {
	fixture.Need(t, "guestfish", "cryptsetup")
	dir := t.TempDir()
	im := &images{dir: dir}
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte(passphrase), 0o600); err != nil {
		t.Fatal(err)
	}
	fixture.Run(t, "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		im.sparse(t, "luks", 64<<20), key)
	im.add(t, "luks")
	f := withAppliance(t, Options{Idle: 200 * time.Millisecond})
	a := f.Backup("nightly", im.disks).(*Appliance)
	defer a.Close()
	found, err := a.Filesystems(context.Background())
	if err != nil || len(found) != 1 {
		t.Fatalf("%+v, %v", found, err)
	}
	if x := found[0]; !errors.Is(x.Err, fsys.ErrNoKey) || !strings.Contains(x.Err.Error(), "give its passphrase with --key-file") || x.FS != nil || x.Disk != "luks" {
		t.Errorf("%+v", x)
	}
	waitUntil(t, func() bool { return a.Status().State == stateIdle })
	waitUntil(t, func() bool {
		left, err := filepath.Glob(filepath.Join(f.opts.Dir, "*"))
		return err == nil && len(left) == 0
	})
	if again, err := a.Filesystems(context.Background()); err != nil || len(again) != 1 {
		t.Errorf("from memory: %v, %v", again, err)
	}
	if s := a.Status(); s.State != stateIdle {
		t.Errorf("status %+v", s)
	}
}
