package ext4

import (
	"errors"
	"fmt"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// readSuper returns the primary superblock or, where that is damaged, the first backup that is
// not, with a warning. Without the magic in the primary nothing is searched: what lay there before
// may have been ext4, but this is not.
func readSuper(r extent.Reader) (sb *super, warning string, err error) {
	if r.Size() < superOffset+superSize {
		return nil, "", fsys.ErrNotRecognized
	}
	b := make([]byte, superSize)
	if err := extent.ReadAllAt(r, b, superOffset); err != nil {
		return nil, "", fmt.Errorf("ext4: superblock: %w", err)
	}
	sb, err = parseSuper(b, superOffset)
	if err == nil || !errors.Is(err, fsys.ErrCorrupt) {
		return sb, "", err
	}
	for _, c := range backupCandidates(b) {
		off, _, ok := ondisk.Range(c.block, 1, c.blockSize, r.Size())
		if !ok || r.Size()-off < superSize {
			continue
		}
		p := make([]byte, superSize)
		if extent.ReadAllAt(r, p, off) != nil {
			continue
		}
		s, perr := parseSuper(p, off)
		if perr != nil || s.blockSize != c.blockSize || uint64(s.blockGroup) != c.group&0xFFFF || s.firstBlock(c.group) != c.block {
			continue
		}
		return s, fmt.Sprintf("the superblock is damaged (%v): the copy in block group %d is used", err, c.group), nil
	}
	return nil, "", fmt.Errorf("%w (and no backup superblock can be used)", err)
}

// candidate is a place where a backup superblock may be.
type candidate struct{ group, block, blockSize uint64 }

// backupCandidates lists where backups can be, for each size of a block: with as many blocks in a
// group as the damaged superblock says, then with mke2fs's default of 8*blockSize.
func backupCandidates(damaged []byte) []candidate {
	v := ondisk.Little(damaged)
	groups := []uint64{1, 3, 5, 7, 9, 25, 27, 49}
	for _, at := range []int{0x24C, 0x250} { // s_backup_bgs of sparse_super2
		if g := uint64(v.U32(at)); g != 0 {
			groups = append(groups, g)
		}
	}
	var out []candidate
	for log := range maxLogBlockSize + 1 {
		bs := uint64(1024) << log
		for _, perGroup := range []uint64{uint64(v.U32(0x20)), 8 * bs} {
			for _, g := range groups {
				// Blocks of 1 KiB start at block 1, or at 0 with bigalloc.
				out = append(out, candidate{g, g * perGroup, bs})
				if bs == 1024 {
					out = append(out, candidate{g, g*perGroup + 1, bs})
				}
			}
		}
	}
	return out
}
