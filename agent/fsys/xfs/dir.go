package xfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"strings"

	"vmfr/agent/fsys"
)

// A directory that does not fit in its inode is a sparse address space of directory blocks (one or
// more file system blocks each): data blocks with the entries from byte 0 on, the index by hash from
// 32 GiB on, and free-space tables from 64 GiB on, which do not concern a reader. With only one
// data block the index may lie at its end. A Cookie is the byte position of the next entry;
// cookieDamaged in it says that damage was passed over, so that the listing ends with that error
// and not with io.EOF, however many calls it takes. It is the highest bit that leaves the cookie
// positive as an off_t.
const (
	cookieDamaged = fsys.Cookie(1) << 62
	leafOffset    = 32 << 30
)

// Magic numbers of blocks with entries, and where the entries begin.
const (
	dirBlockMagicV4 = 0x58443242 // "XD2B": the only data block, with the index
	dirDataMagicV4  = 0x58443244 // "XD2D"
	dirBlockMagicV5 = 0x58444233 // "XDB3"
	dirDataMagicV5  = 0x58444433 // "XDD3"
	dirEntriesV4    = 16
	dirEntriesV5    = 64
	blockTailSize   = 8 // count and stale count of the index at a block's end
	indexEntrySize  = 8 // hash (4), place of the entry in units of 8 bytes (4)
)

// dirInode reads an inode that must be a directory.
func (f *FS) dirInode(ino fsys.Ino) (*inode, error) {
	n, err := f.inode(ino)
	if err != nil {
		return nil, err
	}
	if !n.isDir() {
		return nil, fsys.ErrNotDir
	}
	// Every block of a directory is its own: more of them than the device has is a trap.
	if n.size > min(leafOffset, uint64(f.dev.Size())) {
		return nil, n.bad("inode", "a directory of %d bytes", n.size)
	}
	return n, nil
}

// dirScan walks the entries of a directory. Damaged blocks are passed over and the first of
// them is kept in damage.
type dirScan struct {
	f      *FS
	n      *inode
	m      *mapping // nil: short form
	damage error
}

func (f *FS) newScan(n *inode) (*dirScan, error) {
	sc := &dirScan{f: f, n: n}
	if n.data.format == formatLocal {
		return sc, nil
	}
	var err error
	sc.m, err = f.mapping(n, &n.data, "directory map")
	return sc, err
}

// dirBytes reads the directory block at logical file system block lblk, which may lie in pieces.
// off is the place of its first byte in the volume. nil without an error: there is a hole.
func (f *FS) dirBytes(m *mapping, what string, lblk uint64) (b []byte, off int64, err error) {
	want := f.sb.dirSize / f.sb.blockSize
	for have := uint64(0); have < want; {
		r, err := m.at(lblk + have)
		if err != nil {
			return nil, 0, err
		}
		if r.Phys == 0 {
			if have == 0 {
				return nil, 0, nil
			}
			return nil, 0, m.bad(off, "a hole within the block at logical block %d", lblk)
		}
		count := min(r.Count, want-have)
		piece, err := f.blocks(what, m.num, r.Phys, count)
		if err != nil {
			return nil, 0, err
		}
		if have == 0 {
			off = int64(r.Phys * f.sb.blockSize)
			b = piece
		} else {
			b = append(b[:len(b):len(b)], piece...)
		}
		have += count
	}
	return b, off, nil
}

// dataBlock reads and checks the data block at byte base of the directory; nil for a hole.
func (sc *dirScan) dataBlock(base uint64) (*dataBlock, error) {
	s := sc.f.sb
	b, off, err := sc.f.dirBytes(sc.m, "directory", base/s.blockSize)
	if err != nil || b == nil {
		return nil, err
	}
	bad := func(reason string, args ...any) error {
		return fsys.Corrupt("xfs", "directory", fsys.Ino(sc.n.num), off, reason, args...)
	}
	a := &dataBlock{b: b, base: base, off: off, start: dirEntriesV4, end: len(b)}
	magic := binary.BigEndian.Uint32(b)
	switch {
	case s.v5 && magic == dirDataMagicV5, !s.v5 && magic == dirDataMagicV4:
	case s.v5 && magic == dirBlockMagicV5, !s.v5 && magic == dirBlockMagicV4:
		a.tail = true
	default:
		return nil, bad("magic is %#08x", magic)
	}
	if s.v5 {
		a.start = dirEntriesV5
		if err := s.verify(b, dirHeader, "directory", sc.n.num, off); err != nil {
			return nil, err
		}
	}
	if a.tail {
		count := uint64(binary.BigEndian.Uint32(b[len(b)-blockTailSize:]))
		if sc.n.size != s.dirSize || count > uint64(len(b)-blockTailSize-a.start)/indexEntrySize {
			return nil, bad("an index of %d entries at the end of a block of a directory of %d bytes", count, sc.n.size)
		}
		a.end = len(b) - blockTailSize - int(count)*indexEntrySize
	}
	return a, nil
}

// walk visits the entries from position from on until visit returns false. Its error is one that
// ended the walk early; look at damage too.
func (sc *dirScan) walk(from uint64, visit func(*dirent) bool) error {
	if sc.m == nil {
		sc.shortForm(from, visit)
		return nil
	}
	s := sc.f.sb
	in := int(from % s.dirSize)
	for base := from - from%s.dirSize; base < sc.n.size; in = 0 {
		a, err := sc.dataBlock(base)
		switch {
		case errors.Is(err, fsys.ErrCorrupt):
			sc.damage = first(sc.damage, err)
		case err != nil:
			return err
		case a == nil: // emptied and given back; what follows may be a large hole
			r, err := sc.m.at(base / s.blockSize)
			if err != nil {
				return err
			}
			skip := min(r.Count, sc.n.size/s.blockSize) * s.blockSize
			base += max(skip-skip%s.dirSize, s.dirSize)
			continue
		case sc.entries(a, in, visit):
			return nil
		}
		base += s.dirSize
	}
	return nil
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// ReadDir lists a directory in the order of its blocks. Where a block is damaged the others are
// still listed, and the listing ends with the error in place of io.EOF.
func (f *FS) ReadDir(dir fsys.Ino, from fsys.Cookie, out []fsys.Dirent) (int, error) {
	n, err := f.dirInode(dir)
	if err != nil || len(out) == 0 {
		return 0, err
	}
	sc, err := f.newScan(n)
	if err != nil {
		return 0, err
	}
	filled, more := 0, false
	err = sc.walk(uint64(from&^cookieDamaged), func(d *dirent) bool {
		if more = filled == len(out); more {
			return false
		}
		next := fsys.Cookie(d.next) | from&cookieDamaged
		if sc.damage != nil {
			next |= cookieDamaged
		}
		out[filled] = fsys.Dirent{Name: string(d.name), Ino: fsys.Ino(d.ino), Type: d.typ, Next: next}
		filled++
		return true
	})
	if err != nil || more {
		return filled, err
	}
	if sc.damage == nil && from&cookieDamaged != 0 { // found by an earlier call: find it again
		if err := sc.walk(0, func(*dirent) bool { return sc.damage == nil }); err != nil {
			return filled, err
		}
	}
	return filled, first(sc.damage, io.EOF)
}

// Lookup finds a name: through the index where the directory has one of its own, else by reading
// its one block. "." and ".." are fs.ErrNotExist. A name that is not found in a damaged
// directory is the damage's error: it may have been there.
func (f *FS) Lookup(dir fsys.Ino, name string) (fsys.Ino, error) {
	n, err := f.dirInode(dir)
	if err != nil {
		return 0, err
	}
	if name == "" || name == "." || name == ".." || len(name) > maxNameLen || strings.ContainsAny(name, "/\x00") {
		return 0, absent(dir, name)
	}
	sc, err := f.newScan(n)
	if err != nil {
		return 0, err
	}
	q := &query{name: name, ci: f.sb.ci}
	if sc.m != nil && n.size > f.sb.dirSize {
		err := f.indexLookup(sc, q)
		switch {
		case err == nil && q.ino == 0:
			return 0, absent(dir, name)
		case err == nil || !errors.Is(err, fsys.ErrCorrupt):
			return fsys.Ino(q.ino), err
		}
		// The entries do not depend on the index: read them all. What can be listed can be
		// found too, however the index is damaged.
	}
	q.ino = 0
	err = sc.walk(0, func(d *dirent) bool { return !q.match(d) })
	switch {
	case q.ino != 0:
		return fsys.Ino(q.ino), nil
	case err != nil || sc.damage != nil:
		return 0, first(err, sc.damage)
	}
	return 0, absent(dir, name)
}

func absent(dir fsys.Ino, name string) error {
	return fmt.Errorf("xfs: %.64q in directory %d: %w", name, dir, iofs.ErrNotExist)
}
