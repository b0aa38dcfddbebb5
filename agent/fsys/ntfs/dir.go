package ntfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"strings"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// A Cookie is a place in the index: block+1 (the root is 0) and, below it, cookieShift bits of the
// next entry's offset in its node. A directory is listed in that order, not by name, so that no
// loop in the tree can be followed. cookieDamaged says that something damaged was passed over:
// the listing ends with that error and not with io.EOF, however many calls it takes.
const (
	cookieShift   = 20
	cookieDamaged = fsys.Cookie(1) << 62
)

// directory opens the index of an object that is shown as a directory.
func (f *FS) directory(ino fsys.Ino) (*index, error) {
	n, err := f.node(ino)
	if err != nil {
		return nil, err
	}
	k, err := n.kind()
	if err != nil {
		return nil, err
	}
	if k.mode != fsys.ModeDir {
		return nil, fsys.ErrNotDir
	}
	return n.openIndex(nameI30)
}

// listing walks the entries of a directory.
type listing struct {
	x      *index
	bitmap extent.Reader
	bits   [512]byte // of the bitmap, from bitsAt on
	bitsAt int64     // -1: nothing
	damage error
}

func (l *listing) note(err error) {
	if l.damage == nil {
		l.damage = err
	}
}

func (f *FS) newListing(x *index) (*listing, error) {
	l := &listing{x: x, bitsAt: -1}
	if x.alloc == nil {
		return l, nil
	}
	a, err := x.n.find(typeBitmap, nameI30)
	if err == nil && a == nil {
		err = x.bad(-1, "there are blocks, and no bitmap of them")
	}
	if err == nil {
		l.bitmap, err = x.n.open(a)
	}
	return l, err
}

// used tells whether a block is in use.
func (l *listing) used(block uint64) (bool, error) {
	at := int64(block / 8)
	if base := at &^ (int64(len(l.bits)) - 1); base != l.bitsAt {
		clear(l.bits[:])
		if n := min(int64(len(l.bits)), l.bitmap.Size()-base); n > 0 {
			if err := extent.ReadAllAt(l.bitmap, l.bits[:n], base); err != nil {
				return false, err
			}
		}
		l.bitsAt = base
	}
	return l.bits[at-l.bitsAt]>>(block%8)&1 != 0, nil
}

// name is one name of a directory.
type name struct {
	ref   reference
	key   fileName
	utf8  string
	place fsys.Cookie // of the entry that follows
}

// walk visits the names from a cookie on until visit returns false. Its error is one that ended
// the walk early; look at damage too.
func (l *listing) walk(from fsys.Cookie, visit func(*name) bool) error {
	x := l.x
	block, off := uint64(from>>cookieShift), int(from&(1<<cookieShift-1))
	for ; block <= x.count; block, off = block+1, 0 {
		var nd node
		var err error
		if block == 0 {
			nd, err = x.rootNode()
		} else {
			used, err := l.used(block - 1)
			if err != nil {
				return err
			}
			if !used {
				continue
			}
			nd, err = x.blockNode(block - 1)
			if errors.Is(err, fsys.ErrCorrupt) {
				l.note(err)
				continue
			}
			if err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		more, err := l.entries(nd, fsys.Cookie(block)<<cookieShift, off, visit)
		if err != nil {
			l.note(err) // the rest of this block cannot be found
		}
		if !more {
			return nil
		}
	}
	return nil
}

// entries visits the names of one node from byte from of it on; false where visit returned it.
func (l *listing) entries(nd node, base fsys.Cookie, from int, visit func(*name) bool) (bool, error) {
	for off := nd.first; ; {
		e, err := l.x.entryAt(nd, off)
		if err != nil {
			return true, err
		}
		if e.last {
			return true, nil
		}
		start := off
		off = e.next
		if start < from {
			continue
		}
		key, err := parseFileName(e.key)
		if err != nil {
			l.note(l.x.bad(nd.block, "the entry at %d has %v", start, err))
			continue
		}
		ref := reference(binary.LittleEndian.Uint64(e.b))
		if key.namespace == nameDOS || ref.num() < firstUser {
			continue
		}
		m := name{ref: ref, key: key, utf8: decodeName(key.name), place: base | fsys.Cookie(off)}
		if !validName(m.utf8) {
			l.note(l.x.bad(nd.block, "the entry at %d has the name %q", start, m.utf8))
			continue
		}
		if !visit(&m) {
			return false, nil
		}
	}
}

// validName tells whether a name can be shown.
func validName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}

// target returns the inode number to show for an entry's reference.
func (f *FS) target(ref reference) (fsys.Ino, error) {
	num := ref.num()
	r, err := f.record(num)
	switch {
	case errors.Is(err, errFree):
		return staleBit | fsys.Ino(num)&(staleBit-1), nil
	case errors.Is(err, fsys.ErrCorrupt):
		return fsys.Ino(num), nil // which Stat will tell
	case err != nil:
		return 0, err
	case !r.fits(ref) || r.base().num() != 0:
		return staleBit | fsys.Ino(num)&(staleBit-1), nil
	}
	return fsys.Ino(num), nil
}

// ReadDir lists a directory in the order of its index's blocks. Where one is damaged the others
// are still listed, and the listing ends with the error in place of io.EOF. An entry whose file
// is gone is listed, and Stat of it is fsys.ErrCorrupt.
func (f *FS) ReadDir(dir fsys.Ino, from fsys.Cookie, out []fsys.Dirent) (int, error) {
	x, err := f.directory(dir)
	if err != nil || len(out) == 0 {
		return 0, err
	}
	l, err := f.newListing(x)
	if err != nil {
		return 0, err
	}
	filled, more := 0, false
	var stop error
	err = l.walk(from&^cookieDamaged, func(m *name) bool {
		if more = filled == len(out); more {
			return false
		}
		ino, err := f.target(m.ref)
		if err != nil {
			stop = err
			return false
		}
		d := fsys.Dirent{Name: m.utf8, Ino: ino, Next: m.place | from&cookieDamaged}
		if l.damage != nil {
			d.Next |= cookieDamaged
		}
		switch { // what a reparse point or a system file is shown as stands in the file itself
		case m.key.flags&(flagReparse|flagSystem) != 0:
		case m.key.flags&flagNameIsDir != 0:
			d.Type = fsys.ModeDir
		default:
			d.Type = fsys.ModeRegular
		}
		out[filled] = d
		filled++
		return true
	})
	if err == nil {
		err = stop
	}
	if err != nil || more {
		return filled, err
	}
	if l.damage == nil && from&cookieDamaged != 0 { // found by an earlier call: find it again
		if err := l.walk(0, func(*name) bool { return l.damage == nil }); err != nil {
			return filled, err
		}
	}
	if l.damage != nil {
		return filled, l.damage
	}
	return filled, io.EOF
}

// Lookup finds a name byte by byte, also where names differ in case only. A name that is not
// found in a damaged directory is the damage's error: it may have been there.
func (f *FS) Lookup(dir fsys.Ino, s string) (fsys.Ino, error) {
	x, err := f.directory(dir)
	if err != nil {
		return 0, err
	}
	u, ok := encodeName(s)
	if !ok || !validName(s) {
		return 0, fmt.Errorf("ntfs: %q in directory %d: %w", s, dir, iofs.ErrNotExist)
	}
	ref, err := f.lookup(x, u, false)
	if err != nil {
		return 0, err
	}
	if ref == 0 {
		return 0, fmt.Errorf("ntfs: %q in directory %d: %w", s, dir, iofs.ErrNotExist)
	}
	return f.target(ref)
}

// lookup finds a name in a directory's index; with fold a DOS name will do, too, and where there is no
// equal one a name that differs in case. 0: there is none.
func (f *FS) lookup(x *index, u []uint16, fold bool) (reference, error) {
	if f.upcase == nil {
		return f.scan(x, u)
	}
	var exact, other reference
	err := x.search(func(key []byte) (int, error) {
		k, err := parseFileName(key)
		if err != nil {
			return 0, err
		}
		return f.upcase.compare(u, k.name), nil
	}, func(e entry) bool {
		k, _ := parseFileName(e.key) // it has been parsed to be compared
		ref := reference(binary.LittleEndian.Uint64(e.b))
		if k.namespace == nameDOS && !fold || ref.num() < firstUser {
			return false
		}
		if same(u, k.name) {
			exact = ref
			return true
		}
		if other == 0 {
			other = ref
		}
		return false
	})
	if err != nil {
		return 0, err
	}
	if exact == 0 && fold {
		exact = other
	}
	return exact, nil
}

// scan is lookup without the order of the index.
func (f *FS) scan(x *index, u []uint16) (reference, error) {
	l, err := f.newListing(x)
	if err != nil {
		return 0, err
	}
	var ref reference
	err = l.walk(0, func(m *name) bool {
		if same(u, m.key.name) {
			ref = m.ref
		}
		return ref == 0
	})
	if err == nil && ref == 0 {
		err = l.damage
	}
	return ref, err
}
