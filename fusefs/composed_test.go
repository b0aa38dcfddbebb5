package fusefs

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/engine"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/ext4"
	"vmfr/agent/tree"
	"vmfr/agent/volume"
	"vmfr/test/fixture"
)

// write makes files below dir: "path" -> content, a folder where the path ends in a slash.
func write(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for p, content := range files {
		full := filepath.Join(dir, p)
		if strings.HasSuffix(p, "/") {
			if err := os.MkdirAll(full, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestDataDiskTwice: a data disk is at its own place and below the root that mounts it. The
// kernel allows a directory one parent, so what find, tar and rsync do must work at both
// places, in turns and at once, with hard links.
func TestDataDiskTwice(t *testing.T) {
	fixture.Need(t, "mke2fs", "find", "tar", "rsync")
	root := fixture.Ext4(t, write(t, t.TempDir(), map[string]string{
		"etc/os-release": "ID=debian\n", "etc/fstab": "LABEL=data /srv/data ext4 defaults 0 2\n", "srv/data/": "",
	}), 8<<20)
	src := write(t, t.TempDir(), map[string]string{"a/b/c/one": "one", "a/two": "two", "d/": ""})
	if err := os.Link(filepath.Join(src, "a/two"), filepath.Join(src, "d/two-again")); err != nil {
		t.Fatal(err)
	}
	data := fixture.Ext4(t, src, 8<<20, "-L", "data")
	tr := newTree(t, native{}, root, data)
	_, dir := serve(t, tr, Options{})
	own, below := filepath.Join(dir, "backups/b/d1"), filepath.Join(dir, "backups/b/d0/srv/data")

	// A working directory in one place stays there whatever is done in the other.
	fd, err := unix.Open(filepath.Join(own, "a/b"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	list := func(p string) string {
		return fixture.Run(t, "sh", "-c", "cd '"+p+"' && find . -printf '%p %y %n %s\\n' | sort")
	}
	want := list(src)
	for i := range 3 {
		for _, p := range []string{own, below} {
			got := strings.Join(remove(strings.Split(list(p), "\n"), "./lost+found"), "\n")
			if !sameNames(got, want) {
				t.Errorf("round %d, %s:\n%s\nwant\n%s", i, p, got, want)
			}
			if out := fixture.Run(t, "sh", "-c", "cd '"+p+"/a/b/c' && pwd -P && cat one && cd .. && pwd -P && cd ../.. && pwd -P"); out != fmt.Sprintf("%s/a/b/c\none%s/a/b\n%s\n", p, p, p) {
				t.Errorf("walking up from %s: %q", p, out)
			}
		}
	}
	if name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil || name != filepath.Join(own, "a/b") {
		t.Errorf("the open folder is now %q (%v)", name, err)
	}
	for _, p := range []string{own, below} {
		out := t.TempDir()
		fixture.Run(t, "rsync", "-aH", p+"/", out+"/")
		var one, two unix.Stat_t
		if unix.Stat(out+"/a/two", &one) != nil || unix.Stat(out+"/d/two-again", &two) != nil || one.Ino != two.Ino {
			t.Errorf("rsync -aH from %s lost the hard link", p)
		}
		if n := strings.Count(fixture.Run(t, "sh", "-c", "tar -C '"+p+"' -cf - . | tar -tvf - | grep -c 'link to'"), "1"); n != 1 {
			t.Errorf("tar of %s has no hard link", p)
		}
	}
	all := fixture.Run(t, "sh", "-c", "find '"+dir+"/backups' | wc -l; find '"+dir+"/backups' -xdev -name one | wc -l; tar -C '"+dir+"' -cf - backups | tar -tf - | grep -c /one$")
	if !strings.HasSuffix(all, "\n2\n2\n") {
		t.Errorf("the whole tree: %s", all)
	}
}

func remove(lines []string, prefix string) []string {
	var out []string
	for _, l := range lines {
		if !strings.HasPrefix(l, prefix+" ") {
			out = append(out, l)
		}
	}
	return out
}

// sameNames compares names, types and link counts, not the sizes of folders.
func sameNames(a, b string) bool {
	cut := func(s string) string {
		var out []string
		for _, l := range strings.Split(s, "\n") {
			f := strings.Fields(l)
			if len(f) == 4 && f[1] == "d" {
				f = f[:2]
			}
			out = append(out, strings.Join(f, " "))
		}
		return strings.Join(out, "\n")
	}
	return cut(a) == cut(b)
}

// later is a Fallback that waits to be let go and then opens what it is given.
type later struct {
	hold  chan struct{}
	boots atomic.Int32
	fs    func() (fsys.FS, error)
}

func (*later) Name() string                                    { return "later" }
func (l *later) Backup(string, []volume.Disk) engine.Appliance { return l }
func (l *later) Status() engine.ApplianceStatus                { return engine.ApplianceStatus{} }
func (l *later) Close() error                                  { return nil }
func (l *later) Filesystems(ctx context.Context) ([]engine.Found, error) {
	l.boots.Add(1)
	select {
	case <-l.hold:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f, err := l.fs()
	return []engine.Found{{Disk: "d0", FS: f}, {Device: "/dev/md127", FS: odd{}}}, err
}

// refusing is an engine that leaves everything.
type refusing struct{}

func (refusing) Name() string { return "refusing" }
func (refusing) Open(volume.Volume) (fsys.FS, error) {
	return nil, fmt.Errorf("a feature: %w", fsys.ErrUnsupported)
}

// TestBootBehindMount: looking at the mount boots nothing; the first use of the folder does,
// waits, can be given up, and the kernel keeps nothing of how it was before.
func TestBootBehindMount(t *testing.T) {
	img := fixture.Ext4(t, write(t, t.TempDir(), map[string]string{"x/y": "content"}), 8<<20)
	l := &later{hold: make(chan struct{}), fs: func() (fsys.FS, error) {
		return ext4.Open(fixture.OpenRaw(t, img), ext4.Options{})
	}}
	tr, err := tree.New(t.Context(), tree.Config{
		Backups:  []tree.Backup{{Name: "b", Disks: []tree.Disk{{Name: "d0", Reader: openImage(t, img)}}}},
		Engines:  []engine.Engine{refusing{}},
		Fallback: l,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	_, dir := serve(t, tr, Options{})
	disk := filepath.Join(dir, "backups/b/d0")
	fixture.Run(t, "ls", "-l", dir, filepath.Join(dir, "backups"), filepath.Join(dir, "backups/b"))
	before, err := os.ReadFile(filepath.Join(dir, "METADATA.json"))
	if err != nil || !strings.Contains(string(before), "notStarted") || l.boots.Load() != 0 {
		t.Fatalf("%d boots, %v, %s", l.boots.Load(), err, before)
	}
	fd, err := unix.Open(disk, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "folder")
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	// A client that is killed while it waits goes away.
	cmd := exec.Command("ls", disk)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for l.boots.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if now, err := os.ReadFile(filepath.Join(dir, "METADATA.json")); err != nil || !strings.Contains(string(now), "starting") {
		t.Errorf("while it boots: %v, %s", err, now)
	}
	close(l.hold)
	if out := fixture.Run(t, "find", disk, "-type", "f"); out != disk+"/x/y\n" {
		t.Errorf("find: %s", out)
	}
	var after unix.Stat_t
	if err := unix.Stat(disk, &after); err != nil || after.Ino != st.Ino {
		t.Errorf("the folder is inode %d, was %d (%v)", after.Ino, st.Ino, err)
	}
	if entries, err := f.ReadDir(-1); err != nil || len(entries) != 2 {
		t.Errorf("through the descriptor from before: %v, %v", entries, err)
	}
	if fi, err := fs.Stat(os.DirFS(dir), "backups/b/d0@md127/data"); err != nil || fi.Size() != 4<<20 {
		t.Errorf("what the boot found besides: %v", err)
	}
	if b, err := os.ReadDir(filepath.Join(dir, "backups/b")); err != nil || len(b) != 2 {
		t.Errorf("the backup's folder: %v, %v", b, err)
	}
	now, err := os.ReadFile(filepath.Join(dir, "METADATA.json"))
	if err != nil || !strings.Contains(string(now), `"state": "ready"`) || l.boots.Load() != 1 {
		t.Errorf("%d boots, %v, %s", l.boots.Load(), err, now)
	}
}
