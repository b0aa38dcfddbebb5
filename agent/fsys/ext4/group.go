package ext4

import (
	"encoding/binary"
	"fmt"

	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// groupDesc is what reading needs of a block group descriptor.
type groupDesc struct {
	inodeTable   uint64
	freeClusters uint64
	freeInodes   uint32
}

// descBlock is the number of the block that holds the descriptor of group g as kept in copy:
// copy 0 is the primary table; others are backups, false where there is none of that number.
//
// Without meta_bg the whole table follows the superblock in each group that has one. With it,
// from block firstMetaBG of the table on, the block is kept in the first, second and last of
// the groups that it describes.
func (s *super) descBlock(g uint64, copyNr int) (uint64, bool) {
	perBlock := s.blockSize / s.descSize
	nr := g / perBlock
	var holder, skip uint64
	if s.hasIncompat(incompatMetaBG) && nr >= s.firstMetaBG {
		first := nr * perBlock
		switch copyNr {
		case 0:
			holder = first
		case 1:
			holder = first + 1
		case 2:
			holder = first + perBlock - 1
		default:
			return 0, false
		}
		if s.hasSuper(holder) {
			skip = 1
		}
	} else {
		holder = s.backupGroup(copyNr)
		skip = 1 + nr
	}
	if holder >= s.groups {
		return 0, false
	}
	// With 1 KiB blocks and clusters the file system starts at block 0 and the superblock is block 1.
	if holder == 0 && s.blockSize == 1024 && s.firstDataBlock == 0 {
		skip++
	}
	b := s.firstBlock(holder) + skip
	return b, b < s.blocksCount
}

// maxBackups bounds how many copies of a structure are tried.
const maxBackups = 8

// backupGroup is the n-th group that has a superblock (0: group 0); past the last one it is
// a number that no group has.
func (s *super) backupGroup(n int) uint64 {
	if n == 0 {
		return 0
	}
	if s.hasCompat(compatSparseSuper2) {
		if n <= len(s.backupGroups) && s.backupGroups[n-1] != 0 {
			return uint64(s.backupGroups[n-1])
		}
		return s.groups
	}
	for g := uint64(1); g < s.groups; g++ {
		if s.hasSuper(g) {
			if n--; n == 0 {
				return g
			}
		}
	}
	return s.groups
}

// group returns the descriptor of group g: the first copy that its checksum and its inode
// table's place do not contradict.
func (f *FS) group(g uint64) (groupDesc, error) {
	d, err := f.groupCopy(g, 0)
	if err == nil {
		return d, nil
	}
	for n := 1; n <= maxBackups; n++ {
		if b, berr := f.groupCopy(g, n); berr == nil {
			return b, nil
		}
	}
	return groupDesc{}, err
}

func (f *FS) groupCopy(g uint64, copyNr int) (groupDesc, error) {
	s := f.sb
	blk, ok := s.descBlock(g, copyNr)
	if !ok {
		return groupDesc{}, fsys.Corrupt("ext4", fmt.Sprintf("descriptor of group %d", g), 0, -1, "it is outside the file system")
	}
	off := int64(blk*s.blockSize + g%(s.blockSize/s.descSize)*s.descSize)
	raw, err := f.meta.Bytes(off, int(s.descSize))
	if err != nil {
		return groupDesc{}, fmt.Errorf("ext4: descriptor of group %d: %w", g, err)
	}
	bad := func(reason string, args ...any) error {
		return fsys.Corrupt("ext4", fmt.Sprintf("descriptor of group %d", g), 0, off, reason, args...)
	}
	if got, want, ok := s.descChecksum(uint32(g), raw); ok && got != want {
		return groupDesc{}, bad("checksum is %#04x, its bytes give %#04x", want, got)
	}
	v := ondisk.Little(raw)
	d := groupDesc{
		inodeTable:   uint64(v.U32(0x08)),
		freeClusters: uint64(v.U16(0x0C)),
		freeInodes:   uint32(v.U16(0x0E)),
	}
	if s.descSize >= 64 {
		d.inodeTable |= uint64(v.U32(0x28)) << 32
		d.freeClusters |= uint64(v.U16(0x2C)) << 16
		d.freeInodes |= uint32(v.U16(0x2E)) << 16
	}
	if err := v.Err(); err != nil {
		return groupDesc{}, bad("%v", err)
	}
	tableBlocks := (uint64(s.inodesPerGroup)*s.inodeSize + s.blockSize - 1) / s.blockSize
	if !s.validBlocks(d.inodeTable, tableBlocks) {
		return groupDesc{}, bad("inode table of %d blocks at block %d is outside the file system", tableBlocks, d.inodeTable)
	}
	return d, nil
}

// descChecksum returns the computed and the stored checksum of a descriptor; ok is false
// where the file system has none.
func (s *super) descChecksum(g uint32, raw []byte) (got, want uint16, ok bool) {
	const at = 0x1E // of bg_checksum, two bytes
	want = binary.LittleEndian.Uint16(raw[at:])
	switch {
	case s.metadataCsum():
		c := crc32cU32(s.csumSeed, g)
		c = crc32c(c, raw[:at])
		c = crc32c(c, zero4[:2])
		return uint16(crc32c(c, raw[at+2:])), want, true
	case s.hasRO(roGDTCsum):
		var le [4]byte
		binary.LittleEndian.PutUint32(le[:], g)
		c := crc16(^uint16(0), s.uuid[:])
		c = crc16(c, le[:])
		c = crc16(c, raw[:at])
		return crc16(c, raw[at+2:]), want, true
	}
	return 0, 0, false
}
