package ext4

import (
	"encoding/binary"
	"fmt"
	iofs "io/fs"
	"math"
	"time"

	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// Bits of i_flags.
const (
	flagEncrypt  = 0x800
	flagIndex    = 0x1000
	flagHugeFile = 0x40000
	flagExtents  = 0x80000
	flagEAInode  = 0x200000
	flagInline   = 0x10000000
	flagCasefold = 0x40000000
)

// blockMapSize is the size of i_block in bytes: 15 block numbers, the root of an extent tree,
// a short symbolic link or the start of inline data.
const blockMapSize = 60

// inode is one decoded inode ("Inode Table" in the kernel's documentation).
type inode struct {
	num        uint32
	mode       uint32
	uid, gid   uint32
	size       uint64
	links      uint32
	blocks     uint64 // allocated 512-byte units
	flags      uint32
	generation uint32
	fileACL    uint64 // block of extended attributes; 0: none
	atime      time.Time
	mtime      time.Time
	ctime      time.Time
	crtime     time.Time
	atimeRaw   uint32 // of an ea_inode: the hash of its value
	mtimeRaw   uint32 // of an ea_inode made by Lustre: its owner
	block      [blockMapSize]byte
	extra      []byte // what follows i_extra_isize: extended attributes; shared, read-only
	csumSeed   uint32 // of the checksums of this object's own blocks
}

func (n *inode) isDir() bool          { return n.mode&fsys.ModeFmt == fsys.ModeDir }
func (n *inode) isRegular() bool      { return n.mode&fsys.ModeFmt == fsys.ModeRegular }
func (n *inode) has(flag uint32) bool { return n.flags&flag != 0 }

// inode reads an object of the tree. fs.ErrNotExist for a number that no object of the tree
// can have: out of range, unused, deleted, or one of the file system's internal inodes.
func (f *FS) inode(ino fsys.Ino) (*inode, error) {
	s := f.sb
	if ino > math.MaxUint32 || uint32(ino) != rootIno && uint32(ino) < s.firstIno {
		return nil, notExist(ino)
	}
	for _, n := range s.internal {
		if n != 0 && uint64(ino) == uint64(n) {
			return nil, notExist(ino)
		}
	}
	n, err := f.anyInode(uint32(ino))
	if err != nil {
		return nil, err
	}
	if n.has(flagEAInode) && s.hasIncompat(incompatEAInode) {
		return nil, notExist(ino)
	}
	return n, nil
}

func notExist(ino fsys.Ino) error {
	return fmt.Errorf("ext4: inode %d: %w", ino, iofs.ErrNotExist)
}

// anyInode reads an inode, internal ones included.
func (f *FS) anyInode(num uint32) (*inode, error) {
	s := f.sb
	if num == 0 || num > s.inodesCount {
		return nil, notExist(fsys.Ino(num))
	}
	g := uint64(num-1) / uint64(s.inodesPerGroup)
	index := uint64(num-1) % uint64(s.inodesPerGroup)
	d, err := f.group(g)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", num, err)
	}
	off := int64(d.inodeTable*s.blockSize + index*s.inodeSize) // group() checked the table's range
	raw, err := f.meta.Bytes(off, int(s.inodeSize))
	if err != nil {
		return nil, fmt.Errorf("ext4: inode %d: %w", num, err)
	}
	return s.parseInode(num, raw, off)
}

// parseInode decodes one inode; off is its place in the volume, for errors.
func (s *super) parseInode(num uint32, raw []byte, off int64) (*inode, error) {
	v := ondisk.Little(raw)
	bad := func(reason string, args ...any) error {
		return fsys.Corrupt("ext4", "inode", fsys.Ino(num), off, reason, args...)
	}
	n := &inode{
		num:        num,
		mode:       uint32(v.U16(0x00)),
		uid:        uint32(v.U16(0x02)) | uint32(v.U16(0x78))<<16,
		size:       uint64(v.U32(0x04)),
		gid:        uint32(v.U16(0x18)) | uint32(v.U16(0x7A))<<16,
		links:      uint32(v.U16(0x1A)),
		blocks:     uint64(v.U32(0x1C)),
		flags:      v.U32(0x20),
		generation: v.U32(0x64),
		fileACL:    uint64(v.U32(0x68)),
		atimeRaw:   v.U32(0x08),
		mtimeRaw:   v.U32(0x10),
	}
	if n.links == 0 { // unused, deleted, or unlinked and still open when the guest stopped
		return nil, notExist(fsys.Ino(num))
	}
	extraSize := uint64(0)
	if s.inodeSize > goodOldInodeSize {
		extraSize = uint64(v.U16(0x80))
	}
	n.csumSeed = crc32cU32(crc32cU32(s.csumSeed, num), n.generation)
	if s.metadataCsum() {
		if got, want := inodeChecksum(n.csumSeed, raw, extraSize); got != want {
			return nil, bad("checksum is %#08x, its bytes give %#08x", want, got)
		}
	}
	if extraSize > s.inodeSize-goodOldInodeSize || extraSize%4 != 0 {
		return nil, bad("%d extra bytes in an inode of %d", extraSize, s.inodeSize)
	}
	copy(n.block[:], v.Bytes(0x28, blockMapSize))
	if s.hasIncompat(incompat64Bit) {
		n.fileACL |= uint64(v.U16(0x76)) << 32
	}
	if n.isRegular() || n.isDir() && s.hasIncompat(incompatLargeDir) {
		n.size |= uint64(v.U32(0x6C)) << 32
	}
	if s.hasRO(roHugeFile) {
		n.blocks |= uint64(v.U16(0x74)) << 32
		if n.has(flagHugeFile) {
			n.blocks *= s.blockSize / 512 // below 2^48 * 2^7
		}
	}
	// Each time is 32 bits in the old inode and, where extra bytes reach that far, 2 more bits
	// of seconds and 30 of nanoseconds.
	stamp := func(at, extraAt int) time.Time {
		x := uint32(0)
		if uint64(extraAt+4) <= goodOldInodeSize+extraSize {
			x = v.U32(extraAt)
		}
		return decodeTime(v.U32(at), x)
	}
	n.ctime, n.mtime, n.atime = stamp(0x0C, 0x84), stamp(0x10, 0x88), stamp(0x08, 0x8C)
	if goodOldInodeSize+extraSize >= 0x94 {
		n.crtime = stamp(0x90, 0x94)
	}
	if s.inodeSize > goodOldInodeSize {
		at := int(goodOldInodeSize + extraSize)
		n.extra = v.Bytes(at, int(s.inodeSize)-at)
	}
	if err := v.Err(); err != nil {
		return nil, bad("%v", err)
	}
	switch n.mode & fsys.ModeFmt {
	case fsys.ModeRegular, fsys.ModeDir, fsys.ModeSymlink, fsys.ModeBlock, fsys.ModeChar, fsys.ModeFIFO, fsys.ModeSocket:
	default:
		return nil, bad("mode %#o", n.mode)
	}
	if n.size > math.MaxInt64 {
		return nil, bad("size %d", n.size)
	}
	return n, nil
}

// inodeChecksum returns the computed and the stored checksum: 32 bits, or 16 where the inode
// has no room for the upper half. seed covers the inode's number and generation.
func inodeChecksum(seed uint32, raw []byte, extraSize uint64) (got, want uint32) {
	const lo, hi = 0x7C, 0x82
	want = uint32(binary.LittleEndian.Uint16(raw[lo:]))
	got = crc32c(seed, raw[:lo])
	got = crc32c(got, zero4[:2])
	if len(raw) < hi+2 || extraSize < 4 {
		return crc32c(got, raw[lo+2:]) & 0xFFFF, want
	}
	want |= uint32(binary.LittleEndian.Uint16(raw[hi:])) << 16
	got = crc32c(got, raw[lo+2:hi])
	got = crc32c(got, zero4[:2])
	return crc32c(got, raw[hi+2:]), want
}

// decodeTime joins the signed 32-bit seconds with the two epoch bits (1901 to 2446) and the
// nanoseconds.
func decodeTime(sec, extra uint32) time.Time {
	nsec := int64(extra >> 2)
	if nsec >= 1e9 {
		nsec = 0
	}
	return time.Unix(int64(int32(sec))+int64(extra&3)<<32, nsec)
}

// attr is the inode as stat(2) of the kernel shows it.
func (n *inode) attr(s *super) fsys.Attr {
	a := fsys.Attr{
		Ino: fsys.Ino(n.num), Mode: n.mode, Nlink: n.links, UID: n.uid, GID: n.gid,
		Size: int64(n.size), Blocks: int64(n.blocks), BlockSize: uint32(s.blockSize),
		Atime: n.atime, Mtime: n.mtime, Ctime: n.ctime, Btime: n.crtime, Generation: n.generation,
	}
	if n.isRegular() && n.has(flagInline) {
		// As the kernel does, so that tools which skip files without blocks read them.
		a.Blocks += (a.Size + 511) >> 9
	}
	if t := n.mode & fsys.ModeFmt; t == fsys.ModeBlock || t == fsys.ModeChar {
		a.Major, a.Minor = decodeDev(n.block[:])
	}
	return a
}

// decodeDev decodes a device number: i_block[0] has the old form of 8+8 bits, or is zero and
// i_block[1] has the new one of 12+20.
func decodeDev(b []byte) (major, minor uint32) {
	if old := binary.LittleEndian.Uint32(b); old != 0 {
		return old >> 8 & 0xFF, old & 0xFF
	}
	d := binary.LittleEndian.Uint32(b[4:])
	return d >> 8 & 0xFFF, d&0xFF | d>>12&0xFFF00
}
