package ntfs

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// An index is a B+ tree whose inner nodes hold entries too. The root is resident
// ($INDEX_ROOT), the other nodes are blocks of $INDEX_ALLOCATION, and $BITMAP says which of those
// are in use.
//
//	$INDEX_ROOT: 0x00 type of the key (4)   0x04 collation (4)   0x08 block size (4)   0x10 node
//	block:       0x00 "INDX"   0x04 update sequence   0x10 its own number (8)   0x18 node
//	node:        0x00 offset of the first entry (4)   0x04 bytes in use (4)   0x0C flags (1)
//	entry:       0x00 value (8)   0x08 length (2)   0x0A length of the key (2)   0x0C flags (2)
//	             0x10 key   at the end: number of the child before it (8)
type index struct {
	f     *FS
	n     *object
	name  string // key in the cache
	root  []byte // the node
	block uint64 // bytes of a block
	unit  uint64 // bytes that a block's number counts
	alloc extent.Reader
	count uint64 // of blocks
}

const (
	entryFixed = 0x10
	entryChild = 1
	entryLast  = 2
)

// The names of the indexes of directories and of security descriptors, in UTF-16.
var (
	nameI30 = []byte("$\x00I\x003\x000\x00")
	nameSII = []byte("$\x00S\x00I\x00I\x00")
)

func (x *index) bad(block int64, reason string, args ...any) error {
	what := "index root"
	if block >= 0 {
		what = fmt.Sprintf("index block %d", block)
	}
	return fsys.Corrupt("ntfs", what, fsys.Ino(x.n.rec.num), -1, reason, args...)
}

// openIndex reads the root of the index of that name.
func (n *object) openIndex(name []byte) (*index, error) {
	x := &index{f: n.fs, n: n}
	if string(name) != string(nameI30) {
		x.name = string(name)
	}
	a, err := n.find(typeIndexRoot, name)
	if err != nil {
		return nil, err
	}
	if a == nil || !a.resident || len(a.value) < 0x20 {
		return nil, x.bad(-1, "it is missing or too short")
	}
	x.root = a.value[0x10:]
	x.block = uint64(binary.LittleEndian.Uint32(a.value[8:]))
	if x.block < minIndexBlock || x.block > maxIndexBlock || bits.OnesCount64(x.block) != 1 {
		return nil, x.bad(-1, "blocks of %d bytes", x.block)
	}
	if x.unit = n.fs.boot.cluster; x.unit > x.block {
		x.unit = stride
	}
	if a, err = n.find(typeIndexAlloc, name); err != nil || a == nil {
		return x, err
	}
	if a.resident || a.flags&(attrMethod|attrEncrypted) != 0 {
		return nil, x.bad(-1, "its blocks are resident, compressed or encrypted")
	}
	if x.alloc, err = n.stream(a); err != nil {
		return nil, err
	}
	// Every block is its own: more of them than the device has is a trap.
	if x.count = uint64(x.alloc.Size()) / x.block; x.count > uint64(n.fs.dev.Size())/x.block {
		return nil, x.bad(-1, "%d bytes of blocks", x.alloc.Size())
	}
	return x, nil
}

// node is a part of an index: entries in b from the first on.
type node struct {
	b     []byte
	first int
	block int64 // -1: the root
}

// nodeAt checks a node's header and returns its entries' bytes.
func (x *index) nodeAt(b []byte, block int64) (node, error) {
	le := binary.LittleEndian
	first, used := le.Uint32(b), le.Uint32(b[4:])
	if uint64(used) > uint64(len(b)) || first > used || first < 0x10 || first%8 != 0 {
		return node{}, x.bad(block, "entries from byte %d to %d of %d", first, used, len(b))
	}
	return node{b[:used:used], int(first), block}, nil
}

// rootNode is the root.
func (x *index) rootNode() (node, error) { return x.nodeAt(x.root, -1) }

// blockNode reads block i.
func (x *index) blockNode(i uint64) (node, error) {
	if i >= x.count {
		return node{}, x.bad(int64(i), "there are %d blocks", x.count)
	}
	c, err := x.f.meta.Get(metaKey{x.n.rec.num + 1, x.name, i}, func() (*metaChunk, error) {
		b := make([]byte, x.block)
		if err := extent.ReadAllAt(x.alloc, b, int64(i*x.block)); err != nil {
			return nil, fmt.Errorf("ntfs: index block %d of inode %d: %w", i, x.n.rec.num, err)
		}
		if string(b[:4]) != "INDX" {
			return nil, x.bad(int64(i), "magic %q", b[:4])
		}
		if err := fixup(b); err != nil {
			return nil, x.bad(int64(i), "%v", err)
		}
		if own := binary.LittleEndian.Uint64(b[0x10:]); own != i*(x.block/x.unit) {
			return nil, x.bad(int64(i), "it says it is block %d", own)
		}
		return &metaChunk{b: b}, nil
	})
	if err != nil {
		return node{}, err
	}
	return x.nodeAt(c.b[0x18:], int64(i))
}

// entry is one entry of a node; b shares memory with it.
type entry struct {
	b     []byte
	key   []byte
	last  bool   // without a key: the end of its node
	child uint64 // block before it
	has   bool   // a child
	next  int    // offset in the node
}

// entryAt decodes the entry at off of a node.
func (x *index) entryAt(nd node, off int) (e entry, err error) {
	le := binary.LittleEndian
	if off < nd.first || off+entryFixed > len(nd.b) {
		return e, x.bad(nd.block, "the entry at %d passes the end at %d", off, len(nd.b))
	}
	size, keySize := int(le.Uint16(nd.b[off+8:])), int(le.Uint16(nd.b[off+10:]))
	flags := le.Uint16(nd.b[off+12:])
	fixed := entryFixed
	if flags&entryChild != 0 {
		fixed += 8
	}
	if size < fixed || size%8 != 0 || size > len(nd.b)-off {
		return e, x.bad(nd.block, "an entry of %d bytes at %d of %d", size, off, len(nd.b))
	}
	e.b = nd.b[off : off+size]
	e.next, e.last = off+size, flags&entryLast != 0
	if flags&entryChild != 0 {
		vcn := le.Uint64(e.b[size-8:])
		per := x.block / x.unit
		if vcn%per != 0 {
			return e, x.bad(nd.block, "the child of the entry at %d is at %d", off, vcn)
		}
		e.child, e.has = vcn/per, true
	}
	if !e.last {
		if keySize > size-fixed {
			return e, x.bad(nd.block, "a key of %d bytes in the entry of %d at %d", keySize, size, off)
		}
		e.key = e.b[entryFixed : entryFixed+keySize]
	}
	return e, nil
}

const (
	// maxDepth bounds an index: with two entries to a block more than any volume holds, while
	// real ones stay below 6.
	maxDepth = 32
	// maxSearch bounds the blocks that one search reads: the depth, and the neighbours of names
	// that differ in case only.
	maxSearch = 4096
)

// search looks for a key. order tells where the wanted key lies seen from an entry's: negative
// before, positive behind, 0 where they are equal as far as the index orders them. Each
// of the equal ones, which can lie in several blocks, is visited until visit returns true.
func (x *index) search(order func(key []byte) (int, error), visit func(entry) bool) error {
	type step struct {
		block uint64
		depth int
	}
	var todo []step
	budget := maxSearch
	look := func(nd node, depth int) (found bool, err error) {
		for off := nd.first; ; {
			e, err := x.entryAt(nd, off)
			if err != nil {
				return false, err
			}
			c := -1
			if !e.last {
				if c, err = order(e.key); err != nil {
					return false, x.bad(nd.block, "the entry at %d has %v", off, err)
				}
			}
			if c == 0 && visit(e) {
				return true, nil
			}
			if c <= 0 && e.has {
				todo = append(todo, step{e.child, depth + 1})
			}
			if c < 0 || e.last {
				return false, nil
			}
			off = e.next
		}
	}
	nd, err := x.rootNode()
	if err != nil {
		return err
	}
	if found, err := look(nd, 0); found || err != nil {
		return err
	}
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if budget--; budget < 0 || s.depth > maxDepth {
			return x.bad(int64(s.block), "the tree is too deep or has a loop")
		}
		nd, err := x.blockNode(s.block)
		if err != nil {
			return err
		}
		if found, err := look(nd, s.depth); found || err != nil {
			return err
		}
	}
	return nil
}
