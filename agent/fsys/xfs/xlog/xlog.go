// Package xlog replays the log of an XFS file system in memory: it gives the volume as it is
// after the recovery that a mount would do, without writing anything.
//
// Source: "XFS Algorithms & Data Structures" (xfs-documentation) and the kernel's
// fs/xfs/libxfs/xfs_log_format.h, xfs_log_recover.c and *_item_recover.c, whose rules it
// follows, so that the result is what the guest would see after a boot. Non-goals: no writing,
// no log on a device of its own, no processing of unlinked inodes, no quota, no free-space
// accounting beyond what the log holds. A directory block that is larger than a block of the file
// system and not contiguous on the disk is in the log as several buffers, and only the whole could
// be given a checksum: the kernel does not mount such a log; here that directory is found corrupt.
//
// Invariants: the log is never copied into memory as a whole, every loop over it has a limit, and
// the same log always gives the same result. Memory: at most maxOpen bytes of transactions that are
// being put together, and maxChunks chunks of new contents with maxEntries index entries; for a log
// of usual size (64 MiB, at most 16 MiB in one transaction) less than the log's length.
package xlog

import (
	"fmt"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// Geometry is what the superblock tells about the file system and its log. Field names are
// those of struct xfs_dsb.
type Geometry struct {
	BlockSize  uint32 // sb_blocksize, bytes: a power of two from 512 to 64 KiB
	InodeSize  uint32 // sb_inodesize, bytes: a power of two from 256 to 2048
	AGBlocks   uint32 // sb_agblocks
	AGCount    uint32 // sb_agcount
	AGBlockLog uint8  // sb_agblklog: bits of the block number within a group
	InoPerLog  uint8  // sb_inopblog: bits of the inode's number within its block
	InodeAlign uint32 // sb_inoalignmt, blocks
	LSN        uint64 // sb_lsn; 0 without V5

	LogStart  uint64 // sb_logstart, a file system block number; 0: the log is on another device
	LogBlocks uint32 // sb_logblocks
	LogSunit  uint32 // sb_logsunit, bytes; 0 and 1: none

	V5          bool   // version 5: checksums, LSN and owner in every metadata block
	LogV2       bool   // XFS_SB_VERSION_LOGV2BIT; always with V5
	Nrext64     bool   // incompatible feature: large extent counters
	LogIncompat uint32 // sb_features_log_incompat

	UUID     [16]byte // sb_uuid: records of the log have it
	MetaUUID [16]byte // sb_meta_uuid where that feature is set, otherwise sb_uuid: metadata blocks have it
}

// Report tells what a replay found and did.
type Report struct {
	// Dirty: the log held something. Otherwise the rest is zero.
	Dirty bool
	// Records is how many log records were read from the tail to the head, Transactions how many
	// of the log's transactions (checkpoints) were complete. Those without a commit record,
	// Incomplete, are ignored, as a crash leaves them.
	Records, Transactions, Incomplete int
	// Buffers, Inodes and InodeChunks are how many logged buffers, inodes and new inode chunks
	// were applied. An object counts once for each transaction that changed it.
	Buffers, Inodes, InodeChunks int
	// Skipped is how many items were not applied because the disk had newer contents, Cancelled
	// how many because the block was freed later.
	Skipped, Cancelled int
	// Intents is how many deferred operations had begun and not ended that do not change what a
	// reader sees: freeing of space, updates of the reverse map and reference counts, and of
	// parent pointers.
	Intents int
	// Torn: the log's last write was interrupted, and what was incomplete was dropped.
	Torn bool
	// Patched is how many bytes of the volume differ from the disk's.
	Patched int64
}

// String is a sentence's part for Info and METADATA.json: "clean" or "replayed ...".
func (r Report) String() string {
	if !r.Dirty {
		return "clean"
	}
	return fmt.Sprintf("replayed %d transactions (%d buffers, %d inodes, %d inode chunks)", r.Transactions, r.Buffers, r.Inodes, r.InodeChunks)
}

// Replay reads the log of the file system on r and returns the file system's device as it is
// after recovery: r itself where the log is clean. The superblock and the allocation group
// headers may be among what changes, so the caller parses them anew from the result.
//
// Errors: an I/O error; fsys.ErrUnsupported for an external log, an unknown log item or
// incompatible log feature, an operation that recovery would have to finish and that changes
// what a reader sees, or a log beyond this package's limits; fsys.ErrCorrupt, with the place
// in the log, where the kernel too refuses to mount.
func Replay(r extent.Reader, g Geometry) (extent.Reader, Report, error) {
	if err := g.check(); err != nil {
		return nil, Report{}, err
	}
	log, err := newRing(r, &g)
	if err != nil {
		return nil, Report{}, err
	}
	s, err := log.find()
	if err != nil {
		return nil, Report{}, err
	}
	if s.clean {
		return r, Report{}, nil
	}
	if err := g.checkDirty(s); err != nil {
		return nil, Report{}, err
	}
	p := &replay{
		log: log, g: &g, store: newStore(r), report: Report{Dirty: true, Torn: s.torn},
		cancelled: map[location]int{}, intents: map[intent]bool{}, pending: map[location]stamp{},
	}
	if err := p.run(s); err != nil {
		return nil, Report{}, err
	}
	o := p.store.freeze()
	p.report.Patched = int64(len(o.chunks)) * chunkSize
	return o, p.report, nil
}

// check validates what the superblock says, as far as it is used here.
func (g *Geometry) check() error {
	power := func(n, least, most uint32) bool { return n >= least && n <= most && n&(n-1) == 0 }
	switch {
	case g.LogStart == 0:
		return fmt.Errorf("xfs: %w: the log is on another device", fsys.ErrUnsupported)
	case !power(g.BlockSize, 512, 64<<10), !power(g.InodeSize, 256, 2048), g.InodeSize > g.BlockSize, g.AGBlocks == 0, g.AGCount == 0,
		g.AGBlockLog > 31, uint32(1)<<g.InoPerLog != g.BlockSize/g.InodeSize, g.V5 && g.InodeSize < 512:
		return fsys.Corrupt("xfs", "superblock", 0, 0, "blocks of %d bytes, inodes of %d, groups of %d blocks", g.BlockSize, g.InodeSize, g.AGBlocks)
	}
	return nil
}

// logIncompatKnown are the features of a dirty log that are handled: logged attributes.
const logIncompatKnown = 1 << 0

// checkDirty refuses a log with features that are not known, and a superblock that is from after
// the end of the log, as if the log had been replaced.
func (g *Geometry) checkDirty(s span) error {
	if x := g.LogIncompat &^ logIncompatKnown; g.V5 && x != 0 {
		return fmt.Errorf("xfs: %w: a log with incompatible features %#x", fsys.ErrUnsupported, x)
	}
	if now := uint64(s.cycle)<<32 | uint64(s.head); g.V5 && g.LSN != noLSN && g.LSN > now {
		return fsys.Corrupt("xfs", "superblock", 0, 0, "its LSN %#x is ahead of the log's %#x", g.LSN, now)
	}
	return nil
}
