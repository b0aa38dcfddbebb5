package ntfs

import (
	"encoding/binary"
	"fmt"
	"time"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// File attributes ([MS-FSCC] 2.6).
const (
	flagSystem       = 0x4
	flagDirectory    = 0x10
	flagNormal       = 0x80
	flagReparse      = 0x400
	flagOffline      = 0x1000
	flagEncrypted    = 0x4000
	flagRecallOpen   = 0x40000
	flagRecallAccess = 0x400000
	flagNameIsDir    = 0x10000000 // in a directory's index only
)

// standard is $STANDARD_INFORMATION: four times in 100 ns (8 each), 0x20 file attributes (4), and
// since version 3.0 of the format 0x34 the number of the security descriptor (4).
type standard struct {
	created, modified, changed, accessed time.Time
	flags                                uint32
	securityID                           uint32 // 0: the descriptor is an attribute of the file
}

const (
	standardFixed = 0x30
	standardV3    = 0x48
)

func (n *object) standard() (standard, error) {
	b, err := n.resident(typeStandard)
	if err != nil {
		return standard{}, err
	}
	if len(b) < standardFixed {
		return standard{}, fsys.Corrupt("ntfs", "MFT record", fsys.Ino(n.rec.num), -1, "standard information of %d bytes", len(b))
	}
	le := binary.LittleEndian
	s := standard{
		created: decodeTime(le.Uint64(b)), modified: decodeTime(le.Uint64(b[8:])),
		changed: decodeTime(le.Uint64(b[16:])), accessed: decodeTime(le.Uint64(b[24:])),
		flags: le.Uint32(b[0x20:]),
	}
	if len(b) >= standardV3 {
		s.securityID = le.Uint32(b[0x34:])
	}
	return s, nil
}

// decodeTime converts 100 ns since 1601-01-01 UTC.
func decodeTime(v uint64) time.Time {
	const perSecond, from1601 = 10_000_000, 11_644_473_600
	s := int64(v)
	sec, rest := s/perSecond, s%perSecond
	return time.Unix(sec-from1601, rest*100)
}

// kind is what an object is shown as.
type kind struct {
	mode    uint32
	std     standard
	reparse []byte // the reparse point, nil for none
	content []byte // of a system file that stands for a special one (Interix)
}

// kind tells what an object is: reparse points and the special files of Interix count as what
// they stand for.
func (n *object) kind() (kind, error) {
	std, err := n.standard()
	if err != nil {
		return kind{}, err
	}
	k := kind{mode: fsys.ModeRegular, std: std}
	if n.isIndex() {
		k.mode = fsys.ModeDir
	}
	if std.flags&flagReparse != 0 {
		if k.reparse, err = n.value(typeReparse, maxReparse); err != nil {
			return kind{}, err
		}
		if len(k.reparse) >= reparseHeader {
			if m, ok := reparseModes[binary.LittleEndian.Uint32(k.reparse)]; ok {
				k.mode = m
			}
		}
		return k, nil
	}
	if std.flags&flagSystem != 0 && !n.isIndex() {
		k.mode, k.content, err = n.interix(std)
	}
	return k, err
}

// Stat returns an object's attributes. fs.ErrNotExist for a number that no object of the tree has.
func (f *FS) Stat(ino fsys.Ino) (fsys.Attr, error) {
	n, err := f.node(ino)
	if err != nil {
		return fsys.Attr{}, err
	}
	k, err := n.kind()
	if err != nil {
		return fsys.Attr{}, err
	}
	a := fsys.Attr{
		Ino: ino, Mode: k.mode | 0o777, Nlink: 1, BlockSize: uint32(f.boot.cluster),
		Atime: k.std.accessed, Mtime: k.std.modified, Ctime: k.std.changed, Btime: k.std.created,
		Generation: uint32(n.rec.seq()),
	}
	if n.isIndex() {
		x, err := n.find(typeIndexAlloc, nameI30)
		if err != nil {
			return fsys.Attr{}, err
		}
		if x != nil {
			a.Size, a.Blocks = int64(x.size), int64(x.allocated>>9)
		}
	} else {
		if a.Nlink, err = n.links(); err != nil {
			return fsys.Attr{}, err
		}
		x, err := n.find(typeData, nil)
		switch {
		case err != nil:
			return fsys.Attr{}, err
		case x == nil:
		case x.resident:
			a.Size, a.Blocks = int64(x.size), (int64(x.size+7)&^7+511)>>9
		default:
			a.Size, a.Blocks = int64(x.size), int64((min(x.total, 1<<62)+511)>>9)
		}
	}
	switch k.mode {
	case fsys.ModeSymlink:
		a.Size = 0
		// A target that cannot be told does not hide the link.
		if target, err := f.readlink(n, k); err == nil {
			a.Size = int64(len(target))
		}
	case fsys.ModeChar, fsys.ModeBlock:
		a.Major, a.Minor, err = n.device(k)
	}
	return a, err
}

// links counts the names of a file, the DOS ones left out.
func (n *object) links() (uint32, error) {
	links := uint32(0)
	var bad error
	err := n.each(typeFileName, func(a *attr) bool {
		name, err := parseFileName(a.value)
		if err != nil || !a.resident {
			bad = fsys.Corrupt("ntfs", "MFT record", fsys.Ino(n.rec.num), -1, "%v", err)
			return false
		}
		if name.namespace != nameDOS {
			links++
		}
		return true
	})
	if err == nil {
		err = bad
	}
	return max(1, links), err
}

// open returns the bytes of an attribute, given its first piece.
func (n *object) open(a *attr) (extent.Reader, error) {
	switch {
	case a.flags&attrEncrypted != 0:
		return nil, fmt.Errorf("ntfs: inode %d: %w (EFS)", n.rec.num, fsys.ErrNoKey)
	case a.resident:
		return extent.Bytes(append([]byte(nil), a.value...)), nil // not a part of a cached chunk
	case a.flags&attrMethod != 0:
		return n.packed(a)
	}
	return n.stream(a)
}

// Open returns a regular file's bytes. fsys.ErrIsDir, fsys.ErrNotRegular; fsys.ErrNoKey where the
// guest encrypted the file, fsys.ErrUnsupported where its content is not in its data.
func (f *FS) Open(ino fsys.Ino) (extent.Reader, error) {
	n, err := f.node(ino)
	if err != nil {
		return nil, err
	}
	k, err := n.kind()
	switch {
	case err != nil:
		return nil, err
	case k.mode == fsys.ModeDir:
		return nil, fsys.ErrIsDir
	case k.mode != fsys.ModeRegular:
		return nil, fsys.ErrNotRegular
	}
	a, err := n.find(typeData, nil)
	if err != nil {
		return nil, err
	}
	if err := n.refuse(k, a); err != nil {
		return nil, err
	}
	if a == nil {
		return extent.Bytes(nil), nil
	}
	return n.open(a)
}
