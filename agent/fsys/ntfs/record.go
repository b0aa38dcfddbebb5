package ntfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	iofs "io/fs"

	"vmfr/agent/fsys"
)

// Flags of an MFT record, in its header:
//
//	0x00 "FILE"   0x04 update sequence: offset (2), count (2)   0x10 sequence number (2)
//	0x14 offset of the first attribute (2)   0x16 flags (2)   0x18 bytes in use (4)
//	0x20 base record, for an extension record (8)
const (
	recordInUse = 1
	recordIndex = 2 // a directory
	recordFixed = 0x28
)

// stride is the number of bytes that one entry of an update sequence protects, whatever the
// size of a sector is.
const stride = 512

// fixup undoes the update sequence of b, an MFT record or index block that was written with the
// last two bytes of each 512 replaced by one number: a torn write shows as a different one.
func fixup(b []byte) error {
	le := binary.LittleEndian
	off, count := int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	if count != len(b)/stride+1 || off < 8 || off%2 != 0 || off+2*count > stride-2 {
		return fmt.Errorf("update sequence of %d at %d", count, off)
	}
	number := le.Uint16(b[off:])
	for i := 1; i < count; i++ {
		if end := b[i*stride-2:]; le.Uint16(end) != number {
			return fmt.Errorf("sector %d was not written with the others (torn write)", i-1)
		}
	}
	for i := 1; i < count; i++ {
		copy(b[i*stride-2:i*stride], b[off+2*i:])
	}
	return nil
}

// reference is a file reference: the record's number (48 bits) and its sequence number, which
// changes whenever the record is used for another file. Sequence number 0 fits any.
type reference uint64

func (r reference) num() uint64 { return uint64(r) & (1<<48 - 1) }
func (r reference) seq() uint16 { return uint16(r >> 48) }

// record is a whole MFT record with its update sequence undone; shared and read-only.
type record struct {
	num uint64
	b   []byte
}

func (r record) seq() uint16     { return binary.LittleEndian.Uint16(r.b[0x10:]) }
func (r record) flags() uint16   { return binary.LittleEndian.Uint16(r.b[0x16:]) }
func (r record) base() reference { return reference(binary.LittleEndian.Uint64(r.b[0x20:])) }

// fits tells whether a reference still means this record.
func (r record) fits(ref reference) bool { return ref.seq() == 0 || ref.seq() == r.seq() }

// errFree is the error of a record that holds no file.
var errFree = errors.New("the record is free")

// checkRecord judges a record whose update sequence has been undone.
func checkRecord(b []byte) error {
	if string(b[:4]) != "FILE" {
		return fmt.Errorf("magic %q", b[:4])
	}
	if binary.LittleEndian.Uint16(b[0x16:])&recordInUse == 0 {
		return errFree
	}
	return nil
}

func notExist(ino fsys.Ino) error {
	return fmt.Errorf("ntfs: inode %d: %w", ino, iofs.ErrNotExist)
}

// Attribute types.
const (
	typeStandard   = 0x10 // $STANDARD_INFORMATION
	typeList       = 0x20 // $ATTRIBUTE_LIST
	typeFileName   = 0x30 // $FILE_NAME
	typeObjectID   = 0x40 // $OBJECT_ID
	typeSecurity   = 0x50 // $SECURITY_DESCRIPTOR
	typeVolumeName = 0x60 // $VOLUME_NAME
	typeVolumeInfo = 0x70 // $VOLUME_INFORMATION
	typeData       = 0x80 // $DATA
	typeIndexRoot  = 0x90 // $INDEX_ROOT
	typeIndexAlloc = 0xA0 // $INDEX_ALLOCATION
	typeBitmap     = 0xB0 // $BITMAP
	typeReparse    = 0xC0 // $REPARSE_POINT
	typeEA         = 0xE0 // $EA
	typeEnd        = 0xFFFFFFFF
)

// Flags of an attribute. The low byte is the method of compression: 1 is LZNT1.
const (
	attrCompressed = 0x0001
	attrMethod     = 0x00FF
	attrEncrypted  = 0x4000
	attrSparse     = 0x8000
)

// attr is one attribute, or one piece of it, as a record holds it:
//
//	0x00 type (4)   0x04 length (4)   0x08 non-resident (1)   0x09 name: length (1), offset (2)
//	0x0C flags (2)   0x0E instance (2)
//	resident:      0x10 value: length (4), offset (2)
//	non-resident:  0x10 first and last cluster number (8, 8)   0x20 offset of the mapping pairs (2)
//	               0x22 compression unit (1)   0x28 allocated, data and initialized size (8 each)
//	               0x40 total allocated (8), of compressed and sparse ones only
type attr struct {
	typ      uint32
	name     []byte // UTF-16, little-endian
	flags    uint16
	instance uint16
	resident bool
	value    []byte // of a resident one

	first, last uint64 // virtual cluster numbers; last is first-1 for none
	unit        uint8  // logarithm of the clusters in a compression unit; 0: none
	allocated   uint64 // bytes, with holes
	size, init  uint64 // bytes: data and initialized size, of the first piece
	total       uint64 // bytes really allocated
	pairs       []byte // mapping pairs
}

const (
	attrHeader       = 0x18
	attrHeaderMapped = 0x40
)

// parseAttr decodes the attribute at off of a record. ok is false at the end of the list.
func (r record) parseAttr(off int) (a attr, next int, ok bool, err error) {
	le := binary.LittleEndian
	bad := func(reason string, args ...any) error {
		return fsys.Corrupt("ntfs", "MFT record", fsys.Ino(r.num), -1, "attribute at %d: "+reason, append([]any{off}, args...)...)
	}
	end := min(uint64(le.Uint32(r.b[0x18:])), uint64(len(r.b)))
	if off < recordFixed || off%8 != 0 || uint64(off)+4 > end {
		return a, 0, false, bad("the list has no end within the %d bytes in use", end)
	}
	if a.typ = le.Uint32(r.b[off:]); a.typ == typeEnd {
		return a, 0, false, nil
	}
	if uint64(off)+attrHeader > end {
		return a, 0, false, bad("it passes the end of the record")
	}
	size := uint64(le.Uint32(r.b[off+4:]))
	if size < attrHeader || size%8 != 0 || size > end-uint64(off) {
		return a, 0, false, bad("a length of %d", size)
	}
	b := r.b[off : off+int(size) : off+int(size)]
	a.resident = b[8] == 0
	a.flags, a.instance = le.Uint16(b[0xC:]), le.Uint16(b[0xE:])
	if n := 2 * int(b[9]); n > 0 {
		at := int(le.Uint16(b[0xA:]))
		if at+n > len(b) {
			return a, 0, false, bad("a name of %d bytes at %d", n, at)
		}
		a.name = b[at : at+n]
	}
	if a.resident {
		n, at := uint64(le.Uint32(b[0x10:])), uint64(le.Uint16(b[0x14:]))
		if at > size || n > size-at {
			return a, 0, false, bad("a value of %d bytes at %d of %d", n, at, size)
		}
		a.value = b[at : at+n : at+n]
		a.size, a.init = n, n
		return a, off + int(size), true, nil
	}
	if size < attrHeaderMapped {
		return a, 0, false, bad("a length of %d", size)
	}
	a.first, a.last = le.Uint64(b[0x10:]), le.Uint64(b[0x18:])
	at := int(le.Uint16(b[0x20:]))
	a.unit = b[0x22]
	a.allocated, a.size, a.init = le.Uint64(b[0x28:]), le.Uint64(b[0x30:]), le.Uint64(b[0x38:])
	a.total = a.allocated
	if a.first == 0 && a.flags&(attrSparse|attrMethod) != 0 && size >= attrHeaderMapped+8 && at >= attrHeaderMapped+8 {
		a.total = le.Uint64(b[0x40:])
	}
	if at > len(b) || at < attrHeaderMapped {
		return a, 0, false, bad("mapping pairs at %d", at)
	}
	a.pairs = b[at:]
	if a.last+1 < a.first || a.last+1 > 1<<62 {
		return a, 0, false, bad("clusters %d to %d", a.first, a.last)
	}
	const top = 1 << 62
	if a.first == 0 && (a.allocated > top || a.size > a.allocated) {
		return a, 0, false, bad("%d bytes of data in %d allocated", a.size, a.allocated)
	}
	a.init = min(a.init, a.size)
	return a, off + int(size), true, nil
}

// first is the offset of the first attribute.
func (r record) firstAttr() int { return int(binary.LittleEndian.Uint16(r.b[0x14:])) }
