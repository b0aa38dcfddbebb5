package image

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/extent"
	"vmfr/test/fixture"
)

// TestRawSparse: holes are holes, data lies in the file at its own offset, and qemu-img map
// agrees.
func TestRawSparse(t *testing.T) {
	fixture.Need(t, "qemu-img")
	path := filepath.Join(t.TempDir(), "disk.raw")
	want := make([]byte, 40<<20+512)
	copy(want[1<<20:], guestBytes(1, 3<<20))
	want[1<<20] = 1
	copy(want[20<<20:], "one block")
	writeFile(t, path, want)
	m, err := Open(Source{File: openFile(t, path)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if i := m.Info(); i.Format != FormatRaw || !i.Detected || i.Size != int64(len(want)) {
		t.Fatalf("%+v", i)
	}
	sameBytes(t, "raw", readAll(t, m, 1<<20), want)
	checkExtents(t, m, want, 1<<30)
	checkExtents(t, m, want, 10<<10)
	checkMap(t, m, path, "raw")
	if e, err := m.Extent(0, 1<<30); err != nil || !e.Zero || e.Len < 900<<10 || e.Len > 1<<20 {
		t.Fatalf("the first hole: %+v, %v", e, err)
	}
	if e, err := m.Extent(21<<20, 1<<30); err != nil || !e.Zero || e.Len != 19<<20+512 {
		t.Fatalf("the last hole: %+v, %v", e, err)
	}
	if e, err := m.Extent(20<<20+5, 100); err != nil || e.Host == nil || e.HostOff != 20<<20+5 || e.Len != 100 {
		t.Fatalf("data: %+v, %v", e, err)
	}
}

// TestEdges: the arguments at and beyond the end, the same for each format.
func TestEdges(t *testing.T) {
	fixture.Need(t, "qemu-img")
	dir := t.TempDir()
	raw, img := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.qcow2")
	writeFile(t, raw, guestBytes(1, 100<<10))
	convert("", "-c")(t, dir, raw, img)
	for _, path := range []string{raw, img} {
		m, err := Open(Source{File: openFile(t, path)}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		b := make([]byte, 1000)
		size := m.Size()
		for _, c := range []struct {
			off int64
			len int
			n   int
			err error
		}{
			{size - 1000, 1000, 1000, nil}, {size - 10, 1000, 10, io.EOF}, {size, 1000, 0, io.EOF}, {size + 5, 1, 0, io.EOF},
			{0, 0, 0, nil}, {size, 0, 0, nil}, {-1, 1, 0, extent.ErrRange},
		} {
			if n, err := m.ReadAt(b[:c.len], c.off); n != c.n || !errors.Is(err, c.err) {
				t.Errorf("%s: ReadAt(%d at %d) = %d, %v", path, c.len, c.off, n, err)
			}
		}
		for _, c := range []struct {
			off, max int64
			err      error
		}{{-1, 1, extent.ErrRange}, {0, 0, extent.ErrRange}, {size, 1, io.EOF}, {size + 1, 1, extent.ErrRange}} {
			if _, err := m.Extent(c.off, c.max); !errors.Is(err, c.err) {
				t.Errorf("%s: Extent(%d, %d): %v", path, c.off, c.max, err)
			}
		}
	}
}

// TestNotADisk: each thing that is no disk has its own line.
func TestNotADisk(t *testing.T) {
	dir := t.TempDir()
	pipe, socket, empty, vmdk := filepath.Join(dir, "pipe"), filepath.Join(dir, "socket"), filepath.Join(dir, "empty"), filepath.Join(dir, "disk.vmdk")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	writeFile(t, empty, nil)
	if err := os.WriteFile(vmdk, append([]byte("KDMV"), make([]byte, 4096)...), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct {
		path, text string
		flags      int
		explicit   Format
	}{
		{dir, "is a directory", os.O_RDONLY, ""},
		{dir, "is a directory", os.O_RDONLY, FormatRaw},
		{pipe, "is a pipe", os.O_RDONLY | unix.O_NONBLOCK, FormatRaw},
		{socket, "is a socket", unix.O_PATH, FormatQCOW2},
		{"/dev/null", "is a character device", os.O_RDONLY, FormatRaw},
		{empty, "is empty", os.O_RDONLY, ""},
		{empty, "is empty", os.O_RDONLY, FormatQCOW2},
		{vmdk, "looks like VMDK", os.O_RDONLY, ""},
		{vmdk, "format \"vmdk\"", os.O_RDONLY, "vmdk"},
	} {
		f, err := os.OpenFile(c.path, c.flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		m, err := Open(Source{f, c.explicit}, Options{})
		if err == nil {
			m.Close()
		}
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s as %q: %v", c.path, c.explicit, err)
		}
		f.Close()
	}
	if _, err := Open(Source{}, Options{}); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
	m, err := Open(Source{openFile(t, vmdk), FormatRaw}, Options{})
	if err != nil {
		t.Fatalf("an explicit raw wins: %v", err)
	}
	m.Close()
}

// TestBlockDevice reads loop devices: as raw, as a container of qcow2, and as a backing file.
func TestBlockDevice(t *testing.T) {
	fixture.Need(t, "losetup", "qemu-img")
	fixture.NeedRoot(t)
	dir := t.TempDir()
	raw, img := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.qcow2")
	want := guestBytes(4, 2<<20)
	writeFile(t, raw, want)
	fixture.Run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, img)
	st, err := os.Stat(img)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, (st.Size()+511)&^511); err != nil { // a device has whole sectors
		t.Fatal(err)
	}
	rawDev, imgDev := loop(t, raw), loop(t, img)

	m, err := Open(Source{File: openFile(t, rawDev)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	sameBytes(t, "raw device", readAll(t, m, 1<<20), want)
	checkExtents(t, m, want, 1<<30)
	if e, err := m.Extent(4096, 1<<30); err != nil || e.Host == nil || e.Zero || e.Len != 2<<20-4096 {
		t.Fatalf("%+v, %v", e, err)
	}

	q, err := Open(Source{openFile(t, imgDev), FormatQCOW2}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	sameBytes(t, "qcow2 device", readAll(t, q, 1<<20), want)

	top := filepath.Join(dir, "top.qcow2")
	fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/dev/x", "-F", "raw", top, "2M")
	b, err := Open(Source{openFile(t, top), FormatQCOW2}, Options{Backing: []Source{{openFile(t, rawDev), FormatRaw}}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if !bytes.Equal(readAll(t, b, 100<<10), want) {
		t.Fatal("an overlay of a device differs")
	}
}

// loop returns a read-only loop device of a file.
func loop(t testing.TB, path string) string {
	t.Helper()
	dev := strings.TrimSpace(fixture.Run(t, "losetup", "--find", "--show", "--read-only", path))
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", dev).Run() })
	return dev
}
