package xlog

import "encoding/binary"

// The inode as the log has it ("log dinode") has the fields of the one on the disk, at the same
// offsets, but in the byte order of the guest's processor:
//
//	 0 magic  2 mode  4 version  5 format  6 metatype/old link count  8 uid  12 gid  16 links
//	20 project  24 flush count or large extent count  32 atime  40 mtime  48 ctime  56 size
//	64 blocks  72 extent size  76 extents  80 attribute extents  82 fork offset  83 format of
//	attributes  84 events  88 state  90 flags  92 generation  96 next unlinked
//	version 3: 100 CRC  104 changes  112 LSN  120 flags2  128 CoW extent size  132 padding
//	144 crtime  152 inode  160 UUID
const (
	dinodeMode         = 2
	dinodeVersion      = 4
	dinodeFormat       = 5
	dinodeMetatype     = 6
	dinodeFlushIter    = 30
	dinodeBigExtents   = 24
	dinodeBlocks       = 64
	dinodeExtents      = 76
	dinodeAttrExtents  = 80
	dinodeForkOff      = 82
	dinodeNextUnlinked = 96
	dinodeCRC          = 100
	dinodeLSN          = 112
	dinodeFlags2       = 120
	dinodePad2         = 132
	dinodeUUID         = 160

	logDinodeV2 = 96 // bytes of a log dinode
	logDinodeV3 = 176
	dinodeV2    = 100 // bytes before the forks
	dinodeV3    = 176

	flags2BigTime  = 1 << 3
	flags2Nrext64  = 1 << 4
	flags2Metadata = 1 << 5

	formatLocal   = 1
	formatExtents = 2
	formatBtree   = 3

	maxFlushIter = 0xFFFF
)

func isBit(ld []byte, flag uint64) bool {
	return ld[dinodeVersion] >= 3 && binary.LittleEndian.Uint64(ld[dinodeFlags2:])&flag != 0
}

// swap copies n bytes at off of a little-endian number to its big-endian place.
func swap(to, from []byte, off, n int) {
	for i := range n {
		to[off+i] = from[off+n-1-i]
	}
}

// toDisk converts log dinode ld to the inode on the disk d. What the log does not decide stays:
// the link of the unlinked list, and the forks. LSN and checksum are the caller's for version 2.
func toDisk(d, ld []byte, lsn uint64) {
	copy(d[dinodeVersion:], ld[dinodeVersion:dinodeFormat+1])
	clear(d[dinodeMetatype : dinodeMetatype+2])
	if isBit(ld, flags2Metadata) {
		swap(d, ld, dinodeMetatype, 2)
	}
	for _, f := range [...][2]int{{0, 2}, {dinodeMode, 2}, {8, 4}, {12, 4}, {16, 4}, {20, 2}, {22, 2}, {56, 8}, {dinodeBlocks, 8}, {72, 4},
		{84, 4}, {88, 2}, {90, 2}, {92, 4}} {
		swap(d, ld, f[0], f[1])
	}
	copy(d[dinodeForkOff:], ld[dinodeForkOff:dinodeForkOff+2])
	for _, at := range [...]int{32, 40, 48} {
		swapTime(d, ld, at)
	}
	v3 := ld[dinodeVersion] == 3
	switch {
	case isBit(ld, flags2Nrext64):
		swap(d, ld, dinodeBigExtents, 8)
		swap(d, ld, dinodeExtents, 4)
		swap(d, ld, dinodeAttrExtents, 2) // padding
	case v3:
		clear(d[dinodeBigExtents : dinodeBigExtents+8])
	default:
		clear(d[dinodeBigExtents : dinodeFlushIter+2]) // the kernel takes the opportunity to reset the count
	}
	if !isBit(ld, flags2Nrext64) {
		swap(d, ld, dinodeExtents, 4)
		swap(d, ld, dinodeAttrExtents, 2)
	}
	if v3 {
		swap(d, ld, 104, 8)
		swap(d, ld, dinodeFlags2, 8)
		swap(d, ld, 128, 4)
		clear(d[dinodePad2 : dinodePad2+12])
		swapTime(d, ld, 144)
		swap(d, ld, 152, 8)
		copy(d[dinodeUUID:], ld[dinodeUUID:dinodeUUID+16])
		binary.BigEndian.PutUint64(d[dinodeLSN:], lsn)
	}
}

// swapTime converts a time: one number of 64 bits, or seconds and nanoseconds of 32.
func swapTime(d, ld []byte, at int) {
	if isBit(ld, flags2BigTime) {
		swap(d, ld, at, 8)
		return
	}
	swap(d, ld, at, 4)
	swap(d, ld, at+4, 4)
}

// forksAt is where an inode's forks begin.
func forksAt(d []byte) int {
	if d[dinodeVersion] >= 3 {
		return dinodeV3
	}
	return dinodeV2
}

// forks are the data fork and the attribute fork of inode d, which may be empty. false: the
// inode has a fork offset behind its end.
func forks(d []byte) (data, attr []byte, ok bool) {
	all := d[forksAt(d):]
	off := int(d[dinodeForkOff]) * 8
	switch {
	case off > len(all):
		return nil, nil, false
	case off == 0:
		return all, nil, true
	}
	return all[:off:off], all[off:], true
}
