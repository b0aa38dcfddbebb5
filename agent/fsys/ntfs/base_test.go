package ntfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/agent/ondisk"
)

// makeBase makes the small image that hostile and fuzz tests damage: one object of each kind that
// has a structure of its own.
func makeBase(t *testing.T) {
	t.Helper()
	img := makeNTFS(t, 3<<20, "-c", "512")
	dir := mount(t, img, "compression")
	p := func(s string) string { return filepath.Join(dir, s) }
	write(t, p("good"), fsystest.GoodContent)
	write(t, p("victim"), noise(3, 3000))
	write(t, p("dir/a"), []byte("a"))
	write(t, p("dir/sub/c"), []byte("c"))
	f, err := os.Create(p("deep"))
	check(t, err)
	for i := range int64(500) {
		_, err := f.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 512), i*1536)
		check(t, err)
	}
	check(t, f.Close())
	check(t, os.Mkdir(p("big"), 0o755))
	for i := range 150 {
		write(t, p(fmt.Sprintf("big/name %03d nnnnnnnnnnnnnnnnnnnn", i)), []byte{byte(i)})
	}
	compressed(t, p("c"))
	write(t, p("c/text"), text(1, 50_000))
	write(t, p("ads"), []byte("streams"))
	check(t, unix.Setxattr(p("ads"), "user.small", []byte("small"), 0))
	check(t, unix.Setxattr(p("ads"), "user.mapped", noise(1, 3000), 0))
	link(t, p("link"), tagSymlink, `dir\A`, symlinkRelative)
	link(t, p("dir/rooted"), tagSymlink, `\dir\a`, symlinkRelative)
	link(t, p("junction"), tagMountPoint, `\??\D:\dir\sub`, 0)
	check(t, os.Symlink("dir/sub", p("interix")))
	unmount(t, img, dir)
	fsystest.StoreFile(t, "base", img)
}

// TestBase checks that the image of testdata is what the damage is done to.
func TestBase(t *testing.T) {
	if fsystest.Updating() {
		makeBase(t)
	}
	h := newHostile(t)
	if err := survey(h.fs); err != nil {
		t.Error(err)
	}
	fsystest.CheckGood(t, h.fs, h.fs)
	n := h.object("deep")
	if l := must(n.rec.find(typeList, nil)); l == nil || len(n.list) < 5 {
		t.Errorf("deep has %d attributes listed", len(n.list))
	}
	if x := must(h.object("big").openIndex(nameI30)); x.count < 4 {
		t.Errorf("big has %d index blocks", x.count)
	}
}

// hostile is the image of testdata to be damaged, and the undamaged one to find things by.
type hostile struct {
	b  []byte
	fs *FS
}

func newHostile(t testing.TB) *hostile {
	t.Helper()
	b := fsystest.Stored(t, "base")
	fs, err := Open(extent.Bytes(bytes.Clone(b)), Options{})
	check(t, err)
	return &hostile{b: b, fs: fs}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // only where the undamaged image is asked
	}
	return v
}

func (h *hostile) ino(path string) fsys.Ino   { return must(fsystest.Find(h.fs, path)) }
func (h *hostile) object(path string) *object { return must(h.fs.object(uint64(h.ino(path)))) }

// record is the place of an MFT record in the image.
func (h *hostile) record(num uint64) int {
	s := h.fs.mft.data
	_, place, err := s.Span(int64(num)*int64(h.fs.boot.record), 1)
	if err != nil {
		panic(err)
	}
	return int(place)
}

// seal writes the update sequence that fixup undoes.
func seal(b []byte) {
	le := binary.LittleEndian
	off, count := int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	for i := 1; i < count; i++ {
		copy(b[off+2*i:off+2*i+2], b[i*stride-2:])
		copy(b[i*stride-2:i*stride], b[off:off+2])
	}
}

// change edits a protected structure of n bytes at a place of the image.
func (h *hostile) change(at, n int, edit func(b []byte)) {
	b := h.b[at : at+n]
	if err := fixup(b); err != nil {
		panic(err)
	}
	edit(b)
	seal(b)
}

// edit changes an MFT record.
func (h *hostile) edit(num uint64, edit func(b []byte)) {
	h.change(h.record(num), h.fs.boot.record, edit)
}

// file changes an object's base record.
func (h *hostile) file(path string, edit func(b []byte)) { h.edit(uint64(h.ino(path)), edit) }

// attr changes the first attribute of that type and name in a record: b begins with its header.
func (h *hostile) attr(num uint64, typ uint32, name string, edit func(b []byte)) {
	h.edit(num, func(b []byte) {
		r := record{num, b}
		var raw []byte
		if name != "" {
			raw = utf16le(name)
		}
		for off := r.firstAttr(); ; {
			a, next, ok, err := r.parseAttr(off)
			if err != nil || !ok {
				panic(fmt.Sprint("no such attribute: ", err))
			}
			if a.typ == typ && bytes.Equal(a.name, raw) {
				edit(b[off:])
				return
			}
			off = next
		}
	})
}

// block changes an index block of a directory.
func (h *hostile) block(path string, i uint64, edit func(b []byte)) {
	x := must(h.object(path).openIndex(nameI30))
	_, place, err := x.alloc.(*stream).Span(int64(i*x.block), 1)
	if err != nil {
		panic(err)
	}
	h.change(int(place), int(x.block), edit)
}

// leaf is a block of big without children.
func (h *hostile) leaf() uint64 {
	x := must(h.object("big").openIndex(nameI30))
	for i := range x.count {
		nd, err := x.blockNode(i)
		if err != nil {
			continue
		}
		if e := must(x.entryAt(nd, nd.first)); !e.has {
			return i
		}
	}
	panic("no leaf")
}

func put16(b []byte, off int, v uint16) { binary.LittleEndian.PutUint16(b[off:], v) }
func put32(b []byte, off int, v uint32) { binary.LittleEndian.PutUint32(b[off:], v) }
func put64(b []byte, off int, v uint64) { binary.LittleEndian.PutUint64(b[off:], v) }
func get16(b []byte, off int) int       { return int(binary.LittleEndian.Uint16(b[off:])) }
func get32(b []byte, off int) int       { return int(binary.LittleEndian.Uint32(b[off:])) }

// ofKnownKind tells whether every error joined in err is one that the interface names.
func ofKnownKind(err error) bool {
	if j, ok := err.(interface{ Unwrap() []error }); ok && !errors.Is(err, fsys.ErrCorrupt) {
		for _, e := range j.Unwrap() {
			if !ofKnownKind(e) {
				return false
			}
		}
		return true
	}
	for _, kind := range []error{
		fsys.ErrCorrupt, fsys.ErrUnsupported, fsys.ErrNoKey, fsys.ErrNotDir, fsys.ErrIsDir, fsys.ErrNotRegular, fsys.ErrNotLink,
		iofs.ErrNotExist, io.ErrUnexpectedEOF, ondisk.ErrBudget,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// survey visits everything that can be reached, within bounds: attributes, links, streams, names
// in batches of two sizes, and the start, the middle and the end of every content.
func survey(opened fsys.FS) error {
	fs := opened.(*FS)
	const maxObjects, maxErrors = 2000, 50
	var errs []error
	note := func(what string, ino fsys.Ino, err error) {
		if err != nil && err != io.EOF && len(errs) < maxErrors {
			errs = append(errs, fmt.Errorf("%s of %d: %w", what, ino, err))
		}
	}
	read := func(ino fsys.Ino, r extent.Reader) {
		buf := make([]byte, 70_000)
		for _, off := range []int64{0, r.Size() / 2, r.Size() - 1000} {
			if off >= 0 {
				_, err := r.ReadAt(buf, off)
				note("content", ino, err)
			}
		}
		for off, steps := int64(0), 0; off < r.Size() && steps < 50; steps++ {
			x, err := r.Extent(off, r.Size()-off)
			if err != nil {
				note("extent", ino, err)
				return
			}
			if x.Len <= 0 || x.Len > r.Size()-off {
				errs = append(errs, fmt.Errorf("extent of %d bytes at %d of %d", x.Len, off, r.Size()))
				return
			}
			off += x.Len
		}
	}
	fs.Info()
	todo, seen := []fsys.Ino{fs.Root()}, map[fsys.Ino]bool{fs.Root(): true}
	for len(todo) > 0 && len(seen) < maxObjects {
		ino := todo[0]
		todo = todo[1:]
		a, err := fs.Stat(ino)
		note("stat", ino, err)
		_, err = fs.Xattrs(ino)
		note("xattrs", ino, err)
		streams, err := fs.Streams(ino)
		note("streams", ino, err)
		for _, s := range streams[:min(len(streams), 10)] {
			r, err := fs.OpenStream(ino, s.Name)
			note("stream", ino, err)
			if err == nil {
				read(ino, r)
			}
		}
		switch {
		case a.IsSymlink():
			_, err := fs.Readlink(ino)
			note("link", ino, err)
		case a.IsRegular():
			r, err := fs.Open(ino)
			note("open", ino, err)
			if err == nil {
				read(ino, r)
			}
		case a.IsDir():
			names, err := fsystest.ReadAll(fs, ino, 50)
			note("listing", ino, err)
			if again, _ := fsystest.ReadAll(fs, ino, 3); len(again) != len(names) {
				errs = append(errs, fmt.Errorf("directory %d lists %d names, then %d", ino, len(names), len(again)))
			}
			for i, d := range names {
				if i%10 == 0 {
					_, err := fs.Lookup(ino, d.Name)
					note("lookup", ino, err)
				}
				if !seen[d.Ino] {
					seen[d.Ino] = true
					todo = append(todo, d.Ino)
				}
			}
		}
	}
	return errors.Join(errs...)
}
