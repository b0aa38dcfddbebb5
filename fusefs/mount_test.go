package fusefs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/engine"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/ext4"
	"vmfr/agent/image"
	"vmfr/agent/tree"
	"vmfr/agent/volume"
	"vmfr/test/fixture"
)

// native is the engine of these tests.
type native struct{}

func (native) Name() string { return "ext4" }

func (native) Open(v volume.Volume) (fsys.FS, error) { return ext4.Open(v, ext4.Options{}) }

// newTree is the tree of one backup, b, with one disk for each image: d0, d1, ...
func newTree(t testing.TB, e engine.Engine, images ...string) *tree.Tree {
	t.Helper()
	b := tree.Backup{Name: "b", VM: "vm1", Timestamp: time.Unix(1_700_000_000, 0)}
	for i, img := range images {
		b.Disks = append(b.Disks, tree.Disk{Name: "d" + string(rune('0'+i)), Format: "raw", Reader: openImage(t, img)})
	}
	tr, err := tree.New(t.Context(), tree.Config{Backups: []tree.Backup{b}, Engines: []engine.Engine{e}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	for _, d := range tr.Backups()[0].Disks {
		if d.State != tree.StateReadable {
			t.Fatalf("disk %s is %s: %s", d.Name, d.State, d.Error)
		}
	}
	return tr
}

func openImage(t testing.TB, path string) extent.Reader {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.Open(image.Source{File: f, Format: image.FormatRaw}, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = img.Close(); _ = f.Close() })
	return img
}

// testLog shows the server's log where a test fails.
type testLog struct{ testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func logTo(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(testLog{t}, nil)) }

// serve mounts a tree and returns the server and the mount point.
func serve(t testing.TB, tr *tree.Tree, o Options) (*Server, string) {
	t.Helper()
	fixture.NeedRoot(t)
	dir := t.TempDir()
	if o.Log == nil {
		o.Log = logTo(t)
	}
	s, err := Mount(dir, tr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Unmount(ctx); err != nil {
			t.Error(err)
		}
		if n := s.Panics(); n != 0 {
			t.Errorf("%d panics in fusefs", n)
		}
	})
	return s, dir
}

func TestMountRefusesBadDirectories(t *testing.T) {
	tr := emptyTree(t)
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		full:                         "is not empty",
		filepath.Join(full, "none"):  "create the directory first",
		filepath.Join(full, "file"):  "is not a directory",
		filepath.Join(full, "x", ""): "create the directory first",
	} {
		s, err := Mount(dir, tr, Options{})
		if err == nil {
			_ = s.Unmount(t.Context())
			t.Errorf("mounted at %s", dir)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", dir, err, want)
		}
	}
}

func emptyTree(t testing.TB) *tree.Tree {
	t.Helper()
	tr, err := tree.New(t.Context(), tree.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestMountOptions(t *testing.T) {
	_, dir := serve(t, emptyTree(t), Options{AllowOther: true, DefaultPermissions: true})
	got := strings.TrimSpace(fixture.Run(t, "findmnt", "-n", "-o", "SOURCE,FSTYPE,OPTIONS", dir))
	for _, want := range []string{"vmfr", "fuse.vmfr", "ro", "nosuid", "nodev", "noexec", "allow_other", "default_permissions"} {
		found := false
		for _, w := range strings.FieldsFunc(got, func(r rune) bool { return r == ' ' || r == ',' }) {
			found = found || w == want
		}
		if !found {
			t.Errorf("%q is not among the options: %s", want, got)
		}
	}
	m, err := lookupMount(dir)
	if err != nil {
		t.Fatal(err)
	}
	if ra, err := os.ReadFile("/sys/class/bdi/" + m.dev + "/read_ahead_kb"); err == nil && strings.TrimSpace(string(ra)) != "2032" {
		t.Errorf("read-ahead is %s KiB", ra)
	}
}

// unmountGrace is short for a test that waits for its end, and long for what a busy machine has to do in it:
// end a server whose connection was ended.
const unmountGrace = time.Second

func TestUnmountWhileFileIsOpen(t *testing.T) {
	fixture.NeedRoot(t)
	dir := t.TempDir()
	s, err := Mount(dir, emptyTree(t), Options{Grace: unmountGrace, Log: logTo(t)})
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(filepath.Join(dir, "METADATA.json"), unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := s.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
	default:
		t.Error("the server has not ended")
	}
	if _, err := unix.Pread(fd, make([]byte, 16), 0); err == nil {
		t.Error("the open file can still be read")
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("mount point after unmount: %v, %v", names, err)
	}
	if err := s.Unmount(t.Context()); err != nil {
		t.Errorf("a second Unmount: %v", err)
	}
}

// A container that starts while a tree is mounted takes a copy of the mount along.
func TestUnmountEndsCopies(t *testing.T) {
	fixture.NeedRoot(t)
	fixture.Need(t, "unshare")
	dir := t.TempDir()
	s, err := Mount(dir, emptyTree(t), Options{Grace: unmountGrace, Log: logTo(t)})
	if err != nil {
		t.Fatal(err)
	}
	other := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-c", `echo there; read line; cat "$0/METADATA.json"`, dir)
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("there\n"))); err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount(t.Context()); err != nil {
		t.Error(err)
	}
	_ = in.Close()
	if b, _ := io.ReadAll(out); len(b) > 0 {
		t.Errorf("the copy is still readable: %q", b)
	}
	if other.Wait() == nil {
		t.Error("the copy is still there")
	}
}

func TestSomebodyElseUnmounts(t *testing.T) {
	fixture.Need(t, "fusermount3")
	s, dir := serve(t, emptyTree(t), Options{})
	fixture.Run(t, "fusermount3", "-u", dir)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

// A server that was killed leaves a mount that answers ENOTCONN.
func TestStaleMountIsRemoved(t *testing.T) {
	fixture.NeedRoot(t)
	dir := t.TempDir()
	_, dev, err := Attach(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if _, err := os.Stat(dir); err == nil {
		t.Fatal("the control failed: the mount is not stale")
	}
	s, err := Mount(dir, emptyTree(t), Options{Log: logTo(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(filepath.Join(dir, "README.txt")); err != nil {
		t.Error(err)
	}
	if err := s.Unmount(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := lookupMount(dir); err == nil {
		t.Error("a mount is left")
	}
}

// Who mounts and who serves may be two processes.
func TestServeOnADescriptor(t *testing.T) {
	fixture.NeedRoot(t)
	dir := t.TempDir()
	_, dev, err := Attach(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s, err := Serve(dev, emptyTree(t), Options{Log: logTo(t)})
	if err != nil {
		t.Fatal(err)
	}
	if out := fixture.Run(t, "ls", "-a", dir); !strings.Contains(out, "README.txt") {
		t.Errorf("ls: %s", out)
	}
	if err := s.Unmount(t.Context()); err == nil {
		t.Error("Unmount of a foreign mount must be refused")
	}
	fixture.Run(t, "umount", dir)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Wait(ctx); err != nil {
		t.Error(err)
	}
}

// The guest's modes and ACLs count where the option says so.
func TestDefaultPermissions(t *testing.T) {
	fixture.Need(t, "setfacl", "getfacl")
	img := guest(t)
	for _, enforce := range []bool{true, false} {
		t.Run(fmt.Sprint(enforce), func(t *testing.T) {
			_, mnt := serve(t, newTree(t, native{}, img), Options{AllowOther: true, DefaultPermissions: enforce})
			// The way to the mount belongs to the test and is closed to others: open the folder first.
			dir, err := unix.Open(filepath.Join(mnt, "backups/b/d0"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(dir)
			if err := readAs(1234, dir, "plain"); err != nil {
				t.Errorf("the ACL names user 1234: %v", err)
			}
			if err := readAs(4321, dir, "plain"); (err != nil) != enforce {
				t.Errorf("user 4321: %v", err)
			}
			if out := fixture.Run(t, "getfacl", "-n", filepath.Join(mnt, "backups/b/d0/plain")); !strings.Contains(out, "user:1234:rw-") {
				t.Errorf("getfacl: %s", out)
			}
		})
	}
}

// readAs reads a file in the folder dir as another user, on a thread that ends with it.
func readAs(uid, dir int, name string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: no other goroutine gets this user's thread
		// The raw call concerns this thread alone; Go's changes all of them.
		if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
			done <- e
			return
		}
		if err := errors.Join(unix.Setfsgid(9999), unix.Setfsuid(uid)); err != nil {
			done <- err
			return
		}
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			_, err = unix.Read(fd, make([]byte, 1))
			err = errors.Join(err, unix.Close(fd))
		}
		done <- err
	}()
	return <-done
}

// Two mounts at once serve their own trees, and nothing is left of them.
func TestTwoMountsAndNothingLeft(t *testing.T) {
	fixture.NeedRoot(t)
	before := runtime.NumGoroutine()
	img := fixture.Ext4(t, "", 16<<20)
	one, dir1 := serve(t, newTree(t, native{}, img), Options{})
	two, dir2 := serve(t, emptyTree(t), Options{})
	if out := fixture.Run(t, "ls", filepath.Join(dir1, "backups"), filepath.Join(dir2, "backups")); strings.Count(out, "b\n") != 1 {
		t.Errorf("ls: %s", out)
	}
	if err := one.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	fixture.Run(t, "stat", filepath.Join(dir2, "README.txt"))
	if err := two.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if runtime.NumGoroutine() <= before { // the last one may be about to end
			return
		}
	}
	buf := make([]byte, 1<<20)
	t.Errorf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
}
