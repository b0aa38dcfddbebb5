// Package fat reads FAT12, FAT16 and FAT32 file systems with long names.
//
// Source: Microsoft's "FAT: General Overview of On-Disk Format" 1.03, and the kernel's fs/fat,
// whose behaviour it follows where the two differ: objects look as under Linux' vfat driver with
// its default options. Everything belongs to root with mode 0755 (a read-only file: 0555),
// directories count their subdirectories as links, hidden and system files are shown like any
// other. The guest wrote its times in its local time without telling which; they are shown as if
// that were UTC. Short names without a long one are decoded with code page 437, or the one that
// Options names.
//
// A name is looked up as it is listed; where no entry has exactly that name, the first one that
// differs in case only, or whose 8.3 alias it is, is found, as a guest expects of /boot/efi/EFI.
//
// It is our own reader because the demands are on what a library hides: extents of the device
// under each file, an answer for hostile input that costs bounded memory and time, stable inode
// numbers (docs/decisions/008-own-fat.md).
//
// Non-goals: exFAT, writing, deleted files, the short names beside long ones in listings.
// Invariants: an FS is immutable and safe for concurrent use, holds no lock across I/O, and its
// memory is bounded by its caches whatever the guest wrote. A chain that is cut, leaves the
// volume or meets itself is fsys.ErrCorrupt for the bytes concerned, not for the file system.
// Every directory is reached by one path: one whose ".." does not lead back is left out.
package fat

import (
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/text/encoding/charmap"

	"vmfr/agent/cache"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// DefaultCacheBytes is the size of the cache of directories where Options names none: a
// directory of the largest size, 65,536 entries, takes up to 7 MiB.
const DefaultCacheBytes = 8 << 20

// fatCacheBytes bounds the cached pieces of the allocation table: the whole table of FAT16, or
// that of 512 Ki clusters of FAT32. chainCacheBytes bounds the chains of files.
const (
	fatCacheBytes   = 2 << 20
	chainCacheBytes = 2 << 20
)

// Options tune Open.
type Options struct {
	// CacheBytes bounds the cache of directories in bytes; 0 means DefaultCacheBytes.
	CacheBytes int64
	// CodePage decodes short names; nil means code page 437, as in the kernel.
	CodePage *charmap.Charmap
}

// FS is an opened file system.
type FS struct {
	dev    extent.Reader
	geo    *geometry
	page   *charmap.Charmap
	table  *table
	chains *cache.Cache[uint32, *chain]
	dirs   *cache.Cache[uint32, *directory] // by first cluster; 0 for the root
	notes  []string

	info atomic.Pointer[fsys.Info] // nil until it is asked for
}

var (
	_ fsys.FS           = (*FS)(nil)
	_ fsys.CacheStatser = (*FS)(nil)
)

// Open reads the boot sector. Errors: fsys.ErrNotRecognized where this is not FAT;
// fsys.ErrUnsupported for a version of FAT32 that is unknown; fsys.ErrCorrupt where the boot
// sector contradicts itself; I/O errors.
func Open(r extent.Reader, o Options) (*FS, error) {
	geo, notes, err := readBoot(r)
	if err != nil {
		return nil, err
	}
	if o.CacheBytes <= 0 {
		o.CacheBytes = DefaultCacheBytes
	}
	if o.CodePage == nil {
		o.CodePage = charmap.CodePage437
	}
	f := &FS{
		dev: r, geo: geo, page: o.CodePage, notes: notes, table: newTable(r, geo),
		chains: cache.New[uint32](chainCacheBytes, (*chain).bytes),
		// One shard, so that the largest directory can have all of it.
		dirs: cache.NewShards[uint32](o.CacheBytes, 1, (*directory).bytes),
	}
	if have := r.Size(); have < geo.end() {
		f.notes = append(f.notes, fmt.Sprintf("the device has %d bytes and the file system %d: what lies behind the end cannot be read", have, geo.end()))
	}
	dirty, failed, err := f.table.state()
	if err != nil {
		return nil, err
	}
	if dirty || geo.dirty {
		f.notes = append(f.notes, "the file system was in use and has no journal: what was being written at the time of the backup may be incomplete")
	}
	if failed {
		f.notes = append(f.notes, "the guest recorded I/O errors in this file system: a check in the guest is due")
	}
	return f, nil
}

// Root is inode 1, as in the kernel.
func (f *FS) Root() fsys.Ino { return rootIno }

// Close does nothing: the device belongs to whoever opened it.
func (f *FS) Close() error { return nil }

// CacheStats counts the lookups in the caches of directories, chains and the allocation table.
func (f *FS) CacheStats() cache.Stats {
	sum := f.dirs.Stats()
	for _, s := range []cache.Stats{f.chains.Stats(), f.table.cache.Stats()} {
		sum.Hits += s.Hits
		sum.Misses += s.Misses
		sum.Bytes += s.Bytes
		sum.Entries += s.Entries
	}
	return sum
}

// Readlink always fails: FAT has no symbolic links.
func (f *FS) Readlink(ino fsys.Ino) (string, error) {
	if _, err := f.Stat(ino); err != nil {
		return "", err
	}
	return "", fsys.ErrNotLink
}

// Info describes the file system. The label in the root directory is newer than the boot
// sector's: label programs of Windows and Linux change the first, old ones only the second.
func (f *FS) Info() fsys.Info {
	p := f.info.Load()
	if p == nil { // two at once do the same work and get the same result
		g := f.geo
		p = &fsys.Info{Type: "vfat", Label: g.label, UUID: fmt.Sprintf("%04X-%04X", g.serial>>16, g.serial&0xffff),
			BlockSize: uint32(g.cluster), Total: uint64(g.clusters) * uint64(g.cluster), Free: f.table.free() * uint64(g.cluster)}
		if !g.hasSerial {
			p.UUID = ""
		}
		if root, err := f.directory(rootDir); err == nil && root.label != "" {
			p.Label = root.label
		}
		p.Warnings = f.notes
		f.info.Store(p)
	}
	info := *p
	info.Warnings = slices.Clone(info.Warnings)
	return info
}
