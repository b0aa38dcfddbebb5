package xfs

import (
	"errors"
	"fmt"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// maxSector is how much is read of a superblock: its checksum covers the sector, the size of
// which is in it.
const maxSector = 1 << maxSectorLog

// readSuper returns the primary superblock or, where that is damaged, a copy that is not, with a
// warning. Without the magic in the primary nothing is searched: what lay there before may have
// been XFS, but this is not.
func readSuper(r extent.Reader) (sb *super, warning string, err error) {
	b, err := superAt(r, 0)
	if err != nil {
		return nil, "", err
	}
	sb, err = parseSuper(b, 0, true)
	if err == nil && sb.has(incompatNeedsRepair) { // the kernel does not mount it either
		return nil, "", fsys.Corrupt("xfs", "superblock", 0, 0, "it is marked as in need of repair: run xfs_repair in the guest, or on a copy of the disk")
	}
	if err == nil || !errors.Is(err, fsys.ErrCorrupt) {
		return sb, "", err
	}
	if sb, ag := findBackup(r, b); sb != nil {
		return sb, fmt.Sprintf("the superblock is damaged (%v): the copy in allocation group %d is used", err, ag), nil
	}
	return nil, "", fmt.Errorf("%w (and no copy of the superblock can be used)", err)
}

// superAt reads what may be a superblock at byte off.
func superAt(r extent.Reader, off int64) ([]byte, error) {
	if r.Size()-off < superSize {
		return nil, fsys.ErrNotRecognized
	}
	b := make([]byte, min(maxSector, r.Size()-off))
	if err := extent.ReadAllAt(r, b, off); err != nil {
		return nil, fmt.Errorf("xfs: superblock: %w", err)
	}
	return b, nil
}

// findBackup looks for a copy of the superblock at the start of the other AGs. mkfs.xfs records
// the root inode only in the copies of the middle and the last one.
func findBackup(r extent.Reader, damaged []byte) (*super, uint64) {
	for _, agBytes := range backupCandidates(damaged, uint64(r.Size())) {
		for _, ag := range []uint64{1, 2} {
			s := backupAt(r, ag, agBytes)
			if s == nil {
				continue
			}
			if s.rootIno != nullIno {
				return s, ag
			}
			for _, other := range []uint64{(s.agCount - 1) / 2, s.agCount - 1, (s.agCount-1)/2 + 1} {
				if c := backupAt(r, other, agBytes); c != nil && c.rootIno != nullIno && c.uuid == s.uuid {
					return c, other
				}
			}
		}
	}
	return nil, 0
}

// backupAt is the copy in AG ag if that has agBytes and the copy says so, too; the copy may lack
// the root inode.
func backupAt(r extent.Reader, ag, agBytes uint64) *super {
	off, _, ok := ondisk.Range(ag, 1, agBytes, r.Size())
	if !ok || ag == 0 {
		return nil
	}
	b, err := superAt(r, off)
	if err != nil {
		return nil
	}
	s, err := parseSuper(b, off, false)
	if err != nil || ag >= s.agCount || s.agBlocks*s.blockSize != agBytes {
		return nil
	}
	return s
}

// backupCandidates lists what an AG can measure in bytes: what the damaged superblock says, then
// mkfs.xfs's defaults of 4, 8, 16 and 32 groups of the volume, in blocks of 4 KiB and 1 KiB.
func backupCandidates(damaged []byte, size uint64) []uint64 {
	v := ondisk.Big(damaged)
	var out []uint64
	add := func(agBlocks, blockSize uint64) {
		if n, ok := ondisk.Mul(agBlocks, blockSize); ok && agBlocks >= minAGBlocks && n <= maxAGBytes {
			out = append(out, n)
		}
	}
	add(uint64(v.U32(84)), uint64(v.U32(4)))
	for _, bs := range []uint64{4096, 1024} {
		add(uint64(v.U32(84)), bs)
		for _, groups := range []uint64{4, 8, 16, 32} {
			add((size/bs+groups-1)/groups, bs)
			add(size/bs/groups, bs)
		}
	}
	return out
}
