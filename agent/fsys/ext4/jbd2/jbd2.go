// Package jbd2 replays the journal of an ext3 or ext4 file system in memory: it tells which
// blocks of the device a mount would overwrite, and with what.
//
// Source: the kernel's include/linux/jbd2.h and fs/jbd2/recovery.c, whose rules it follows
// where a log is damaged, so that the result is what the guest would see after a boot.
// Non-goals: no writing, no journal on a device of its own, no replay of fast commits.
// Invariants: the log is never copied into memory, every loop over it has a limit, and the
// same journal always gives the same patches.
package jbd2

import (
	"fmt"
	"slices"
	"sort"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// Config describes the file system that a journal belongs to.
type Config struct {
	// BlockSize is the file system's block size in bytes, a power of two from 1 to 64 KiB.
	// The journal must have the same.
	BlockSize int
	// Blocks is the size in blocks of the device that the file system lies on, the bound of
	// what the log may overwrite. It is not the block count of the file system's superblock:
	// a log that grows the file system writes behind that.
	Blocks uint64
}

// Replay is the effect of a journal.
type Replay struct {
	// Patches lie over the file system's device (extent.Overlay): sorted, disjoint, whole
	// blocks. Their data stays in the journal.
	Patches []extent.Patch
	// Clean: the log was empty.
	Clean bool
	// Blocks is how many blocks of the device change, Transactions how many were committed.
	Blocks, Transactions int
	// Revoked is how many logged blocks a later revoke record cancelled.
	Revoked int
	// First is the number of the oldest transaction, End that of the first which is not
	// there. Numbers wrap round at 2^32.
	First, End uint32
	// Warnings are sentences for a person.
	Warnings []string
}

// Load reads a journal and works out its replay. journal is the journal's file, block 0 its
// superblock. It is to be called only for a file system that says it needs recovery: without
// that flag, the kernel ignores what the log holds.
//
// Errors: an I/O error; fsys.ErrUnsupported for a format or a fast commit that is not
// implemented; fsys.ErrCorrupt, with the transaction and the block in the journal, where the
// kernel too refuses to mount.
func Load(journal extent.Reader, c Config) (*Replay, error) {
	if c.BlockSize < minBlockSize || c.BlockSize > maxBlockSize || c.BlockSize&(c.BlockSize-1) != 0 {
		return nil, fmt.Errorf("jbd2: block size %d: %w", c.BlockSize, fsys.ErrUnsupported)
	}
	if journal.Size() < int64(c.BlockSize) {
		return nil, fsys.Corrupt("jbd2", "superblock", 0, 0, "the journal has only %d bytes", journal.Size())
	}
	b := make([]byte, superblockSize)
	if n, err := journal.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("jbd2: reading the journal's superblock: %w", err)
	}
	sb, err := parseSuperblock(b, c.BlockSize, journal.Size())
	if err != nil {
		return nil, err
	}
	r := &Replay{First: sb.sequence, End: sb.sequence}
	if sb.errno != 0 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("the guest's kernel had stopped the journal because of error %d: "+
			"a file system check in the guest is due", sb.errno))
	}
	if sb.start == 0 {
		r.Clean = true
		return r, nil
	}
	l := &logReader{r: journal, sb: sb, blockSize: c.BlockSize}
	found, err := scanLog(l)
	if err != nil {
		return nil, err
	}
	r.End = found.end
	r.Transactions = int(found.end - sb.sequence)
	if sb.has(incompatFastCommit) {
		if err := checkFastCommits(l, found.end); err != nil {
			return nil, err
		}
	}
	live, err := l.replay(found, c.Blocks)
	if err != nil {
		return nil, err
	}
	r.Revoked = len(found.blocks) - len(live)
	live = latest(live)
	r.Blocks = len(live)
	r.Patches, err = patches(journal, live, int64(c.BlockSize))
	return r, err
}

// replay returns the logged blocks that count, sorted by target and, for one target, in log
// order: those that no revoke record of the same or a later transaction cancels. Each of
// them is checked as the kernel does, even where a later one replaces it.
func (l *logReader) replay(found *scan, deviceBlocks uint64) ([]logged, error) {
	revoked, err := l.revocations(found)
	if err != nil {
		return nil, err
	}
	live := make([]logged, 0, len(found.blocks))
	for _, x := range found.blocks {
		if at, ok := revoked[x.target]; ok && !later(x.tid, at) {
			continue
		}
		if x.target >= deviceBlocks {
			return nil, l.corrupt("descriptor block", x.tid, x.pos, "the logged block is for block %d of a device of %d", x.target, deviceBlocks)
		}
		if l.sb.csumV2or3() {
			b, err := l.block(x.pos)
			if err != nil {
				return nil, err
			}
			if !l.dataValid(x, b) {
				return nil, l.corrupt("logged block", x.tid, x.pos, "wrong checksum of the contents for block %d of the device", x.target)
			}
		}
		live = append(live, x)
	}
	sort.SliceStable(live, func(i, j int) bool { return live[i].target < live[j].target })
	return live, nil
}

// maxRevokes bounds the revoke records of one log: 2^24 metadata blocks of 4 KiB are 64 GiB
// freed between two checkpoints.
const maxRevokes = 1 << 24

// revocations maps a block of the device to the last transaction that revoked it. Only
// blocks that the log also writes are kept, so its size is bounded by the log's length.
func (l *logReader) revocations(found *scan) (map[uint64]uint32, error) {
	if len(found.revokes) == 0 {
		return nil, nil
	}
	targets := make([]uint64, len(found.blocks))
	for i, x := range found.blocks {
		targets[i] = x.target
	}
	slices.Sort(targets)
	const countAt, recordsAt = 12, 16
	size, limit := 4, l.blockSize
	if l.sb.has(incompat64Bit) {
		size = 8
	}
	if l.sb.csumV2or3() {
		limit -= tailSize
	}
	revoked := map[uint64]uint32{}
	budget := ondisk.NewBudget("jbd2: the revoke records of the journal", maxRevokes)
	for _, r := range found.revokes {
		b, err := l.block(r.pos)
		if err != nil {
			return nil, err
		}
		v := ondisk.Big(b)
		end := v.U32(countAt) // bytes used, with the header
		if end > uint32(limit) {
			return nil, l.corrupt("revoke block", r.tid, r.pos, "%d bytes used of %d", end, limit)
		}
		for at := recordsAt; at+size <= int(end); at += size {
			if err := budget.Spend(1); err != nil {
				return nil, fmt.Errorf("%w: %w", fsys.ErrUnsupported, err)
			}
			target := uint64(v.U32(at))
			if size == 8 {
				target = v.U64(at)
			}
			if _, ok := slices.BinarySearch(targets, target); !ok {
				continue
			}
			if last, ok := revoked[target]; !ok || later(r.tid, last) {
				revoked[target] = r.tid
			}
		}
	}
	return revoked, nil
}

// latest keeps, of blocks sorted as replay does, the last one of each target.
func latest(live []logged) []logged {
	out := live[:0]
	for i, x := range live {
		if i+1 == len(live) || live[i+1].target != x.target {
			out = append(out, x)
		}
	}
	return out
}

// patches turns logged blocks with ascending targets into as few patches as possible: a run
// that is contiguous both in the journal and on the device is one.
func patches(journal extent.Reader, blocks []logged, blockSize int64) ([]extent.Patch, error) {
	var out []extent.Patch
	for len(blocks) > 0 {
		x, n := blocks[0], 1
		for !x.escape && n < len(blocks) && !blocks[n].escape &&
			blocks[n].target == x.target+uint64(n) && blocks[n].pos == x.pos+uint32(n) {
			n++
		}
		blocks = blocks[n:]
		data, err := extent.Section(journal, int64(x.pos)*blockSize, int64(n)*blockSize)
		if err == nil && x.escape {
			data, err = unescape(data)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, extent.Patch{Off: int64(x.target) * blockSize, Data: data})
	}
	return out, nil
}

// unescape restores the first four bytes of a block that begins with the journal's own magic.
func unescape(b extent.Reader) (extent.Reader, error) {
	rest, err := extent.Section(b, 4, b.Size()-4)
	if err != nil {
		return nil, err
	}
	return extent.Concat(extent.Bytes([]byte{magic >> 24, magic >> 16 & 0xFF, magic >> 8 & 0xFF, magic & 0xFF}), rest)
}
