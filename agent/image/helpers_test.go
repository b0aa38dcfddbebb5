package image

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"vmfr/agent/extent"
	"vmfr/test/fixture"
)

// diskBytes is the size of most test disks: no multiple of a large cluster.
const diskBytes = 5<<20 + 512*7

// guestBytes makes n bytes as a disk has them: zeros, text, random data and single sectors
// in an order that seed decides.
func guestBytes(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for off := 0; off < n; {
		size := min(512<<rng.IntN(10), n-off)
		part := b[off : off+size]
		switch rng.IntN(4) {
		case 0: // zeros
		case 1:
			for i := range part {
				part[i] = "the quick brown fox jumps over the lazy dog\n"[(off+i)%44]
			}
		case 2:
			for i := range part {
				part[i] = byte(rng.Uint32())
			}
		case 3:
			part[rng.IntN(size)] = byte(off>>9) | 1
		}
		off += size
	}
	return b
}

// writeFile writes b sparsely, so that raw files have holes.
func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(len(b))); err != nil {
		t.Fatal(err)
	}
	const block = 4096
	for off := 0; off < len(b); off += block {
		part := b[off:min(off+block, len(b))]
		if bytes.Count(part, []byte{0}) == len(part) {
			continue
		}
		if _, err := f.WriteAt(part, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
}

// openFile opens a file for reading until the test ends.
func openFile(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// openRoot opens a folder until the test ends.
func openRoot(t testing.TB, dir string) *os.Root {
	t.Helper()
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// open opens a qcow2 image with what its folder holds as backing files.
func open(t testing.TB, path string) *Image {
	t.Helper()
	m, err := Open(Source{openFile(t, path), FormatQCOW2}, Options{Dir: openRoot(t, filepath.Dir(path))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// qemuRaw returns the disk's bytes as qemu-img reads them.
func qemuRaw(t testing.TB, path, format string) []byte {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "oracle.raw")
	fixture.Run(t, "qemu-img", "convert", "-f", format, "-O", "raw", path, raw)
	b, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// readAll reads r with ReadAt calls of n bytes.
func readAll(t testing.TB, r extent.Reader, n int) []byte {
	t.Helper()
	b := make([]byte, r.Size())
	for off := 0; off < len(b); off += n {
		part := b[off:min(off+n, len(b))]
		if got, err := r.ReadAt(part, int64(off)); got != len(part) || (err != nil && err != io.EOF) {
			t.Fatalf("ReadAt(%d bytes at %d) = %d, %v", len(part), off, got, err)
		}
	}
	return b
}

// sameBytes compares two disks and names the first difference.
func sameBytes(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d bytes, want %d", what, len(got), len(want))
	}
	if bytes.Equal(got, want) {
		return
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: byte %d (cluster of 64K: %d) is %#x, want %#x", what, i, i>>16, got[i], want[i])
		}
	}
}

// checkExtents walks m by Extent: a hole must be zeros in want, a host range must hold the
// bytes of want, and the ranges must cover the disk.
func checkExtents(t testing.TB, m extent.Reader, want []byte, max int64) {
	t.Helper()
	off := int64(0)
	for off < m.Size() {
		e, err := m.Extent(off, max)
		if err != nil {
			t.Fatalf("Extent(%d): %v", off, err)
		}
		if e.Len <= 0 || e.Len > max || e.Len > m.Size()-off {
			t.Fatalf("Extent(%d, %d) has length %d of %d", off, max, e.Len, m.Size())
		}
		part := want[off : off+e.Len]
		switch {
		case e.Zero:
			if bytes.Count(part, []byte{0}) != len(part) {
				t.Fatalf("Extent(%d) of %d bytes is a hole, but there is data", off, e.Len)
			}
		case e.Host != nil:
			b := make([]byte, e.Len)
			if _, err := e.Host.ReadAt(b, e.HostOff); err != nil {
				t.Fatalf("Extent(%d): host range %d+%d of %s: %v", off, e.HostOff, e.Len, e.Host.Name(), err)
			}
			sameBytes(t, "host range", b, part)
		}
		off += e.Len
	}
	if _, err := m.Extent(off, 1); err != io.EOF {
		t.Fatalf("Extent at the end: %v", err)
	}
}

// mapEntry is a line of qemu-img map --output=json.
type mapEntry struct {
	Start, Length int64
	Depth         int
	Present       bool
	Zero, Data    bool
	Compressed    bool
	Offset        *int64
}

// checkMap compares Extent with qemu-img map: host offset, hole or data, for each range.
func checkMap(t testing.TB, m *Image, path, format string) {
	t.Helper()
	var entries []mapEntry
	out := fixture.Run(t, "qemu-img", "map", "--output=json", "-f", format, path)
	if err := json.Unmarshal([]byte(out), &entries); err != nil {
		t.Fatal(err)
	}
	for _, q := range entries {
		for off, end := q.Start, min(q.Start+q.Length, m.Size()); off < end; {
			e, err := m.Extent(off, end-off)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case !q.Data: // absent everywhere, or a zero cluster
				if !e.Zero {
					t.Fatalf("at %d: %+v, qemu-img says zeros: %+v", off, e, q)
				}
			case q.Offset == nil:
				if e.Host != nil || e.Zero {
					t.Fatalf("at %d: %+v, qemu-img says it has no host offset: %+v", off, e, q)
				}
			case e.Zero:
				// qemu-img does not look for holes of an inner raw file as finely.
				if !q.Zero && format == "qcow2" && q.Depth == 0 {
					t.Fatalf("at %d: a hole, qemu-img says data: %+v", off, q)
				}
			default:
				if e.Host == nil || e.HostOff != *q.Offset+off-q.Start {
					t.Fatalf("at %d: %+v, qemu-img says offset %d", off, e, *q.Offset+off-q.Start)
				}
			}
			off += e.Len
		}
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
