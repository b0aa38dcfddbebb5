package ntfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/extent"
	"vmfr/agent/fsys/fsystest"
)

// fill writes to a file until the volume is full.
func fill(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	check(t, err)
	defer f.Close()
	for _, size := range []int{64 << 10, 512} {
		for err = nil; err == nil; {
			_, err = f.Write(noise(1, size))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
}

// runs counts the runs of a file's data and the records that hold them.
func runs(t testing.TB, fs *FS, path string) (runs, pieces int) {
	t.Helper()
	r, err := fs.Open(find(t, fs, path))
	check(t, err)
	s := r.(*stream)
	for vcn := uint64(0); vcn*fs.boot.cluster < uint64(s.size); {
		rl, err := s.runsAt(vcn)
		check(t, err)
		runs += len(rl.runs)
		vcn = rl.end
	}
	return runs, len(s.pieces)
}

// TestFragmented reads files of thousands of runs, for which attribute lists are needed that are
// themselves not resident, and a master file table in many pieces.
func TestFragmented(t *testing.T) {
	img := makeNTFS(t, 14<<20, "-c", "512")
	dir := mount(t, img)
	p := func(s string) string { return filepath.Join(dir, s) }
	write(t, p("d/first"), []byte("first"))
	f, err := os.Create(p("sparse"))
	check(t, err)
	for i := range int64(3000) {
		_, err := f.WriteAt(noise(uint64(i), 512), i*1536)
		check(t, err)
	}
	check(t, f.Close())
	for i := range 40 { // an attribute list for the names of one file
		check(t, os.Link(p("sparse"), p(fmt.Sprintf("d/a long name of the sparse file %02d", i))))
	}
	// Full but for single clusters, whatever grows does so in pieces.
	const fillers = 3000
	for i := range fillers {
		write(t, p(fmt.Sprintf("fill/%d", i)), noise(uint64(i), 1000))
	}
	fill(t, p("rest"))
	for i := range fillers / 2 {
		check(t, os.Remove(p(fmt.Sprintf("fill/%d", 2*i))))
	}
	f, err = os.Create(p("pieces"))
	check(t, err)
	for i := range 1000 {
		_, err := f.Write(noise(uint64(i), 1024))
		check(t, err)
	}
	check(t, f.Close())
	for i := range fillers { // ntfs-3g gives up where the table's own runs do not fit in one record any more
		if err := os.WriteFile(p(fmt.Sprintf("d/small %d", i)), noise(uint64(i), i%400), 0o644); err != nil {
			break
		}
	}
	unmount(t, img, dir)

	fs := openImage(t, img)
	fsystest.Run(t, fs, manifest(t, img))
	for _, c := range []struct {
		path         string
		runs, pieces int
	}{{"pieces", 100, 1}, {"sparse", 5500, 10}} {
		n, k := runs(t, fs, c.path)
		t.Logf("%s: %d runs in %d records", c.path, n, k)
		if n < c.runs || k < c.pieces {
			t.Errorf("%s has %d runs in %d records, which is not what the test is for", c.path, n, k)
		}
	}
	if n := len(fs.mft.data.last.Load().runs); n < 10 {
		t.Errorf("the master file table has %d runs, which is not what the test is for", n)
	}
}

// TestHugeSparse: a file of 1 TB with a few bytes in it costs what is in it.
func TestHugeSparse(t *testing.T) {
	img := makeNTFS(t, 32<<20)
	dir := mount(t, img)
	f, err := os.Create(filepath.Join(dir, "huge"))
	check(t, err)
	const size = 1 << 40
	for _, off := range []int64{5, 1 << 39, size - 10} {
		_, err := f.WriteAt([]byte("0123456789"), off)
		check(t, err)
	}
	check(t, f.Close())
	unmount(t, img, dir)
	fs := openImage(t, img)
	ino := find(t, fs, "huge")
	a, err := fs.Stat(ino)
	check(t, err)
	if a.Size != size || a.Blocks*512 > 1<<20 {
		t.Errorf("%+v", a)
	}
	r, err := fs.Open(ino)
	check(t, err)
	data, steps := int64(0), 0
	for off := int64(0); off < size; steps++ {
		x, err := r.Extent(off, size-off)
		check(t, err)
		if !x.Zero {
			data += x.Len
			if x.Host == nil {
				t.Errorf("the data at %d has no place", off)
			}
		}
		off += x.Len
	}
	if data > 1<<20 || steps > 10 {
		t.Errorf("%d bytes of data in %d extents", data, steps)
	}
	for _, off := range []int64{5, 1 << 39, size - 10} {
		b := make([]byte, 10)
		if _, err := extent.ReadFull(r, b, off); err != nil || string(b) != "0123456789" {
			t.Errorf("at %d: %q, %v", off, b, err)
		}
	}
}
