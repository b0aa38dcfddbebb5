// Package ntfs reads NTFS file systems, versions 1.2 to 3.1, as Windows 2000 to Windows 11 and
// ntfs-3g write them.
//
// Source: Microsoft publishes no description of the whole format. Structures are named as in the
// headers of ntfs-3g and the kernel's fs/ntfs3, the parts that Microsoft does publish (reparse
// points, file attributes, security descriptors) as in [MS-FSCC] and [MS-DTYP], LZNT1 as in
// [MS-XCA] section 2.5. Objects are shown as a mount by ntfs-3g shows them without options: mode
// 0777, owner and group 0, a directory's link count 1, the metadata files ($MFT to $Extend)
// hidden, names compared byte by byte.
//
// Non-goals: replaying $LogFile (a volume that was not cleanly unmounted is read as it is, with
// a warning), decryption (EFS), and the content that Windows keeps outside the plain data:
// WOF-compressed, deduplicated and cloud files. Each of those is refused per file.
// Invariants: an FS is immutable and safe for concurrent use, holds no lock across I/O, and its
// memory is bounded by its caches whatever the guest wrote. What contradicts itself is
// fsys.ErrCorrupt for the object concerned, not for the file system.
package ntfs

import (
	"fmt"
	"sync"
	"sync/atomic"

	"vmfr/agent/cache"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

const (
	// DefaultCacheBytes is the size of the metadata cache where Options names none: 6,000 MFT
	// records of 1 KiB and the upper levels of the indexes in use fit.
	DefaultCacheBytes = 8 << 20
	// DefaultInflatedBytes is the size of the cache of inflated compression units where Options
	// names none: 64 units of 64 KiB, so that many readers can go forward in small steps.
	DefaultInflatedBytes = 4 << 20
)

// Options tune Open.
type Options struct {
	CacheBytes    int64 // bounds the metadata cache in bytes; 0 means DefaultCacheBytes
	InflatedBytes int64 // bounds the cache of inflated compression units; 0: DefaultInflatedBytes
}

// FS is an opened file system.
type FS struct {
	dev      extent.Reader
	boot     *boot
	mft      *masterTable
	meta     *cache.Cache[metaKey, *metaChunk]
	inflated *cache.Cache[unitKey, []byte]
	upcase   *upcase // nil: cannot be read, and lookups read whole directories
	system   system
	security atomic.Pointer[securityIndex] // nil until it is asked for
	acls     *cache.Cache[uint32, []byte]
	volume   volume
	notes    []string

	infoOnce sync.Once
	info     fsys.Info
}

var (
	_ fsys.FS           = (*FS)(nil)
	_ fsys.Xattrer      = (*FS)(nil)
	_ fsys.Streamer     = (*FS)(nil)
	_ fsys.CacheStatser = (*FS)(nil)
)

// Open reads the boot sector, the master file table's own record and what describes the volume.
// Errors: fsys.ErrNotRecognized where this is not NTFS; fsys.ErrUnsupported for a geometry that
// Windows does not make either; fsys.ErrCorrupt where neither the boot sector nor its backup, or
// neither the master file table's record nor its mirror, can be used; I/O errors.
func Open(r extent.Reader, o Options) (*FS, error) {
	if o.CacheBytes <= 0 {
		o.CacheBytes = DefaultCacheBytes
	}
	if o.InflatedBytes <= 0 {
		o.InflatedBytes = DefaultInflatedBytes
	}
	b, warning, err := readBoot(r)
	if err != nil {
		return nil, err
	}
	f := &FS{
		dev: r, boot: b,
		meta:     newMetaCache(o.CacheBytes),
		inflated: newInflatedCache(o.InflatedBytes),
		acls:     cache.NewShards[uint32](maxACLCache, 1, func(b []byte) int64 { return int64(cap(b)) + 128 }),
	}
	if warning != "" {
		f.notes = append(f.notes, warning)
	}
	if f.mft, warning, err = f.openMFT(); err != nil {
		return nil, err
	}
	if warning != "" {
		f.notes = append(f.notes, warning)
	}
	if n, err := f.object(rootIno); err != nil {
		return nil, fmt.Errorf("root directory: %w", err)
	} else if !n.isIndex() {
		return nil, fsys.Corrupt("ntfs", "MFT record", rootIno, -1, "the root is not a directory")
	}
	if f.upcase, err = f.readUpcase(); err != nil {
		f.notes = append(f.notes, fmt.Sprintf("names are looked up slowly, since the table of upper case cannot be read: %v", err))
	}
	if have := r.Size(); uint64(have) < b.bytes() {
		f.notes = append(f.notes, fmt.Sprintf("the device has %d bytes and the file system %d: what lies behind the end cannot be read", have, b.bytes()))
	}
	if err := f.readVolume(); err != nil {
		return nil, err
	}
	f.system = f.findSystem()
	return f, nil
}

// rootIno is the number of the root directory's record; up to firstUser the records are the
// metadata files and reserved.
const (
	rootIno   = 5
	firstUser = 16
)

// Root is always record 5.
func (f *FS) Root() fsys.Ino { return rootIno }

// Close does nothing: the device belongs to whoever opened it.
func (f *FS) Close() error { return nil }

// CacheStats counts the lookups in the metadata cache.
func (f *FS) CacheStats() cache.Stats { return f.meta.Stats() }
