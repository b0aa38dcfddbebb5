package ext4

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// maxLinks is how many names one inode gets: ext4 stops at 65,000.
const maxLinks = 60000

// fillLarge makes a directory of n names, hard links to a few files, which is much faster than n files.
func fillLarge(t testing.TB, dir string, n int, name func(int) string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	target := ""
	for i := range n {
		p := filepath.Join(dir, name(i))
		if i%maxLinks == 0 {
			target = p
			if err := os.WriteFile(p, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		} else if err := os.Link(target, p); err != nil {
			t.Fatal(err)
		}
	}
}

// largeImage is an image with the directory "large" of n names.
func largeImage(t testing.TB, n int, size int64, name func(int) string, options ...string) string {
	t.Helper()
	img := fixture.Ext4(t, "", size, options...)
	dir := fixture.Mount(t, img, "ext4", "rw,noatime,barrier=0", 0, 0)
	fillLarge(t, filepath.Join(dir, "large"), n, name)
	fixture.Unmount(t, dir)
	return img
}

func plainName(i int) string { return fmt.Sprintf("name of file %d", i) }
func longName(i int) string  { return fmt.Sprintf("%06d %s", i, strings.Repeat("long", 60)) }

// TestLargeDirectory lists and looks up directories of 100,000 names with an index of two levels,
// and one of three levels, and shows by counting reads that a lookup does not depend on the size.
func TestLargeDirectory(t *testing.T) {
	for _, c := range []struct {
		what    string
		n       int
		size    int64
		name    func(int) string
		options []string
		levels  int
	}{
		{"4 KiB blocks", 100_000, 128 << 20, plainName, []string{"-b", "4096"}, 1},
		{"1 KiB blocks, three levels", 50_000, 256 << 20, longName, []string{"-b", "1024", "-O", "large_dir"}, 2},
	} {
		t.Run(c.what, func(t *testing.T) {
			img := largeImage(t, c.n, c.size, c.name, c.options...)
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
			root, err := (&indexWalk{f: fs, c: fs.content(n)}).push(0)
			if err != nil || root.levels != c.levels {
				t.Fatalf("the index has %+v levels, want %d (%v)", root, c.levels, err)
			}

			ents, err := fsystest.ReadAll(fs, dir, 1000)
			if err != nil || len(ents) != c.n {
				t.Fatalf("%d entries, %v; want %d", len(ents), err, c.n)
			}
			inos := map[string]fsys.Ino{}
			for _, d := range ents {
				inos[d.Name] = d.Ino
			}
			for i := range c.n {
				if inos[c.name(i)] == 0 {
					t.Fatalf("%q is not listed", c.name(i))
				}
			}

			linear := readsOf(t, dev, func(fs *FS) {
				sc := &dirScan{f: fs, n: n}
				if err := sc.walk(0, func(*dirent) bool { return true }); err != nil {
					t.Fatal(err)
				}
			})
			most := int64(0)
			for i := 0; i < c.n; i += c.n / 100 {
				reads := readsOf(t, dev, func(fs *FS) {
					if ino, err := fs.Lookup(dir, c.name(i)); err != nil || ino != inos[c.name(i)] {
						t.Fatalf("lookup of %q: %d, %v", c.name(i), ino, err)
					}
				})
				most = max(most, reads)
			}
			absent := readsOf(t, dev, func(fs *FS) {
				if ino, err := fs.Lookup(dir, "not there"); err == nil {
					t.Fatalf("found a name that is not there: %d", ino)
				}
			})
			// Superblock, group descriptor, inode; extent node, index and leaf; and a leaf more where
			// equal hashes go on in the next.
			limit := int64(3 + 2*(c.levels+2))
			t.Logf("device reads with an empty cache: lookup at most %d, absent %d, whole directory %d", most, absent, linear)
			if most > limit || absent > limit {
				t.Errorf("a lookup takes up to %d reads, an absent name %d; want at most %d", most, absent, limit)
			}
			if linear < 5*limit {
				t.Errorf("reading the whole directory takes only %d reads: the limit shows nothing", linear)
			}
		})
	}
}

func openReader(t testing.TB, r extent.Reader) *FS {
	t.Helper()
	fs, err := Open(r, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// readsOf counts the device's reads for do with a file system that has nothing cached.
func readsOf(t testing.TB, dev *fixture.Device, do func(*FS)) int64 {
	t.Helper()
	before := dev.Reads.Load()
	do(openReader(t, dev))
	return dev.Reads.Load() - before
}

// BenchmarkLookup looks names up in directories of growing size. The time of one grows with
// the logarithm of the size.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{1_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			img := largeImage(b, n, 256<<20, plainName, "-b", "4096")
			dev := fixture.OpenDevice(b, img)
			fs := openReader(b, dev)
			dir, err := fsystest.Find(fs, "large")
			if err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			before := dev.Reads.Load()
			for i := 0; b.Loop(); i++ {
				if _, err := fs.Lookup(dir, plainName(i*7919%n)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(dev.Reads.Load()-before)/float64(b.N), "reads/op")
		})
	}
}
