package xfs

import (
	"encoding/binary"
	"sort"

	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// maxCandidates bounds the leaves and entries of one hash that a lookup goes through: reading the
// whole directory is no slower than so many single entries, and a circle of leaves has an end.
const maxCandidates = 1 << 14

// indexLookup finds q by its hash in a directory with an index: one block for each level, one leaf
// unless equal hashes go on over its end, and one data block for each entry of that hash. An
// error that is fsys.ErrCorrupt leaves the question open.
func (f *FS) indexLookup(sc *dirScan, q *query) error {
	s := f.sb
	t := &daTree{f: f, m: sc.m, what: "directory index"}
	t.read = func(lblk uint64) ([]byte, int64, error) {
		// The index has the place between its own and that of the free-space tables.
		if lblk < leafOffset/s.blockSize || lblk >= 2*leafOffset/s.blockSize {
			return nil, 0, t.bad(-1, "block %d is outside the index", lblk)
		}
		return f.dirBytes(sc.m, t.what, lblk)
	}
	hash := q.hash()
	d, err := t.descend(leafOffset/s.blockSize, hash)
	if err != nil {
		return err
	}
	candidates := ondisk.NewBudget("search for one hash", maxCandidates)
	for {
		if err := candidates.Spend(1); err != nil {
			return t.bad(d.off, "%v", err)
		}
		e, err := t.dirLeaf(d)
		if err != nil {
			return err
		}
		i := sort.Search(d.count, func(i int) bool { return binary.BigEndian.Uint32(e[i*indexEntrySize:]) >= hash })
		for ; i < d.count && binary.BigEndian.Uint32(e[i*indexEntrySize:]) == hash; i++ {
			place := binary.BigEndian.Uint32(e[i*indexEntrySize+4:])
			if err := candidates.Spend(1); err != nil {
				return t.bad(d.off, "%v", err)
			}
			if place == 0 { // deleted
				continue
			}
			done, err := sc.candidate(uint64(place)<<dataptrUnitShift, q)
			if done || err != nil {
				return err
			}
		}
		if i < d.count || d.forw == 0 {
			return nil
		}
		if d, err = t.block(uint64(d.forw)); err != nil {
			return err
		}
	}
}

// dirLeaf checks a leaf of a directory's index and returns its entries.
func (t *daTree) dirLeaf(d *daBlock) ([]byte, error) {
	room := len(d.b) - t.entriesAt()
	switch d.magic {
	case leaf1MagicV4, leaf1MagicV5:
		room -= leafTailSize
	case leafNMagicV4, leafNMagicV5:
	default:
		return nil, t.bad(d.off, "magic of a leaf is %#04x", d.magic)
	}
	if t.f.sb.v5 != (d.magic == leaf1MagicV5 || d.magic == leafNMagicV5) {
		return nil, t.bad(d.off, "magic of a leaf is %#04x", d.magic)
	}
	if d.count > room/indexEntrySize {
		return nil, t.bad(d.off, "%d entries where %d fit", d.count, room/indexEntrySize)
	}
	return d.b[t.entriesAt():], nil
}

// candidate looks at the entry at byte pos of the directory, as an index names it.
func (sc *dirScan) candidate(pos uint64, q *query) (done bool, err error) {
	s := sc.f.sb
	bad := func(off int64, reason string) error {
		return fsys.Corrupt("xfs", "directory index", fsys.Ino(sc.n.num), off, "it names an entry at byte %d: %s", pos, reason)
	}
	if pos >= sc.n.size {
		return false, bad(-1, "the directory ends before")
	}
	a, err := sc.dataBlock(pos - pos%s.dirSize)
	if err != nil {
		return false, err
	}
	if a == nil {
		return false, bad(-1, "a hole")
	}
	in := int(pos % s.dirSize)
	if in < a.start {
		return false, bad(a.off, "the block's header")
	}
	d, _, reason := s.entry(a.b, in, a.end)
	if reason != "" {
		return false, bad(a.off, reason)
	}
	if isDot(d.name) {
		return false, nil
	}
	if !s.usable(&d) {
		return false, fsys.Corrupt("xfs", "directory", fsys.Ino(sc.n.num), a.off, "entry %q for inode %d", d.name, d.ino)
	}
	return q.match(&d), nil
}
