// Package xfs reads XFS file systems of versions 4 and 5.
//
// Source: "XFS Algorithms & Data Structures" (xfs-documentation) and the kernel's fs/xfs, whose
// behaviour it follows where the document is silent. The log is replayed in memory (package xlog),
// so files are what the guest would see after its next boot; nothing is ever written.
//
// Non-goals: realtime devices (their files are listed and not read), logs on another device,
// metadata directories, quota, finding deleted files. Invariants: an FS is immutable and safe for
// concurrent use, holds no lock across I/O, and its memory is bounded by its cache whatever the
// guest wrote. What contradicts itself, its checksum, its place or its owner is fsys.ErrCorrupt for
// the object concerned, not for the file system.
package xfs

import (
	"fmt"
	"slices"
	"sync/atomic"

	"vmfr/agent/cache"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/block"
)

// DefaultCacheBytes is the size of the metadata cache where Options names none.
const DefaultCacheBytes = 8 << 20

// Options tune Open.
type Options struct {
	// CacheBytes bounds the metadata cache in bytes; 0 means DefaultCacheBytes.
	CacheBytes int64
	// NoReplay leaves the log alone, which shows a dirty file system as it never was for the
	// guest. It exists for the negative controls of tests.
	NoReplay bool
}

// FS is an opened file system.
type FS struct {
	dev     extent.Reader // with the log laid over it
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

// Open reads the superblock and replays the log in memory. Errors: fsys.ErrNotRecognized where
// this is not XFS; fsys.ErrUnsupported naming a feature; fsys.ErrCorrupt where no copy of the
// superblock, or not the log, can be used; I/O errors.
func Open(r extent.Reader, o Options) (*FS, error) {
	if o.CacheBytes <= 0 {
		o.CacheBytes = DefaultCacheBytes
	}
	sb, warning, err := readSuper(r)
	if err != nil {
		return nil, err
	}
	dev, state, dirty, err := replayLog(r, sb, o)
	if err != nil {
		return nil, err
	}
	if dirty && warning == "" {
		// The superblock in the log is newer than the one on the device. Where that is damaged,
		// the replay has given the damage a checksum that is right.
		if sb, warning, err = readSuper(dev); err != nil {
			return nil, fmt.Errorf("after replaying the log: %w", err)
		}
	}
	f := &FS{dev: dev, sb: sb, journal: state, meta: block.NewMeta(dev, sb.blockSize, o.CacheBytes)}
	if warning != "" {
		f.notes = append(f.notes, warning)
	}
	f.notes = append(f.notes, f.warnings()...)
	return f, nil
}

// Root is the inode that the superblock names.
func (f *FS) Root() fsys.Ino { return fsys.Ino(f.sb.rootIno) }

// Stat returns an object's attributes. fs.ErrNotExist for a number that no object of the tree has.
func (f *FS) Stat(ino fsys.Ino) (fsys.Attr, error) {
	n, err := f.inode(ino)
	if err != nil {
		return fsys.Attr{}, err
	}
	return n.stat(f.sb), nil
}

// Close does nothing: the device belongs to whoever opened it.
func (f *FS) Close() error { return nil }

// CacheStats counts the lookups in the metadata cache.
func (f *FS) CacheStats() cache.Stats { return f.meta.Stats() }

// warnings are what the superblock tells a person.
func (f *FS) warnings() []string {
	s := f.sb
	var w []string
	if have := f.dev.Size(); uint64(have) < s.blocks*s.blockSize {
		w = append(w, fmt.Sprintf("the device has %d bytes and the file system %d: what lies behind the end cannot be read", have, s.blocks*s.blockSize))
	}
	if s.realtimeBlocks != 0 {
		w = append(w, "files on the realtime device are listed, and their content cannot be read")
	}
	if u := s.roCompat &^ roKnown; u != 0 {
		w = append(w, "unknown features that concern writing only: "+featureNames(u, roNames))
	}
	return w
}

// Info describes the file system. As statfs(2) of the kernel tells it, the log does not count as
// space, and free space counts as free inodes up to the limit that mkfs.xfs set.
func (f *FS) Info() fsys.Info {
	p := f.info.Load()
	if p == nil { // two at once do the same work and get the same result
		s := f.sb
		c := f.countGroups()
		total, free := s.blocks, min(c.free, s.blocks)
		if s.logStart != 0 {
			total -= min(total, s.logBlocks)
		}
		files := c.inodes + free<<s.inopbLog
		if s.maxInodePct > 0 && s.maxInodePct <= 100 {
			files = min(files, max(c.inodes, s.blocks/100*s.maxInodePct<<s.inopbLog))
		}
		used := c.inodes - min(c.inodes, c.freeInodes)
		p = &fsys.Info{
			Type: "xfs", Label: s.label, UUID: s.uuidString(), BlockSize: uint32(s.blockSize),
			Total: total * s.blockSize, Free: free * s.blockSize,
			Files: files, FreeFiles: files - min(files, used),
			Journal: f.journal, Warnings: f.notes,
		}
		f.info.Store(p)
	}
	info := *p
	info.Warnings = slices.Clone(info.Warnings)
	return info
}
