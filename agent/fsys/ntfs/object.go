package ntfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// maxList bounds an attribute list in bytes, as Windows does; the shortest entry has 32.
const (
	maxList        = 256 << 10
	listEntryFixed = 0x1A
	minListEntry   = 0x20
)

// object is a file, a directory or a metadata file: its base record, and the list of its
// attributes where they do not all fit there.
type object struct {
	fs   *FS
	rec  record
	list []listEntry // nil: all attributes are in rec
}

// listEntry is one entry of an attribute list.
//
//	0x00 type (4)   0x04 length (2)   0x06 name: length (1), offset (1)   0x08 first cluster (8)
//	0x10 file reference (8)   0x18 instance (2)
type listEntry struct {
	typ      uint32
	name     []byte
	first    uint64
	ref      reference
	instance uint16
}

// isIndex tells whether the object has names in it, as the record's header says.
func (n *object) isIndex() bool { return n.rec.flags()&recordIndex != 0 }

// object reads an object by its base record, metadata files included. fs.ErrNotExist where
// there is none.
func (f *FS) object(num uint64) (*object, error) {
	r, err := f.record(num)
	if errors.Is(err, errFree) {
		return nil, notExist(fsys.Ino(num))
	}
	if err != nil {
		return nil, err
	}
	if r.base().num() != 0 { // a part of another object
		return nil, notExist(fsys.Ino(num))
	}
	n := &object{fs: f, rec: r}
	l, err := r.find(typeList, nil)
	if err != nil {
		return nil, err
	}
	if l != nil {
		err = n.readList(l)
	}
	return n, err
}

// staleBit in an inode number marks the reference of a directory entry whose record has since
// been used for something else: such an entry is listed, and every access to it is
// fsys.ErrCorrupt. Record numbers end far below.
const staleBit fsys.Ino = 1 << 47

// node reads an object of the tree, by the number that the outside knows.
func (f *FS) node(ino fsys.Ino) (*object, error) {
	if ino < 1<<48 && ino&staleBit != 0 {
		return nil, fsys.Corrupt("ntfs", "directory entry", ino&^staleBit, -1, "what it refers to is not there any more")
	}
	if ino < firstUser && ino != rootIno || ino >= staleBit {
		return nil, notExist(ino)
	}
	return f.object(uint64(ino))
}

// readList decodes the attribute list l.
func (n *object) readList(l *attr) error {
	le := binary.LittleEndian
	bad := func(reason string, args ...any) error {
		return fsys.Corrupt("ntfs", "attribute list", fsys.Ino(n.rec.num), -1, reason, args...)
	}
	b := l.value
	if !l.resident {
		if l.size > maxList {
			return bad("it has %d bytes", l.size)
		}
		if l.flags&(attrMethod|attrEncrypted) != 0 {
			return bad("it is compressed or encrypted")
		}
		rl, err := n.fs.decodeRuns(n.rec.num, l) // it must be mapped by the base record alone
		if err != nil {
			return err
		}
		s := &stream{fs: n.fs, ino: n.rec.num, size: int64(l.size), init: int64(l.init), pieces: []piece{{next: rl.end}}}
		s.last.Store(rl)
		b = make([]byte, l.size)
		if err := extent.ReadAllAt(s, b, 0); err != nil {
			return fmt.Errorf("attribute list of inode %d: %w", n.rec.num, err)
		}
	}
	n.list = make([]listEntry, 0, len(b)/minListEntry)
	for off := 0; off+listEntryFixed <= len(b); {
		e := b[off:]
		size := int(le.Uint16(e[4:]))
		if size < listEntryFixed || size > len(e) || size%8 != 0 {
			if le.Uint32(e) == 0 || le.Uint32(e) == typeEnd {
				break // some writers leave room behind the last entry
			}
			return bad("an entry of %d bytes at %d of %d", size, off, len(b))
		}
		e = e[:size]
		x := listEntry{typ: le.Uint32(e), first: le.Uint64(e[8:]), ref: reference(le.Uint64(e[16:])), instance: le.Uint16(e[24:])}
		if k := 2 * int(e[6]); k > 0 {
			at := int(e[7])
			if at+k > size {
				return bad("a name of %d bytes at %d", k, at)
			}
			x.name = e[at : at+k]
		}
		n.list = append(n.list, x)
		off += size
	}
	return nil
}

// listed returns the attribute that an entry of the list stands for.
func (n *object) listed(e listEntry) (*attr, error) {
	bad := func(reason string, args ...any) error {
		return fsys.Corrupt("ntfs", "attribute list", fsys.Ino(n.rec.num), -1, reason, args...)
	}
	r := n.rec
	if num := e.ref.num(); num != r.num {
		var err error
		if r, err = n.fs.record(num); err != nil {
			if errors.Is(err, errFree) {
				return nil, bad("the attribute of type %#x is in record %d, which is free", e.typ, num)
			}
			return nil, fmt.Errorf("inode %d: %w", n.rec.num, err)
		}
		if base := r.base(); base.num() != n.rec.num || !n.rec.fits(base) {
			return nil, bad("the attribute of type %#x is in record %d, which belongs to record %d", e.typ, num, base.num())
		}
	}
	if !r.fits(e.ref) {
		return nil, bad("the attribute of type %#x is in use %d of record %d, which is now %d", e.typ, e.ref.seq(), r.num, r.seq())
	}
	for off := r.firstAttr(); ; {
		a, next, ok, err := r.parseAttr(off)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, bad("the attribute of type %#x is not in record %d", e.typ, r.num)
		}
		if a.typ == e.typ && a.instance == e.instance && a.first == e.first && bytes.Equal(a.name, e.name) {
			return &a, nil
		}
		off = next
	}
}

// each visits the attributes of a type, of mapped ones each first piece, until visit returns
// false.
func (n *object) each(typ uint32, visit func(*attr) bool) error {
	if n.list != nil {
		for i := range n.list {
			e := &n.list[i]
			if e.typ != typ || e.first != 0 {
				continue
			}
			a, err := n.listed(*e)
			if err != nil {
				return err
			}
			if !visit(a) {
				return nil
			}
		}
		return nil
	}
	for off := n.rec.firstAttr(); ; {
		a, next, ok, err := n.rec.parseAttr(off)
		if err != nil || !ok {
			return err
		}
		if a.typ == typ {
			if a.first != 0 {
				return fsys.Corrupt("ntfs", "MFT record", fsys.Ino(n.rec.num), -1, "the attribute at %d begins at cluster %d, and there is no list", off, a.first)
			}
			if !visit(&a) {
				return nil
			}
		}
		off = next
	}
}

// find returns the (first piece of the) attribute of a type and name, nil where there is none.
func (n *object) find(typ uint32, name []byte) (*attr, error) {
	if n.list == nil {
		a, err := n.rec.find(typ, name)
		if err == nil && a != nil && a.first != 0 {
			return nil, fsys.Corrupt("ntfs", "MFT record", fsys.Ino(n.rec.num), -1, "an attribute begins at cluster %d, and there is no list", a.first)
		}
		return a, err
	}
	for i := range n.list {
		if e := &n.list[i]; e.typ == typ && e.first == 0 && bytes.Equal(e.name, name) {
			return n.listed(*e)
		}
	}
	return nil, nil
}

// resident returns the value of an attribute that is always resident, nil where there is none.
func (n *object) resident(typ uint32) ([]byte, error) {
	a, err := n.find(typ, nil)
	if err != nil || a == nil {
		return nil, err
	}
	if !a.resident {
		return nil, fsys.Corrupt("ntfs", "MFT record", fsys.Ino(n.rec.num), -1, "an attribute of type %#x that is not resident", typ)
	}
	return a.value, nil
}

// value returns all bytes of an attribute, wherever they are, where there are at most limit
// (fsys.ErrCorrupt otherwise); nil where there is none.
func (n *object) value(typ uint32, limit int64) ([]byte, error) {
	a, err := n.find(typ, nil)
	if err != nil || a == nil {
		return nil, err
	}
	if a.resident {
		return a.value, nil
	}
	r, err := n.open(a)
	if err != nil {
		return nil, err
	}
	if r.Size() > limit {
		return nil, fsys.Corrupt("ntfs", "MFT record", fsys.Ino(n.rec.num), -1, "an attribute of type %#x with %d bytes", typ, r.Size())
	}
	b := make([]byte, r.Size())
	if err := extent.ReadAllAt(r, b, 0); err != nil {
		return nil, fmt.Errorf("attribute of inode %d: %w", n.rec.num, err)
	}
	return b, nil
}
