package xfs

import (
	"encoding/binary"
	"sort"

	"vmfr/agent/fsys"
)

// The index of directories and of attributes by hash ("Directories" and "Extended Attributes" in
// the XFS documentation): nodes point to nodes of the next lower level and at last to leaves,
// which are chained. Every block begins with the numbers of the next and the previous block
// in the chain (4 bytes each), magic (2); version 5 adds its own fields, up to byte 56.
//
//	node  count (2) level (2) | entries: highest hash below (4) block (4)
//	leaf  of a directory: count (2) stale (2) | entries: hash (4), place of the name / 8 (4)
const (
	daNodeMagicV4    = 0xFEBE
	daNodeMagicV5    = 0x3EBE
	leaf1MagicV4     = 0xD2F1 // the only leaf, with a table of free space at its end
	leaf1MagicV5     = 0x3DF1
	leafNMagicV4     = 0xD2FF
	leafNMagicV5     = 0x3DFF
	attrLeafMagicV4  = 0xFBEE
	attrLeafMagicV5  = 0x3BEE
	daCountV4        = 12 // where the count is: behind the common header
	daCountV5        = 56
	daEntriesV4      = 16
	daEntriesV5      = 64
	maxDaLevels      = 5 // as in the kernel
	daNodeEntrySize  = 8
	daForw, daMagic  = 0, 8
	leafTailSize     = 4
	dataptrUnitShift = 3
)

// daBlock is a node or leaf whose checksum and owner are right.
type daBlock struct {
	b     []byte
	off   int64
	magic uint16
	count int
	level int // of a node
	forw  uint32
}

// daTree reads the blocks of one index.
type daTree struct {
	f    *FS
	m    *mapping
	what string
	read func(lblk uint64) ([]byte, int64, error)
}

func (t *daTree) bad(off int64, reason string, args ...any) error {
	return fsys.Corrupt("xfs", t.what, fsys.Ino(t.m.num), off, reason, args...)
}

// block reads and checks the block at lblk.
func (t *daTree) block(lblk uint64) (*daBlock, error) {
	b, off, err := t.read(lblk)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, t.bad(-1, "a hole at logical block %d", lblk)
	}
	s := t.f.sb
	be := binary.BigEndian
	d := &daBlock{b: b, off: off, magic: be.Uint16(b[daMagic:]), forw: be.Uint32(b[daForw:])}
	at := daCountV4
	if s.v5 {
		at = daCountV5
		if err := s.verify(b, daHeader, t.what, t.m.num, off); err != nil {
			return nil, err
		}
	}
	d.count, d.level = int(be.Uint16(b[at:])), int(be.Uint16(b[at+2:]))
	return d, nil
}

// isNode tells whether d is a node, whose form is then checked.
func (t *daTree) isNode(d *daBlock) (bool, error) {
	magic := uint16(daNodeMagicV4)
	if t.f.sb.v5 {
		magic = daNodeMagicV5
	}
	if d.magic != magic {
		return false, nil
	}
	room := (len(d.b) - t.entriesAt()) / daNodeEntrySize
	if d.count < 1 || d.count > room || d.level < 1 || d.level > maxDaLevels {
		return false, t.bad(d.off, "a node of level %d with %d of %d entries", d.level, d.count, room)
	}
	return true, nil
}

func (t *daTree) entriesAt() int {
	if t.f.sb.v5 {
		return daEntriesV5
	}
	return daEntriesV4
}

// descend walks from the root to the first leaf that can hold hash. Levels fall by one with every
// step, so the walk ends.
func (t *daTree) descend(lblk uint64, hash uint32) (*daBlock, error) {
	for level := -1; ; {
		d, err := t.block(lblk)
		if err != nil {
			return nil, err
		}
		node, err := t.isNode(d)
		if err != nil {
			return nil, err
		}
		switch {
		case level > 0 && node && d.level != level-1 || level == 1 && node || level > 1 && !node:
			return nil, t.bad(d.off, "level %d below level %d", d.level, level)
		case !node:
			return d, nil
		}
		level = d.level
		e := d.b[t.entriesAt():]
		i := sort.Search(d.count, func(i int) bool { return binary.BigEndian.Uint32(e[i*daNodeEntrySize:]) >= hash })
		if i == d.count { // above all: where there is such a name, the last leaf has it
			i--
		}
		lblk = uint64(binary.BigEndian.Uint32(e[i*daNodeEntrySize+4:]))
	}
}
