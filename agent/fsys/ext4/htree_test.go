package ext4

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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
		p := newPopulator(t, dir, 1024)
		p.directories()
		want := fixture.Manifest(t, dir)
		fixture.Unmount(t, dir)
		commands(t, img, []string{"debugfs -w -R ssv\tflags\t0 IMG"})
		fsystest.Run(t, openImage(t, img), want)
	}
}

// TestEqualHashes fills a directory with pairs of names that have the same hash, so that leaves are
// split between the two and a lookup has to go on in the next leaf.
func TestEqualHashes(t *testing.T) {
	names := collisions(2000)
	rng := rand.New(rand.NewPCG(5, 6)) // in the order of their hashes the halves of a leaf would hold whole pairs
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	img := fixture.Ext4(t, "", 32<<20, "-b", "1024")
	commands(t, img, []string{"tune2fs -E hash_alg=legacy IMG", "debugfs -w -R ssv\tflags\t1 IMG"})
	dir := fixture.Mount(t, img, "ext4", "rw,noatime,barrier=0", 0, 0)
	if err := os.Mkdir(filepath.Join(dir, "pairs"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, "pairs", n), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fixture.Unmount(t, dir)

	fs := openImage(t, img)
	if checkIndex(t, fs, "pairs") != 1 {
		t.Fatal("the directory has no index")
	}
	ino, err := fsystest.Find(fs, "pairs")
	if err != nil {
		t.Fatal(err)
	}
	n, err := fs.inode(ino)
	if err != nil {
		t.Fatal(err)
	}
	root, err := (&indexWalk{f: fs, c: fs.content(n)}).push(0)
	if err != nil {
		t.Fatal(err)
	}
	continued := 0
	for i := 1; i < root.count; i++ {
		if root.hash(i)&1 != 0 {
			continued++
		}
	}
	t.Logf("%d leaves, %d of them go on with the hash of the one before", root.count, continued)
	if continued == 0 {
		t.Error("no chain of equal hashes passes a leaf's end: this test shows nothing")
	}
}

// collisions returns n names, each pair of which has the same legacy hash.
func collisions(n int) []string {
	const tries = 4 << 20
	hashes := make([]uint64, tries) // hash, number of the name
	name := func(i uint64) string { return fmt.Sprintf("%07x of a pair", i*2654435761%(1<<28)) }
	for i := range hashes {
		hashes[i] = uint64(legacyHash([]byte(name(uint64(i))), false))<<32 | uint64(i)
	}
	slices.Sort(hashes)
	var out []string
	for i := 1; i < tries && len(out) < n; i++ {
		if hashes[i]>>32 == hashes[i-1]>>32 {
			out = append(out, name(hashes[i-1]&(1<<32-1)), name(hashes[i]&(1<<32-1)))
			i++
		}
	}
	return out
}
