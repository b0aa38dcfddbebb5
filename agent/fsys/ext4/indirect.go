package ext4

import (
	"encoding/binary"
	"math"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/block"
)

// directBlocks is how many block numbers i_block holds itself. Three more name blocks of
// numbers, blocks of blocks of numbers, and one level more (ext2's block map).
const directBlocks = 12

// indirectRun maps lblk by the block map. The result starts at lblk and runs on as far as the
// same block of numbers tells.
func (f *FS) indirectRun(n *inode, lblk uint64) (block.Run, error) {
	if lblk < directBlocks {
		return f.pointerRun(n.num, n.block[:4*directBlocks], lblk, lblk, 1, -1)
	}
	perBlock := f.sb.blockSize / 4
	rest, span := lblk-directBlocks, uint64(1) // span: blocks below one number of the top block
	for level := 0; level < 3; level++ {
		if rest < span*perBlock { // at most 2^42
			top := uint64(binary.LittleEndian.Uint32(n.block[4*(directBlocks+level):]))
			return f.indirectWalk(n, lblk, rest, span, top)
		}
		rest -= span * perBlock
		span *= perBlock
	}
	return block.Run{Logical: lblk, Count: math.MaxInt64 - lblk}, nil
}

// indirectWalk goes down from block top, each number of which covers span blocks, to index rest.
func (f *FS) indirectWalk(n *inode, lblk, rest, span, top uint64) (block.Run, error) {
	perBlock := f.sb.blockSize / 4
	for blk := top; ; {
		if blk == 0 { // nothing is mapped below
			return block.Run{Logical: lblk, Count: span*perBlock - rest}, nil
		}
		b, err := f.block("block map", n.num, blk)
		if err != nil {
			return block.Run{}, err
		}
		i, in := rest/span, rest%span
		num := uint64(binary.LittleEndian.Uint32(b[4*i:]))
		if span == 1 || num == 0 {
			r, err := f.pointerRun(n.num, b, i, lblk, span, int64(blk*f.sb.blockSize))
			if r.Phys == 0 && r.Count > in {
				r.Count -= in
			}
			return r, err
		}
		blk, rest, span = num, in, span/perBlock
	}
}

// pointerRun returns the run that starts with number i of a list: consecutive numbers, or
// zeros. Each number stands for span blocks; only zeros are looked at where span is not 1.
func (f *FS) pointerRun(num uint32, list []byte, i, lblk, span uint64, off int64) (block.Run, error) {
	total := uint64(len(list) / 4)
	at := func(i uint64) uint64 { return uint64(binary.LittleEndian.Uint32(list[4*i:])) }
	phys := at(i)
	count := uint64(1)
	for i+count < total && (phys == 0 && at(i+count) == 0 || phys != 0 && at(i+count) == phys+count) {
		count++
	}
	if phys != 0 && !f.sb.validBlocks(phys, count) {
		return block.Run{}, fsys.Corrupt("ext4", "block map", fsys.Ino(num), off,
			"logical block %d: blocks %d to %d are outside the file system", lblk, phys, phys+count-1)
	}
	return block.Run{Logical: lblk, Count: count * span, Phys: phys}, nil
}
