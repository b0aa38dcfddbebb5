package xfs

// Addresses. A block address as on disk and an inode number carry the number of the allocation
// group (AG) above the place in it:
//
//	block address   AG | block in the AG (agBlockLog bits)
//	inode number    AG | block in the AG (agBlockLog bits) | inode in the block (inopbLog bits)
//
// A linear block counts from the start of the volume. Linear block 0 is the superblock and so
// never anybody's data.

// agHeader is how many blocks the headers of an AG take: superblock, AGF, AGI and AGFL, a sector each.
func (s *super) agHeader() uint64 {
	return (4*s.sectorSize + s.blockSize - 1) / s.blockSize
}

// agLength is the number of blocks of AG ag < agCount: the last one may be shorter.
func (s *super) agLength(ag uint64) uint64 {
	if ag == s.agCount-1 {
		return s.blocks - ag*s.agBlocks
	}
	return s.agBlocks
}

// linear converts a block address, and tells whether count > 0 blocks from there on lie in one AG
// behind its headers.
func (s *super) linear(addr, count uint64) (uint64, bool) {
	ag, in := addr>>s.agBlockLog, addr&(1<<s.agBlockLog-1)
	if ag >= s.agCount || in < s.agHeader() {
		return 0, false
	}
	n := s.agLength(ag)
	if in >= n || count == 0 || count > n-in {
		return 0, false
	}
	return ag*s.agBlocks + in, true
}

// inodePlace is the byte offset of an inode in the volume; false where no inode can have the number.
func (s *super) inodePlace(ino uint64) (int64, bool) {
	b, ok := s.linear(ino>>s.inopbLog, 1)
	if !ok {
		return 0, false
	}
	return int64(b*s.blockSize + ino&(1<<s.inopbLog-1)*s.inodeSize), true
}

func (s *super) validIno(ino uint64) bool {
	_, ok := s.inodePlace(ino)
	return ok
}
