package ext4

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// treeImage is a file system with a tree of n small files, 100 in a directory.
func treeImage(t testing.TB, n int, options ...string) (string, fsystest.Manifest) {
	t.Helper()
	img := fixture.Ext4(t, "", 384<<20, options...)
	dir := fixture.Mount(t, img, "ext4", "rw,noatime,barrier=0", 0, 0)
	for i := range n {
		d := filepath.Join(dir, fmt.Sprintf("d%02d", i/100%20), fmt.Sprintf("e%03d", i/2000))
		d = filepath.Join(d, fmt.Sprintf("f%d", i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("file %d", i)), fmt.Appendf(nil, "%0*d\n", i%3000, i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var want fsystest.Manifest
	if _, bench := t.(*testing.B); !bench {
		want = fixture.Manifest(t, dir)
	}
	fixture.Unmount(t, dir)
	return img, want
}

// TestTree compares a tree of 20,000 files with the kernel, and counts the reads that listing
// it with all attributes takes: inodes come in by the chunk, not one by one.
func TestTree(t *testing.T) {
	img, want := treeImage(t, 20_000, "-b", "4096")
	dev := fixture.OpenDevice(t, img)
	fsystest.Run(t, openReader(t, dev), want)

	objects := 0
	reads := readsOf(t, dev, func(fs *FS) { objects = fsystest.List(t, fs, fs.Root()) })
	t.Logf("%d objects listed with %d reads", objects, reads)
	if objects != len(want)-1 {
		t.Errorf("%d objects, want %d", objects, len(want)-1)
	}
	if reads > int64(objects/10) {
		t.Errorf("%d reads for %d objects", reads, objects)
	}
}

// BenchmarkList lists a tree of 20,000 files with all attributes.
func BenchmarkList(b *testing.B) {
	img, _ := treeImage(b, 20_000, "-b", "4096")
	dev := fixture.OpenDevice(b, img)
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			fs := openReader(b, dev)
			fsystest.List(b, fs, fs.Root())
		}
	})
	b.Run("warm", func(b *testing.B) {
		fs := openReader(b, dev)
		for b.Loop() {
			fsystest.List(b, fs, fs.Root())
		}
	})
}
