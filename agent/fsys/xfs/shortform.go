package xfs

import "encoding/binary"

// A short-form directory lies in the inode: number of entries (1 byte), of which with inode
// numbers of 8 bytes (1; if any has, all have), parent (4 or 8); then for each entry name length
// (1), offset that it would have in a block (2), name, file type (1, with ftype), inode (4 or 8).

// shortForm visits the entries from position from on, which is a byte in the inode's fork. Its
// result is as that of entries.
func (sc *dirScan) shortForm(from uint64, visit func(*dirent) bool) bool {
	s := sc.f.sb
	b := sc.n.data.raw[:min(sc.n.size, uint64(len(sc.n.data.raw)))]
	if len(b) < 6 {
		sc.note(sc.n.off, "a short form of %d bytes", len(b))
		return false
	}
	width := 4
	if b[1] != 0 {
		width = 8
	}
	off := 2 + width
	for i := range int(b[0]) {
		nameLen, ftype := 0, 0
		if s.ftype {
			ftype = 1
		}
		if off+3 <= len(b) {
			nameLen = int(b[off])
		}
		if nameLen == 0 || off+3+nameLen+ftype+width > len(b) {
			sc.note(sc.n.off, "entry %d of %d passes the end of the short form", i, b[0])
			return false
		}
		d := dirent{name: b[off+3 : off+3+nameLen]}
		start := off
		off += 3 + nameLen
		if s.ftype {
			d.typ = direntType(b[off])
		}
		off += ftype
		if width == 8 {
			d.ino = binary.BigEndian.Uint64(b[off:])
		} else {
			d.ino = uint64(binary.BigEndian.Uint32(b[off:]))
		}
		off += width
		d.next = uint64(off)
		if uint64(start) < from || isDot(d.name) {
			continue
		}
		if !s.usable(&d) {
			sc.note(sc.n.off, "entry %q for inode %d", d.name, d.ino)
			continue
		}
		if !visit(&d) {
			return true
		}
	}
	return false
}
