package xfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
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

// The image that hostile and fuzz tests damage: version 5, one allocation group, blocks of 1 KiB,
// directory blocks of four of them.
const (
	baseName    = "base"
	baseSize    = 16 << 20
	baseOptions = "-b size=1024 -i size=512 -d agcount=1 -m uuid=11111111-2222-3333-4444-555555555555"
)

// fillBase makes one object of each kind that has a structure of its own.
func fillBase(t *testing.T, dir string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := func(s string) string { return filepath.Join(dir, s) }
	check(os.WriteFile(p("good"), fsystest.GoodContent, 0o644))
	check(os.MkdirAll(p("dir/sub"), 0o755)) // a short form
	check(os.WriteFile(p("dir/a"), []byte("a"), 0o644))
	check(os.WriteFile(p("dir/sub/c"), []byte("c"), 0o644))
	for name, extents := range map[string]int64{"few": 3, "deep": 150} {
		f, err := os.Create(p(name))
		check(err)
		for i := range extents {
			_, err = f.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 1024), 2048*i)
			check(err)
		}
		check(f.Close())
	}
	for name, entries := range map[string]int{"block": 40, "leaf": 250, "node": 700} {
		check(os.Mkdir(p(name), 0o755))
		for i := range entries {
			check(os.Link(p("good"), p(fmt.Sprintf("%s/name %03d %s", name, i, strings.Repeat("n", 20)))))
		}
	}
	check(os.Symlink("good", p("fast")))
	check(os.Symlink(strings.Repeat("slow/", 200), p("slow")))
	for name, values := range map[string][]int{"xs": {5, 9}, "xl": {100, 200, 300}, "xr": {3000}, "xn": make([]int, 80)} {
		check(os.WriteFile(p(name), nil, 0o644))
		for i, n := range values {
			check(unix.Setxattr(p(name), fmt.Sprintf("user.%030d", i), bytes.Repeat([]byte{'v'}, n), 0))
		}
	}
	check(unix.Mknod(p("device"), unix.S_IFBLK|0o600, int(unix.Mkdev(8, 1))))
}

// TestBase checks that the image of testdata is what the damage is done to.
func TestBase(t *testing.T) {
	if fsystest.Updating() {
		img := makeImage(t, baseSize, strings.Fields(baseOptions)...)
		dir := fixture.Mount(t, img, "xfs", "rw,noatime", 0, 0)
		fillBase(t, dir)
		fixture.Unmount(t, dir)
		fsystest.StoreFile(t, baseName, img)
	}
	h := newHostile(t)
	if err := survey(h.fs); err != nil {
		t.Error(err)
	}
	fsystest.CheckGood(t, h.fs, h.fs)
	for path, magic := range map[string]uint32{"block": dirBlockMagicV5, "leaf": dirDataMagicV5, "node": dirDataMagicV5} {
		if got := binary.BigEndian.Uint32(h.b[h.block(path, 0):]); got != magic {
			t.Errorf("%s has magic %#x", path, got)
		}
	}
	for at, magic := range map[int]uint16{
		h.block("leaf", leafBlock): leaf1MagicV5, h.block("node", leafBlock): daNodeMagicV5,
		h.attrBlock("xl", 0): attrLeafMagicV5, h.attrBlock("xn", 0): daNodeMagicV5,
	} {
		if got := h.get16(at + daMagic); got != magic {
			t.Errorf("magic %#x, want %#x", got, magic)
		}
	}
	if n := must(h.fs.inode(h.ino("deep"))); n.data.format != formatBtree {
		t.Errorf("deep has format %d", n.data.format)
	}
}

// hostile is an image to be damaged, and the undamaged one to find things by.
type hostile struct {
	b    []byte
	fs   *FS
	undo []change
}

type change struct {
	at  int
	old byte
}

// loaded is the image of testdata, unpacked once: tests undo what they change.
var loaded struct{ damaged, whole []byte }

func newHostile(t testing.TB) *hostile {
	t.Helper()
	if loaded.whole == nil {
		loaded.whole = fsystest.Stored(t, baseName)
		loaded.damaged = bytes.Clone(loaded.whole)
	}
	h := &hostile{b: loaded.damaged, fs: openReader(t, extent.Bytes(loaded.whole))}
	t.Cleanup(h.restore)
	return h
}

// restore takes all changes back.
func (h *hostile) restore() {
	for i := len(h.undo) - 1; i >= 0; i-- {
		h.b[h.undo[i].at] = h.undo[i].old
	}
	h.undo = h.undo[:0]
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // only where the undamaged image is asked
	}
	return v
}

func (h *hostile) ino(path string) fsys.Ino { return must(fsystest.Find(h.fs, path)) }

// inode is the place of an object's inode in the image.
func (h *hostile) inode(path string) int { return int(must(h.fs.inode(h.ino(path))).off) }

// attrFork is the place of an object's attribute fork in the image.
func (h *hostile) attrFork(path string) int {
	at := h.inode(path)
	return at + coreV3 + int(h.b[at+inoForkoff])*8
}

// leafBlock is the logical block where a directory's index begins.
const leafBlock = leafOffset / 1024

// block is the place of an object's logical block in the image.
func (h *hostile) block(path string, lblk uint64) int {
	n := must(h.fs.inode(h.ino(path)))
	return int(must(must(h.fs.mapping(n, &n.data, "map")).at(lblk)).Phys * h.fs.sb.blockSize)
}

func (h *hostile) attrBlock(path string, lblk uint64) int {
	n := must(h.fs.inode(h.ino(path)))
	return int(must(must(h.fs.mapping(n, &n.attr, "map")).at(lblk)).Phys * h.fs.sb.blockSize)
}

// at follows a block address of 8 bytes that is stored at off. In the only AG it is a block's number.
func (h *hostile) at(off int) int { return int(h.get64(off)) * 1024 }

// bmbtLeaf is the place of the first leaf of the map of "deep".
func (h *hostile) bmbtLeaf() int {
	n := must(h.fs.inode(h.ino("deep")))
	room := (len(n.data.raw) - bmbtRootHeader) / 16
	return h.at(int(n.off) + coreV3 + bmbtRootHeader + room*keySize)
}

func (h *hostile) put(off int, b ...byte) {
	for i, v := range b {
		h.undo = append(h.undo, change{off + i, h.b[off+i]})
		h.b[off+i] = v
	}
}
func (h *hostile) put16(off int, v uint16) { h.put(off, binary.BigEndian.AppendUint16(nil, v)...) }
func (h *hostile) put32(off int, v uint32) { h.put(off, binary.BigEndian.AppendUint32(nil, v)...) }
func (h *hostile) put64(off int, v uint64) { h.put(off, binary.BigEndian.AppendUint64(nil, v)...) }
func (h *hostile) get16(off int) uint16    { return binary.BigEndian.Uint16(h.b[off:]) }
func (h *hostile) get32(off int) uint32    { return binary.BigEndian.Uint32(h.b[off:]) }
func (h *hostile) get64(off int) uint64    { return binary.BigEndian.Uint64(h.b[off:]) }

// seal makes the checksum at byte crc of the n bytes at off right again, so that the parser gets to
// see what they say.
func (h *hostile) seal(off, n, crc int) {
	sum := crcWithout(h.b[off:off+n], crc)
	h.put(off+crc, binary.LittleEndian.AppendUint32(nil, sum)...)
}

func (h *hostile) sealSuper()        { h.seal(0, 512, 224) }
func (h *hostile) sealInode(off int) { h.seal(off, 512, 100) }
func (h *hostile) sealBmbt(off int)  { h.seal(off, 1024, bmbtHeader.crc) }
func (h *hostile) sealDir(off int)   { h.seal(off, 4096, dirHeader.crc) }
func (h *hostile) sealIndex(off int) { h.seal(off, 4096, daHeader.crc) }
func (h *hostile) sealAttr(off int)  { h.seal(off, 1024, daHeader.crc) }

// entry is the place of a name in the first block of its directory.
func (h *hostile) entry(path string) int {
	dir, name := filepath.Split(path)
	blk := h.block(filepath.Clean(dir), 0)
	i := bytes.Index(h.b[blk:blk+4096], append([]byte{byte(len(name))}, name...))
	if i < 0 {
		panic("no entry " + path)
	}
	return blk + i - 8
}

// short is the place of a name in a short-form directory: that of its length.
func (h *hostile) short(path string) int {
	dir, name := filepath.Split(path)
	at := h.inode(filepath.Clean(dir)) + coreV3
	for off := at + 6; ; off += 3 + int(h.b[off]) + 5 {
		if string(h.b[off+3:off+3+int(h.b[off])]) == name {
			return off
		}
	}
}
