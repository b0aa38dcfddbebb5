package ntfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
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

// TestDOSNames: a file with a long and a DOS name is one name, one link; the DOS name is an
// attribute, and a link's target can be told by it.
func TestDOSNames(t *testing.T) {
	img := makeNTFS(t, 32<<20)
	dir := mount(t, img)
	p := func(s string) string { return filepath.Join(dir, s) }
	for i := range 100 {
		path := p(fmt.Sprintf("Program Files/A long name %d.text", i))
		write(t, path, []byte{byte(i)})
		check(t, unix.Setxattr(path, xattrDOSName, fmt.Appendf(nil, "ALONGN~%d.TEX", i), 0))
	}
	check(t, unix.Setxattr(p("Program Files"), xattrDOSName, []byte("PROGRA~1"), 0))
	check(t, os.Link(p("Program Files/A long name 7.text"), p("second name")))
	link(t, p("by DOS name"), tagSymlink, `progra~1\ALONGN~7.TEX`, symlinkRelative)
	unmount(t, img, dir)
	fs := openImage(t, img)
	want := manifest(t, img)
	if e := want["Program Files/A long name 3.text"]; e.Xattrs[xattrDOSName] != "ALONGN~3.TEX" {
		t.Fatalf("%+v", e)
	}
	// ntfs-3g gives the DOS name with one of a file's names, an inode has it with all, and it
	// leaves a link's target as it was written.
	for _, path := range []string{"second name", "Program Files/A long name 7.text"} {
		want[path].Xattrs[xattrDOSName] = "ALONGN~7.TEX"
	}
	// It counts the DOS name as a link.
	for path, e := range want {
		if e.Xattrs[xattrDOSName] != "" && e.Mode&fsys.ModeFmt == fsys.ModeRegular {
			e.Nlink--
			want[path] = e
		}
	}
	e := want["by DOS name"]
	e.Target = "Program Files/A long name 7.text"
	e.Size = int64(len(e.Target))
	want["by DOS name"] = e
	fsystest.Run(t, fs, want)
	if _, err := fs.Lookup(find(t, fs, "Program Files"), "ALONGN~3.TEX"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("lookup of a DOS name: %v", err)
	}
}

// TestSecurity: descriptors that are kept in $Secure, many of them, and object ids.
func TestSecurity(t *testing.T) {
	img := makeNTFS(t, 32<<20)
	dir := mount(t, img, "permissions")
	for i := range 300 {
		path := filepath.Join(dir, fmt.Sprintf("f%d", i))
		write(t, path, nil)
		check(t, os.Chown(path, 1000+i%150, 2000+i))
		check(t, os.Chmod(path, iofs.FileMode(0o400+i%200)))
		if i < 3 {
			check(t, unix.Setxattr(path, xattrObject, bytes.Repeat([]byte{byte(i + 1)}, 16), 0))
		}
	}
	unmount(t, img, dir)
	fs := openImage(t, img)
	want := manifest(t, img)
	for _, e := range want { // ntfs-3g adds what $ObjId has beside it
		if v, ok := e.Xattrs[xattrObject]; ok {
			e.Xattrs[xattrObject] = v[:16]
		}
	}
	fsystest.Run(t, fs, want)
	inIndex, different := 0, map[string]bool{}
	for path, e := range want {
		n, err := fs.object(uint64(find(t, fs, path)))
		check(t, err)
		std, err := n.standard()
		check(t, err)
		if std.securityID != 0 {
			inIndex++
		}
		different[e.Xattrs[xattrACL]] = true
	}
	if inIndex < 300 || len(different) < 200 {
		t.Errorf("%d files have their descriptor in $Secure, %d are different", inIndex, len(different))
	}
}

// TestInitializedSize: what a file has allocated and never written reads as zeros, whatever lies
// there, and is a hole.
func TestInitializedSize(t *testing.T) {
	img := makeNTFS(t, 32<<20)
	dir := mount(t, img, "compression")
	write(t, filepath.Join(dir, "plain"), noise(1, 100_000))
	compressed(t, filepath.Join(dir, "c"))
	write(t, filepath.Join(dir, "c/text"), text(1, 300_000))
	unmount(t, img, dir)
	for path, init := range map[string]uint64{"plain": 12_345, "c/text": 70_001} {
		change(t, img, func(h *hostile) {
			h.attr(uint64(h.ino(path)), typeData, "", func(b []byte) { put64(b, 0x38, init) })
		})
	}
	fs := openImage(t, img)
	want := manifest(t, img)
	fsystest.Run(t, fs, want)
	r, err := fs.Open(find(t, fs, "plain"))
	check(t, err)
	if x, err := r.Extent(12_345, 1<<20); err != nil || !x.Zero || x.Len != 100_000-12_345 {
		t.Errorf("%+v, %v", x, err)
	}
}

// change edits an image on disk.
func change(t testing.TB, img string, edit func(h *hostile)) {
	t.Helper()
	b, err := os.ReadFile(img)
	check(t, err)
	fs, err := Open(extent.Bytes(bytes.Clone(b)), Options{})
	check(t, err)
	edit(&hostile{b, fs})
	check(t, os.WriteFile(img, b, 0o644))
}

// TestTableInPieces: a master file table that is mapped by several records. ntfs-3g reads such a
// table and cannot be brought to make one, so one is cut up here.
func TestTableInPieces(t *testing.T) {
	img := makeNTFS(t, 32<<20)
	dir := mount(t, img)
	for i := range 300 {
		write(t, filepath.Join(dir, fmt.Sprintf("d/file %d", i)), noise(uint64(i), i*3))
	}
	unmount(t, img, dir)
	want := manifest(t, img)
	change(t, img, cutTable)
	fs := openImage(t, img)
	if n, err := fs.object(0); err != nil || len(n.list) < 6 {
		t.Fatalf("%+v, %v", n, err)
	}
	again := manifest(t, img)
	if d := fsystest.Diff(want, again); len(d) > 0 {
		t.Fatalf("ntfs-3g reads it differently: %v", d)
	}
	fsystest.Run(t, fs, want)
}

// cutTable maps the master file table by three pieces: all but the first in records 13 and 14,
// with an attribute list. Those are reserved and in use, and lie in the first piece.
func cutTable(h *hostile) {
	cs := h.fs.boot.cluster
	all := h.fs.mft.data.last.Load()
	lcn, count := all.at(0)
	if count < 12 {
		panic("the table's first run is too short")
	}
	type part struct {
		first, n uint64
		lcn      int64
	}
	parts := []part{{0, 8, lcn}, {8, 2, lcn + 8}, {10, all.end - 10, lcn + 10}}
	if count != all.end {
		panic("the table has several runs")
	}
	encode := func(p part) []byte {
		b := []byte{0x44}
		b = binary.LittleEndian.AppendUint32(b, uint32(p.n))
		return append(binary.LittleEndian.AppendUint32(b, uint32(p.lcn)), 0)
	}
	piece := func(p part, instance uint16, whole []byte) []byte {
		b := append([]byte(nil), whole[:0x40]...)
		put16(b, 0xE, instance)
		put64(b, 0x10, p.first)
		put64(b, 0x18, p.first+p.n-1)
		put16(b, 0x20, 0x40)
		if p.first > 0 {
			clear(b[0x28:0x40])
		}
		b = append(b, encode(p)...)
		b = append(b, make([]byte, -len(b)&7)...)
		put32(b, 4, uint32(len(b)))
		return b
	}
	var whole []byte
	var others [][]byte // the other attributes of the table's record
	h.edit(0, func(b []byte) {
		r := record{0, b}
		for off := r.firstAttr(); ; {
			a, next, ok, err := r.parseAttr(off)
			if err != nil {
				panic(err)
			}
			if !ok {
				break
			}
			if a.typ == typeData {
				whole = bytes.Clone(b[off:next])
			} else {
				others = append(others, bytes.Clone(b[off:next]))
			}
			off = next
		}
		if parts[2].first*cs > uint64(h.fs.mft.data.init) {
			panic("the table is too short")
		}
		var list []byte
		entry := func(typ uint32, first, ref uint64, instance uint16) {
			e := make([]byte, minListEntry)
			put32(e, 0, typ)
			put16(e, 4, minListEntry)
			e[7] = listEntryFixed
			put64(e, 8, first)
			put64(e, 0x10, ref)
			put16(e, 0x18, instance)
			list = append(list, e...)
		}
		self := uint64(r.seq()) << 48
		attrs := map[uint32][]byte{}
		var order []uint32
		for _, o := range others {
			typ := uint32(get32(o, 0))
			order = append(order, typ)
			attrs[typ] = o
		}
		first := piece(parts[0], 50, whole)
		for _, typ := range append(order, 0) {
			if typ > typeData || typ == 0 {
				if first != nil {
					entry(typeData, 0, self, 50)
					entry(typeData, parts[1].first, 13<<0|uint64(13)<<48, 51)
					entry(typeData, parts[2].first, 14<<0|uint64(14)<<48, 52)
					attrs[typeData] = first
					first = nil
				}
			}
			if typ != 0 {
				entry(typ, 0, self, uint16(get16(attrs[typ], 0xE)))
			}
		}
		l := make([]byte, attrHeader, attrHeader+len(list))
		put32(l, 0, typeList)
		put16(l, 0xE, 49)
		put32(l, 0x10, uint32(len(list)))
		put16(l, 0x14, attrHeader)
		l = append(l, list...)
		put32(l, 4, uint32(len(l)))
		off := r.firstAttr()
		emit := func(a []byte) { off += copy(b[off:], a) }
		emit(attrs[typeStandard])
		emit(l)
		for _, typ := range []uint32{typeFileName, typeData, typeBitmap} {
			emit(attrs[typ])
		}
		put32(b, off, typeEnd)
		put32(b, 0x18, uint32(off+8))
		put16(b, 0x28, 60)
	})
	for i, num := range []uint64{13, 14} {
		h.edit(num, func(b []byte) {
			put16(b, 0x10, uint16(num)) // the sequence number that the list has
			put16(b, 0x12, 0)
			put16(b, 0x16, recordInUse)
			put64(b, 0x20, 1<<48)
			off := record{num, b}.firstAttr()
			off += copy(b[off:], piece(parts[i+1], uint16(51+i), whole))
			put32(b, off, typeEnd)
			put32(b, 0x18, uint32(off+8))
		})
	}
	// The mirror must say the same, or ntfs-3g repairs it.
	copy(h.b[h.fs.boot.mirror*cs:][:1024], h.b[h.record(0):][:1024])
}

// TestHibernated: Windows that is asleep on the volume is told.
func TestHibernated(t *testing.T) {
	for head, want := range map[string]bool{"HIBR": true, "hibr": true, "wake": false, "\x00\x00\x00\x00": false} {
		img := makeNTFS(t, 32<<20)
		dir := mount(t, img)
		write(t, filepath.Join(dir, "HiberFil.sys"), append([]byte(head), make([]byte, 8000)...))
		unmount(t, img, dir)
		i := openImage(t, img).Info()
		if got := strings.Contains(strings.Join(i.Warnings, " "), "hibernated") && strings.Contains(i.Journal, "not replayed"); got != want {
			t.Errorf("%q: %+v", head, i)
		}
	}
}

// TestInfo compares sizes and free counts with statfs.
func TestInfo(t *testing.T) {
	img := makeNTFS(t, 64<<20, "-L", "Größe 大", "-c", "2048")
	dir := mount(t, img)
	populate(t, dir)
	unmount(t, img, dir)
	dir = mount(t, img, "ro")
	var st unix.Statfs_t
	check(t, unix.Statfs(dir, &st))
	i := openImage(t, img).Info()
	if i.Total != st.Blocks*uint64(st.Bsize) || i.Free != st.Bfree*uint64(st.Bsize) || i.Label != "Größe 大" || i.Type != "ntfs" || i.BlockSize != 2048 {
		t.Errorf("%+v, statfs %+v", i, st)
	}
	if len(i.UUID) != 16 || !strings.Contains(fixture.Run(t, "blkid", "-p", img), i.UUID) {
		t.Errorf("serial number %s", i.UUID)
	}
}

// TestDirtyVolume: ntfs-3g marks a volume that a program marked dirty.
func TestDirtyVolume(t *testing.T) {
	img := makeNTFS(t, 32<<20)
	fixture.Run(t, "ntfsfix", img) // it schedules a check
	i := openImage(t, img).Info()
	if !strings.Contains(strings.Join(i.Warnings, " "), "marked as dirty") || i.Journal == "clean" {
		t.Errorf("%+v", i)
	}
}

// TestStreams: all streams, also those that are too large or too oddly named to be attributes.
func TestStreams(t *testing.T) {
	img := makeNTFS(t, 64<<20)
	dir := mount(t, img)
	p := func(s string) string { return filepath.Join(dir, s) }
	want := map[string][]byte{"small": []byte("x"), "none": {}, "full": noise(1, 64<<10), "Zone.Identifier": []byte("[ZoneTransfer]\r\nZoneId=3\r\n"), "zoné \U0001F600": text(2, 5000), strings.Repeat("n", 240): []byte("long")}
	write(t, p("file"), []byte("content"))
	for name, b := range want {
		check(t, unix.Setxattr(p("file"), "user."+name, b, 0))
	}
	unmount(t, img, dir)
	large := filepath.Join(t.TempDir(), "large")
	want["large"], want[strings.Repeat("长", 100)] = noise(7, 300_000), []byte("300 bytes of name")
	for _, name := range []string{"large", strings.Repeat("长", 100)} {
		write(t, large, want[name])
		cmd := []string{"-N", name, img, large, "file"}
		fixture.Run(t, "env", append([]string{"LC_ALL=C.UTF-8", "ntfscp", "-q"}, cmd...)...)
	}
	fs := openImage(t, img)
	ino := find(t, fs, "file")
	list, err := fs.Streams(ino)
	check(t, err)
	for i, s := range list {
		if i > 0 && list[i-1].Name >= s.Name {
			t.Errorf("%q is followed by %q", list[i-1].Name, s.Name)
		}
		r, err := fs.OpenStream(ino, s.Name)
		check(t, err)
		b := make([]byte, r.Size())
		_, err = extent.ReadFull(r, b, 0)
		check(t, err)
		if w, ok := want[s.Name]; !ok || s.Size != int64(len(w)) || !bytes.Equal(b, w) {
			t.Errorf("stream %q of %d bytes is not what was written", s.Name, s.Size)
		}
	}
	if len(list) != len(want) {
		t.Errorf("%d streams, want %d", len(list), len(want))
	}
	x, err := fs.Xattrs(ino)
	check(t, err)
	for name, b := range want {
		v, ok := x["user.ads."+name]
		if shown := len(b) <= 64<<10 && len(name) <= 255-len("user.ads."); ok != shown || ok && !bytes.Equal(v, b) {
			t.Errorf("stream %q as an attribute: %v", name, ok)
		}
	}
	for _, name := range []string{"", "no such stream", "SMALL", "a/b", "\xff"} {
		if _, err := fs.OpenStream(ino, name); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("stream %q: %v", name, err)
		}
	}
}
