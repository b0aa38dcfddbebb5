package xlog

import (
	"encoding/binary"
	"errors"
	"fmt"

	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

var errFork = errors.New("a fork does not fit in the inode")

// forks applies what an inode item has of the forks to inode d, whose core is already applied.
func (p *replay) forks(it *item, f *inodeFormat, d []byte) error {
	data, attr, ok := forks(d)
	if !ok {
		return errFork
	}
	if f.fields&fieldDevice != 0 {
		binary.BigEndian.PutUint32(data, f.device)
	}
	regions := it.regions[2:]
	if f.fields&fieldsData != 0 {
		if len(regions) == 0 {
			return fmt.Errorf("%w: it is missing", errFork)
		}
		if err := p.fork(data, regions[0], f.fields&fieldDataRoot != 0); err != nil {
			return err
		}
		regions = regions[1:]
	}
	if f.fields&fieldsAttr != 0 {
		if len(regions) == 0 {
			return fmt.Errorf("%w: it is missing", errFork)
		}
		return p.fork(attr, regions[0], f.fields&fieldAttrRoot != 0)
	}
	return nil
}

// fork applies one fork. Local data and extents are logged as the disk has them; the root of a
// tree as memory has it, as a whole block, of which the disk keeps less.
func (p *replay) fork(to, from []byte, root bool) error {
	if !root {
		if len(from) > len(to) {
			return errFork
		}
		copy(to, from)
		return nil
	}
	header := p.btreeHeader()
	if len(from) < header || len(to) < rootHeader {
		return errFork
	}
	n := int(binary.BigEndian.Uint16(from[6:]))
	fromMost, toMost := (len(from)-header)/rootRecord, (len(to)-rootHeader)/rootRecord
	if n > fromMost || n > toMost {
		return errFork
	}
	copy(to, from[4:8]) // level and number of records
	copy(to[rootHeader:rootHeader+8*n], from[header:])
	copy(to[rootHeader+8*toMost:rootHeader+8*toMost+8*n], from[header+8*fromMost:])
	return nil
}

const (
	rootHeader = 4  // bytes before the keys of a tree's root in an inode
	rootRecord = 16 // a key and a pointer

	btreeLevel   = 4
	btreeRecords = 6
	btreeRight   = 16
	btreeOwner   = 56
	btreeCRC     = 64

	maxTreeHeight = 16      // XFS_BTREE_MAXLEVELS is 9
	maxTreeBlocks = 1 << 20 // of one owner change: files of 10^8 extents
)

// btreeHeader is the length of a tree block's header: version 5 has checksum, LSN and owner.
func (p *replay) btreeHeader() int {
	if p.g.V5 {
		return 72
	}
	return 24
}

// changeOwners makes the inode the owner of its trees' blocks, after two files have exchanged them.
func (p *replay) changeOwners(f *inodeFormat, d []byte) error {
	data, attr, ok := forks(d)
	if !ok {
		return fsys.Corrupt("xfs", "inode item of the log", fsys.Ino(f.ino), p.log.off+p.at*basicBlock, "%s", errFork)
	}
	if f.fields&fieldDataOwner != 0 {
		if err := p.changeOwner(f.ino, data); err != nil {
			return err
		}
	}
	if f.fields&fieldAttrOwner != 0 {
		return p.changeOwner(f.ino, attr)
	}
	return nil
}

// changeOwner walks a tree level by level, along the links between siblings.
func (p *replay) changeOwner(ino uint64, root []byte) error {
	corrupt := func(off int64, reason string, args ...any) error {
		return fsys.Corrupt("xfs", "extent tree", fsys.Ino(ino), off, reason, args...)
	}
	if len(root) < rootHeader+rootRecord {
		return corrupt(-1, "a root of %d bytes", len(root))
	}
	level := int(binary.BigEndian.Uint16(root))
	most := (len(root) - rootHeader) / rootRecord
	if level == 0 || level > maxTreeHeight || binary.BigEndian.Uint16(root[2:]) == 0 {
		return corrupt(-1, "a root of level %d with %d records", level, binary.BigEndian.Uint16(root[2:]))
	}
	first := binary.BigEndian.Uint64(root[rootHeader+8*most:])
	budget := ondisk.NewBudget("xfs: change of a tree's owner", maxTreeBlocks)
	for level--; level >= 0; level-- {
		next := first
		for first = 0; next != noLSN; {
			if err := budget.Spend(1); err != nil {
				return fmt.Errorf("%w: %w", fsys.ErrUnsupported, err)
			}
			off, ok := p.blockOffset(next)
			if !ok {
				return corrupt(-1, "a pointer to block %#x", next)
			}
			b, err := p.load(off, int(p.g.BlockSize))
			if err != nil {
				return err
			}
			if m := binary.BigEndian.Uint32(b); m != magicBmbt || int(binary.BigEndian.Uint16(b[btreeLevel:])) != level {
				return corrupt(off, "magic number %#x, level %d instead of %d", m, binary.BigEndian.Uint16(b[btreeLevel:]), level)
			}
			header := p.btreeHeader()
			if first == 0 && level > 0 {
				first = binary.BigEndian.Uint64(b[header+8*((len(b)-header)/rootRecord):])
			}
			next = binary.BigEndian.Uint64(b[btreeRight:])
			if binary.BigEndian.Uint64(b[btreeOwner:]) == ino {
				continue
			}
			binary.BigEndian.PutUint64(b[btreeOwner:], ino)
			setChecksum(b, btreeCRC)
			if err := p.save(b, off); err != nil {
				return err
			}
		}
	}
	return nil
}

// blockOffset converts a file system block number to bytes.
func (p *replay) blockOffset(block uint64) (int64, bool) {
	agno, agbno := block>>p.g.AGBlockLog, block&(1<<p.g.AGBlockLog-1)
	if agno >= uint64(p.g.AGCount) || agbno >= uint64(p.g.AGBlocks) {
		return 0, false
	}
	off, _, ok := ondisk.Range(agno*uint64(p.g.AGBlocks)+agbno, 1, uint64(p.g.BlockSize), p.store.base.Size())
	return off, ok
}
