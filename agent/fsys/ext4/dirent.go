package ext4

import (
	"bytes"
	"encoding/binary"

	"vmfr/agent/fsys"
)

// A directory entry: inode (4 bytes), record length (2), name length (1), file type (1), name.
// Records fill their block to its end; an unused one has inode 0.
const (
	direntHeader = 8
	minRecord    = 12
	maxNameLen   = 255
)

var direntTypes = [8]uint32{0, fsys.ModeRegular, fsys.ModeDir, fsys.ModeChar, fsys.ModeBlock, fsys.ModeFIFO, fsys.ModeSocket, fsys.ModeSymlink}

// dirent is one used record. name shares memory with the block.
type dirent struct {
	ino    uint32
	typ    uint32 // 0: not recorded
	name   []byte
	hash   uint32 // recorded in directories that are both encrypted and case-folded
	minor  uint32
	stored bool   // hash and minor are set
	next   uint64 // position in the directory that follows the record
}

// recordLen decodes a record length. Blocks of 64 KiB need 17 bits, which take the two lowest.
func recordLen(v uint16, blockSize uint64) int {
	if blockSize < 1<<16 {
		return int(v)
	}
	if v == 0xFFFF || v == 0 {
		return int(blockSize)
	}
	return int(v&^3) | int(v&3)<<16
}

// area is a part of a directory that records fill: a block or a piece of inline data.
type area struct {
	b    []byte
	base uint64 // position of b in the directory
	end  uint64 // position of what follows b
	off  int64  // place of b in the volume, for errors; -1: in the inode
}

// records visits the used records of a that begin at byte from of it or later. What is damaged is
// noted and passed over: one entry if its record is whole, or else the rest of the area. It
// returns true where visit returned false.
func (sc *dirScan) records(a area, from int, visit func(*dirent) bool) bool {
	s, le := sc.f.sb, binary.LittleEndian
	crypted := sc.n.has(flagEncrypt)
	for off := 0; off+direntHeader <= len(a.b); {
		size, nameLen := recordLen(le.Uint16(a.b[off+4:]), s.blockSize), int(a.b[off+6])
		if size < max(minRecord, direntHeader+(nameLen+3)&^3) || size%4 != 0 || size > len(a.b)-off {
			sc.note(a.off, "record of %d bytes with a name of %d, at byte %d of %d", size, nameLen, off, len(a.b))
			return false
		}
		rec := a.b[off : off+size]
		start := off
		off += size
		d := dirent{ino: le.Uint32(rec), name: rec[direntHeader : direntHeader+nameLen], next: a.base + uint64(off)}
		if off+direntHeader > len(a.b) {
			d.next = a.end
		}
		if d.ino == 0 || start < from || string(d.name) == "." || string(d.name) == ".." {
			continue
		}
		if d.ino > s.inodesCount || nameLen == 0 || !crypted && bytes.ContainsAny(d.name, "/\x00") {
			sc.note(a.off, "entry %q for inode %d of %d", d.name, d.ino, s.inodesCount)
			continue
		}
		if s.hasIncompat(incompatFiletype) && int(rec[7]) < len(direntTypes) {
			d.typ = direntTypes[rec[7]]
		}
		if at := direntHeader + (nameLen+3)&^3; crypted && sc.n.has(flagCasefold) && at+8 <= size {
			d.hash, d.minor, d.stored = le.Uint32(rec[at:]), le.Uint32(rec[at+4:]), true
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
		sc.damage = fsys.Corrupt("ext4", "directory", fsys.Ino(sc.n.num), off, reason, args...)
	}
}
