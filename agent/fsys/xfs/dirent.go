package xfs

import (
	"bytes"
	"encoding/binary"

	"vmfr/agent/fsys"
)

// A directory entry in a data block, padded to 8 bytes: inode (8 bytes), name length (1), name,
// file type (1, with ftype), and its own offset in the block (2) at the end. Unused space begins
// with 0xFFFF and its length (2), and ends with its offset, too.
const (
	direntAlign = 8
	minDirent   = 16
	unusedTag   = 0xFFFF
	maxNameLen  = 255
)

var direntTypes = [8]uint32{0, fsys.ModeRegular, fsys.ModeDir, fsys.ModeChar, fsys.ModeBlock, fsys.ModeFIFO, fsys.ModeSocket, fsys.ModeSymlink}

// dirent is one name. name shares memory with the block.
type dirent struct {
	ino  uint64
	typ  uint32 // 0: not recorded
	name []byte
	next uint64 // position in the directory that follows the entry
}

// direntSize is what an entry takes in a data block.
func (s *super) direntSize(nameLen int) int {
	n := 8 + 1 + nameLen + 2
	if s.ftype {
		n++
	}
	return (n + direntAlign - 1) &^ (direntAlign - 1)
}

func direntType(b byte) uint32 {
	if int(b) < len(direntTypes) {
		return direntTypes[b]
	}
	return 0
}

// usable tells whether an entry can be an object's: the name one that a path can have, and the inode
// in an allocation group.
func (s *super) usable(d *dirent) bool {
	return len(d.name) > 0 && bytes.IndexByte(d.name, '/') < 0 && bytes.IndexByte(d.name, 0) < 0 && s.validIno(d.ino)
}

func isDot(name []byte) bool { return string(name) == "." || string(name) == ".." }

// entry decodes the entry at byte off of a data block whose entries end at byte end. size is what it
// takes; reason is not empty where there is none.
func (s *super) entry(b []byte, off, end int) (d dirent, size int, reason string) {
	if end-off < minDirent {
		return dirent{}, 0, "it passes the end"
	}
	nameLen := int(b[off+8])
	size = s.direntSize(nameLen)
	if size > end-off {
		return dirent{}, 0, "its name passes the end"
	}
	if tag := int(binary.BigEndian.Uint16(b[off+size-2:])); tag != off&0xFFFF {
		return dirent{}, 0, "it does not end with its offset"
	}
	d = dirent{ino: binary.BigEndian.Uint64(b[off:]), name: b[off+9 : off+9+nameLen]}
	if s.ftype {
		d.typ = direntType(b[off+9+nameLen])
	}
	return d, size, ""
}

// dataBlock is a directory block that holds entries.
type dataBlock struct {
	b     []byte
	base  uint64 // position of b in the directory
	off   int64  // place of b in the volume, for errors
	start int    // of the entries
	end   int    // of the entries
	tail  bool   // the whole directory in one block, with its index at the end
}

// entries visits the entries of a block that begin at byte from of it or later. What is damaged is
// noted and passed over: one entry if its size is known, or else the rest of the block. It
// returns true where visit returned false.
func (sc *dirScan) entries(a *dataBlock, from int, visit func(*dirent) bool) bool {
	s := sc.f.sb
	for off := a.start; off < a.end; {
		if a.end-off < direntAlign {
			sc.note(a.off, "%d bytes left over at byte %d", a.end-off, off)
			return false
		}
		if binary.BigEndian.Uint16(a.b[off:]) == unusedTag {
			n := int(binary.BigEndian.Uint16(a.b[off+2:]))
			if n == 0 || n%direntAlign != 0 || n > a.end-off {
				sc.note(a.off, "%d unused bytes at byte %d of %d", n, off, a.end)
				return false
			}
			off += n
			continue
		}
		d, size, reason := s.entry(a.b, off, a.end)
		if reason != "" {
			sc.note(a.off, "entry at byte %d: %s", off, reason)
			return false
		}
		start := off
		off += size
		if start < from || isDot(d.name) {
			continue
		}
		if !s.usable(&d) {
			sc.note(a.off, "entry %q for inode %d", d.name, d.ino)
			continue
		}
		d.next = a.base + uint64(off)
		if off >= a.end {
			d.next = a.base + s.dirSize
		}
		if !visit(&d) {
			return true
		}
	}
	return false
}

// note keeps the first damage of a scan.
func (sc *dirScan) note(off int64, reason string, args ...any) {
	if sc.damage == nil {
		sc.damage = fsys.Corrupt("xfs", "directory", fsys.Ino(sc.n.num), off, reason, args...)
	}
}
