package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	iofs "io/fs"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/block"
	"vmfr/agent/fsys/ext4/jbd2"
)

// journalState is what Info tells about the journal.
type journalState struct {
	text     string
	warnings []string
	replayed bool
}

// replayJournal returns the device as it is after the journal's replay. suspect says that sb is a
// backup copy: its "needs recovery" flag may be out of date, and the journal itself decides.
func replayJournal(r extent.Reader, sb *super, suspect bool, o Options) (extent.Reader, journalState, error) {
	needed := sb.hasIncompat(incompatRecover)
	switch {
	case !sb.hasCompat(compatHasJournal):
		if needed {
			return nil, journalState{}, fsys.Corrupt("ext4", "superblock", 0, superOffset, "it needs recovery and has no journal")
		}
		return r, journalState{text: "none"}, nil
	case !needed && !suspect:
		return r, journalState{text: "clean"}, nil
	case o.NoReplay:
		return r, journalState{text: "not replayed"}, nil
	case sb.journalIno == 0:
		if !needed {
			return r, journalState{text: "clean"}, nil
		}
		return nil, journalState{}, fmt.Errorf("ext4: %w: the journal is on another device (%#x) and needs replay", fsys.ErrUnsupported, sb.journalDev)
	}
	// The log's block map needs but the smallest cache, which lives as long as the patches.
	f := &FS{dev: r, sb: sb, meta: block.NewMeta(r, sb.blockSize, 0)}
	journal, err := f.journalFile()
	if err != nil {
		return nil, journalState{}, fmt.Errorf("ext4: journal: %w", err)
	}
	replay, err := jbd2.Load(journal, jbd2.Config{BlockSize: int(sb.blockSize), Blocks: uint64(r.Size()) / sb.blockSize})
	if err != nil {
		return nil, journalState{}, fmt.Errorf("ext4: journal: %w", err)
	}
	dev, err := extent.Overlay(r, replay.Patches)
	if err != nil {
		return nil, journalState{}, fmt.Errorf("ext4: journal: %w", err)
	}
	state := journalState{text: "clean", warnings: replay.Warnings, replayed: !replay.Clean}
	if state.replayed {
		state.text = fmt.Sprintf("replayed %d blocks of %d transactions", replay.Blocks, replay.Transactions)
	}
	return dev, state, nil
}

// journalFile is the journal's content. Where its inode cannot be used, the copy of its block map
// that the superblock keeps (s_jnl_blocks: 15 block numbers, size upper half, size) serves.
func (f *FS) journalFile() (extent.Reader, error) {
	n, err := f.anyInode(f.sb.journalIno)
	if errors.Is(err, iofs.ErrNotExist) {
		err = fsys.Corrupt("ext4", "superblock", 0, superOffset, "the journal's inode %d is not there", f.sb.journalIno)
	}
	if err == nil && n.isRegular() && n.size > 0 {
		return f.content(n), nil
	}
	if err == nil {
		err = fsys.Corrupt("ext4", "inode", fsys.Ino(f.sb.journalIno), -1, "the journal has mode %#o and %d bytes", n.mode, n.size)
	}
	b := f.sb.jnlBackup
	if b == nil {
		return nil, err
	}
	n = &inode{num: f.sb.journalIno, mode: fsys.ModeRegular | 0o600}
	copy(n.block[:], b)
	n.size = uint64(binary.LittleEndian.Uint32(b[60:]))<<32 | uint64(binary.LittleEndian.Uint32(b[64:]))
	if n.size == 0 || n.size > f.sb.blocksCount*f.sb.blockSize {
		return nil, err
	}
	if binary.LittleEndian.Uint16(n.block[:]) == extentMagic {
		n.flags = flagExtents
	}
	n.csumSeed = crc32cU32(crc32cU32(f.sb.csumSeed, n.num), n.generation)
	return f.content(n), nil
}
