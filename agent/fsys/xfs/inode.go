package xfs

import (
	"encoding/binary"
	"fmt"
	iofs "io/fs"
	"math"
	"time"

	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

const inodeMagic = 0x494E // "IN"

// Where the literal area (the forks) begins: after the core of versions 1 and 2, and of version 3.
const (
	coreV2 = 100
	coreV3 = 176
)

// di_format and di_aformat.
const (
	formatDev = iota
	formatLocal
	formatExtents
	formatBtree
)

// Bits of di_flags and di_flags2.
const (
	flagRealtime  = 0x1
	flag2Bigtime  = 0x8
	flag2Nrext64  = 0x10
	flag2Metadata = 0x20
)

// fork is the data or the attribute fork: how it is mapped, and its part of the inode.
type fork struct {
	format  uint8
	extents uint64 // extents in all
	raw     []byte // shared with the cache, read-only
}

// inode is one decoded inode (struct xfs_dinode).
type inode struct {
	num        uint64
	off        int64 // place in the volume
	mode       uint32
	uid, gid   uint32
	size       uint64
	links      uint32
	blocks     uint64 // file system blocks, both forks
	flags      uint16
	generation uint32
	atime      time.Time
	mtime      time.Time
	ctime      time.Time
	crtime     time.Time
	data       fork
	attr       fork // raw is nil: there is none
}

func (n *inode) kind() uint32    { return n.mode & fsys.ModeFmt }
func (n *inode) isDir() bool     { return n.kind() == fsys.ModeDir }
func (n *inode) isRegular() bool { return n.kind() == fsys.ModeRegular }

func (n *inode) bad(what, reason string, args ...any) error {
	return fsys.Corrupt("xfs", what, fsys.Ino(n.num), n.off, reason, args...)
}

func notExist(ino fsys.Ino) error {
	return fmt.Errorf("xfs: inode %d: %w", ino, iofs.ErrNotExist)
}

// inode reads an object of the tree. fs.ErrNotExist for a number that no object of the tree can
// have: outside the allocation groups, free, unlinked, or one of the internal inodes.
func (f *FS) inode(ino fsys.Ino) (*inode, error) {
	num := uint64(ino)
	off, ok := f.sb.inodePlace(num)
	if !ok {
		return nil, notExist(ino)
	}
	for _, n := range f.sb.internal {
		if n != 0 && n == num {
			return nil, notExist(ino)
		}
	}
	raw, err := f.meta.Bytes(off, int(f.sb.inodeSize))
	if err != nil {
		return nil, fmt.Errorf("xfs: inode %d: %w", ino, err)
	}
	return f.sb.parseInode(num, raw, off)
}

// parseInode decodes one inode; off is its place in the volume.
func (s *super) parseInode(num uint64, raw []byte, off int64) (*inode, error) {
	v := ondisk.Big(raw)
	n := &inode{
		num: num, off: off,
		mode:       uint32(v.U16(2)),
		uid:        v.U32(8),
		gid:        v.U32(12),
		links:      v.U32(16),
		size:       v.U64(56),
		blocks:     v.U64(64),
		flags:      v.U16(90),
		generation: v.U32(92),
	}
	bad := func(reason string, args ...any) error { return n.bad("inode", reason, args...) }
	version := v.U8(4)
	if magic := v.U16(0); magic != inodeMagic {
		return nil, bad("magic is %#04x", magic)
	}
	flags2 := uint64(0)
	literal := coreV2
	switch {
	case s.v5:
		if version != 3 {
			return nil, bad("version %d", version)
		}
		if got, want := crcWithout(raw, 100), binary.LittleEndian.Uint32(raw[100:]); got != want {
			return nil, bad("checksum is %#08x, its bytes give %#08x", want, got)
		}
		if own := v.U64(152); own != num {
			return nil, bad("it was written as inode %d", own)
		}
		if [16]byte(raw[160:]) != s.metaUUID {
			return nil, bad("it belongs to another file system (%x)", raw[160:176])
		}
		flags2, literal = v.U64(120), coreV3
		n.crtime = s.stamp(v.U64(144), flags2)
	case version == 1: // 16-bit link counts
		n.links = uint32(v.U16(6))
	case version != 2:
		return nil, bad("version %d", version)
	}
	if n.mode == 0 || n.links == 0 || flags2&flag2Metadata != 0 && s.has(incompatMetadir) {
		return nil, notExist(fsys.Ino(num)) // free, or unlinked and still open when the guest stopped
	}
	n.atime, n.mtime, n.ctime = s.stamp(v.U64(32), flags2), s.stamp(v.U64(40), flags2), s.stamp(v.U64(48), flags2)
	n.data = fork{format: v.U8(5), extents: uint64(v.U32(76))}
	n.attr = fork{format: v.U8(83), extents: uint64(v.U16(80))}
	if flags2&flag2Nrext64 != 0 {
		if !s.has(incompatNrext64) {
			return nil, bad("large extent counters without the feature")
		}
		n.data.extents, n.attr.extents = v.U64(24), uint64(v.U32(76))
	}
	area := v.Bytes(literal, len(raw)-literal)
	forkoff := int(v.U8(82)) * 8
	if err := v.Err(); err != nil {
		return nil, bad("%v", err)
	}
	switch {
	case forkoff >= len(area):
		return nil, bad("the attribute fork begins at byte %d of %d", forkoff, len(area))
	case forkoff > 0:
		n.data.raw, n.attr.raw = area[:forkoff], area[forkoff:]
	default:
		n.data.raw = area
	}
	if n.size > math.MaxInt64 {
		return nil, bad("size %d", n.size)
	}
	return n, s.checkInode(n)
}

// checkInode checks that the mode, the formats of the forks and the counts go together.
func (s *super) checkInode(n *inode) error {
	bad := func(reason string, args ...any) error { return n.bad("inode", reason, args...) }
	mapped := n.data.format == formatExtents || n.data.format == formatBtree
	switch n.kind() {
	case fsys.ModeRegular:
		if !mapped {
			return bad("a file in format %d", n.data.format)
		}
	case fsys.ModeDir, fsys.ModeSymlink:
		if !mapped && n.data.format != formatLocal {
			return bad("a directory or symbolic link in format %d", n.data.format)
		}
		if n.data.format == formatLocal && n.size > uint64(len(n.data.raw)) {
			return bad("%d bytes in a fork of %d", n.size, len(n.data.raw))
		}
	case fsys.ModeBlock, fsys.ModeChar, fsys.ModeFIFO, fsys.ModeSocket:
		if n.data.format != formatDev || len(n.data.raw) < 4 {
			return bad("a device or pipe in format %d", n.data.format)
		}
	default:
		return bad("mode %#o", n.mode)
	}
	if n.attr.raw != nil && (n.attr.format < formatLocal || n.attr.format > formatBtree) {
		return bad("attributes in format %d", n.attr.format)
	}
	// Not bounded by the volume: blocks that a file shares with itself count each time.
	if n.blocks >= logicalEnd*2 {
		return bad("%d blocks", n.blocks)
	}
	return nil
}

// bigtimeEpoch is what bigtime counts from, in seconds before 1970.
const bigtimeEpoch = 1 << 31

// stamp decodes a time: seconds and nanoseconds of 32 bits each (1901 to 2038), or nanoseconds
// from 1901 on (to 2486).
func (s *super) stamp(v, flags2 uint64) time.Time {
	if flags2&flag2Bigtime != 0 && s.has(incompatBigtime) {
		return time.Unix(int64(v/1e9)-bigtimeEpoch, int64(v%1e9))
	}
	nsec := int64(uint32(v))
	if nsec >= 1e9 {
		nsec = 0
	}
	return time.Unix(int64(int32(v>>32)), nsec)
}

// stat is the inode as stat(2) of the kernel shows it.
func (n *inode) stat(s *super) fsys.Attr {
	a := fsys.Attr{
		Ino: fsys.Ino(n.num), Mode: n.mode, Nlink: n.links, UID: n.uid, GID: n.gid,
		Size: int64(n.size), Blocks: int64(n.blocks * (s.blockSize / 512)), BlockSize: uint32(s.blockSize),
		Atime: n.atime, Mtime: n.mtime, Ctime: n.ctime, Btime: n.crtime, Generation: n.generation,
	}
	if k := n.kind(); k == fsys.ModeBlock || k == fsys.ModeChar {
		// 14 bits major, 18 bits minor, as IRIX had them.
		d := binary.BigEndian.Uint32(n.data.raw)
		a.Major, a.Minor = d>>18, d&0x3FFFF
	}
	return a
}
