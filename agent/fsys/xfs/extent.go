package xfs

import (
	"encoding/binary"
	"sync/atomic"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/block"
)

// The map of a fork. An extent record is 16 bytes: unwritten (1 bit), offset in the file (54),
// block address (52), count (21). They lie in the inode, or in the leaves of a B+tree:
//
//	root, in the inode  level (2) count (2) | keys, 8 bytes each | pointers, 8 bytes each
//	block               header (24, version 5: 72) | keys and pointers as above, or records
//
// There are as many places for keys as for pointers, whether used or not.
const (
	recordSize     = 16
	keySize        = 8
	bmbtRootHeader = 4
	bmbtMagicV4    = 0x424D4150 // "BMAP"
	bmbtMagicV5    = 0x424D4133 // "BMA3"
	bmbtHeaderV4   = 24
	bmbtHeaderV5   = 72
	maxBmbtLevel   = 9       // the kernel's limit: enough for 2^48 extents
	logicalEnd     = 1 << 54 // one past the last block of a file
)

// mapping is the map of one fork. It keeps the root and one decoded leaf of the tree (at most
// 4,092 extents), however fragmented the fork is.
type mapping struct {
	fs   *FS
	num  uint64
	off  int64  // of the inode, for errors
	what string // "extent map", for errors
	root []byte // of the tree; nil: last holds everything, always
	last atomic.Pointer[block.Leaf]
}

// mapping prepares the map of one of the inode's forks; what names it in errors.
func (f *FS) mapping(n *inode, k *fork, what string) (*mapping, error) {
	m := &mapping{fs: f, num: n.num, off: n.off, what: what}
	switch k.format {
	case formatExtents:
		if k.extents > uint64(len(k.raw)/recordSize) {
			return nil, m.bad(n.off, "%d extents in a fork of %d bytes", k.extents, len(k.raw))
		}
		l, err := m.records(k.raw[:k.extents*recordSize], 0, logicalEnd, n.off)
		if err != nil {
			return nil, err
		}
		m.last.Store(l)
	case formatBtree:
		// The inode's bytes are a part of a cached chunk, which an open file must not keep.
		m.root = append([]byte(nil), k.raw...)
	default:
		return nil, m.bad(n.off, "it has format %d", k.format)
	}
	return m, nil
}

func (m *mapping) bad(off int64, reason string, args ...any) error {
	return fsys.Corrupt("xfs", m.what, fsys.Ino(m.num), off, reason, args...)
}

// at maps logical block lblk: the result starts there.
func (m *mapping) at(lblk uint64) (block.Run, error) {
	if lblk >= logicalEnd {
		return block.Run{Logical: lblk, Count: 1 << 55}, nil // more than the rest of any file
	}
	l := m.last.Load()
	if l == nil || lblk < l.First || lblk >= l.End {
		var err error
		if l, err = m.leafAt(lblk); err != nil {
			return block.Run{}, err
		}
		m.last.Store(l)
	}
	return l.Find(lblk), nil
}

// records decodes and checks the extents of a leaf that covers [first, end).
func (m *mapping) records(b []byte, first, end uint64, off int64) (*block.Leaf, error) {
	l := &block.Leaf{First: first, End: end, Runs: make([]block.Run, 0, len(b)/recordSize)}
	next := first
	for ; len(b) > 0; b = b[recordSize:] {
		hi, lo := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
		addr := hi&0x1FF<<43 | lo>>21
		r := block.Run{Logical: hi >> 9 & (logicalEnd - 1), Count: lo & 0x1FFFFF}
		if r.Count == 0 || r.Logical < next || r.Logical+r.Count > end {
			return nil, m.bad(off, "extent of %d blocks at logical block %d, where [%d, %d) is free", r.Count, r.Logical, next, end)
		}
		phys, ok := m.fs.sb.linear(addr, r.Count)
		if !ok {
			return nil, m.bad(off, "logical block %d: %d blocks at address %#x are outside the allocation groups", r.Logical, r.Count, addr)
		}
		if unwritten := hi>>63 != 0; !unwritten {
			r.Phys = phys
		}
		next = r.Logical + r.Count
		l.Runs = append(l.Runs, r)
	}
	return l, nil
}

// bmbtNode is a node above the leaves, or the root.
type bmbtNode struct {
	level int
	keys  []byte
	ptrs  []byte
}

// parseRoot decodes the root in the inode.
func (m *mapping) parseRoot() (bmbtNode, error) {
	b := m.root
	if len(b) < bmbtRootHeader+keySize+8 {
		return bmbtNode{}, m.bad(m.off, "a tree in a fork of %d bytes", len(b))
	}
	room := (len(b) - bmbtRootHeader) / (keySize + 8)
	level, count := int(binary.BigEndian.Uint16(b)), int(binary.BigEndian.Uint16(b[2:]))
	if level < 1 || level > maxBmbtLevel || count < 1 || count > room {
		return bmbtNode{}, m.bad(m.off, "a root of level %d with %d of %d entries", level, count, room)
	}
	ptrs := bmbtRootHeader + room*keySize
	return bmbtNode{level, b[bmbtRootHeader:][:count*keySize], b[ptrs:][:count*8]}, nil
}

// step finds the child that covers lblk among the entries of a node that covers [first, end), and
// the range that the child covers. What lies before the first key is covered by the first child.
func (m *mapping) step(n bmbtNode, first, end, lblk uint64, off int64) (child, lo, hi uint64, err error) {
	count := len(n.keys) / keySize
	lo, hi = first, end
	prev := int64(-1)
	for i := range count {
		key := binary.BigEndian.Uint64(n.keys[i*keySize:])
		if key >= end || int64(key) <= prev || key < first {
			return 0, 0, 0, m.bad(off, "keys out of order at logical block %d", key)
		}
		prev = int64(key)
		if i == 0 || key <= lblk {
			child = binary.BigEndian.Uint64(n.ptrs[i*8:])
			if i > 0 {
				lo = key
			}
		} else if hi == end {
			hi = key
		}
	}
	return child, lo, hi, nil
}

// leafAt walks from the root to the leaf that covers lblk. Levels fall by one with every step, so
// the walk ends.
func (m *mapping) leafAt(lblk uint64) (*block.Leaf, error) {
	s := m.fs.sb
	node, err := m.parseRoot()
	if err != nil {
		return nil, err
	}
	magic, header := uint32(bmbtMagicV4), bmbtHeaderV4
	if s.v5 {
		magic, header = bmbtMagicV5, bmbtHeaderV5
	}
	first, end, off := uint64(0), uint64(logicalEnd), m.off
	for {
		child, lo, hi, err := m.step(node, first, end, lblk, off)
		if err != nil {
			return nil, err
		}
		first, end = lo, hi
		phys, ok := s.linear(child, 1)
		if !ok {
			return nil, m.bad(off, "a child at address %#x, outside the allocation groups", child)
		}
		b, err := m.fs.blocks(m.what, m.num, phys, 1)
		if err != nil {
			return nil, err
		}
		off = int64(phys * s.blockSize)
		if got := binary.BigEndian.Uint32(b); got != magic {
			return nil, m.bad(off, "magic is %#08x", got)
		}
		if s.v5 {
			if err := s.verify(b, bmbtHeader, m.what, m.num, off); err != nil {
				return nil, err
			}
		}
		level, count := int(binary.BigEndian.Uint16(b[4:])), int(binary.BigEndian.Uint16(b[6:]))
		room := (len(b) - header) / recordSize // keys and pointers take as much as a record
		switch {
		case level != node.level-1:
			return nil, m.bad(off, "level %d below level %d", level, node.level)
		case count < 1 || count > room:
			return nil, m.bad(off, "%d of %d entries", count, room)
		case level == 0:
			return m.records(b[header:][:count*recordSize], first, end, off)
		}
		node = bmbtNode{level, b[header:][:count*keySize], b[header+room*keySize:][:count*8]}
	}
}
