// Package ext4 reads ext2, ext3 and ext4 file systems.
//
// Source: the kernel's Documentation/filesystems/ext4 and fs/ext4, whose behaviour it follows
// where the documentation is silent. The journal is replayed in memory (package jbd2), so files
// are what the guest would see after its next boot; nothing is ever written.
//
// Non-goals: decryption (fscrypt directories are listed with coded names, their content is
// fsys.ErrNoKey), checking Merkle trees (verity), finding deleted files.
// Invariants: an FS is immutable and safe for concurrent use, holds no lock across I/O, and its
// memory is bounded by its cache whatever the guest wrote. What contradicts itself or its
// checksum is fsys.ErrCorrupt for the object concerned, not for the file system.
package ext4

import (
	"fmt"
	"slices"
	"sync/atomic"

	"vmfr/agent/cache"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/block"
)

// DefaultCacheBytes is the size of the metadata cache where Options names none: the index of a
// directory of 1,000,000 entries (about 1.5 MiB) and 5 MiB of inode tables fit.
const DefaultCacheBytes = 8 << 20

// Options tune Open.
type Options struct {
	// CacheBytes bounds the metadata cache in bytes; 0 means DefaultCacheBytes.
	CacheBytes int64
	// NoReplay leaves the journal alone, which shows a dirty file system as it never was for
	// the guest. It exists for the negative controls of tests.
	NoReplay bool
}

// FS is an opened file system.
type FS struct {
	dev     extent.Reader // with the journal laid over it
	sb      *super
	meta    *block.Meta
	journal string
	notes   []string

	info atomic.Pointer[fsys.Info] // nil until it is asked for
}

var (
	_ fsys.FS      = (*FS)(nil)
	_ fsys.Xattrer = (*FS)(nil)

	_ fsys.CacheStatser = (*FS)(nil)
)

// Open reads the superblock and replays the journal in memory. Errors: fsys.ErrNotRecognized
// where this is not ext2, ext3 or ext4; fsys.ErrUnsupported naming a feature; fsys.ErrCorrupt
// where no copy of the superblock, or not the journal, can be used; I/O errors.
func Open(r extent.Reader, o Options) (*FS, error) {
	if o.CacheBytes <= 0 {
		o.CacheBytes = DefaultCacheBytes
	}
	sb, warning, err := readSuper(r)
	if err != nil {
		return nil, err
	}
	dev, state, err := replayJournal(r, sb, warning != "", o)
	if err != nil {
		return nil, err
	}
	if state.replayed {
		// The journal's superblock is newer than the one on the device.
		if sb, warning, err = readSuper(dev); err != nil {
			return nil, fmt.Errorf("after replaying the journal: %w", err)
		}
	}
	f := &FS{dev: dev, sb: sb, journal: state.text, meta: block.NewMeta(dev, sb.blockSize, o.CacheBytes)}
	if warning != "" {
		f.notes = append(f.notes, warning)
	}
	f.notes = append(f.notes, state.warnings...)
	f.notes = append(f.notes, f.warnings()...)
	return f, nil
}

// Root is always inode 2.
func (f *FS) Root() fsys.Ino { return rootIno }

// Stat returns an object's attributes. fs.ErrNotExist for a number that no object of the tree has.
func (f *FS) Stat(ino fsys.Ino) (fsys.Attr, error) {
	n, err := f.inode(ino)
	if err != nil {
		return fsys.Attr{}, err
	}
	return n.attr(f.sb), nil
}

// Close does nothing: the device belongs to whoever opened it.
func (f *FS) Close() error { return nil }

// CacheStats counts the lookups in the metadata cache.
func (f *FS) CacheStats() cache.Stats { return f.meta.Stats() }

// warnings are what the superblock tells a person.
func (f *FS) warnings() []string {
	s := f.sb
	var w []string
	if s.state&stateErrors != 0 || s.errorCount > 0 {
		w = append(w, fmt.Sprintf("the guest's kernel recorded errors in this file system (%d): a file system check in the guest is due", s.errorCount))
	}
	if s.state&stateValid == 0 && !s.hasCompat(compatHasJournal) {
		w = append(w, "the file system was in use and has no journal: what was being written at the time of the backup may be incomplete")
	}
	if have := f.dev.Size(); uint64(have) < s.blocksCount*s.blockSize {
		w = append(w, fmt.Sprintf("the device has %d bytes and the file system %d: what lies behind the end cannot be read", have, s.blocksCount*s.blockSize))
	}
	if s.hasIncompat(incompatEncrypt) {
		w = append(w, "directories encrypted by the guest are listed with coded names, and their files cannot be read: the key is not in the image")
	}
	if u := s.roCompat &^ roKnown; u != 0 {
		w = append(w, "unknown features that concern writing only: "+featureNames(u, roNames))
	}
	return w
}

// maxCountedGroups bounds the descriptors that Info sums: 1 MiB of them, 2 TiB of 4 KiB blocks.
const maxCountedGroups = 16384

// Info describes the file system. The free counts are summed over the groups, since the kernel
// brings those in the superblock up to date at unmount only; for a very large file system, or
// one whose descriptors are damaged, they are the superblock's.
func (f *FS) Info() fsys.Info {
	p := f.info.Load()
	if p == nil { // two at once do the same work and get the same result
		s := f.sb
		blocks, inodes := f.free()
		p = &fsys.Info{
			Type: s.typeName(), Label: s.label, UUID: s.uuidString(), BlockSize: uint32(s.blockSize),
			Total: s.blocksCount * s.blockSize, Free: min(blocks, s.blocksCount) * s.blockSize,
			Files: uint64(s.inodesCount), FreeFiles: min(inodes, uint64(s.inodesCount)),
			Journal: f.journal, Warnings: f.notes,
		}
		f.info.Store(p)
	}
	info := *p
	info.Warnings = slices.Clone(info.Warnings)
	return info
}

// free counts the free blocks and inodes.
func (f *FS) free() (blocks, inodes uint64) {
	s := f.sb
	if s.groups <= maxCountedGroups {
		for g := uint64(0); ; g++ {
			if g == s.groups {
				return blocks, inodes
			}
			d, err := f.group(g)
			if err != nil {
				break
			}
			blocks += d.freeClusters * (s.clusterSize / s.blockSize)
			inodes += uint64(d.freeInodes)
		}
	}
	return s.freeBlocks, uint64(s.freeInodes)
}
