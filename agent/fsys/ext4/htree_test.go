package ext4

import (
	"testing"

	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// checkIndex looks up every entry of the named directories through the index alone, so that
// falling back to reading the whole directory cannot hide a wrong hash. Directories without an
// index are passed over; it returns how many had one.
func checkIndex(t testing.TB, fs *FS, dirs ...string) int {
	t.Helper()
	indexed := 0
	for _, path := range dirs {
		dir, err := fsystest.Find(fs, path)
		if err != nil {
			t.Errorf("%q: %v", path, err)
			continue
		}
		n, err := fs.inode(dir)
		if err != nil {
			t.Errorf("%q: %v", path, err)
			continue
		}
		if !fs.isHashed(n) {
			continue
		}
		indexed++
		ents, err := fsystest.ReadAll(fs, dir, 1000)
		if err != nil {
			t.Errorf("%q: %v", path, err)
		}
		for _, d := range ents {
			q, ok := fs.newQuery(n, d.Name)
			if !ok {
				t.Fatalf("%q: no query for %q", path, d.Name)
			}
			ino, err := fs.indexLookup(n, q)
			if err != nil || uint64(ino) != uint64(d.Ino) {
				t.Fatalf("%q: index lookup of %q: inode %d, %v; want %d", path, d.Name, ino, err, d.Ino)
			}
		}
	}
	return indexed
}

// TestUnrecordedHashSign: an old file system does not say with which char its names were hashed.
// Kernels disagree about what to assume, so the oracle is the kernel before the flag goes.
func TestUnrecordedHashSign(t *testing.T) {
	for _, flag := range []string{"1", "2"} {
		img := fixture.Ext4(t, "", 32<<20, "-b", "1024")
		commands(t, img, []string{"debugfs -w -R ssv\tflags\t" + flag + " IMG"})
		dir := fixture.Mount(t, img, "ext4", "rw,noatime,barrier=0", 0, 0)
		p := &populator{t: t, root: dir, bs: 1024}
		p.directories()
		want := fixture.Manifest(t, dir)
		fixture.Unmount(t, dir)
		commands(t, img, []string{"debugfs -w -R ssv\tflags\t0 IMG"})
		fsystest.Run(t, openImage(t, img), want)
	}
}
