package ext4

import (
	"encoding/hex"
	"fmt"
	"math/bits"

	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// Where the primary superblock lies, and how long each copy is, in bytes.
const (
	superOffset = 1024
	superSize   = 1024
	superMagic  = 0xEF53
)

const (
	goodOldInodeSize = 128
	rootIno          = 2
	goodOldFirstIno  = 11
	maxLogBlockSize  = 6 // 64 KiB
)

// Bits of s_state and s_flags.
const (
	stateValid        = 0x1
	stateErrors       = 0x2
	flagSignedHash    = 0x1
	flagUnsignedHash  = 0x2
	checksumTypeCRC32 = 1
)

// super is the decoded superblock, validated by parseSuper: sizes are powers of two within
// their limits, the geometry has no overflow and the groups hold exactly inodesCount inodes.
type super struct {
	raw [superSize]byte

	inodesCount    uint32
	blocksCount    uint64
	freeBlocks     uint64
	freeInodes     uint32
	firstDataBlock uint64
	blockSize      uint64
	clusterSize    uint64
	blocksPerGroup uint64
	inodesPerGroup uint32
	groups         uint64
	state          uint16
	firstIno       uint32
	inodeSize      uint64
	blockGroup     uint16
	descSize       uint64

	compat, incompat, roCompat uint32

	uuid         [16]byte
	label        string
	journalIno   uint32
	journalDev   uint32
	hashSeed     [4]uint32
	flags        uint32
	firstMetaBG  uint64
	reservedGDT  uint16
	backupGroups [2]uint32
	errorCount   uint32
	csumSeed     uint32
	jnlBackup    []byte // copy of the journal inode's block map and size; nil: none
	internal     [4]uint32
}

// parseSuper decodes and validates one copy of the superblock (1024 bytes). Errors:
// fsys.ErrNotRecognized without the magic, fsys.ErrUnsupported for a feature that is not
// implemented, fsys.ErrCorrupt (with byte offset off) for everything else.
func parseSuper(b []byte, off int64) (*super, error) {
	v := ondisk.Little(b)
	if v.U16(0x38) != superMagic {
		return nil, fsys.ErrNotRecognized
	}
	bad := func(reason string, args ...any) error {
		return fsys.Corrupt("ext4", "superblock", 0, off, reason, args...)
	}
	s := &super{
		inodesCount:    v.U32(0x00),
		blocksCount:    uint64(v.U32(0x04)),
		freeBlocks:     uint64(v.U32(0x0C)),
		freeInodes:     v.U32(0x10),
		firstDataBlock: uint64(v.U32(0x14)),
		blocksPerGroup: uint64(v.U32(0x20)),
		inodesPerGroup: v.U32(0x28),
		state:          v.U16(0x3A),
		firstIno:       goodOldFirstIno,
		inodeSize:      goodOldInodeSize,
		blockGroup:     v.U16(0x5A),
		descSize:       32,
		compat:         v.U32(0x5C),
		incompat:       v.U32(0x60),
		roCompat:       v.U32(0x64),
		label:          cstring(v.Bytes(0x78, 16)),
		journalIno:     v.U32(0xE0),
		journalDev:     v.U32(0xE4),
		reservedGDT:    v.U16(0xCE),
		firstMetaBG:    uint64(v.U32(0x104)),
		flags:          v.U32(0x160),
		errorCount:     v.U32(0x194),
		backupGroups:   [2]uint32{v.U32(0x24C), v.U32(0x250)},
		// Quota files and the orphan file: never objects of the tree.
		internal: [4]uint32{v.U32(0x240), v.U32(0x244), v.U32(0x26C), v.U32(0x280)},
	}
	copy(s.uuid[:], v.Bytes(0x68, 16))
	for i := range s.hashSeed {
		s.hashSeed[i] = v.U32(0xEC + 4*i)
	}
	if err := v.Err(); err != nil {
		return nil, bad("%v", err)
	}
	copy(s.raw[:], b)

	if s.metadataCsum() {
		if t := b[0x175]; t != checksumTypeCRC32 {
			return nil, fmt.Errorf("ext4: %w: checksum type %d", fsys.ErrUnsupported, t)
		}
		if got, want := crc32c(^uint32(0), b[:0x3FC]), v.U32(0x3FC); got != want {
			return nil, bad("checksum is %#08x, its bytes give %#08x", want, got)
		}
	}
	if u := s.incompat &^ incompatKnown; u != 0 {
		return nil, fmt.Errorf("ext4: %w: %s", fsys.ErrUnsupported, featureNames(u, incompatNames))
	}
	if err := s.parseSizes(v, bad); err != nil {
		return nil, err
	}
	if err := s.checkGeometry(v, bad); err != nil {
		return nil, err
	}
	if b[0xFD] == 1 {
		s.jnlBackup = append([]byte(nil), b[0x10C:0x10C+17*4]...)
	}
	s.csumSeed = crc32c(^uint32(0), s.uuid[:])
	if s.hasIncompat(incompatCsumSeed) {
		s.csumSeed = v.U32(0x270)
	}
	return s, nil
}

// parseSizes decodes the sizes of a block, a cluster, an inode and a group descriptor.
func (s *super) parseSizes(v *ondisk.View, bad func(string, ...any) error) error {
	logBlock := v.U32(0x18)
	if logBlock > maxLogBlockSize {
		return bad("block size 2^%d KiB", logBlock)
	}
	s.blockSize = 1024 << logBlock
	s.clusterSize = s.blockSize
	if s.hasRO(roBigalloc) {
		// The kernel's limit: a cluster of 2^30 bytes.
		logCluster := v.U32(0x1C)
		if logCluster < logBlock || logCluster > 20 {
			return bad("cluster size 2^%d KiB with blocks of %d bytes", logCluster, s.blockSize)
		}
		s.clusterSize = 1024 << logCluster
	}
	if v.U32(0x4C) > 0 { // revision 0 has none of these fields
		s.firstIno = v.U32(0x54)
		s.inodeSize = uint64(v.U16(0x58))
	}
	if s.inodeSize < goodOldInodeSize || s.inodeSize > s.blockSize || bits.OnesCount64(s.inodeSize) != 1 {
		return bad("inode size %d", s.inodeSize)
	}
	if s.firstIno < goodOldFirstIno {
		return bad("first inode %d", s.firstIno)
	}
	if s.hasIncompat(incompat64Bit) {
		s.blocksCount |= uint64(v.U32(0x150)) << 32
		s.freeBlocks |= uint64(v.U32(0x158)) << 32
		s.descSize = uint64(v.U16(0xFE))
		if s.descSize < 64 || s.descSize > s.blockSize || bits.OnesCount64(s.descSize) != 1 {
			return bad("group descriptor size %d", s.descSize)
		}
	}
	return nil
}

// checkGeometry checks counts against one another and derives the number of groups.
func (s *super) checkGeometry(v *ondisk.View, bad func(string, ...any) error) error {
	ratio := s.clusterSize / s.blockSize
	maxPerGroup := s.blockSize * 8 // bits in one bitmap block: clusters, inodes
	switch {
	case s.blocksPerGroup == 0 || s.blocksPerGroup%ratio != 0 || s.blocksPerGroup/ratio > maxPerGroup:
		return bad("%d blocks per group", s.blocksPerGroup)
	case s.inodesPerGroup == 0 || uint64(s.inodesPerGroup) > maxPerGroup || uint64(s.inodesPerGroup) < s.blockSize/s.inodeSize:
		return bad("%d inodes per group", s.inodesPerGroup)
	case s.firstDataBlock >= s.blocksCount:
		return bad("first data block %d of %d", s.firstDataBlock, s.blocksCount)
	case s.firstDataBlock > 1 || s.firstDataBlock == 1 && s.blockSize != 1024:
		return bad("first data block %d with blocks of %d bytes", s.firstDataBlock, s.blockSize)
	}
	if n, ok := ondisk.Mul(s.blocksCount, s.blockSize); !ok || n > 1<<62 {
		return bad("%d blocks of %d bytes", s.blocksCount, s.blockSize)
	}
	s.groups = (s.blocksCount - s.firstDataBlock + s.blocksPerGroup - 1) / s.blocksPerGroup
	if n, ok := ondisk.Mul(s.groups, uint64(s.inodesPerGroup)); !ok || n != uint64(s.inodesCount) {
		return bad("%d inodes in %d groups of %d", s.inodesCount, s.groups, s.inodesPerGroup)
	}
	return nil
}

// hasSuper tells whether group g holds a copy of the superblock and of the group descriptors.
func (s *super) hasSuper(g uint64) bool {
	switch {
	case g == 0:
		return true
	case s.hasCompat(compatSparseSuper2):
		return g == uint64(s.backupGroups[0]) || g == uint64(s.backupGroups[1])
	case !s.hasRO(roSparseSuper) || g == 1:
		return true
	}
	for _, base := range []uint64{3, 5, 7} {
		n := base
		for n < g {
			n *= base // g < 2^32, so n stays below 7*2^32
		}
		if n == g {
			return true
		}
	}
	return false
}

// firstBlock is the number of the first block of group g.
func (s *super) firstBlock(g uint64) uint64 { return s.firstDataBlock + g*s.blocksPerGroup }

// validBlocks tells whether count blocks from b on can hold data: inside the file system and
// behind the superblock.
func (s *super) validBlocks(b, count uint64) bool {
	end, ok := ondisk.Add(b, count)
	return ok && b > s.firstDataBlock && end <= s.blocksCount
}

func (s *super) uuidString() string {
	h := hex.EncodeToString(s.uuid[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// cstring is b up to its first NUL.
func cstring(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
