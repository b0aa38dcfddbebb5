package fusefs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/tree"
	"vmfr/test/fixture"
)

// mapEnv makes the test program print the SHA-256 of a file that it maps. A process of its own
// does that, because a page fault stops a thread without the Go runtime knowing: it could wait
// for a server in the same process for ever.
const mapEnv = "FUSEFS_TEST_MAP"

func TestMain(m *testing.M) {
	if name := os.Getenv(mapEnv); name != "" {
		sum, err := mapped(name)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Printf("%x", sum)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func mapped(name string) ([sha256.Size]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	return sha256.Sum256(m), unix.Munmap(m)
}

// Mapped, direct and concurrent reads of one image agree with what was written.
func TestWaysToRead(t *testing.T) {
	for _, block := range []string{"1024", "4096"} {
		t.Run("block"+block, func(t *testing.T) {
			src := t.TempDir()
			data := make([]byte, 12<<20+777)
			for i := range data {
				data[i] = byte(i>>9) ^ byte(i*31)
			}
			if err := os.WriteFile(filepath.Join(src, "f"), data, 0o600); err != nil {
				t.Fatal(err)
			}
			img := fixture.Ext4(t, src, 64<<20, "-b", block)
			var c tree.Counters
			_, mnt := serve(t, newTree(t, native{}, img, img), Options{Counters: &c})
			waysToRead(t, filepath.Join(mnt, "backups/b/d0/f"), filepath.Join(mnt, "backups/b/d1/f"), data)
			if s := c.Snapshot(); s.Bytes < uint64(len(data)) || s.Ops["lookup"] == 0 {
				t.Errorf("counters: %+v", s)
			}
		})
	}
}

func waysToRead(t *testing.T, p, other string, data []byte) {
	f, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())

	for _, c := range []struct {
		off  int64
		n    int
		want string
	}{{0, 10, string(data[:10])}, {int64(len(data)) - 5, 100, string(data[len(data)-5:])}, {int64(len(data)), 10, ""}, {1 << 40, 10, ""}} {
		buf := make([]byte, c.n)
		if n, err := unix.Pread(fd, buf, c.off); err != nil || string(buf[:n]) != c.want {
			t.Errorf("pread %d at %d: %d bytes, %v", c.n, c.off, n, err)
		}
	}
	for _, c := range []struct {
		whence    int
		off, want int64
		err       error
	}{
		{unix.SEEK_DATA, 5, 5, nil}, {unix.SEEK_HOLE, 5, int64(len(data)), nil},
		{unix.SEEK_DATA, int64(len(data)), -1, unix.ENXIO}, {unix.SEEK_HOLE, int64(len(data)), -1, unix.ENXIO}, {unix.SEEK_HOLE, -1, -1, unix.ENXIO},
	} {
		if got, err := unix.Seek(fd, c.off, c.whence); got != c.want || err != c.err {
			t.Errorf("lseek %d to %d: %d, %v, want %d, %v", c.whence, c.off, got, err, c.want, c.err)
		}
	}

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fixture.Run(t, "env", mapEnv+"="+p, self), fmt.Sprintf("%x", sha256.Sum256(data)); got != want {
		t.Errorf("mapped bytes: %s, want %s", got, want)
	}

	direct, err := unix.Open(other, unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(direct)
	h := sha256.New()
	for buf, off := make([]byte, 3<<20+1<<12), 0; ; {
		n, err := unix.Pread(direct, buf, int64(off))
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		h.Write(buf[:n])
		off += n
	}
	if want := sha256.Sum256(data); !bytes.Equal(h.Sum(nil), want[:]) {
		t.Error("bytes read with O_DIRECT differ")
	}

	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := []string{p, other}[i%2]
			for j := range 40 {
				f, err := os.Open(name)
				if err != nil {
					t.Error(err)
					return
				}
				off := (i*7919 + j*104729*11) % len(data)
				buf := make([]byte, min(1<<20, len(data)-off))
				if _, err := f.ReadAt(buf, int64(off)); err != nil || !bytes.Equal(buf, data[off:off+len(buf)]) {
					t.Errorf("read at %d: %v or other bytes", off, err)
				}
				if j%10 == 0 { // have the kernel ask again
					_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
				}
				f.Close()
			}
		})
	}
	wg.Wait()
}

// An image that ends too early is an I/O error, not the end of the guest's file.
func TestShortImageIsAnError(t *testing.T) {
	src := t.TempDir()
	const size = 24 << 20
	if err := os.WriteFile(filepath.Join(src, "f"), bytes.Repeat([]byte("0123456789abcdef"), size/16), 0o600); err != nil {
		t.Fatal(err)
	}
	img := fixture.Ext4(t, src, 64<<20)
	tr := newTree(t, native{}, img)
	n, err := tr.Resolve("/backups/b/d0/f", false)
	if err != nil {
		t.Fatal(err)
	}
	file, err := tr.Open(n)
	if err != nil {
		t.Fatal(err)
	}
	x, err := file.Extent(4<<20+700_000, 1)
	if err != nil || x.Host == nil {
		t.Fatal(x, err)
	}
	_, mnt := serve(t, tr, Options{})
	if err := os.Truncate(img, x.HostOff); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(filepath.Join(mnt, "backups/b/d0/f"), unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if got, err := unix.Pread(fd, make([]byte, maxRead), 4<<20); err != unix.EIO {
		t.Errorf("read %d bytes: %v, want EIO", got, err)
	}
	if got, err := os.ReadFile(filepath.Join(mnt, "backups/b/d0/f")); !errors.Is(err, unix.EIO) {
		t.Errorf("read %d bytes of %d: %v, want EIO", len(got), size, err)
	}
}
