package fsystest

import (
	"bytes"
	"errors"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"testing"

	"vmfr/agent/fsys"
)

// Run is the conformance suite: fs must agree with the oracle's manifest in every field that
// the manifest sets, and must keep the interface's promises (lookup agrees with listing,
// cookies resume, concurrent reads at random offsets agree, hosts' extents hold the same bytes).
func Run(t *testing.T, fs fsys.FS, want Manifest) {
	t.Helper()
	got, err := WalkFS(fs)
	if err != nil {
		t.Errorf("walk: %v", err)
	}
	for _, d := range Diff(want, got) {
		t.Error(d)
	}
	t.Run("lookup", func(t *testing.T) { checkLookup(t, fs, want) })
	t.Run("cookies", func(t *testing.T) { checkCookies(t, fs) })
	t.Run("reads", func(t *testing.T) { checkReads(t, fs, want) })
	t.Run("wrong kind", func(t *testing.T) { checkKinds(t, fs) })
}

// maxLookups bounds the lookups of one run; the paths are chosen by a fixed seed.
const maxLookups = 2000

func checkLookup(t *testing.T, fs fsys.FS, want Manifest) {
	paths := want.Paths()
	rng := rand.New(rand.NewPCG(1, 2))
	rng.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	for _, p := range paths[:min(len(paths), maxLookups)] {
		ino, err := Find(fs, p)
		if err != nil {
			t.Errorf("lookup %q: %v", p, err)
			continue
		}
		if w := want[p].Ino; w != 0 && uint64(ino) != w {
			t.Errorf("lookup %q: inode %d, want %d", p, ino, w)
		}
	}
	for _, name := range []string{"no such name", strings.Repeat("x", 255), strings.Repeat("x", 4096), "a\x00b", "a/b", ""} {
		if _, err := fs.Lookup(fs.Root(), name); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("lookup %.20q: error %v, want ErrNotExist", name, err)
		}
	}
}

// Find walks a manifest's path by Lookup.
func Find(fs fsys.FS, p string) (fsys.Ino, error) {
	ino := fs.Root()
	if p == "." {
		return ino, nil
	}
	for _, name := range strings.Split(p, "/") {
		var err error
		if ino, err = fs.Lookup(ino, name); err != nil {
			return 0, err
		}
	}
	return ino, nil
}

// checkCookies lists every directory with batches of 1, 3 and 1000: all must agree.
func checkCookies(t *testing.T, fs fsys.FS) {
	todo := []fsys.Ino{fs.Root()}
	for dirs := 0; len(todo) > 0 && dirs < 200; dirs++ {
		dir := todo[0]
		todo = todo[1:]
		want, err := ReadAll(fs, dir, 1000)
		if err != nil {
			t.Errorf("directory %d: %v", dir, err)
			continue
		}
		for _, d := range want {
			if a, err := fs.Stat(d.Ino); err == nil && a.IsDir() {
				todo = append(todo, d.Ino)
			}
		}
		if len(want) > 5000 {
			continue // one entry at a time is slow in a huge directory and shows no more
		}
		for _, batch := range []int{1, 3} {
			got, err := ReadAll(fs, dir, batch)
			if err != nil || len(got) != len(want) {
				t.Errorf("directory %d in batches of %d: %d entries, %v; want %d", dir, batch, len(got), err, len(want))
				continue
			}
			for i := range got {
				if got[i] != want[i] {
					t.Errorf("directory %d in batches of %d: entry %d is %v, want %v", dir, batch, i, got[i], want[i])
					break
				}
			}
		}
	}
}

// checkReads compares concurrent reads at random offsets, and the host's bytes behind Extent,
// with one sequential read.
func checkReads(t *testing.T, fs fsys.FS, want Manifest) {
	const maxFiles, maxSize = 50, 32 << 20
	files := 0
	for _, p := range want.Paths() {
		if e := want[p]; e.Mode&fsys.ModeFmt != fsys.ModeRegular || e.Size == 0 || e.Size > maxSize {
			continue
		}
		if files++; files > maxFiles {
			return
		}
		ino, err := Find(fs, p)
		if err != nil {
			t.Errorf("%q: %v", p, err)
			continue
		}
		r, err := fs.Open(ino)
		if err != nil {
			t.Errorf("open %q: %v", p, err)
			continue
		}
		whole := make([]byte, r.Size())
		if n, err := r.ReadAt(whole, 0); n != len(whole) || (err != nil && err != io.EOF) {
			t.Errorf("%q: read %d of %d: %v", p, n, len(whole), err)
			continue
		}
		if n, err := r.ReadAt(make([]byte, 1), r.Size()); n != 0 || err != io.EOF {
			t.Errorf("%q: read at the end: %d, %v; want 0, EOF", p, n, err)
		}
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				rng := rand.New(rand.NewPCG(uint64(g), 7))
				for range 20 {
					off := rng.Int64N(r.Size())
					n := min(rng.Int64N(200<<10)+1, r.Size()-off)
					b := make([]byte, n)
					if got, err := r.ReadAt(b, off); got != len(b) || (err != nil && err != io.EOF) || !bytes.Equal(b, whole[off:off+n]) {
						t.Errorf("%q: %d bytes at %d differ (%d, %v)", path.Base(p), n, off, got, err)
						return
					}
					x, err := r.Extent(off, n)
					if err != nil {
						t.Errorf("%q: extent at %d: %v", p, off, err)
						return
					}
					b = b[:x.Len]
					if x.Zero && len(bytes.Trim(b, "\x00")) > 0 {
						t.Errorf("%q: %d bytes at %d are said to be a hole and are not zeros", p, x.Len, off)
					}
					if x.Host != nil {
						h := make([]byte, x.Len)
						if _, err := x.Host.ReadAt(h, x.HostOff); err != nil || !bytes.Equal(h, b) {
							t.Errorf("%q: host bytes of %d at %d differ (%v)", p, x.Len, off, err)
						}
					}
				}
			}()
		}
		wg.Wait()
	}
}

func checkKinds(t *testing.T, fs fsys.FS) {
	root := fs.Root()
	if _, err := fs.Open(root); !errors.Is(err, fsys.ErrIsDir) {
		t.Errorf("open of a directory: %v, want ErrIsDir", err)
	}
	if _, err := fs.Readlink(root); !errors.Is(err, fsys.ErrNotLink) {
		t.Errorf("readlink of a directory: %v, want ErrNotLink", err)
	}
	for _, ino := range []fsys.Ino{0, 1 << 40, 1<<64 - 1} {
		if _, err := fs.Stat(ino); err == nil {
			t.Errorf("stat of inode %d succeeded", ino)
		}
	}
	ents, err := ReadAll(fs, root, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range ents {
		a, err := fs.Stat(d.Ino)
		if err != nil || a.IsDir() {
			continue
		}
		if _, err := fs.ReadDir(d.Ino, 0, make([]fsys.Dirent, 1)); !errors.Is(err, fsys.ErrNotDir) {
			t.Errorf("listing %q: %v, want ErrNotDir", d.Name, err)
		}
		if _, err := fs.Lookup(d.Ino, "x"); !errors.Is(err, fsys.ErrNotDir) {
			t.Errorf("lookup in %q: %v, want ErrNotDir", d.Name, err)
		}
	}
}
