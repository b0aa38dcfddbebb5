package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"strings"

	"vmfr/agent/fsys"
)

// A Cookie is the byte position in the directory of the next record; cookieDamaged in it says that
// a damaged block was passed over, so that the listing ends with that error and not with io.EOF,
// however many calls it takes. It is the highest bit that leaves the cookie positive as an off_t.
const cookieDamaged = fsys.Cookie(1) << 62

// maxDirBlocks bounds the work of one listing or lookup without an index: a directory of 4 KiB
// blocks has 64 GiB, some 10^9 names.
const maxDirBlocks = 1 << 24

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
	if n.size/f.sb.blockSize > min(maxDirBlocks, f.sb.blocksCount, uint64(f.dev.Size())/f.sb.blockSize) {
		return nil, fsys.Corrupt("ext4", "inode", ino, -1, "a directory of %d bytes", n.size)
	}
	return n, nil
}

// isHashed tells whether the directory has an index (htree).
func (f *FS) isHashed(n *inode) bool {
	return n.has(flagIndex) && f.sb.hasCompat(compatDirIndex) && !n.has(flagInline)
}

// dirBlock reads block lblk of a directory at phys and checks its checksum. Blocks of the index
// look like blocks without entries, but keep their checksum elsewhere.
func (f *FS) dirBlock(n *inode, lblk, phys uint64) ([]byte, error) {
	b, err := f.block("directory", n.num, phys)
	if err != nil || !f.sb.metadataCsum() {
		return b, err
	}
	le, size := binary.LittleEndian, len(b)
	bad := func(reason string, args ...any) error {
		return fsys.Corrupt("ext4", "directory", fsys.Ino(n.num), int64(phys*f.sb.blockSize), reason, args...)
	}
	if f.isHashed(n) && (lblk == 0 || le.Uint32(b) == 0 && recordLen(le.Uint16(b[4:]), f.sb.blockSize) == size) {
		x, err := f.parseIndex(b)
		if err != nil {
			return nil, bad("%v", err)
		}
		if got, want := x.checksum(n.csumSeed); got != want {
			return nil, bad("index checksum is %#08x, its bytes give %#08x", want, got)
		}
		return b, nil
	}
	// The tail is a record without inode or name, of the false type 0xDE, with the checksum.
	tail := b[size-12:]
	if le.Uint32(tail) != 0 || le.Uint16(tail[4:]) != 12 || tail[6] != 0 || tail[7] != 0xDE {
		return nil, bad("it ends without a checksum")
	}
	if got, want := crc32c(n.csumSeed, b[:size-12]), le.Uint32(tail[8:]); got != want {
		return nil, bad("checksum is %#08x, its bytes give %#08x", want, got)
	}
	return b, nil
}

// dirScan walks the entries of a directory. Damaged blocks are passed over and the first of
// them is kept in damage.
type dirScan struct {
	f      *FS
	n      *inode
	damage error
}

// walk visits the entries from position from on until visit returns false. Its error is one that
// ended the walk early; look at damage too.
func (sc *dirScan) walk(from uint64, visit func(*dirent) bool) error {
	n, bs := sc.n, sc.f.sb.blockSize
	if n.has(flagInline) {
		return sc.walkInline(from, visit)
	}
	c := sc.f.content(n)
	blocks := (n.size + bs - 1) / bs
	in := int(from % bs)
	for lblk := from / bs; lblk < blocks; {
		r, err := c.run(lblk)
		if err != nil {
			return err
		}
		if r.Phys == 0 { // a hole, which no directory has; the kernel passes over it too
			sc.note(-1, "a hole at block %d", lblk)
			lblk, in = lblk+min(r.Count, blocks-lblk), 0
			continue
		}
		for ; r.Count > 0 && lblk < blocks; lblk, in = lblk+1, 0 {
			b, err := sc.f.dirBlock(n, lblk, r.Phys)
			switch {
			case errors.Is(err, fsys.ErrCorrupt):
				sc.damage = first(sc.damage, err)
			case err != nil:
				return err
			case sc.records(area{b, lblk * bs, (lblk + 1) * bs, int64(r.Phys * bs)}, in, visit):
				return nil
			}
			r.Phys, r.Count = r.Phys+1, r.Count-1
		}
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
	sc := &dirScan{f: f, n: n}
	filled, more := 0, false
	namer := f.newNamer(n)
	err = sc.walk(uint64(from&^cookieDamaged), func(d *dirent) bool {
		if more = filled == len(out); more {
			return false
		}
		next := fsys.Cookie(d.next) | from&cookieDamaged
		if sc.damage != nil {
			next |= cookieDamaged
		}
		out[filled] = fsys.Dirent{Name: namer.name(d), Ino: fsys.Ino(d.ino), Type: d.typ, Next: next}
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

// Lookup finds a name: through the index where the directory has one, else by reading it. "."
// and ".." are fs.ErrNotExist. A name that is not found in a damaged directory is the damage's
// error: it may have been there.
func (f *FS) Lookup(dir fsys.Ino, name string) (fsys.Ino, error) {
	n, err := f.dirInode(dir)
	if err != nil {
		return 0, err
	}
	absent := func() (fsys.Ino, error) {
		return 0, fmt.Errorf("ext4: %.64q in directory %d: %w", name, dir, iofs.ErrNotExist)
	}
	if name == "" || name == "." || name == ".." || len(name) > maxNameLen || strings.ContainsAny(name, "/\x00") {
		return absent()
	}
	q, ok := f.newQuery(n, name)
	if !ok {
		return absent()
	}
	if f.isHashed(n) && q.hashed {
		ino, err := f.indexLookup(n, q)
		switch {
		case err == nil && ino == 0:
			return absent()
		case err == nil || !errors.Is(err, errBadIndex) && !errors.Is(err, fsys.ErrCorrupt):
			return fsys.Ino(ino), err
		}
		// The entries do not depend on the index: read them all. What can be listed can be
		// found too, however the index is damaged.
	}
	sc := &dirScan{f: f, n: n}
	found := uint32(0)
	err = sc.walk(0, func(d *dirent) bool {
		if q.match(d) {
			found = d.ino
		}
		return found == 0
	})
	switch {
	case found != 0:
		return fsys.Ino(found), nil
	case err != nil || sc.damage != nil:
		return 0, first(err, sc.damage)
	}
	return absent()
}
