package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// TestFarBlocks reads files with data behind 2^31, 2^32 and 2^40 bytes, through every level of the
// block map and of the extent tree, and compares their data ranges with the kernel's.
func TestFarBlocks(t *testing.T) {
	for _, options := range []string{"-b 1024 -O ^extent,^64bit", "-b 4096 -O ^extent,^64bit", "-b 4096", "-b 1024", "-b 4096 -O bigalloc -C 32768"} {
		t.Run(options, func(t *testing.T) {
			img := fixture.Ext4(t, "", 64<<20, strings.Fields(options)...)
			dir := fixture.Mount(t, img, "ext4", "rw,noatime,barrier=0", 0, 0)
			var offsets []int64
			f, err := os.Create(filepath.Join(dir, "far"))
			if err != nil {
				t.Fatal(err)
			}
			for _, off := range []int64{0, 11 << 10, 12 << 10, 48 << 10, 268 << 10, 65804 << 10, 4<<20 + 48<<10, 1<<31 - 1, 1 << 32, 4<<30 + 4<<20 + 48<<10, 10<<30 + 7, 1 << 40} {
				if _, err := f.WriteAt(fmt.Appendf(nil, "at %d", off), off); err == nil {
					offsets = append(offsets, off)
				} else if !errors.Is(err, unix.EFBIG) {
					t.Fatal(err)
				}
			}
			// A tree of several levels: more extents than one leaf of 340 holds.
			g, err := os.Create(filepath.Join(dir, "wide"))
			if err != nil {
				t.Fatal(err)
			}
			for i := range int64(3000) {
				_, err := g.WriteAt(fmt.Appendf(nil, "extent %d", i), i*i<<12)
				if errors.Is(err, unix.EFBIG) || errors.Is(err, unix.ENOSPC) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(f.Close(), g.Close()); err != nil {
				t.Fatal(err)
			}
			fixture.Unmount(t, dir)

			dir = fixture.Mount(t, img, "ext4", "ro", 0, 0)
			fs := openImage(t, img)
			compareRanges(t, fs, dir, "far")
			compareRanges(t, fs, dir, "wide")
			ino, err := fs.Lookup(fs.Root(), "far")
			if err != nil {
				t.Fatal(err)
			}
			r, err := fs.Open(ino)
			if err != nil {
				t.Fatal(err)
			}
			for _, off := range offsets {
				want := fmt.Sprintf("at %d", off)
				b := make([]byte, len(want))
				if _, err := r.ReadAt(b, off); err != nil && err != io.EOF || string(b) != want {
					t.Errorf("%q at %d: %v", b, off, err)
				}
			}
		})
	}
}

// compareRanges compares a sparse file's data ranges, and their first bytes, with the kernel's.
func compareRanges(t *testing.T, fs *FS, mounted, name string) {
	t.Helper()
	f, err := os.Open(filepath.Join(mounted, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ino, err := fs.Lookup(fs.Root(), name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := fs.Open(ino)
	if err != nil {
		t.Fatal(err)
	}
	off, ranges := int64(0), 0
	for off < r.Size() {
		start, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if err != nil {
			start = r.Size()
		}
		for off < start { // a hole, perhaps in pieces
			x, err := r.Extent(off, start-off)
			if err != nil || !x.Zero {
				t.Fatalf("%s: %+v, %v at %d in the kernel's hole up to %d", name, x, err, off, start)
			}
			off += x.Len
		}
		if start == r.Size() {
			break
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			t.Fatal(err)
		}
		for ranges++; off < end; {
			x, err := r.Extent(off, end-off)
			if err != nil || x.Zero {
				t.Fatalf("%s: %+v, %v at %d in the kernel's data up to %d", name, x, err, off, end)
			}
			want, got := make([]byte, min(x.Len, 64<<10)), make([]byte, min(x.Len, 64<<10))
			if _, err := f.ReadAt(want, off); err != nil {
				t.Fatal(err)
			}
			if _, err := r.ReadAt(got, off); err != nil && err != io.EOF || !bytes.Equal(want, got) {
				t.Fatalf("%s: bytes at %d differ (%v)", name, off, err)
			}
			off += x.Len
		}
	}
	if ranges < 3 {
		t.Errorf("%s: only %d data ranges", name, ranges)
	}
}

// TestFlags sets inode flags that only other kernels or huge files have.
func TestFlags(t *testing.T) {
	src := t.TempDir()
	for _, n := range []string{"huge", "verity"} {
		if err := os.WriteFile(filepath.Join(src, n), bytes.Repeat([]byte(n), 5000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	img := fixture.Ext4(t, src, 16<<20, "-b", "4096", "-O", "verity")
	commands(t, img, []string{
		"debugfs -w -R set_inode_field\t/huge\tflags\t0xC0000 IMG", // i_blocks counts blocks
		"debugfs -w -R set_inode_field\t/huge\tblocks\t5 IMG",
		"debugfs -w -R set_inode_field\t/verity\tflags\t0x180000 IMG",
	})
	dir := fixture.Mount(t, img, "ext4", "ro,noload", 0, 0)
	fs := openImage(t, img)
	for _, n := range []string{"huge", "verity"} {
		ino, err := fs.Lookup(fs.Root(), n)
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if n == "huge" { // this kernel has no verity
			if err := unix.Stat(filepath.Join(dir, n), &st); err != nil {
				t.Fatal(err)
			}
		}
		a, err := fs.Stat(ino)
		if err != nil || n == "huge" && (a.Blocks != st.Blocks || a.Blocks != 40) {
			t.Errorf("%+v, %v; the kernel says %+v", a, err, st)
		}
		r, err := fs.Open(ino)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, r.Size())
		if _, err := r.ReadAt(b, 0); err != nil || !bytes.Equal(b, bytes.Repeat([]byte(n), 5000)) {
			t.Errorf("%s: %d bytes, %v", n, len(b), err)
		}
	}
}

// TestInternalInodes: the journal, quota files and the like are not objects of the tree, nor is
// a number that is free, deleted or out of range.
func TestInternalInodes(t *testing.T) {
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	img := fixture.Ext4(t, src, 16<<20, "-O", "quota,orphan_file")
	fs := openImage(t, img)
	free := 0
	for ino := fsys.Ino(0); ino <= fsys.Ino(fs.sb.inodesCount)+3; ino++ {
		_, err := fs.Stat(ino)
		switch {
		case ino == rootIno && err != nil:
			t.Errorf("root: %v", err)
		case ino != rootIno && ino < 11 && !errors.Is(err, iofs.ErrNotExist):
			t.Errorf("internal inode %d: %v", ino, err)
		case err != nil && !errors.Is(err, iofs.ErrNotExist):
			t.Errorf("inode %d: %v", ino, err)
		case err != nil:
			free++
		}
	}
	got, err := fsystest.WalkFS(fs)
	if err != nil || len(got)+free != int(fs.sb.inodesCount)+4 {
		t.Errorf("%d objects in the tree, %d inodes free or internal of %d (%v)", len(got), free, fs.sb.inodesCount+4, err)
	}
}

func TestDecodeTime(t *testing.T) {
	// The table of Documentation/filesystems/ext4/inodes.rst.
	for _, c := range []struct {
		sec, extra uint32
		want       string
	}{
		{0x80000000, 0, "1901-12-13T20:45:52Z"},
		{0xFFFFFFFF, 0, "1969-12-31T23:59:59Z"},
		{0, 0, "1970-01-01T00:00:00Z"},
		{0x7FFFFFFF, 0, "2038-01-19T03:14:07Z"},
		{0x80000000, 1, "2038-01-19T03:14:08Z"},
		{0, 1, "2106-02-07T06:28:16Z"},
		{0x80000000, 2, "2174-02-25T09:42:24Z"},
		{0x7FFFFFFF, 3, "2446-05-10T22:38:55Z"},
		{1, 999999999 << 2, "1970-01-01T00:00:01.999999999Z"},
	} {
		if got := decodeTime(c.sec, c.extra).UTC().Format(time.RFC3339Nano); got != c.want {
			t.Errorf("%#x with %#x: %s, want %s", c.sec, c.extra, got, c.want)
		}
	}
}
