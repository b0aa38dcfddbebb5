package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"

	"vmfr/agent/ondisk"
)

// The index of a hashed directory ("Hash Tree Directories" in the kernel's documentation). Block 0
// is its root, nodes follow, and leaves are ordinary directory blocks:
//
//	root  "." 12 | ".." to the end: root info at 24, entries from 32
//	node  unused record to the end 8: entries from 8
//	entry hash (4) block (4); the first one has limit (2) and count (2) in place of a hash
//
// With checksums, the 8 bytes after the last possible entry are reserved (4) and checksum (4).
const (
	indexEntrySize  = 8
	rootInfoOffset  = 24
	rootEntries     = 32
	nodeEntries     = 8
	maxIndexLevels  = 2 // 3 with large_dir, root included
	indexBlockMask  = 0x0FFFFFFF
	indexTailLength = 8
)

// errBadIndex: the index cannot be used; the entries can still be read one by one.
var errBadIndex = errors.New("unusable index")

// indexBlock is a root or a node.
type indexBlock struct {
	b       []byte
	at      int // of the first entry
	count   int
	limit   int
	root    bool
	version uint8 // of the hash; root only
	levels  int   // of nodes below the root; root only
}

// parseIndex checks the form of an index block. Errors wrap errBadIndex.
func (f *FS) parseIndex(b []byte) (*indexBlock, error) {
	v := ondisk.Little(b)
	size := len(b)
	x := &indexBlock{b: b}
	switch {
	case recordLen(v.U16(4), f.sb.blockSize) == size:
		x.at = nodeEntries
	case v.U16(4) == 12 && recordLen(v.U16(16), f.sb.blockSize) == size-12:
		x.at, x.root = rootEntries, true
		x.version, x.levels = v.U8(rootInfoOffset+4), int(v.U8(rootInfoOffset+6))
		if v.U32(rootInfoOffset) != 0 || v.U8(rootInfoOffset+5) != 8 {
			return nil, fmt.Errorf("%w: root information of %d bytes", errBadIndex, v.U8(rootInfoOffset+5))
		}
	default:
		return nil, fmt.Errorf("%w: neither a root nor a node", errBadIndex)
	}
	x.limit, x.count = int(v.U16(x.at)), int(v.U16(x.at+2))
	room := (size - x.at) / indexEntrySize
	if f.sb.metadataCsum() {
		room = (size - x.at - indexTailLength) / indexEntrySize
	}
	if err := v.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadIndex, err)
	}
	if x.limit != room || x.count < 1 || x.count > x.limit {
		return nil, fmt.Errorf("%w: %d of %d entries where %d fit", errBadIndex, x.count, x.limit, room)
	}
	return x, nil
}

// checksum returns the computed and the stored checksum.
func (x *indexBlock) checksum(seed uint32) (got, want uint32) {
	tail := x.b[x.at+x.limit*indexEntrySize:]
	got = crc32c(seed, x.b[:x.at+x.count*indexEntrySize])
	got = crc32c(got, tail[:4])
	return crc32c(got, zero4), binary.LittleEndian.Uint32(tail[4:])
}

// hash is the lowest hash of entry i > 0; block the directory's block that it stands for.
func (x *indexBlock) hash(i int) uint32 {
	return binary.LittleEndian.Uint32(x.b[x.at+i*indexEntrySize:])
}

func (x *indexBlock) block(i int) uint64 {
	return uint64(binary.LittleEndian.Uint32(x.b[x.at+i*indexEntrySize+4:]) & indexBlockMask)
}

// search returns the last entry whose hash is not above h.
func (x *indexBlock) search(h uint32) int {
	lo, hi := 1, x.count
	for lo < hi {
		if mid := (lo + hi) / 2; x.hash(mid) <= h {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo - 1
}

// indexWalk is a position in the index: a node of each level and the entry taken in it.
type indexWalk struct {
	f    *FS
	c    *file
	path []*indexBlock
	at   []int
}

// load reads block lblk of the directory, which must exist.
func (w *indexWalk) load(lblk uint64) ([]byte, int64, error) {
	bs := w.f.sb.blockSize
	if lblk >= (w.c.ino.size+bs-1)/bs {
		return nil, 0, fmt.Errorf("%w: block %d is outside the directory", errBadIndex, lblk)
	}
	r, err := w.c.run(lblk)
	if err != nil {
		return nil, 0, err
	}
	if r.Phys == 0 {
		return nil, 0, fmt.Errorf("%w: block %d is a hole", errBadIndex, lblk)
	}
	b, err := w.f.dirBlock(w.c.ino, lblk, r.Phys)
	return b, int64(r.Phys * bs), err
}

// push reads the index block lblk as the next level.
func (w *indexWalk) push(lblk uint64) (*indexBlock, error) {
	b, _, err := w.load(lblk)
	if err != nil {
		return nil, err
	}
	x, err := w.f.parseIndex(b)
	if err != nil {
		return nil, err
	}
	if x.root != (len(w.path) == 0) {
		return nil, fmt.Errorf("%w: a root below the root, or none", errBadIndex)
	}
	w.path, w.at = append(w.path, x), append(w.at, 0)
	return x, nil
}

// next moves to the next leaf where the chain of hash h goes on there, and tells whether it does.
func (w *indexWalk) next(h uint32) (bool, error) {
	levels := len(w.path)
	i := levels - 1
	for w.at[i]+1 >= w.path[i].count {
		if i--; i < 0 {
			return false, nil
		}
	}
	w.at[i]++
	if w.path[i].hash(w.at[i])&^1 != h {
		return false, nil
	}
	w.path, w.at = w.path[:i+1], w.at[:i+1]
	for len(w.path) < levels {
		top := len(w.path) - 1
		if _, err := w.push(w.path[top].block(w.at[top])); err != nil {
			return false, err
		}
	}
	return true, nil
}

// indexLookup finds q by its hash in a hashed directory: one block for each level and, unless
// hashes collide over a block's end, one leaf. 0: not there. An error that wraps errBadIndex
// leaves the question open.
func (f *FS) indexLookup(n *inode, q *query) (uint32, error) {
	w := &indexWalk{f: f, c: f.content(n)}
	root, err := w.push(0)
	if err != nil {
		return 0, err
	}
	limit := maxIndexLevels
	if f.sb.hasIncompat(incompatLargeDir) {
		limit++
	}
	if root.levels >= limit {
		return 0, fmt.Errorf("%w: %d levels", errBadIndex, root.levels)
	}
	h, ok := q.hash(root.version)
	if !ok {
		return 0, fmt.Errorf("%w: hash version %d", errBadIndex, root.version)
	}
	for x := root; ; {
		top := len(w.path) - 1
		w.at[top] = x.search(h)
		if top == root.levels {
			break
		}
		if x, err = w.push(x.block(w.at[top])); err != nil {
			return 0, err
		}
	}
	leaves := ondisk.NewBudget("chain of equal hashes", int64(n.size/f.sb.blockSize)+1)
	sc := &dirScan{f: f, n: n}
	for {
		if err := leaves.Spend(1); err != nil {
			return 0, fmt.Errorf("%w: %w", errBadIndex, err)
		}
		top := len(w.path) - 1
		b, off, err := w.load(w.path[top].block(w.at[top]))
		if err != nil {
			return 0, err
		}
		found := uint32(0)
		sc.records(area{b: b, off: off}, 0, func(d *dirent) bool {
			if q.match(d) {
				found = d.ino
			}
			return found == 0
		})
		if found != 0 {
			return found, nil
		}
		if more, err := w.next(h); err != nil || !more {
			return 0, first(err, sc.damage)
		}
	}
}

// hashVersion is the version of a directory's hash with the file system's signedness applied.
func (s *super) hashVersion(v uint8) uint8 {
	if v <= hashTEA && s.flags&flagUnsignedHash != 0 {
		v += hashUnsignedShift
	}
	return v
}
