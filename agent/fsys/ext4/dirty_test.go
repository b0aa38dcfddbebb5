package ext4_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/fsys/ext4"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// dirtyAttempts is how many file systems may be made until the journal of one matters.
const dirtyAttempts = 10

// checkDirty requires of a file system that crashed what checkRecovered does, and that its journal
// matters. What is committed may be home already when the image is copied: the kernel writes back
// every few seconds, and all of it whenever anybody on the machine calls sync. Then another one is made.
// The last one's image is returned.
func checkDirty(t *testing.T, crashed func(t *testing.T) string) string {
	t.Helper()
	for range dirtyAttempts {
		if img := crashed(t); checkRecovered(t, img) || t.Failed() {
			return img
		}
		t.Log("the tree is the same without the journal: once more")
	}
	t.Fatal("the tree is the same without the journal: this test shows nothing")
	return ""
}

// checkRecovered lets the kernel recover a copy of a dirty image, and requires that our view of
// the image itself is the same and that nothing was written. It tells whether the tree is
// another one without the journal.
func checkRecovered(t *testing.T, img string) (matters bool) {
	t.Helper()
	before := fixture.Sum(t, img)
	copied := fixture.Copy(t, img)
	dir := fixture.Mount(t, copied, "ext4", "rw,noatime", 0, 0)
	want := fixture.Manifest(t, dir)
	fixture.Unmount(t, dir)

	fs, err := ext4.Open(fixture.OpenRaw(t, img), ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	j := fs.Info().Journal
	t.Logf("journal: %s; %d objects", j, len(want))
	if !strings.HasPrefix(j, "replayed") {
		t.Errorf("the journal was to be dirty, and is %q", j)
	}
	fsystest.Run(t, fs, want)

	without, err := ext4.Open(fixture.OpenRaw(t, img), ext4.Options{NoReplay: true})
	if err == nil {
		got, walkErr := fsystest.WalkFS(without)
		matters = walkErr != nil || len(fsystest.Diff(want, got)) > 0
	}
	if after := fixture.Sum(t, img); after != before {
		t.Errorf("the image has changed: sha256 %s, was %s", after, before)
	}
	return matters || err != nil
}

// dirty makes a file system, mounts it, runs load, and stops it as a crash would, as often as it is
// called.
func dirty(size int64, mkfs []string, mount string, flush bool, load func(t *testing.T, dir string)) func(t *testing.T) string {
	return func(t *testing.T) string {
		t.Helper()
		fixture.NeedRoot(t)
		img := fixture.Ext4(t, "", size, mkfs...)
		dir := fixture.Mount(t, img, "ext4", mount, 0, 0)
		load(t, dir)
		return crash(t, img, dir, flush)
	}
}

// crash stops a mounted file system and returns the image as it is at that moment. The kernel would
// still bring committed blocks home when it unmounts: a crash does not, and without them the
// tree is an old one. Some may be on their way while the copy is made, which changes nothing:
// the log holds them too.
func crash(t *testing.T, img, dir string, flush bool) string {
	t.Helper()
	fixture.Shutdown(t, dir, flush)
	return fixture.Copy(t, img)
}

func churn(seed uint64, steps int) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := fixture.Churn(dir, seed, steps, nil); err != nil {
			t.Fatal(err)
		}
		syncFS(t, dir)
		more := filepath.Join(dir, "not synced")
		if err := os.Mkdir(more, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := fixture.Churn(more, seed+1, steps/4, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func syncFS(t *testing.T, dir string) {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		t.Fatal(err)
	}
}

// TestDirtyJournal is the matrix of formats and journal modes.
func TestDirtyJournal(t *testing.T) {
	small := []string{"-J", "size=4"}
	for _, c := range []struct {
		name  string
		mkfs  []string
		mount string
		flush bool
		steps int
	}{
		{name: "ordered 4k csum v3", mkfs: []string{"-b", "4096"}, flush: true, steps: 600},
		{name: "ordered 4k without flush", mkfs: []string{"-b", "4096"}, steps: 600},
		{name: "ordered 1k", mkfs: []string{"-b", "1024"}, flush: true, steps: 600},
		{name: "ordered 2k without flush", mkfs: []string{"-b", "2048"}, steps: 600},
		{name: "no checksums 64bit", mkfs: []string{"-b", "4096", "-O", "^metadata_csum,64bit"}, flush: true, steps: 600},
		{name: "no checksums 32bit", mkfs: []string{"-b", "4096", "-O", "^metadata_csum,^64bit"}, flush: true, steps: 600},
		{name: "csum v3 32bit", mkfs: []string{"-b", "1024", "-O", "metadata_csum,^64bit"}, flush: true, steps: 600},
		{name: "checksum v1", mkfs: []string{"-b", "4096", "-O", "^metadata_csum"}, mount: "journal_checksum", flush: true, steps: 600},
		{name: "async commit v1", mkfs: []string{"-b", "1024", "-O", "^metadata_csum"}, mount: "journal_async_commit,data=writeback", flush: true, steps: 600},
		{name: "async commit v3", mkfs: []string{"-b", "4096"}, mount: "journal_async_commit,data=writeback", flush: true, steps: 600},
		{name: "data=journal", mkfs: []string{"-b", "4096"}, mount: "data=journal", flush: true, steps: 400},
		{name: "data=journal 1k no checksums", mkfs: []string{"-b", "1024", "-O", "^metadata_csum,^64bit"}, mount: "data=journal", steps: 400},
		{name: "ext3", mkfs: []string{"-t", "ext3", "-b", "4096"}, flush: true, steps: 600},
		{name: "ext3 1k small inodes", mkfs: []string{"-t", "ext3", "-b", "1024", "-I", "128"}, flush: true, steps: 600},
		{name: "log that wraps 1k", mkfs: append([]string{"-b", "1024", "-O", "^metadata_csum"}, "-J", "size=1"), mount: "data=journal", flush: true, steps: 800},
		{name: "log that wraps 4k", mkfs: append([]string{"-b", "4096"}, small...), mount: "data=journal", flush: true, steps: 800},
		{name: "bigalloc inline_data", mkfs: []string{"-b", "4096", "-O", "bigalloc,inline_data,ea_inode,large_dir"}, flush: true, steps: 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := "rw,noatime"
			if c.mount != "" {
				opts += "," + c.mount
			}
			checkDirty(t, dirty(96<<20, c.mkfs, opts, c.flush, churn(uint64(len(c.name)), c.steps)))
		})
	}
}

// TestDirtyUnderLoad stops the file system while it is being changed.
func TestDirtyUnderLoad(t *testing.T) {
	for i, flush := range []bool{false, true, false, true} {
		t.Run(fmt.Sprintf("%d flush=%v", i, flush), func(t *testing.T) {
			checkDirty(t, dirty(96<<20, []string{"-b", "4096", "-J", "size=4"}, "rw,noatime", flush, func(t *testing.T, dir string) {
				if err := fixture.Churn(dir, uint64(i), 400, nil); err != nil {
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
			}))
		})
	}
}

// TestDirtySnapshots takes consistent images of a running file system, as a storage snapshot
// does: clones of its image file while load runs. Every one must agree with the kernel. One that
// hits the moment after the guest brought everything home needs no journal; snapshots are taken
// until enough do need it.
func TestDirtySnapshots(t *testing.T) {
	fixture.Snapshots(t, 4, 40, func(img string) string {
		fixture.Sparse(t, img, 96<<20)
		fixture.Ext4At(t, img, 0, 96<<20, "", "-b", "4096", "-J", "size=8")
		return fixture.Mount(t, img, "ext4", "rw,noatime,commit=1", 0, 0)
	}, checkRecovered)
}
