package jbd2

import (
	"fmt"

	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// Layout and flags as in the kernel's include/linux/jbd2.h. All integers are big-endian.
const (
	magic = 0xC03B3998 // the first four bytes of every block that is not logged data

	typeDescriptor   = 1
	typeCommit       = 2
	typeSuperblockV1 = 3
	typeSuperblockV2 = 4
	typeRevoke       = 5

	compatChecksum = 0x1 // checksum v1: one CRC-32 for each transaction

	incompatRevoke      = 0x1
	incompat64Bit       = 0x2
	incompatAsyncCommit = 0x4
	incompatCsumV2      = 0x8 // CRC-32C of every block, 16 bits of it for data
	incompatCsumV3      = 0x10
	incompatFastCommit  = 0x20
	incompatKnown       = incompatRevoke | incompat64Bit | incompatAsyncCommit | incompatCsumV2 | incompatCsumV3 | incompatFastCommit

	checksumTypeCRC32  = 1
	checksumTypeCRC32C = 4

	headerSize      = 12   // magic, block type, transaction
	superblockSize  = 1024 // whatever the block size
	superblockCsum  = 0xFC
	tailSize        = 4   // checksum at the end of descriptor and revoke blocks, v2 and v3
	uuidSize        = 16  // follows a tag without flagSameUUID
	defaultFCBlocks = 256 // length of the fast-commit area where the superblock says 0

	minBlockSize = 1 << 10
	maxBlockSize = 1 << 16

	// maxLogBlocks bounds the log and with it the time and memory of a replay: every block is
	// read at most three times, and a logged block costs 24 bytes in the index and at most
	// about 150 as a patch. 2^21 blocks are a log of 8 GiB with blocks of 4 KiB; mke2fs makes
	// 1 GiB unless it is told otherwise.
	maxLogBlocks = 1 << 21
)

// superblock is the journal's superblock, validated.
//
//	block 0      first          last            maxlen
//	|superblock  |the log, a ring|fast commits  |
type superblock struct {
	first, last uint32 // the log's ring is [first, last)
	maxlen      uint32
	start       uint32 // where the oldest transaction begins; 0: the log is empty
	sequence    uint32 // number of the transaction at start
	errno       int32  // what aborted the journal, a negative errno; 0: nothing
	compat      uint32
	incompat    uint32
	seed        uint32 // of CRC-32C, from the UUID
}

func (s *superblock) has(incompat uint32) bool { return s.incompat&incompat != 0 }

// csumV2or3 tells whether every block of the log has its own checksum.
func (s *superblock) csumV2or3() bool { return s.has(incompatCsumV2 | incompatCsumV3) }

// csumV1 tells whether commit blocks have a checksum of their transaction.
func (s *superblock) csumV1() bool { return s.compat&compatChecksum != 0 }

// tagSize is the length in bytes of a descriptor block's tag, without its UUID.
func (s *superblock) tagSize() int {
	switch {
	case s.has(incompatCsumV3):
		return 16
	case s.has(incompatCsumV2) && s.has(incompat64Bit):
		return 14
	case s.has(incompatCsumV2):
		return 10
	case s.has(incompat64Bit):
		return 12
	}
	return 8
}

// parseSuperblock decodes the journal's first block. size is the journal's length in bytes.
func parseSuperblock(b []byte, blockSize int, size int64) (*superblock, error) {
	corrupt := func(reason string, args ...any) error {
		return fsys.Corrupt("jbd2", "superblock", 0, 0, reason, args...)
	}
	v := ondisk.Big(b)
	if m := v.U32(0); m != magic {
		return nil, corrupt("magic number %#x", m)
	}
	blockType := v.U32(4)
	if blockType != typeSuperblockV1 && blockType != typeSuperblockV2 {
		return nil, corrupt("block type %d", blockType)
	}
	s := &superblock{
		maxlen: v.U32(0x10), first: v.U32(0x14), sequence: v.U32(0x18), start: v.U32(0x1C), errno: int32(v.U32(0x20)),
	}
	if blockType == typeSuperblockV2 { // version 1 ends here
		s.compat, s.incompat = v.U32(0x24), v.U32(0x28)
		if x := s.incompat &^ incompatKnown; x != 0 {
			return nil, fmt.Errorf("jbd2: journal with incompatible features %#x: %w", x, fsys.ErrUnsupported)
		}
		if x := v.U32(0x2C); x != 0 {
			return nil, fmt.Errorf("jbd2: journal with read-only features %#x: %w", x, fsys.ErrUnsupported)
		}
		s.seed = crc32c(^uint32(0), v.Bytes(0x30, 16))
	}
	if s.csumV2or3() {
		if s.has(incompatCsumV2) && s.has(incompatCsumV3) || s.csumV1() {
			return nil, corrupt("more than one kind of checksum (features %#x, %#x)", s.compat, s.incompat)
		}
		if t := v.U8(0x50); t != checksumTypeCRC32C {
			return nil, fmt.Errorf("jbd2: journal with checksum type %d: %w", t, fsys.ErrUnsupported)
		}
		if want, got := v.U32(superblockCsum), crc32cWithout(^uint32(0), v.Bytes(0, superblockSize), superblockCsum); want != got {
			return nil, corrupt("checksum %#x, computed %#x", want, got)
		}
	}
	if n := v.U32(0x0C); n != uint32(blockSize) {
		return nil, corrupt("block size %d, the file system has %d", n, blockSize)
	}
	if int64(s.maxlen) > size/int64(blockSize) {
		return nil, corrupt("length of %d blocks, the journal has %d", s.maxlen, size/int64(blockSize))
	}
	if s.maxlen > maxLogBlocks {
		return nil, fmt.Errorf("jbd2: journal of %d blocks (limit %d): %w", s.maxlen, maxLogBlocks, fsys.ErrUnsupported)
	}
	s.last = s.maxlen
	if s.has(incompatFastCommit) {
		n := v.U32(0x54)
		if n == 0 {
			n = defaultFCBlocks
		}
		if n >= s.maxlen {
			return nil, corrupt("%d blocks for fast commits of %d in all", n, s.maxlen)
		}
		s.last -= n
	}
	if s.first == 0 || s.first >= s.last {
		return nil, corrupt("log from block %d to %d", s.first, s.last)
	}
	if s.start != 0 && (s.start < s.first || s.start >= s.last) {
		return nil, corrupt("log begins at block %d, outside [%d, %d)", s.start, s.first, s.last)
	}
	return s, v.Err()
}
