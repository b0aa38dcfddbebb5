package xfs

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// TestFragmented reads a file of 20,000 extents, whose map has two levels above its leaves, and
// checks that its Reader keeps one leaf and not the whole map.
func TestFragmented(t *testing.T) {
	img := makeImage(t, 320<<20, "-b", "size=1024")
	dir := fixture.Mount(t, img, "xfs", "rw,noatime", 0, 0)
	f, err := os.Create(filepath.Join(dir, "fragmented"))
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1024)
	for i := range int64(20_000) {
		block[0], block[1] = byte(i), byte(i>>8)
		if _, err := f.WriteAt(block, 2048*i); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	want := fixture.Manifest(t, dir)
	fixture.Unmount(t, dir)
	fs := openImage(t, img)
	fsystest.Run(t, fs, want)
	ino, err := fsystest.Find(fs, "fragmented")
	if err != nil {
		t.Fatal(err)
	}
	n, err := fs.inode(ino)
	if err != nil {
		t.Fatal(err)
	}
	r, err := fs.Open(ino)
	if err != nil {
		t.Fatal(err)
	}
	root, err := r.(*file).parseRoot()
	if err != nil || root.level < 2 || n.data.extents < 20_000 {
		t.Errorf("a root of level %d and %d extents, %v", root.level, n.data.extents, err)
	}
	if _, err := io.Copy(io.Discard, io.NewSectionReader(r, 0, r.Size())); err != nil {
		t.Fatal(err)
	}
	if kept := len(r.(*file).last.Load().Runs); kept > (1024-bmbtHeaderV5)/recordSize {
		t.Errorf("%d extents are kept", kept)
	}
}

// BenchmarkRead reads 256 MiB in pieces of 1 MiB: from the image itself, then a contiguous file in it.
func BenchmarkRead(b *testing.B) {
	const size = 256 << 20
	img := makeImage(b, 640<<20)
	dir := fixture.Mount(b, img, "xfs", "rw,noatime", 0, 0)
	f, err := os.Create(filepath.Join(dir, "large"))
	if err != nil {
		b.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for i := range size >> 20 {
		block[i] = byte(i)
		if _, err := f.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	fixture.Unmount(b, dir)
	dev := fixture.OpenDevice(b, img)
	fs := openReader(b, dev)
	ino, err := fsystest.Find(fs, "large")
	if err != nil {
		b.Fatal(err)
	}
	r, err := fs.Open(ino)
	if err != nil {
		b.Fatal(err)
	}
	x, err := r.Extent(0, size)
	if err != nil {
		b.Fatal(err)
	}
	for name, src := range map[string]io.ReaderAt{"image": io.NewSectionReader(dev, x.HostOff, size), "file": r} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				for off := int64(0); off < size; off += int64(len(block)) {
					if _, err := src.ReadAt(block, off); err != nil && err != io.EOF {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
