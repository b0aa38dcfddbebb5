package image

import (
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/test/fixture"
)

var update = flag.Bool("update", false, "make the fuzz seeds in testdata/seeds again, with qemu-img")

const (
	seedFolder = "testdata/seeds"
	seedSize   = 30 << 10 // bytes of disk in a seed
)

// seedImages are small images of each kind; the sizes make several L2 tables where clusters
// are small.
func seedImages() []variant {
	return []variant{
		{"plain", convert("cluster_size=512")},
		{"v2", convert("cluster_size=512,compat=0.10", "-c")},
		{"zlib", convert("cluster_size=1k", "-c")},
		{"zstd", convert("cluster_size=4k,compression_type=zstd", "-c")},
		{"zero", then(convert("cluster_size=4k"), qio("write -z 8k 8k", "discard 0 4k"))},
		{"extl2", then(convert("extended_l2=on,cluster_size=16k"), qio("write -z 2k 1k", "discard 20k 3k"))},
		{"snapshot", then(convert("cluster_size=4k"), qimg("snapshot", "-q", "-c", "one"), qio("write -P 4 0 8k"))},
		{"overlay", func(t testing.TB, dir, raw, img string) {
			fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", filepath.Base(raw), "-o", "cluster_size=512", img)
			qemuIO(t, img, "write -P 4 1k 2k", "write -z 8k 4k")
		}},
	}
}

// TestSeeds writes the seeds when asked to, and checks that each is read whole.
func TestSeeds(t *testing.T) {
	if *update {
		fixture.Need(t, "qemu-img", "qemu-io")
		for _, s := range seedImages() {
			dir := t.TempDir()
			raw, img := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.qcow2")
			var guest []byte
			for i := range uint64(seedSize / 3072) { // small parts, so that each kind of content is there
				guest = append(guest, guestBytes(21+i, 3072)...)
			}
			writeFile(t, raw, guest)
			s.make(t, dir, raw, img)
			var out bytes.Buffer
			z, _ := gzip.NewWriterLevel(&out, gzip.BestCompression)
			_, _ = z.Write(readFile(t, img))
			if err := errors.Join(z.Close(), os.MkdirAll(seedFolder, 0o755), os.WriteFile(filepath.Join(seedFolder, s.name+".qcow2.gz"), out.Bytes(), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	list := seeds(t)
	if len(list) != len(seedImages()) {
		t.Fatalf("%d seeds, want %d", len(list), len(seedImages()))
	}
	for _, b := range list {
		if n, err := exercise(t, b); err != nil || n < seedSize {
			t.Errorf("%d bytes read, %v", n, err)
		}
	}
}

func seeds(t testing.TB) (list [][]byte) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(seedFolder, "*.gz"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		z, err := gzip.NewReader(bytes.NewReader(readFile(t, name)))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, b)
	}
	return list
}

// FuzzOpenQCOW2 opens b as qcow2 over a small raw backing file and reads it. Nothing but the
// package's own errors may come out, and what Extent says must hold for what ReadAt reads.
func FuzzOpenQCOW2(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := exercise(t, b); err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnsupported) {
			t.Fatal(err)
		}
	})
}

// The fuzz target's bounds: steps of Extent, bytes of disk asked for and read in each.
const (
	fuzzSteps  = 256
	fuzzExtent = 4 << 20
	fuzzBytes  = 64 << 10
)

// exercise returns the bytes read and the error of Open, or the last one while reading.
func exercise(t testing.TB, b []byte) (total int64, last error) {
	o := Options{CacheBytes: 1 << 20, Backing: []Source{{memFile(t, guestBytes(22, 20<<10)), FormatRaw}}}
	top := memFile(t, b)
	m, err := Open(Source{top, FormatQCOW2}, o)
	if err != nil { // most have no backing file
		o.Backing = nil
		m, err = Open(Source{top, FormatQCOW2}, o)
	}
	if err != nil {
		return 0, err
	}
	defer m.Close()
	buf, host := make([]byte, fuzzBytes), make([]byte, fuzzBytes)
	off := int64(0)
	for range fuzzSteps {
		if off == m.Size() {
			break
		}
		e, err := m.Extent(off, fuzzExtent)
		if err != nil {
			last = err
			off = min(off+512, m.Size())
			continue
		}
		if e.Len <= 0 || e.Len > m.Size()-off {
			t.Fatalf("Extent(%d) = %+v of %d", off, e, m.Size())
		}
		n := int(min(e.Len, fuzzBytes))
		got, err := m.ReadAt(buf[:n], off)
		switch {
		case err != nil && err != io.EOF:
			if last = err; e.Zero || e.Host != nil {
				t.Fatalf("Extent(%d) = %+v, but reading: %v", off, e, err)
			}
		case got != n:
			t.Fatalf("ReadAt(%d at %d) = %d, %v", n, off, got, err)
		case e.Zero && len(bytes.Trim(buf[:n], "\x00")) > 0:
			t.Fatalf("data in the hole at %d", off)
		case e.Host != nil:
			if _, err := e.Host.ReadAt(host[:n], e.HostOff); err != nil || !bytes.Equal(host[:n], buf[:n]) {
				t.Fatalf("host range at %d differs: %v", off, err)
			}
		}
		total += int64(got)
		off += e.Len
	}
	_ = m.Info()
	return total, last
}

// memFile returns an anonymous file that holds b.
func memFile(t testing.TB, b []byte) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("image", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "memory")
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return f
}
