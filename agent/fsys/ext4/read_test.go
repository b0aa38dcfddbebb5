package ext4

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/extent"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// BenchmarkRead reads a whole file of 64 MiB in pieces of 128 KiB, as FUSE asks for them: the raw
// device (what no reader can beat), one that lies in one piece, and one in 16,384 pieces.
func BenchmarkRead(b *testing.B) {
	const size, piece, block = 64 << 20, 128 << 10, 4096
	img := fixture.Ext4(b, "", 256<<20, "-b", "4096")
	dir := fixture.Mount(b, img, "ext4", "rw,noatime,barrier=0", 0, 0)
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i>>12 + i)
	}
	if err := os.WriteFile(filepath.Join(dir, "whole"), content, 0o644); err != nil {
		b.Fatal(err)
	}
	scatter(b, dir, block)
	if err := os.WriteFile(filepath.Join(dir, "pieces"), content, 0o644); err != nil {
		b.Fatal(err)
	}
	fixture.Unmount(b, dir)
	dev := fixture.OpenDevice(b, img)
	fs := openReader(b, dev)
	raw, err := extent.Section(dev, 0, size)
	if err != nil {
		b.Fatal(err)
	}
	files := map[string]extent.Reader{"device": raw}
	for _, name := range []string{"whole", "pieces"} {
		ino, err := fsystest.Find(fs, name)
		if err != nil {
			b.Fatal(err)
		}
		if files[name], err = fs.Open(ino); err != nil {
			b.Fatal(err)
		}
	}
	for _, name := range []string{"device", "whole", "pieces"} {
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, piece)
			b.SetBytes(size)
			before := dev.Reads.Load()
			for b.Loop() {
				for off := int64(0); off < size; off += piece {
					if n, err := files[name].ReadAt(buf, off); n < piece {
						b.Fatal(fmt.Errorf("%d bytes at %d: %w", n, off, err))
					}
				}
			}
			b.ReportMetric(float64(dev.Reads.Load()-before)/float64(b.N), "reads/op")
		})
	}
}

// scatter leaves every other block of a file system free.
func scatter(t testing.TB, dir string, block int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size := int64(0)
	for chunk := make([]byte, 1<<20); ; {
		n, err := f.Write(chunk)
		size += int64(n)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < size; off += 2 * block {
		if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, block); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}
