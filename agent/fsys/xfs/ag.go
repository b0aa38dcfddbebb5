package xfs

import (
	"encoding/binary"
	"fmt"

	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// Headers of an allocation group: the superblock's copy, the free space (AGF) and the inodes (AGI)
// have a sector each.
const (
	agfMagic = 0x58414746 // "XAGF"
	agiMagic = 0x58414749 // "XAGI"
	agfCRC   = 216
	agiCRC   = 312
)

// counts are numbers of blocks and inodes.
type counts struct {
	free, inodes, freeInodes uint64
}

// maxCountedGroups bounds the headers that Info sums.
const maxCountedGroups = 16384

// countGroups sums over the AGs what is free, as the kernel does when it mounts after a crash: the
// superblock's numbers are brought up to date at unmount only. For a very large file system, or one
// whose headers are damaged, they are the superblock's.
func (f *FS) countGroups() counts {
	s := f.sb
	sum := counts{}
	if s.agCount <= maxCountedGroups {
		for ag := uint64(0); ; ag++ {
			if ag == s.agCount {
				return sum
			}
			c, err := f.groupCounts(ag)
			if err != nil {
				break
			}
			sum.free += c.free
			sum.inodes += c.inodes
			sum.freeInodes += c.freeInodes
		}
	}
	return counts{s.fdblocks, s.icount, s.ifree}
}

// groupCounts reads the headers of AG ag.
func (f *FS) groupCounts(ag uint64) (counts, error) {
	s := f.sb
	start := int64(ag * s.agBlocks * s.blockSize)
	header := func(sector int64, magic uint32, crc int, what string) (*ondisk.View, error) {
		off := start + sector*int64(s.sectorSize)
		b, err := f.meta.Bytes(off, int(s.sectorSize))
		if err != nil {
			return nil, fmt.Errorf("xfs: %s of allocation group %d: %w", what, ag, err)
		}
		v := ondisk.Big(b)
		if v.U32(0) != magic || uint64(v.U32(8)) != ag {
			return nil, fsys.Corrupt("xfs", what, 0, off, "magic %#08x in group %d", v.U32(0), v.U32(8))
		}
		if s.v5 && crcWithout(b, crc) != binary.LittleEndian.Uint32(b[crc:]) {
			return nil, fsys.Corrupt("xfs", what, 0, off, "wrong checksum")
		}
		return v, nil
	}
	agf, err := header(1, agfMagic, agfCRC, "free-space header")
	if err != nil {
		return counts{}, err
	}
	agi, err := header(2, agiMagic, agiCRC, "inode header")
	if err != nil {
		return counts{}, err
	}
	return counts{
		// Free, reserved for the free-space trees, and the trees' own blocks less their roots.
		free:       uint64(agf.U32(52)) + uint64(agf.U32(48)) + uint64(agf.U32(60)),
		inodes:     uint64(agi.U32(16)),
		freeInodes: uint64(agi.U32(28)),
	}, nil
}
