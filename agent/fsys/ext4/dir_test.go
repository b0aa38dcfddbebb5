package ext4

import (
	"errors"
	iofs "io/fs"
	"testing"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// TestDamagedDirectory damages one leaf, then the index of a large directory. What the other
// blocks hold is listed and found; the listing, in batches of any size, ends with the error.
func TestDamagedDirectory(t *testing.T) {
	img := largeImage(t, 2000, 32<<20, plainName, "-b", "1024")
	fs := openImage(t, img)
	dir, err := fsystest.Find(fs, "large")
	if err != nil {
		t.Fatal(err)
	}
	n, err := fs.inode(dir)
	if err != nil {
		t.Fatal(err)
	}
	place := func(lblk uint64) int64 {
		r, err := fs.content(n).run(lblk)
		if err != nil || r.Phys == 0 {
			t.Fatalf("block %d of the directory: %+v, %v", lblk, r, err)
		}
		return int64(r.Phys * fs.sb.blockSize)
	}
	for _, c := range []struct {
		what string
		lblk uint64
		lost bool // some names
	}{
		{"a leaf", 5, true},
		{"the index", 0, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			hurt := fixture.Copy(t, img)
			poke(t, hurt, place(c.lblk)+500, []byte("damage"))
			fs := openImage(t, hurt)
			listed := map[string]fsys.Ino{}
			for _, batch := range []int{1, 7, 1000, 5000} {
				ents, err := fsystest.ReadAll(fs, dir, batch)
				var where *fsys.CorruptError
				if !errors.As(err, &where) || where.Ino != dir || where.Off != place(c.lblk) {
					t.Errorf("batches of %d: %v, want inode %d and byte %d", batch, err, dir, place(c.lblk))
				}
				if got := len(ents); (got < 2000) != c.lost || got < 1900 {
					t.Errorf("batches of %d: %d entries of 2000", batch, got)
				}
				if batch > 1 && len(ents) != len(listed) {
					t.Errorf("batches of %d: %d entries, with 1 it was %d", batch, len(ents), len(listed))
				}
				for _, d := range ents {
					listed[d.Name] = d.Ino
				}
			}
			for i := range 2000 {
				name := plainName(i)
				ino, err := fs.Lookup(dir, name)
				switch want, ok := listed[name]; {
				case ok && (err != nil || ino != want):
					t.Errorf("%q is listed, and lookup gives %d, %v", name, ino, err)
				case !ok && !errors.Is(err, fsys.ErrCorrupt):
					t.Errorf("%q is in the damaged block, and lookup gives %d, %v", name, ino, err)
				}
			}
			// By its hash an absent name may lead to a good leaf, which answers for it.
			if _, err := fs.Lookup(dir, "absent"); !errors.Is(err, fsys.ErrCorrupt) && !errors.Is(err, iofs.ErrNotExist) {
				t.Errorf("lookup of an absent name: %v", err)
			}
		})
	}
}
