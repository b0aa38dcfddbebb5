package xfs

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"testing"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

func largeName(i int) string { return fmt.Sprintf("%0*d", 20+i%30, i) }

// largeDirImage has a directory "large" of n names, all of the file "file". Where apart is set, other
// blocks are allocated in between, so that its map becomes a tree.
func largeDirImage(t testing.TB, n int, apart bool, options ...string) string {
	t.Helper()
	img := makeImage(t, 640<<20, options...)
	dir := fixture.Mount(t, img, "xfs", "rw,noatime", 0, 0)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "file")
	check(os.WriteFile(file, []byte("one file"), 0o644))
	for _, d := range []string{"large", "other"} {
		check(os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	for i := range n {
		check(os.Link(file, filepath.Join(dir, "large", largeName(i))))
		if apart && i%25 == 0 { // another directory's block, now and then
			check(os.Symlink(fmt.Sprintf("%0300d", i), filepath.Join(dir, "other", fmt.Sprintf("%0200d", i))))
			check(os.Symlink(fmt.Sprintf("%0300d", i), filepath.Join(dir, "other", fmt.Sprintf("%0201d", i))))
		}
	}
	fixture.Unmount(t, dir)
	return img
}

// TestLargeDirectory has 100,000 names in a directory whose map is a tree and whose index has
// nodes. A listing finds each once; a lookup takes a read for each level and not the directory.
func TestLargeDirectory(t *testing.T) {
	const names = 100_000
	img := largeDirImage(t, names, true, "-b", "size=1024", "-n", "size=4096")
	dev := fixture.OpenDevice(t, img)
	fs := openReader(t, dev)
	dir, err := fsystest.Find(fs, "large")
	if err != nil {
		t.Fatal(err)
	}
	n, err := fs.inode(dir)
	if err != nil {
		t.Fatal(err)
	}
	if n.data.format != formatBtree {
		t.Errorf("the directory's map has format %d, not that of a tree (%d extents)", n.data.format, n.data.extents)
	}
	seen := make(map[string]bool, names)
	all, err := fsystest.ReadAll(fs, dir, 1000)
	if err != nil || len(all) != names {
		t.Fatalf("%d names, %v", len(all), err)
	}
	for _, d := range all {
		seen[d.Name] = true
	}
	want, err := fsystest.Find(fs, "file")
	if err != nil {
		t.Fatal(err)
	}
	for i := range names {
		if !seen[largeName(i)] {
			t.Fatalf("%q is not listed", largeName(i))
		}
		if i%10 == 0 {
			if ino, err := fs.Lookup(dir, largeName(i)); err != nil || ino != want {
				t.Fatalf("lookup %q: %d, %v", largeName(i), ino, err)
			}
		}
	}
	reads := readsOf(t, dev, func(fs *FS) {
		if _, err := fs.Lookup(dir, largeName(77_777)); err != nil {
			t.Error(err)
		}
		if _, err := fs.Lookup(dir, "no such name"); !errors.Is(err, iofs.ErrNotExist) {
			t.Error(err)
		}
	})
	t.Logf("two lookups with %d reads", reads)
	if reads > 16 {
		t.Errorf("%d reads for two lookups", reads)
	}
}

// TestHashCollisions looks up names that all have the same hash: their chain goes over many leaves.
func TestHashCollisions(t *testing.T) {
	img := makeImage(t, 320<<20)
	mnt := fixture.Mount(t, img, "xfs", "rw,noatime", 0, 0)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.WriteFile(filepath.Join(mnt, "file"), nil, 0o644))
	check(os.Mkdir(filepath.Join(mnt, "same"), 0o755))
	names := collisions(2500)
	for _, n := range names {
		check(os.Link(filepath.Join(mnt, "file"), filepath.Join(mnt, "same", n)))
	}
	for i := range 2000 { // below and above
		check(os.Link(filepath.Join(mnt, "file"), filepath.Join(mnt, "same", largeName(i))))
	}
	fixture.Unmount(t, mnt)
	fs := openImage(t, img)
	dir, err := fsystest.Find(fs, "same")
	check(err)
	for _, n := range names {
		if _, err := fs.Lookup(dir, n); err != nil {
			t.Fatalf("%q: %v", n, err)
		}
	}
	for i := range 2000 {
		if _, err := fs.Lookup(dir, largeName(i)); err != nil {
			t.Fatalf("%q: %v", largeName(i), err)
		}
	}
	if _, err := fs.Lookup(dir, collisions(2501)[2500]); !errors.Is(err, iofs.ErrNotExist) {
		t.Error(err)
	}
}

// collisions makes n names of one hash: of two neighbouring bytes, adding 1 to the first (its lowest
// bit has weight 2^7) and flipping the bit 2^7 of the second leaves the hash as it is.
func collisions(n int) []string {
	var out []string
	want := (&query{name: string(bytesOf(0))}).hash()
	for i := 0; len(out) < n; i++ {
		b := bytesOf(i)
		if (&query{name: string(b)}).hash() != want {
			panic("the hash differs")
		}
		out = append(out, string(b))
	}
	return out
}

func bytesOf(i int) []byte {
	b := make([]byte, 0, 32)
	for bit := range 13 {
		if i>>bit&1 == 0 {
			b = append(b, 'b', 0x41)
		} else {
			b = append(b, 'b'^1, 0x41^0x80)
		}
	}
	return b
}

// BenchmarkLookup looks up names in a directory of 1,000,000 entries.
func BenchmarkLookup(b *testing.B) {
	const names = 1_000_000
	fs := openImage(b, largeDirImage(b, names, false))
	dir, err := fsystest.Find(fs, "large")
	if err != nil {
		b.Fatal(err)
	}
	b.Run("random", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, err := fs.Lookup(dir, largeName(i*7919%names)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("list", func(b *testing.B) {
		buf := make([]fsys.Dirent, 1000)
		for b.Loop() {
			count := 0
			for from := fsys.Cookie(0); ; {
				n, err := fs.ReadDir(dir, from, buf)
				if count += n; err != nil {
					break
				}
				from = buf[n-1].Next
			}
			if count != names {
				b.Fatalf("%d names", count)
			}
		}
	})
}
