package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// bases are the small images, of one block group and 1 KiB blocks, that hostile and fuzz tests
// damage. Without checksums a damaged structure itself is looked at, and not its checksum.
var bases = []struct {
	name   string
	kib    int64
	mke2fs []string
}{
	{"plain", 1536, []string{"-O", "^metadata_csum,^64bit,^has_journal,^uninit_bg,^resize_inode"}},
	{"csum", 1536, []string{"-O", "metadata_csum,64bit,^has_journal,^resize_inode"}},
	{"ext2", 1536, []string{"-t", "ext2", "-O", "^resize_inode"}},
	{"inline", 1536, []string{"-O", "inline_data,ea_inode,^metadata_csum,^64bit,^has_journal,^uninit_bg,^resize_inode"}},
	{"gdt", 1536, []string{"-O", "^metadata_csum,^64bit,^has_journal,uninit_bg,^resize_inode"}},
	{"journal", 4096, []string{"-O", "^metadata_csum,^64bit,^uninit_bg,^resize_inode", "-J", "size=1"}},
}

// fillBase makes one object of each kind that has a structure of its own.
func fillBase(t *testing.T, name, dir string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := func(s string) string { return filepath.Join(dir, s) }
	check(os.WriteFile(p("good"), fsystest.GoodContent, 0o644))
	check(os.MkdirAll(p("dir/sub"), 0o755))
	check(os.WriteFile(p("dir/a"), []byte("a"), 0o644))
	check(os.WriteFile(p("dir/sub/c"), []byte("c"), 0o644))
	// Many extents, or single, double and triple indirect blocks.
	f, err := os.Create(p("deep"))
	check(err)
	for i := range int64(100) {
		_, err = f.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 1024), 2048*i)
		check(err)
	}
	for _, block := range []int64{400, 70_000} {
		_, err = f.WriteAt(bytes.Repeat([]byte{0xAB}, 1024), block*1024)
		check(err)
	}
	check(f.Close())
	check(os.Mkdir(p("big"), 0o755))
	for i := range 250 {
		check(os.Link(p("good"), p(fmt.Sprintf("big/name %03d %s", i, strings.Repeat("n", 20)))))
	}
	check(os.Symlink("good", p("fast")))
	check(os.Symlink(strings.Repeat("slow/", 40), p("slow")))
	check(os.WriteFile(p("xa"), []byte("attributes"), 0o644))
	check(unix.Setxattr(p("xa"), "user.short", []byte("in the inode"), 0))
	check(unix.Setxattr(p("xa"), "user.long", bytes.Repeat([]byte("L"), 500), 0))
	if name == "inline" {
		check(os.WriteFile(p("ea"), []byte("value elsewhere"), 0o644))
		check(unix.Setxattr(p("ea"), "user.huge", bytes.Repeat([]byte("H"), 3000), 0))
		check(os.WriteFile(p("inline"), bytes.Repeat([]byte("i"), 100), 0o644))
	}
	check(unix.Mkfifo(p("fifo"), 0o644))
}

// TestBases checks that the images of testdata are what the damage is done to.
func TestBases(t *testing.T) {
	for _, b := range bases {
		t.Run(b.name, func(t *testing.T) {
			if fsystest.Updating() {
				makeBase(t, b.name, b.kib, b.mke2fs)
			}
			h := newHostile(t, b.name)
			if err := survey(h.fs); err != nil {
				t.Error(err)
			}
			fsystest.CheckGood(t, h.fs, h.fs)
		})
	}
}

func makeBase(t *testing.T, name string, kib int64, opts []string) {
	t.Helper()
	img := fixture.Ext4(t, "", kib<<10, append([]string{"-b", "1024", "-N", "64", "-m", "0", "-I", "256",
		"-U", "11111111-2222-3333-4444-555555555555", "-E", "lazy_itable_init=0,hash_seed=11111111-2222-3333-4444-555555555555"}, opts...)...)
	dir := fixture.Mount(t, img, "ext4", "rw,noatime", 0, 0)
	fillBase(t, name, dir)
	if name == "journal" { // left dirty
		f, err := os.Open(filepath.Join(dir, "good"))
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		fixture.Shutdown(t, dir, true)
		img = fixture.Copy(t, img)
	} else {
		fixture.Unmount(t, dir)
	}
	fsystest.StoreFile(t, name, img)
}

// hostile is an image of testdata to be damaged, and the undamaged one to find things by.
type hostile struct {
	b  []byte
	fs *FS
}

func newHostile(t testing.TB, name string) *hostile {
	t.Helper()
	b := fsystest.Stored(t, name)
	fs, err := Open(extent.Bytes(bytes.Clone(b)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &hostile{b: b, fs: fs}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // only where the undamaged image is asked
	}
	return v
}

func (h *hostile) ino(path string) fsys.Ino { return must(fsystest.Find(h.fs, path)) }

// inode is the place of an object's inode in the image.
func (h *hostile) inode(path string) int { return h.inodeNum(uint32(h.ino(path))) }

func (h *hostile) inodeNum(num uint32) int {
	s := h.fs.sb
	d := must(h.fs.group(uint64(num-1) / uint64(s.inodesPerGroup)))
	return int(d.inodeTable*s.blockSize + uint64(num-1)%uint64(s.inodesPerGroup)*s.inodeSize)
}

// block is the place of an object's logical block in the image.
func (h *hostile) block(path string, lblk uint64) int {
	n := must(h.fs.inode(h.ino(path)))
	return int(must(h.fs.content(n).run(lblk)).Phys * h.fs.sb.blockSize)
}

// group is the place of the first group descriptor.
func (h *hostile) group() int { return int(must2(h.fs.sb.descBlock(0, 0)) * h.fs.sb.blockSize) }

func must2(v uint64, ok bool) uint64 {
	if !ok {
		panic("no such block")
	}
	return v
}

// at follows a block number that is stored at off.
func (h *hostile) at(off int) int { return int(h.get32(off)) * int(h.fs.sb.blockSize) }

func (h *hostile) put8(off int, v uint8)   { h.b[off] = v }
func (h *hostile) put16(off int, v uint16) { binary.LittleEndian.PutUint16(h.b[off:], v) }
func (h *hostile) put32(off int, v uint32) { binary.LittleEndian.PutUint32(h.b[off:], v) }
func (h *hostile) get16(off int) uint16    { return binary.LittleEndian.Uint16(h.b[off:]) }
func (h *hostile) get32(off int) uint32    { return binary.LittleEndian.Uint32(h.b[off:]) }

// record is the place of a name's record in its directory block.
func (h *hostile) record(path string) int {
	dir, name := filepath.Split(path)
	dir = filepath.Clean(dir)
	blk := h.block(dir, 0)
	for off := blk; off < blk+int(h.fs.sb.blockSize); off += int(h.get16(off + 4)) {
		if string(h.b[off+8:off+8+int(h.b[off+6])]) == name {
			return off
		}
	}
	panic("no record " + path)
}

// ofKnownKind tells whether an error of a damaged image is one that an FS may return. The device
// may be shorter than the damaged superblock says.
var ofKnownKind = fsystest.OneOf(fsys.ErrCorrupt, fsys.ErrUnsupported, fsys.ErrNoKey, iofs.ErrNotExist, io.ErrUnexpectedEOF)

// survey is fsystest.Survey.
func survey(fs fsys.FS) error { return fsystest.Survey(fs, ofKnownKind, cookieDamaged) }
