package xfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// checkDirty requires what checkRecovered does, and that the log matters.
func checkDirty(t *testing.T, img string) {
	t.Helper()
	if !checkRecovered(t, img) {
		t.Error("the tree is the same without the log: this test shows nothing")
	}
}

// checkRecovered lets the kernel recover a copy of a dirty image, and requires that our view of
// the image itself is the same and that nothing was written. It tells whether the tree is
// another one without the log.
func checkRecovered(t *testing.T, img string) (matters bool) {
	t.Helper()
	before := fixture.Sum(t, img)
	copied := fixture.Copy(t, img)
	dir := fixture.Mount(t, copied, "xfs", "rw,noatime,nouuid", 0, 0)
	want := fixture.Manifest(t, dir)
	fixture.Unmount(t, dir)

	fs, err := Open(fixture.OpenRaw(t, img), Options{})
	if err != nil {
		t.Fatal(err)
	}
	j := fs.Info().Journal
	t.Logf("log: %s; %d objects", j, len(want))
	if !strings.HasPrefix(j, "replayed") {
		t.Errorf("the log was to be dirty, and is %q", j)
	}
	fsystest.Run(t, fs, want)

	without, err := Open(fixture.OpenRaw(t, img), Options{NoReplay: true})
	if err == nil {
		got, walkErr := fsystest.WalkFS(without)
		matters = walkErr != nil || len(fsystest.Diff(want, got)) > 0
	}
	if after := fixture.Sum(t, img); after != before {
		t.Errorf("the image has changed: sha256 %s, was %s", after, before)
	}
	return matters || err != nil
}

// dirtyImage makes a file system, mounts it, runs load, and stops it as a crash would.
func dirtyImage(t *testing.T, size int64, mkfs []string, flush bool, load func(dir string) error) string {
	t.Helper()
	img, dir := mountNew(t, size, mkfs...)
	if err := load(dir); err != nil {
		t.Fatal(err)
	}
	fixture.Shutdown(t, dir, flush)
	fixture.Unmount(t, dir) // writes nothing any more
	return img
}

func mountNew(t *testing.T, size int64, mkfs ...string) (img, dir string) {
	t.Helper()
	fixture.NeedRoot(t)
	img = makeImage(t, size, mkfs...)
	return img, fixture.Mount(t, img, "xfs", "rw,noatime", 0, 0)
}

// churnSynced churns, brings that to the disk, and goes on.
func churnSynced(seed uint64, steps int) func(dir string) error {
	return func(dir string) error {
		if err := fixture.Churn(dir, seed, steps, nil); err != nil {
			return err
		}
		if err := syncDir(dir); err != nil {
			return err
		}
		more := filepath.Join(dir, "not synced")
		if err := os.Mkdir(more, 0o755); err != nil {
			return err
		}
		return fixture.Churn(more, seed+1, steps/4, nil)
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// TestDirtyGeometries is the matrix of formats.
func TestDirtyGeometries(t *testing.T) {
	for i, c := range []struct {
		name string
		mkfs []string
	}{
		{"4k", nil},
		{"1k", []string{"-b", "size=1k"}},
		{"2k with directory blocks of 8k", []string{"-b", "size=2k", "-n", "size=8k"}},
		{"sectors of 4k", []string{"-s", "size=4096"}},
		{"rmapbt reflink", []string{"-m", "rmapbt=1,reflink=1"}},
		{"without reflink and finobt and bigtime", []string{"-m", "reflink=0,finobt=0,bigtime=0", "-i", "sparse=0"}},
		{"stripe unit of the log", []string{"-l", "su=64k"}},
		{"large counters", []string{"-i", "nrext64=1"}},
		{"inodes of 2048 bytes", []string{"-i", "size=2048"}},
		{"directory blocks of 16k", []string{"-n", "size=16k"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkDirty(t, dirtyImage(t, 64<<20, c.mkfs, i%2 == 0, churnSynced(uint64(i), 300)))
		})
	}
}

// TestDirtyWorkloads has one kind of load at a time, the kinds that the log treats differently.
func TestDirtyWorkloads(t *testing.T) {
	for i, c := range []struct {
		name string
		mkfs []string
		load func(dir string) error
	}{
		{"create and rename and unlink", nil, storm},
		{"truncate", nil, truncates},
		{"large attributes", nil, attributes},
		{"large attributes 1k", []string{"-b", "size=1k"}, attributes},
		{"fsync in the middle", nil, fsyncs},
		{"log wraps", nil, wraps},
		{"log wraps with large inodes", []string{"-i", "size=2048"}, wraps},
		{"reflink", []string{"-m", "reflink=1"}, reflinks},
		{"reflink rmapbt", []string{"-m", "reflink=1,rmapbt=1"}, reflinks},
		{"directories grow and shrink", nil, directories},
		{"directories grow and shrink 1k", []string{"-b", "size=1k"}, directories},
		{"symbolic and hard links", nil, links},
		{"symbolic and hard links 1k", []string{"-b", "size=1k"}, links},
		{"holes and unwritten extents", nil, holes},
		{"inode chunks", nil, inodeChunks},
		{"inode chunks sparse", []string{"-b", "size=1k", "-i", "sparse=1"}, inodeChunks},
		{"access control lists", nil, acls},
		{"special files", nil, specialFiles},
		{"extent trees", nil, extentTrees},
		{"extent trees 1k large counters", []string{"-b", "size=1k", "-i", "nrext64=1"}, extentTrees},
	} {
		for _, flush := range []bool{true, false} {
			if !flush && i%3 != 0 {
				continue
			}
			t.Run(fmt.Sprintf("%s flush=%v", c.name, flush), func(t *testing.T) {
				checkDirty(t, dirtyImage(t, 64<<20, c.mkfs, flush, c.load))
			})
		}
	}
}

// TestDirtyOwnerChange: two files exchange their extent trees, whose blocks then have another
// owner; the log says so, and recovery changes them. The oracle is the tree before the crash: Linux
// 6.18 cannot recover such a log, as it checks the inode before it has computed its checksum.
func TestDirtyOwnerChange(t *testing.T) {
	fixture.Need(t, "xfs_io")
	img, dir := mountNew(t, 64<<20, "-b", "size=1k", "-m", "rmapbt=0,reflink=0")
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for i, p := range []string{a, b} {
		if err := fragment(p, 300, byte('a'+i)); err != nil {
			t.Fatal(err)
		}
	}
	fixture.Unmount(t, dir) // so that the log has nothing but the exchange
	dir = fixture.Mount(t, img, "xfs", "rw,noatime", 0, 0)
	a, b = filepath.Join(dir, "a"), filepath.Join(dir, "b")
	fixture.Run(t, "xfs_io", "-c", "swapext "+b, a)
	want := fixture.Manifest(t, dir)
	fixture.Shutdown(t, dir, true)
	fixture.Unmount(t, dir)

	fs, err := Open(fixture.OpenRaw(t, img), Options{})
	if err != nil {
		t.Fatal(err)
	}
	fsystest.Run(t, fs, want)
	without, err := Open(fixture.OpenRaw(t, img), Options{NoReplay: true})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := fsystest.WalkFS(without); err == nil && len(fsystest.Diff(want, got)) == 0 {
		t.Error("the tree is the same without the log: this test shows nothing")
	}
}

// TestDirtyGrown: the file system was made larger, and only the log's superblock says so.
func TestDirtyGrown(t *testing.T) {
	fixture.Need(t, "xfs_growfs")
	img, dir := mountNew(t, 48<<20)
	fixture.Unmount(t, dir)
	if err := os.Truncate(img, 128<<20); err != nil {
		t.Fatal(err)
	}
	dir = fixture.Mount(t, img, "xfs", "rw,noatime", 0, 0)
	fixture.Run(t, "xfs_growfs", dir)
	if err := churnSynced(5, 300)(dir); err != nil {
		t.Fatal(err)
	}
	fixture.Shutdown(t, dir, true)
	fixture.Unmount(t, dir)
	checkDirty(t, img)
}

// TestDirtyFrozen: a frozen file system, as a backup agent in the guest leaves it for a snapshot,
// has a log with next to nothing in it; an open file without a name is still there.
func TestDirtyFrozen(t *testing.T) {
	fixture.Need(t, "fsfreeze")
	img, dir := mountNew(t, 64<<20)
	if err := churnSynced(7, 300)(dir); err != nil {
		t.Fatal(err)
	}
	open, err := os.Create(filepath.Join(dir, "without a name"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open.Write(make([]byte, 100000)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(open.Name()); err != nil {
		t.Fatal(err)
	}
	fixture.Run(t, "fsfreeze", "-f", dir)
	frozen := fixture.Copy(t, img)
	fixture.Run(t, "fsfreeze", "-u", dir)
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	fixture.Unmount(t, dir)
	checkRecovered(t, frozen)
}

// TestDirtyUnderLoad stops the file system while it is being changed.
func TestDirtyUnderLoad(t *testing.T) {
	for i, flush := range []bool{false, true, false, true} {
		t.Run(fmt.Sprintf("%d flush=%v", i, flush), func(t *testing.T) {
			img, dir := mountNew(t, 64<<20)
			if err := fixture.Churn(dir, uint64(i), 300, nil); err != nil {
				t.Fatal(err)
			}
			started, done := make(chan struct{}), make(chan error, 1)
			go func() {
				sub := filepath.Join(dir, "load")
				if err := os.Mkdir(sub, 0o755); err != nil {
					done <- err
					return
				}
				close(started)
				done <- fixture.Churn(sub, uint64(i)+100, 1<<30, nil)
			}()
			<-started
			fixture.Shutdown(t, dir, flush)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			fixture.Unmount(t, dir)
			checkDirty(t, img)
		})
	}
}

// TestDirtySnapshots takes consistent images of a running file system, as a storage snapshot
// does: clones of its image file while load runs. Every one must agree with the kernel. One that
// hits the moment after the guest brought everything home needs no log; snapshots are taken until
// enough do need it.
func TestDirtySnapshots(t *testing.T) {
	fixture.Snapshots(t, 4, 40, func(img string) string {
		fixture.Run(t, "cp", makeImage(t, 96<<20, "-m", "rmapbt=1"), img)
		return fixture.Mount(t, img, "xfs", "rw,noatime", 0, 0)
	}, checkRecovered)
}
