package tree

import (
	"sync"

	"vmfr/agent/fsys"
)

// A node's ID joins the file system's index and the guest's inode number, so it is unique by
// construction; a hash could collide and make rsync -H link two files.
//
//	63            48 47 46                        0
//	+---------------+--+---------------------------+
//	| file system   |0 | inode number below 2^47   |
//	| file system   |1 | row in the bigInodes table|
//	+---------------+--+---------------------------+
const (
	inoBits   = 48
	bigMarker = 1 << (inoBits - 1)
)

// maxFS is how many file systems fit in a tree: the index has 16 bits.
const maxFS = 1 << (64 - inoBits)

// ID returns the number of n: never 0, 1 for the root, constant for the same input.
func (t *Tree) ID(n Node) uint64 { return t.cur.Load().id(n) }

func (tab *table) id(n Node) uint64 {
	low := uint64(n.ino)
	if low >= bigMarker {
		low = bigMarker | tab.mounts[n.fs].big.row(n.ino)
	}
	return uint64(n.fs)<<inoBits | low
}

// ByID is the inverse of ID. It is false for a number that no node of this tree has; a true
// answer does not say that the object exists.
func (t *Tree) ByID(id uint64) (Node, bool) {
	n := Node{fs: uint16(id >> inoBits), ino: fsys.Ino(id & (1<<inoBits - 1))}
	m, err := t.cur.Load().at(n)
	if err != nil || n.ino == 0 {
		return Node{}, false
	}
	if n.ino&bigMarker != 0 {
		ino, ok := m.big.ino(uint64(n.ino) &^ bigMarker)
		return Node{n.fs, ino}, ok
	}
	return n, true
}

// bigInodes numbers the inodes that do not fit below bigMarker in the order in which they are
// seen. Ordinary file systems never have one; memory is 32 bytes for each.
type bigInodes struct {
	mu   sync.Mutex
	rows map[fsys.Ino]uint64
	inos []fsys.Ino
}

func (b *bigInodes) row(ino fsys.Ino) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.rows[ino]
	if !ok {
		r = uint64(len(b.inos))
		b.inos = append(b.inos, ino)
		b.rows[ino] = r
	}
	return r
}

func (b *bigInodes) ino(row uint64) (fsys.Ino, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if row >= uint64(len(b.inos)) {
		return 0, false
	}
	return b.inos[row], true
}
