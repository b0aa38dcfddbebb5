package xfs

import (
	"encoding/binary"

	"vmfr/agent/fsys"
)

// A value or symbolic link that has blocks of its own is bare in version 4. In version 5 each
// piece has a header: magic (4), offset of its bytes in the whole (4), how many (4), checksum (4),
// UUID (16), owner (8), address (8), LSN (8). A piece is a block of an attribute's value, or a
// whole extent of a symbolic link.
const (
	remoteHeaderSize = 56
	attrRemoteMagic  = 0x5841524D // "XARM"
	symlinkMagic     = 0x58534C4D // "XSLM"
)

// piece checks a piece of version 5, at byte off of the volume, that belongs to inode ino, and
// returns its bytes, at most want of them. done is how many came before it.
func (s *super) piece(b []byte, magic uint32, what string, ino uint64, off int64, done, want int) ([]byte, error) {
	be := binary.BigEndian
	bad := func(reason string, args ...any) error {
		return fsys.Corrupt("xfs", what, fsys.Ino(ino), off, reason, args...)
	}
	if got := be.Uint32(b); got != magic {
		return nil, bad("magic is %#08x", got)
	}
	if err := s.verify(b, remoteHeader, what, ino, off); err != nil {
		return nil, err
	}
	n := min(want, len(b)-remoteHeaderSize)
	if o, c := be.Uint32(b[4:]), be.Uint32(b[8:]); uint64(o) != uint64(done) || uint64(c) != uint64(n) {
		return nil, bad("it holds %d bytes at %d, where %d at %d are expected", c, o, n, done)
	}
	return b[remoteHeaderSize : remoteHeaderSize+n], nil
}

// remoteValue reads a value of size bytes that begins at logical block lblk of the attribute fork.
// d is the leaf that names it.
func (t *daTree) remoteValue(d *daBlock, lblk, size uint64) ([]byte, error) {
	if size > maxAttrValue {
		return nil, t.bad(d.off, "a value of %d bytes", size)
	}
	s := t.f.sb
	out := make([]byte, 0, size)
	for ; len(out) < int(size); lblk++ {
		if lblk == 0 {
			return nil, t.bad(d.off, "a value without blocks")
		}
		b, off, err := t.read(lblk)
		if err != nil {
			return nil, err
		}
		if b == nil {
			return nil, t.bad(d.off, "a hole in a value, at logical block %d", lblk)
		}
		want := int(size) - len(out)
		if s.v5 {
			if b, err = s.piece(b, attrRemoteMagic, "attribute value", t.m.num, off, len(out), want); err != nil {
				return nil, err
			}
		}
		out = append(out, b[:min(want, len(b))]...)
	}
	return out, nil
}
