package ext4

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// sourceTree is a filled directory and the kernel's manifest of it, less what mke2fs -d does not
// copy (nanoseconds, times outside of 32 bits, sockets, a hole at the end) or makes anew (inode numbers, blocks, directories' sizes, holes).
func sourceTree(t *testing.T) (string, fsystest.Manifest) {
	t.Helper()
	fixture.NeedRoot(t)
	// On a file system of our own: others take larger attributes than mke2fs can copy.
	src := filepath.Join(fixture.Mount(t, fixture.Ext4(t, "", 512<<20), "ext4", "rw", 0, 0), "source")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	populate(t, src, 4096)
	if err := os.Mkdir(filepath.Join(src, "many"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 3000 { // more than one block of 64 KiB
		if err := os.WriteFile(filepath.Join(src, "many", fmt.Sprintf("Third Of Many %d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	remove, err := filepath.Glob(filepath.Join(src, "time-*")) // mke2fs cuts times to 32 bits
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range append(remove, filepath.Join(src, "socket"), filepath.Join(src, "sparse")) {
		if err := os.Remove(n); err != nil {
			t.Fatal(err)
		}
	}
	want := fixture.Manifest(t, src)
	for p, e := range want {
		e.Ino, e.Blocks, e.Data = 0, -1, nil
		e.Atime, e.Ctime, e.Mtime = 0, 0, e.Mtime/1e9*1e9
		if e.Mode&fsys.ModeFmt == fsys.ModeDir {
			e.Size = -1
		}
		want[p] = e
	}
	return src, want
}

// TestLargeBlocks: blocks larger than a page, which this kernel does not mount, filled by mke2fs.
func TestLargeBlocks(t *testing.T) {
	src, want := sourceTree(t)
	for _, options := range []string{
		"-b 8192", "-b 16384 -O inline_data", "-b 32768 -O ^extent,^64bit", "-b 65536",
		"-b 65536 -O ^metadata_csum,uninit_bg,bigalloc -C 262144",
	} {
		t.Run(options, func(t *testing.T) {
			img := fixture.Ext4(t, src, 192<<20, append(strings.Fields(options), "-N", "16384")...)
			commands(t, img, []string{"e2fsck -fyD IMG"}) // mke2fs makes no index
			fs := openImage(t, img)
			checkSource(t, fs, want)
			if checkIndex(t, fs, "many") == 0 {
				t.Error("the large directory has no index")
			}
		})
	}
}

// TestCasefold: directories hashed by folded names, which this kernel does not have. Lookup stays
// exact in bytes.
func TestCasefold(t *testing.T) {
	src, want := sourceTree(t)
	img := fixture.Ext4(t, src, 192<<20, "-b", "4096", "-O", "casefold", "-E", "encoding=utf8-12.1")
	commands(t, img, []string{
		"debugfs -w -R set_inode_field\t/many\tflags\t0x40080000 IMG",
		"e2fsck -fyD IMG",
	})
	fs := openImage(t, img)
	dir, err := fsystest.Find(fs, "many")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := fs.inode(dir); err != nil || !n.has(flagCasefold) || !fs.isHashed(n) {
		t.Fatalf("the directory is not case-folded and hashed: %+v, %v", n, err)
	}
	checkSource(t, fs, want)
	for _, name := range []string{"third of many 7", "THIRD OF MANY 7", "Third of many 7"} {
		if ino, err := fs.Lookup(dir, name); err == nil {
			t.Errorf("%q found as inode %d", name, ino)
		}
	}
	n, err := fs.inode(dir)
	if err != nil {
		t.Fatal(err)
	}
	q, _ := fs.newQuery(n, "Third Of Many 7")
	if ino, err := fs.indexLookup(n, q); err != nil || ino == 0 {
		t.Errorf("an ASCII name is not found through the index: %d, %v", ino, err)
	}
}

// checkSource is fsystest.Run with the paths that only mke2fs makes taken out.
func checkSource(t *testing.T, fs *FS, want fsystest.Manifest) {
	t.Helper()
	full := fsystest.Manifest{}
	for p, e := range want {
		full[p] = e
	}
	got, err := fsystest.WalkFS(fs)
	if err != nil {
		t.Fatal(err)
	}
	full["lost+found"] = got["lost+found"]
	root := full["."]
	root.Nlink++ // for lost+found
	root.Mode, root.Mtime = got["."].Mode, got["."].Mtime
	root.Xattrs = nil
	full["."] = root
	fsystest.Run(t, fs, full)
}
