package fat

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// mkfs makes a file of size bytes with a file system made by mkfs.vfat and returns its path.
func mkfs(t testing.TB, size int64, args ...string) string {
	t.Helper()
	fixture.Need(t, "mkfs.vfat", "fsck.vfat", "mcopy", "mmd", "mattrib", "mdel")
	img := filepath.Join(t.TempDir(), "fat.raw")
	fixture.Sparse(t, img, size)
	fixture.Run(t, "mkfs.vfat", append(args, img)...)
	return img
}

// mtool runs one of the mtools on the image as drive z:. It writes names as UTF-8 says.
func mtool(t testing.TB, img, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	conf := filepath.Join(t.TempDir(), "mtoolsrc")
	if err := os.WriteFile(conf, []byte("drive z: file=\""+img+"\"\nmtools_skip_check=1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "MTOOLSRC="+conf, "LC_ALL=C.UTF-8", "TZ=UTC", "MTOOLS_LOWER_CASE=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func load(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func openImage(t testing.TB, img string) *FS {
	t.Helper()
	return openBytes(t, load(t, img))
}

func openBytes(t testing.TB, b []byte) *FS {
	t.Helper()
	f, err := Open(extent.Bytes(b), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// check lets fsck.vfat look at an image: what it does not accept proves nothing.
func check(t testing.TB, img string) {
	t.Helper()
	fixture.Run(t, "fsck.vfat", "-n", img)
}

// source fills a directory with files of all sizes and names, with even seconds, and describes
// it as the file system must show it.
func source(t testing.TB, dir string, files int, names []string) fsystest.Manifest {
	t.Helper()
	rng := rand.New(rand.NewPCG(4, 2))
	m := fsystest.Manifest{}
	add := func(path string, data []byte) {
		full := filepath.Join(dir, path)
		mtime := time.Date(1981+rng.IntN(120), time.Month(1+rng.IntN(12)), 1+rng.IntN(28), rng.IntN(24), rng.IntN(60), 2*rng.IntN(30), 0, time.UTC)
		e := fsystest.Entry{Path: path, Mode: fsys.ModeRegular | 0o755, Nlink: 1, Size: int64(len(data)), Blocks: -1, Mtime: mtime.UnixNano()}
		if data == nil {
			if err := os.Mkdir(full, 0o755); err != nil {
				t.Fatal(err)
			}
			e.Mode, e.Nlink, e.Size = fsys.ModeDir|0o755, 0, -1
		} else {
			if err := os.WriteFile(full, data, 0o644); err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(data)
			e.SHA256 = hex.EncodeToString(sum[:])
		}
		if err := os.Chtimes(full, mtime, mtime); err != nil {
			t.Fatal(err)
		}
		m[path] = e
	}
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	for i, n := range []int{0, 1, 511, 512, 513, 4095, 4096, 4097, 65536, 70001} {
		add(fmt.Sprintf("size%d.bin", i), random(n))
	}
	for _, n := range names {
		add(n, []byte(n))
	}
	add("many", nil)
	for i := range files {
		add(fmt.Sprintf("many/file number %05d of many.dat", i), []byte(fmt.Sprint(i)))
	}
	deep := "deep"
	add(deep, nil)
	for i := range 12 {
		deep += fmt.Sprintf("/level %d", i)
		add(deep, nil)
		add(deep+"/LEAF.TXT", random(i))
	}
	return m
}

// names are such that mtools can write; it knows no surrogate pairs.
var names = []string{
	"UPPER.TXT", "lower.txt", "Mixed Case.Text", "mixed.TXT", "NT.low", "nt.UPP", "noext", ".hidden", "two.dots.tar.gz", "with space", "a+b,c;d=[e].x",
	"ümläut.txt", "ÜMLÄUT2.TXT", "日本語のファイル.txt", "é.É", "ß",
	strings.Repeat("n", 255), strings.Repeat("日", 85), "exactly13unit", "exactly26units.of.a.name.x",
	"tilde~1.txt", "PROGRA~1", "'quoted' (1).txt", "\u200bzero width", "%41.txt",
}

// populate copies a directory's content into an image and returns the manifest.
func populate(t testing.TB, img string, files int) fsystest.Manifest {
	t.Helper()
	dir := t.TempDir()
	m := source(t, dir, files, names)
	ents, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-s", "-m", "-Q"}
	for _, e := range ents {
		args = append(args, filepath.Join(dir, e.Name()))
	}
	mtool(t, img, "mcopy", append(args, "z:/")...)
	return m
}

// unset fills in what mcopy does not keep or mtools do not tell: the root directory, and the
// times of directories, which are taken from the file system under test.
func unset(t testing.TB, f fsys.FS, m fsystest.Manifest) fsystest.Manifest {
	t.Helper()
	m["."] = fsystest.Entry{Path: ".", Ino: 1, Mode: fsys.ModeDir | 0o755, Size: -1, Blocks: -1}
	for p, e := range m {
		if e.Mode&fsys.ModeFmt == fsys.ModeDir && p != "." {
			ino, err := fsystest.Find(f, p)
			if err != nil {
				t.Fatal(err)
			}
			a, err := f.Stat(ino)
			if err != nil {
				t.Fatal(err)
			}
			e.Mtime = a.Mtime.UnixNano()
			m[p] = e
		}
	}
	return m
}

func allOf(t testing.TB, f fsys.FS, path string) []byte {
	t.Helper()
	ino, err := fsystest.Find(f, path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := f.Open(ino)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, r.Size())
	if _, err := extent.ReadFull(r, b, 0); err != nil && len(b) > 0 {
		t.Fatal(err)
	}
	return bytes.Clone(b)
}
