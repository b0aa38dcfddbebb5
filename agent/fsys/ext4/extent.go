package ext4

import (
	"encoding/binary"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/block"
)

// An extent tree ("Extent Tree" in the kernel's documentation): each node is a header of 12
// bytes and entries of 12; the root lies in i_block, the others fill a block and may end with
// a checksum.
const (
	extentMagic      = 0xF30A
	extentEntrySize  = 12
	maxExtentDepth   = 5       // the kernel's limit: enough for 2^32 blocks of 1 KiB
	maxExtentLen     = 1 << 15 // a longer length marks an unwritten extent, plus this
	logicalEnd       = 1 << 32 // one past the last logical block of an extent-mapped file
	rootExtentsLimit = (blockMapSize - extentEntrySize) / extentEntrySize
)

// extentNode is the header and entries of one node.
type extentNode struct {
	depth   int
	entries []byte
}

// parseExtentNode checks the header: magic, counts within the node's limit. off is the node's
// place in the volume for errors, -1 for the root.
func parseExtentNode(num uint32, b []byte, limit int, off int64) (extentNode, error) {
	bad := func(reason string, args ...any) error {
		return fsys.Corrupt("ext4", "extent tree", fsys.Ino(num), off, reason, args...)
	}
	le := binary.LittleEndian
	entries, maxEntries, depth := int(le.Uint16(b[2:])), int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	switch {
	case le.Uint16(b) != extentMagic:
		return extentNode{}, bad("magic is %#04x", le.Uint16(b))
	case maxEntries == 0 || maxEntries > limit || entries > maxEntries:
		return extentNode{}, bad("%d of %d entries where %d fit", entries, maxEntries, limit)
	case depth > maxExtentDepth:
		return extentNode{}, bad("depth %d", depth)
	case depth > 0 && entries == 0:
		return extentNode{}, bad("an index node without entries")
	}
	return extentNode{depth, b[extentEntrySize : extentEntrySize*(1+entries)]}, nil
}

// extentLeafAt walks from the root to the leaf that covers lblk. Depth falls by one with every
// step, so the walk ends.
func (f *FS) extentLeafAt(n *inode, lblk uint64) (*block.Leaf, error) {
	node, err := parseExtentNode(n.num, n.block[:], rootExtentsLimit, -1)
	if err != nil {
		return nil, err
	}
	first, end, off := uint64(0), uint64(logicalEnd), int64(-1)
	for node.depth > 0 {
		child, lo, hi, err := indexStep(n.num, node.entries, first, end, lblk, off)
		if err != nil {
			return nil, err
		}
		if child == 0 { // before the first entry: nothing is mapped there
			return &block.Leaf{First: lo, End: hi}, nil
		}
		first, end = lo, hi
		b, err := f.block("extent tree", n.num, child)
		if err != nil {
			return nil, err
		}
		off = int64(child * f.sb.blockSize)
		next, err := parseExtentNode(n.num, b, int(f.sb.blockSize-extentEntrySize)/extentEntrySize, off)
		if err != nil {
			return nil, err
		}
		if next.depth != node.depth-1 {
			return nil, fsys.Corrupt("ext4", "extent tree", fsys.Ino(n.num), off, "depth %d below depth %d", next.depth, node.depth)
		}
		if f.sb.metadataCsum() {
			// The checksum follows the last possible entry; 4 bytes at least always remain.
			tail := extentEntrySize * (1 + int(binary.LittleEndian.Uint16(b[4:])))
			if got, want := crc32c(n.csumSeed, b[:tail]), binary.LittleEndian.Uint32(b[tail:]); got != want {
				return nil, fsys.Corrupt("ext4", "extent tree", fsys.Ino(n.num), off, "checksum is %#08x, its bytes give %#08x", want, got)
			}
		}
		node = next
	}
	return f.decodeLeaf(n.num, node.entries, first, end, off)
}

// indexStep finds the child that covers lblk among the entries of an index node that covers
// [first, end), and the range that the child covers. child is 0 where lblk comes before all.
func indexStep(num uint32, entries []byte, first, end, lblk uint64, off int64) (child, lo, hi uint64, err error) {
	lo, hi = first, end
	prev := int64(-1)
	for e := entries; len(e) > 0; e = e[extentEntrySize:] {
		start := uint64(binary.LittleEndian.Uint32(e))
		if int64(start) <= prev || start < first || start >= end {
			return 0, 0, 0, fsys.Corrupt("ext4", "extent tree", fsys.Ino(num), off, "index entries out of order at logical block %d", start)
		}
		prev = int64(start)
		if start <= lblk {
			lo = start
			child = uint64(binary.LittleEndian.Uint32(e[4:])) | uint64(binary.LittleEndian.Uint16(e[8:]))<<32
			if child == 0 {
				return 0, 0, 0, fsys.Corrupt("ext4", "extent tree", fsys.Ino(num), off, "index entry without a block")
			}
		} else if hi == end {
			hi = start
		}
	}
	return child, lo, hi, nil
}

// decodeLeaf decodes and checks the extents of a leaf that covers [first, end).
func (f *FS) decodeLeaf(num uint32, entries []byte, first, end uint64, off int64) (*block.Leaf, error) {
	leaf := &block.Leaf{First: first, End: end, Runs: make([]block.Run, 0, len(entries)/extentEntrySize)}
	next := first
	for e := entries; len(e) > 0; e = e[extentEntrySize:] {
		r := block.Run{
			Logical: uint64(binary.LittleEndian.Uint32(e)),
			Count:   uint64(binary.LittleEndian.Uint16(e[4:])),
			Phys:    uint64(binary.LittleEndian.Uint16(e[6:]))<<32 | uint64(binary.LittleEndian.Uint32(e[8:])),
		}
		unwritten := r.Count > maxExtentLen
		if unwritten {
			r.Count -= maxExtentLen
		}
		if r.Count == 0 || r.Logical < next || r.Logical+r.Count > end {
			return nil, fsys.Corrupt("ext4", "extent tree", fsys.Ino(num), off,
				"extent of %d blocks at logical block %d, where [%d, %d) is free", r.Count, r.Logical, next, end)
		}
		if !f.sb.validBlocks(r.Phys, r.Count) {
			return nil, fsys.Corrupt("ext4", "extent tree", fsys.Ino(num), off,
				"logical block %d: blocks %d to %d are outside the file system", r.Logical, r.Phys, r.Phys+r.Count-1)
		}
		if unwritten {
			r.Phys = 0
		}
		next = r.Logical + r.Count
		leaf.Runs = append(leaf.Runs, r)
	}
	return leaf, nil
}
