package xfs

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"

	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

const (
	superMagic = 0x58465342 // "XFSB"
	superSize  = 512        // bytes that are decoded; the checksum covers a sector
	nullIno    = 1<<64 - 1
)

// Limits of the geometry, as in xfs_format.h.
const (
	minBlockLog, maxBlockLog   = 9, 16
	minSectorLog, maxSectorLog = 9, 15
	minInodeLog, maxInodeLog   = 8, 11
	maxDirBlockLog             = 16
	minAGBlocks                = 64
	maxAGBytes                 = 1 << 40
)

// super is the decoded superblock, validated by parseSuper: sizes are powers of two within their
// limits, agree with their logarithms, and the allocation groups hold exactly the blocks.
type super struct {
	blockSize  uint64 // bytes
	blockLog   uint
	sectorSize uint64
	inodeSize  uint64
	inopbLog   uint   // inodes in a block, as a logarithm
	inodeAlign uint64 // of chunks of inodes, blocks
	blocks     uint64
	agBlocks   uint64
	agBlockLog uint
	agCount    uint64
	dirSize    uint64 // bytes of a directory block
	rootIno    uint64
	internal   [5]uint64 // quota and realtime inodes: never objects of the tree

	logStart  uint64 // block address as on disk; 0: the log is on another device
	logBlocks uint64
	logUnit   uint64

	uuid     [16]byte
	metaUUID [16]byte // as blocks of metadata record it
	label    string

	icount, ifree, fdblocks uint64
	maxInodePct             uint64
	realtimeBlocks          uint64

	v5    bool
	ftype bool // directory entries record the type
	ci    bool // names are compared without regard to case
	logV2 bool

	roCompat, incompat, logIncompat uint32
	lsn                             uint64 // of the superblock's last change; 0 with version 4
}

func (s *super) has(incompat uint32) bool { return s.incompat&incompat != 0 }

// parseSuper decodes and validates one copy of the superblock; b is at least one sector from
// offset off on. primary is false for the copies, which may be marked as in progress. Errors:
// fsys.ErrNotRecognized without the magic, fsys.ErrUnsupported for a feature that is not
// implemented, fsys.ErrCorrupt for everything else.
func parseSuper(b []byte, off int64, primary bool) (*super, error) {
	v := ondisk.Big(b)
	if v.U32(0) != superMagic {
		return nil, fsys.ErrNotRecognized
	}
	bad := func(reason string, args ...any) error {
		return fsys.Corrupt("xfs", "superblock", 0, off, reason, args...)
	}
	// Some kernels wrote the second field at the wrong place, so that a reader takes both together.
	version, features2 := v.U16(100), v.U32(200)|v.U32(204)
	s := &super{
		blockSize:      uint64(v.U32(4)),
		blocks:         v.U64(8),
		realtimeBlocks: v.U64(16),
		logStart:       v.U64(48),
		rootIno:        v.U64(56),
		agBlocks:       uint64(v.U32(84)),
		agCount:        uint64(v.U32(88)),
		logBlocks:      uint64(v.U32(96)),
		sectorSize:     uint64(v.U16(102)),
		inodeSize:      uint64(v.U16(104)),
		label:          cstring(v.Bytes(108, 12)),
		blockLog:       uint(v.U8(120)),
		inopbLog:       uint(v.U8(123)),
		inodeAlign:     uint64(v.U32(180)),
		agBlockLog:     uint(v.U8(124)),
		maxInodePct:    uint64(v.U8(127)),
		icount:         v.U64(128),
		ifree:          v.U64(136),
		fdblocks:       v.U64(144),
		logUnit:        uint64(v.U32(196)),
		v5:             version&versionMask == version5,
		ci:             version&versionCI != 0,
		logV2:          version&versionLogV2 != 0,
		internal:       [5]uint64{v.U64(64), v.U64(72), v.U64(160), v.U64(168), 0},
	}
	copy(s.uuid[:], v.Bytes(32, 16))
	s.metaUUID = s.uuid
	switch n := version & versionMask; {
	case n == 0:
		return nil, bad("it has no version")
	case n < version4:
		return nil, fmt.Errorf("xfs: %w: version %d of the format, from before 2001", fsys.ErrUnsupported, n)
	case n > version5:
		return nil, fmt.Errorf("xfs: %w: version %d of the format", fsys.ErrUnsupported, n)
	case version&versionDirV2 == 0:
		return nil, fmt.Errorf("xfs: %w: version 1 directories", fsys.ErrUnsupported)
	}
	if s.v5 {
		if err := s.parseV5(v, bad); err != nil {
			return nil, err
		}
	} else if version&versionMore != 0 {
		s.ftype = features2&features2Ftype != 0
		if features2&features2CRC != 0 {
			return nil, bad("version 4 with checksums")
		}
	}
	if err := v.Err(); err != nil {
		return nil, bad("%v", err)
	}
	if primary && v.U8(126) != 0 {
		return nil, bad("mkfs.xfs did not finish")
	}
	if err := s.checkSizes(v, bad); err != nil {
		return nil, err
	}
	if s.dirSize = s.blockSize << v.U8(192); v.U8(192) > maxDirBlockLog || s.dirSize > 1<<maxBlockLog {
		return nil, bad("directory blocks of 2^%d blocks", v.U8(192))
	}
	if err := s.checkGeometry(bad); err != nil {
		return nil, err
	}
	if !s.validIno(s.rootIno) && (primary || s.rootIno != nullIno) {
		return nil, bad("root inode %d", s.rootIno)
	}
	return s, nil
}

// parseV5 decodes what version 5 added, checks the checksum, and then the features.
func (s *super) parseV5(v *ondisk.View, bad func(string, ...any) error) error {
	s.roCompat, s.incompat, s.logIncompat, s.lsn = v.U32(212), v.U32(216), v.U32(220), v.U64(240)
	s.internal[4] = v.U64(232)
	s.ftype = s.has(incompatFtype)
	if s.has(incompatMetaUUID) {
		copy(s.metaUUID[:], v.Bytes(248, 16))
	}
	sector := v.Bytes(0, int(s.sectorSize))
	if s.sectorSize < superSize || sector == nil {
		return bad("sectors of %d bytes", s.sectorSize)
	}
	if got, want := crcWithout(sector, 224), binary.LittleEndian.Uint32(sector[224:]); got != want {
		return bad("checksum is %#08x, its bytes give %#08x", want, got)
	}
	if u := s.incompat &^ incompatKnown; u != 0 {
		return fmt.Errorf("xfs: %w: %s", fsys.ErrUnsupported, featureNames(u, incompatNames))
	}
	return nil
}

// checkSizes checks each size against its limits and its logarithm.
func (s *super) checkSizes(v *ondisk.View, bad func(string, ...any) error) error {
	for _, c := range []struct {
		what     string
		size     uint64
		log      uint8
		min, max uint8
	}{
		{"blocks", s.blockSize, v.U8(120), minBlockLog, maxBlockLog},
		{"sectors", s.sectorSize, v.U8(121), minSectorLog, maxSectorLog},
		{"inodes", s.inodeSize, v.U8(122), minInodeLog, maxInodeLog},
	} {
		if c.log < c.min || c.log > c.max || c.size != 1<<c.log {
			return bad("%s of %d bytes, 2^%d", c.what, c.size, c.log)
		}
	}
	switch {
	case s.sectorSize > s.blockSize:
		return bad("sectors of %d bytes in blocks of %d", s.sectorSize, s.blockSize)
	case s.inodeSize<<s.inopbLog != s.blockSize || s.inopbLog > maxBlockLog-minInodeLog:
		return bad("2^%d inodes of %d bytes in a block of %d", s.inopbLog, s.inodeSize, s.blockSize)
	case s.v5 && s.inodeSize < 512:
		return bad("version 5 with inodes of %d bytes", s.inodeSize)
	}
	return nil
}

// checkGeometry checks the allocation groups and what has a place in them.
func (s *super) checkGeometry(bad func(string, ...any) error) error {
	agBytes, ok := ondisk.Mul(s.agBlocks, s.blockSize)
	switch {
	case !ok || s.agBlocks < minAGBlocks || agBytes > maxAGBytes:
		return bad("allocation groups of %d blocks", s.agBlocks)
	case s.agBlockLog != uint(bits.Len64(s.agBlocks-1)):
		return bad("allocation groups of %d blocks, 2^%d", s.agBlocks, s.agBlockLog)
	case s.agCount == 0 || s.blocks <= (s.agCount-1)*s.agBlocks || s.blocks > s.agCount*s.agBlocks:
		return bad("%d blocks in %d allocation groups of %d", s.blocks, s.agCount, s.agBlocks)
	}
	if n, ok := ondisk.Mul(s.blocks, s.blockSize); !ok || n > 1<<62 {
		return bad("%d blocks of %d bytes", s.blocks, s.blockSize)
	}
	if s.logStart != 0 {
		if _, ok := s.linear(s.logStart, s.logBlocks); !ok || s.logBlocks == 0 {
			return bad("a log of %d blocks at block %#x", s.logBlocks, s.logStart)
		}
	}
	return nil
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
