package xfs

import (
	"bytes"
	"encoding/gob"
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

// version4Images are layouts that only older kernels mount. Their images and manifests, in testdata, are
// made with the kernel of the libguestfs appliance: it unpacks a tree into the image, and packs
// what it then finds there.
var version4Images = []struct {
	name    string
	options string
}{
	{"v4", "-m crc=0"},
	{"v4-old", "-m crc=0 -n ftype=0 -b size=512 -i attr=1,projid32bit=0,size=256 -l version=1"},
	{"v4-ci", "-m crc=0 -b size=1024 -n version=ci,size=8192"},
}

func TestVersion4(t *testing.T) {
	for _, c := range version4Images {
		t.Run(c.name, func(t *testing.T) {
			if fsystest.Updating() {
				makeVersion4(t, c.name, strings.Fields(c.options))
			}
			fs := openReader(t, extent.Bytes(fsystest.Stored(t, c.name)))
			if fs.sb.v5 || fs.sb.ci != (c.name == "v4-ci") || fs.sb.ftype == (c.name == "v4-old") {
				t.Errorf("superblock %+v", fs.sb)
			}
			var want fsystest.Manifest
			if err := gob.NewDecoder(bytes.NewReader(fsystest.Stored(t, c.name+".manifest"))).Decode(&want); err != nil {
				t.Fatal(err)
			}
			fsystest.Run(t, fs, want)
			if fs.sb.ci {
				checkFold(t, fs, want)
			}
			checkMaps(t, fs)
		})
	}
}

// checkFold looks up every name with its case turned around.
func checkFold(t *testing.T, fs *FS, want fsystest.Manifest) {
	for _, p := range want.Paths() {
		dir, name := filepath.Split(p)
		if p == "." {
			continue
		}
		d, err := fsystest.Find(fs, filepath.Clean(dir))
		if err != nil {
			t.Fatal(err)
		}
		exact, err := fs.Lookup(d, name)
		if err != nil {
			t.Fatal(err)
		}
		b := []byte(name)
		for i, c := range b {
			if lower(c) != c {
				b[i] = lower(c)
			} else if up := c - 'a' + 'A'; lower(up) == c {
				b[i] = up
			}
		}
		if ino, err := fs.Lookup(d, string(b)); err != nil || ino != exact {
			t.Errorf("%q as %q: inode %d, %v; want %d", p, b, ino, err, exact)
		}
	}
}

// checkMaps requires that the tree has files and directories of each format.
func checkMaps(t *testing.T, fs *FS) {
	found := map[string]bool{}
	todo := []fsys.Ino{fs.Root()}
	for len(todo) > 0 {
		n, err := fs.inode(todo[0])
		if err != nil {
			t.Fatal(err)
		}
		found[fmt.Sprintf("data %o %d", n.kind(), n.data.format)] = true
		if n.attr.raw != nil {
			found[fmt.Sprintf("attributes %d", n.attr.format)] = true
		}
		todo = todo[1:]
		if n.isDir() {
			all, err := fsystest.ReadAll(fs, fsys.Ino(n.num), 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range all {
				todo = append(todo, d.Ino)
			}
		}
	}
	for _, want := range []string{
		fmt.Sprintf("data %o %d", fsys.ModeRegular, formatExtents), fmt.Sprintf("data %o %d", fsys.ModeRegular, formatBtree),
		fmt.Sprintf("data %o %d", fsys.ModeDir, formatLocal), fmt.Sprintf("data %o %d", fsys.ModeDir, formatExtents),
		fmt.Sprintf("data %o %d", fsys.ModeSymlink, formatLocal), fmt.Sprintf("data %o %d", fsys.ModeSymlink, formatExtents),
		fmt.Sprintf("attributes %d", formatLocal), fmt.Sprintf("attributes %d", formatExtents),
	} {
		if !found[want] {
			t.Errorf("nothing has %s", want)
		}
	}
}

// makeVersion4 makes an image and its manifest anew.
func makeVersion4(t *testing.T, name string, options []string) {
	fixture.Need(t, "guestfish", "tar", "mkfs.xfs")
	t.Setenv("LIBGUESTFS_BACKEND", "direct")
	t.Setenv("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")
	tmp := t.TempDir()
	packed, unpacked := filepath.Join(tmp, "in.tar"), filepath.Join(tmp, "out.tar")
	host := fixture.Mount(t, makeImage(t, 320<<20), "xfs", "rw", 0, 0)
	src, dst := filepath.Join(host, "src"), filepath.Join(host, "dst")
	for _, d := range []string{src, filepath.Join(src, "Large"), dst} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	populate(t, src, 4096)
	if err := os.Remove(filepath.Join(src, "long acl")); err != nil { // version 4 takes 25 entries
		t.Fatal(err)
	}
	for i := range 3000 {
		if err := os.Link(filepath.Join(src, "setuid"), filepath.Join(src, "Large", fmt.Sprintf("Name \xC4\xE9 %0*d", i%50, i))); err != nil {
			t.Fatal(err)
		}
	}
	fixture.Run(t, "tar", "--format=posix", "--xattrs", "--xattrs-include=*", "-S", "-C", src, "-cf", packed, ".")

	img := makeImage(t, 64<<20, options...)
	fixture.Run(t, "guestfish", "-a", img, "run", ":", "mount", "/dev/sda", "/",
		":", "tar-in", packed, "/", "xattrs:true", ":", "fallocate64", "/fallocated", "1000000",
		":", "rm-rf", "/hundreds", ":", "lremovexattr", "user.small", "/attributes",
		":", "tar-out", "/", unpacked, "xattrs:true", ":", "umount-all")
	fixture.Run(t, "tar", "--xattrs", "--xattrs-include=*", "-C", dst, "-xpf", unpacked)

	want := fixture.Manifest(t, dst)
	for p, e := range want {
		// Of these tar knows nothing.
		e.Ino, e.Atime, e.Ctime, e.Blocks, e.Data = 0, 0, 0, -1, nil
		if e.Mode&fsys.ModeFmt == fsys.ModeDir {
			e.Size = -1
		}
		want[p] = e
	}
	var manifest bytes.Buffer
	if err := gob.NewEncoder(&manifest).Encode(want); err != nil {
		t.Fatal(err)
	}
	fsystest.Store(t, name+".manifest", &manifest)
	fsystest.StoreFile(t, name, img)
}
