package ntfs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// fillTree makes n small files, 100 in a directory.
func fillTree(t testing.TB, dir string, n int) {
	t.Helper()
	for i := range n {
		d := filepath.Join(dir, fmt.Sprintf("d%02d/e%03d/f%d", i/100%20, i/2000, i/100))
		if i%100 == 0 {
			check(t, os.MkdirAll(d, 0o755))
		}
		check(t, os.WriteFile(filepath.Join(d, fmt.Sprintf("file %d", i)), fmt.Appendf(nil, "%0*d\n", i%1500, i), 0o644))
	}
}

// imageEnv names an image to list in place of one that is made: of any size, made once.
const imageEnv = "VMFR_NTFS_IMAGE"

// BenchmarkList lists a tree of 10,000 files with all attributes.
func BenchmarkList(b *testing.B) {
	img := os.Getenv(imageEnv)
	if img == "" {
		img = makeNTFS(b, 128<<20)
		dir := mount(b, img)
		fillTree(b, dir, 10_000)
		unmount(b, img, dir)
	}
	dev := fixture.OpenDevice(b, img)
	for _, cold := range []bool{true, false} {
		b.Run(map[bool]string{true: "cold", false: "warm"}[cold], func(b *testing.B) {
			fs, err := Open(dev, Options{})
			check(b, err)
			names := 0
			for b.Loop() {
				if cold {
					fs, err = Open(dev, Options{})
					check(b, err)
				}
				names = fsystest.List(b, fs, fs.Root())
			}
			b.ReportMetric(float64(names), "names")
		})
	}
}

// TestTree compares a tree with ntfs-3g, and counts the reads that listing it with all attributes
// takes: records come in by the chunk. In a large directory a lookup reads a path of the index only.
func TestTree(t *testing.T) {
	img := makeNTFS(t, 128<<20)
	dir := mount(t, img)
	fillTree(t, filepath.Join(dir, "tree"), 4000)
	const large = 12_000
	check(t, os.Mkdir(filepath.Join(dir, "large"), 0o755))
	for i := range large {
		check(t, os.WriteFile(filepath.Join(dir, "large", fmt.Sprintf("Entry %d", i*7919%large)), nil, 0o644))
	}
	unmount(t, img, dir)
	fsystest.Run(t, openImage(t, img), manifest(t, img))

	dev := fixture.OpenDevice(t, img)
	reads := func(work func(*FS)) int64 {
		fs, err := Open(dev, Options{})
		check(t, err)
		before := dev.Reads.Load()
		work(fs)
		return dev.Reads.Load() - before
	}
	objects := 0
	n := reads(func(fs *FS) { objects = fsystest.List(t, fs, find(t, fs, "tree")) })
	t.Logf("%d objects listed with %d reads", objects, n)
	if n > int64(objects/10) {
		t.Errorf("%d reads for %d objects", n, objects)
	}
	n = reads(func(fs *FS) { find(t, fs, "large/Entry 7777") })
	t.Logf("one lookup among %d with %d reads", large, n)
	if n > 10 {
		t.Errorf("%d reads for one lookup", n)
	}
}
