package ext4

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
)

// fuzzCache keeps the metadata cache small: a fuzz target opens thousands of file systems.
const fuzzCache = 256 << 10

// fuzzBase is an image of testdata that is changed for one call and then restored.
type fuzzBase struct {
	b   []byte
	hot []int // places of the blocks that hold anything
}

func newFuzzBase(t testing.TB, name string) *fuzzBase {
	t.Helper()
	f := &fuzzBase{b: fsystest.Stored(t, name)}
	zero := make([]byte, 1024)
	for off := 0; off < len(f.b); off += 1024 {
		if !bytes.Equal(f.b[off:off+1024], zero) {
			f.hot = append(f.hot, off)
		}
	}
	return f
}

// patch stores the values of records: number of a block that holds anything (1), offset in it
// (2), value (1). It returns the undoing.
func (f *fuzzBase) patch(records []byte) func() {
	type change struct {
		at  int
		old byte
	}
	var undo []change
	for ; len(records) >= 4; records = records[4:] {
		at := f.hot[int(records[0])%len(f.hot)] + int(binary.LittleEndian.Uint16(records[1:]))%1024
		undo = append(undo, change{at, f.b[at]})
		f.b[at] = records[3]
	}
	return func() {
		for i := len(undo) - 1; i >= 0; i-- {
			f.b[undo[i].at] = undo[i].old
		}
	}
}

// FuzzImage opens a damaged image, walks it and reads everything. The input is a byte that
// chooses the image, then records as patch takes them.
func FuzzImage(f *testing.F) {
	var images []*fuzzBase
	for i, b := range bases {
		images = append(images, newFuzzBase(f, b.name))
		f.Add([]byte{byte(i)})
		f.Add([]byte{byte(i), 0, 0x58, 0, 128, 1, 8, 0, 9, 5, 0x28, 1, 0})
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		img := images[int(in[0])%len(images)]
		defer img.patch(in[1:min(len(in), 1+4*256)])()
		fs, err := Open(extent.Bytes(img.b), Options{CacheBytes: fuzzCache})
		if err != nil {
			if !ofKnownKind(err) {
				t.Fatalf("open: an error of no kind: %v", err)
			}
			return
		}
		if err := survey(fs); err != nil && !ofKnownKind(err) {
			t.Fatal(err)
		}
	})
}

// fuzzFS is an undamaged file system whose device the target may change at the place of the
// block it gets.
func fuzzFS(f *testing.F, name string) (h *hostile, open func() *FS) {
	f.Helper()
	h = newHostile(f, name)
	return h, func() *FS {
		return must(Open(extent.Bytes(h.b), Options{CacheBytes: fuzzCache}))
	}
}

// FuzzDirBlock lists a directory of one block of arbitrary bytes, and looks up what it lists.
func FuzzDirBlock(f *testing.F) {
	h, open := fuzzFS(f, "plain")
	at := h.block("dir", 0)
	f.Add(bytes.Clone(h.b[at : at+1024]))
	for _, lblk := range []uint64{0, 1} {
		big := h.block("big", lblk)
		f.Add(bytes.Clone(h.b[big : big+1024]))
	}
	dir := h.ino("dir")
	f.Fuzz(func(t *testing.T, in []byte) {
		clear(h.b[at : at+1024])
		copy(h.b[at:at+1024], in)
		fs := open()
		buf := make([]fsys.Dirent, 7)
		from, names := fsys.Cookie(0), 0
		for err := error(nil); err == nil; {
			var n int
			n, err = fs.ReadDir(dir, from, buf)
			if n == 0 && err == nil {
				t.Fatalf("at %d: no entry and no error", from)
			}
			if err != nil && err != io.EOF && !ofKnownKind(err) {
				t.Fatal(err)
			}
			for _, d := range buf[:n] {
				if d.Name == "" || d.Name == "." || d.Name == ".." || strings.ContainsAny(d.Name, "/\x00") || d.Ino == 0 {
					t.Fatalf("entry %q of inode %d", d.Name, d.Ino)
				}
				if d.Next&^cookieDamaged <= from&^cookieDamaged {
					t.Fatalf("the cookie goes from %d to %d", from, d.Next)
				}
				if _, err := fs.Lookup(dir, d.Name); err != nil {
					t.Fatalf("%q is listed and not found: %v", d.Name, err)
				}
				from = d.Next
			}
			if names += n; names > 1024/minRecord {
				t.Fatalf("%d names in one block", names)
			}
		}
	})
}

// FuzzExtentNode maps a file whose extent root, and one node below it, are arbitrary bytes: 60
// for the root, the rest for the node.
func FuzzExtentNode(f *testing.F) {
	h, open := fuzzFS(f, "plain")
	root, node := h.inode("deep")+inoBlock, deepLeaf(h)
	f.Add(append(bytes.Clone(h.b[root:root+blockMapSize]), h.b[node:node+1024]...))
	good := h.inode("good") + inoBlock
	f.Add(bytes.Clone(h.b[good : good+blockMapSize]))
	ino := h.ino("deep")
	nodeBlock := uint32(node / 1024)
	f.Fuzz(func(t *testing.T, in []byte) {
		clear(h.b[root : root+blockMapSize])
		clear(h.b[node : node+1024])
		n := copy(h.b[root:root+blockMapSize], in)
		copy(h.b[node:node+1024], in[n:])
		if h.get16(root+6) > 0 && len(in) > blockMapSize { // the first child is the node
			h.put32(root+12+4, nodeBlock)
			h.put16(root+12+8, 0)
		}
		checkMapping(t, open(), ino)
	})
}

// checkMapping requires that a file's extents cover it without gaps, lie in the file system, and
// agree with what is read.
func checkMapping(t *testing.T, fs *FS, ino fsys.Ino) {
	t.Helper()
	r, err := fs.Open(ino)
	if err != nil {
		if !ofKnownKind(err) {
			t.Fatal(err)
		}
		return
	}
	const maxSteps = 500 // more than one node has extents
	buf := make([]byte, 4096)
	steps := 0
	for off := int64(0); off < r.Size(); {
		x, err := r.Extent(off, r.Size()-off)
		if err != nil {
			if !ofKnownKind(err) {
				t.Fatal(err)
			}
			off += 1024 // behind a damaged part
			if steps++; steps > maxSteps {
				return
			}
			continue
		}
		if x.Len <= 0 || x.Len > r.Size()-off {
			t.Fatalf("extent of %d bytes at %d of %d", x.Len, off, r.Size())
		}
		b := buf[:min(x.Len, int64(len(buf)))]
		if n, err := r.ReadAt(b, off); n < len(b) {
			t.Fatalf("%d bytes of an extent of %d at %d: %v", n, x.Len, off, err)
		}
		if x.Zero && len(bytes.Trim(b, "\x00")) > 0 {
			t.Fatalf("the hole at %d is not zeros", off)
		}
		off += x.Len
		if steps++; steps > maxSteps {
			return
		}
	}
}

// FuzzXattr decodes arbitrary bytes as the attributes in an inode (the first 96) and in a block.
func FuzzXattr(f *testing.F) {
	for _, name := range []string{"plain", "inline"} {
		h, _ := fuzzFS(f, name)
		at, path := h.inode("xa")+inoXattr, "xa"
		if name == "inline" {
			at, path = h.inode("ea")+inoXattr, "ea"
		}
		in := bytes.Clone(h.b[at : at+96])
		if block := h.at(h.inode(path) + inoACL); block != 0 {
			in = append(in, h.b[block:block+1024]...)
		}
		f.Add(in)
	}
	h, open := fuzzFS(f, "inline")
	body, block := h.inode("xa")+inoXattr, attrBlock(h)
	if block == 0 {
		f.Fatal("the file has no block of attributes")
	}
	ino := h.ino("xa")
	f.Fuzz(func(t *testing.T, in []byte) {
		clear(h.b[body : body+96])
		clear(h.b[block : block+1024])
		n := copy(h.b[body:body+96], in)
		copy(h.b[block:block+1024], in[n:])
		fs := open()
		xs, err := fs.Xattrs(ino)
		if err != nil {
			if !ofKnownKind(err) {
				t.Fatal(err)
			}
			return
		}
		total := 0
		for name, v := range xs {
			if strings.ContainsRune(name, 0) || len(name) > 255+len("security.") {
				t.Fatalf("name %q", name)
			}
			total += len(v)
		}
		if total > maxXattrTotal {
			t.Fatalf("%d bytes of attributes", total)
		}
	})
}
