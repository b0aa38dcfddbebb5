package guestfs

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/cache"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/guestfs/wire"
)

// FS is one file system that an appliance has mounted. It outlives the appliance: what it knows
// are names, and every request finds or starts a process that has the file system mounted.
type FS struct {
	a      *Appliance
	index  int
	volume wire.Volume
	info   fsys.Info
	root   fsys.Ino
	table  table
}

var (
	_ fsys.FS           = (*FS)(nil)
	_ fsys.Xattrer      = (*FS)(nil)
	_ fsys.CacheStatser = (*FS)(nil)
)

// subvolumeRoot is the inode number of each btrfs subvolume's root (BTRFS_FIRST_FREE_OBJECTID).
const subvolumeRoot = 256

// newFS mounts volume i, so that what cannot be read shows at once. Subvolumes are as sound as
// the btrfs that holds them and are mounted at first use: there can be hundreds of snapshots.
func (a *Appliance) newFS(ctx context.Context, p *process, i int, v wire.Volume) (*FS, error) {
	f := &FS{a: a, index: i, volume: v}
	f.info = fsys.Info{Type: v.Type, Label: v.Label, UUID: strings.ToLower(v.UUID)}
	if v.Subvolume != "" {
		f.root = subvolumeRoot
	} else {
		m, err := a.mount(ctx, p, i, &v)
		if err != nil {
			return nil, err
		}
		f.describe(m)
	}
	if f.volume.Type == "btrfs" && v.Subvolume != "" {
		f.describeLike(a.wholeOf(v))
	}
	f.table.init(&a.nodes, f.root, !stableNumbers(v.Type))
	return f, nil
}

// wholeOf finds the mounted file system that a subvolume belongs to, or nil.
func (a *Appliance) wholeOf(v wire.Volume) *wire.Mounted {
	a.mu.Lock()
	p, volumes := a.proc, a.volumes
	a.mu.Unlock()
	if p == nil {
		return nil
	}
	for i, w := range volumes {
		if w.Device == v.Device && w.Subvolume == "" {
			p.mounting.Lock()
			defer p.mounting.Unlock()
			return p.mounts[i].mounted
		}
	}
	return nil
}

// describe fills in what a mount tells.
func (f *FS) describe(m *wire.Mounted) {
	f.root = 1
	if stableNumbers(f.volume.Type) {
		f.root = fsys.Ino(m.Root.Ino)
	}
	f.describeLike(m)
}

func (f *FS) describeLike(m *wire.Mounted) {
	if m == nil {
		return
	}
	size := uint64(max(0, min(m.BlockSize, math.MaxUint32)))
	f.info.BlockSize = uint32(size)
	f.info.Total, f.info.Free = times(m.Blocks, size), times(m.FreeBlocks, size)
	f.info.Files, f.info.FreeFiles = uint64(max(0, m.Files)), uint64(max(0, m.FreeFiles))
	if journaled(f.volume.Type) {
		f.info.Journal = "replayed by the appliance's kernel where it was not clean"
	}
	if m.Degraded {
		f.info.Warnings = append(f.info.Warnings, "devices of this btrfs are missing from the backup: it is mounted degraded, and files that lie on them cannot be read")
	}
}

// times multiplies, and gives 0 where the product is no size.
func times(n int64, size uint64) uint64 {
	if n < 0 || size == 0 || uint64(n) > math.MaxInt64/size {
		return 0
	}
	return uint64(n) * size
}

func journaled(kind string) bool {
	switch kind {
	case "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs":
		return true
	}
	return false
}

// stableNumbers tells the formats whose inode numbers are on the disk. Linux makes up the
// numbers of the others anew each time it reads a directory, so they are numbered here.
func stableNumbers(kind string) bool {
	switch kind {
	case "btrfs", "ext2", "ext3", "ext4", "xfs", "f2fs", "ntfs", "squashfs", "erofs", "hfsplus", "jfs", "reiserfs", "nilfs2", "ufs", "udf":
		return true
	}
	return false
}

// Info implements fsys.FS.
func (f *FS) Info() fsys.Info { return f.info }

// Root implements fsys.FS.
func (f *FS) Root() fsys.Ino { return f.root }

// Close implements fsys.FS; the Appliance ends what it uses.
func (f *FS) Close() error { return nil }

// CacheStats implements fsys.CacheStatser. The caches belong to the backup; its first file
// system tells of them.
func (f *FS) CacheStats() cache.Stats {
	if f.index != 0 {
		return cache.Stats{}
	}
	d, a, x := f.a.dirs.Stats(), f.a.attrs.Stats(), f.a.xattrs.Stats()
	return cache.Stats{Hits: d.Hits + a.Hits + x.Hits, Misses: d.Misses + a.Misses + x.Misses,
		Bytes: d.Bytes + a.Bytes + x.Bytes, Entries: d.Entries + a.Entries + x.Entries}
}

// ask sends a request about path, which is relative to the root ("" for the root itself).
func (f *FS) ask(r *wire.Request, path string, each func(*wire.Reply, []byte) error) error {
	full := mountpoint(f.index)
	if path != "" {
		full += "/" + path
	}
	if len(full) > maxPath {
		return fmt.Errorf("libguestfs: %w: a path of %d bytes, of at most %d", fsys.ErrUnsupported, len(full), maxPath)
	}
	p, release, err := f.a.use(f.a.ctx)
	if err != nil {
		return err
	}
	defer release()
	if _, err := f.a.mount(f.a.ctx, p, f.index, &f.volume); err != nil {
		return err
	}
	r.Path = []byte(full)
	return p.do(f.a.ctx, r, each)
}

// Stat implements fsys.FS.
func (f *FS) Stat(ino fsys.Ino) (fsys.Attr, error) {
	o, err := f.object(ino)
	if err != nil {
		return fsys.Attr{}, err
	}
	return o.attr, nil
}

// Readlink implements fsys.FS.
func (f *FS) Readlink(ino fsys.Ino) (string, error) {
	o, err := f.object(ino)
	switch {
	case err != nil:
		return "", err
	case !o.attr.IsSymlink():
		return "", fsys.ErrNotLink
	case o.target == "":
		return "", corrupt("symbolic link", ino, "it leads nowhere")
	}
	return o.target, nil
}

// Open implements fsys.FS.
func (f *FS) Open(ino fsys.Ino) (extent.Reader, error) {
	o, err := f.object(ino)
	switch {
	case err != nil:
		return nil, err
	case o.attr.IsDir():
		return nil, fsys.ErrIsDir
	case !o.attr.IsRegular():
		return nil, fsys.ErrNotRegular
	}
	path, err := f.table.path(ino)
	if err != nil {
		return nil, err
	}
	return newFile(f, ino, path, o.attr.Size), nil
}

// object is what is kept of one inode.
type object struct {
	attr   fsys.Attr
	target string
}

func (o *object) size() int64 { return 320 + int64(len(o.target)) } // with the cache's own

// objectKey names an inode among all file systems of a backup.
type objectKey struct {
	fs  int
	ino fsys.Ino
}

// object returns attributes: from the cache, or together with those of names near by.
func (f *FS) object(ino fsys.Ino) (*object, error) {
	return f.a.attrs.Get(objectKey{f.index, ino}, func() (*object, error) {
		dir, name, err := f.table.where(ino)
		if err != nil {
			return nil, err
		}
		var mine *object
		err = f.near(wire.Stat, dir, name, func(dir fsys.Ino, vol uint32, e *wire.Entry) error {
			o, err := f.learn(dir, vol, e)
			switch {
			case err == nil && o.attr.Ino == ino:
				mine = o
			case err == nil:
				f.keep(o)
			case string(e.Name) == name:
				return err
			}
			return nil
		})
		if err == nil && mine == nil {
			err = fmt.Errorf("inode %d: %w", ino, fs.ErrNotExist)
		}
		return mine, err
	})
}

// keep puts o into the cache.
func (f *FS) keep(o *object) { f.a.attrs.Put(objectKey{f.index, o.attr.Ino}, o) }

// learn checks an entry of directory dir and gives it its number. vol is the directory's.
func (f *FS) learn(dir fsys.Ino, vol uint32, e *wire.Entry) (*object, error) {
	if e.Errno != 0 || e.Attr == nil {
		return nil, &applianceError{op: wire.Stat, wire: wire.Error{Errno: e.Errno, Message: string(e.Name)}}
	}
	at, err := attrOf(e.Attr)
	if err != nil {
		return nil, err
	}
	name := string(e.Name)
	if name == "." {
		at.Ino = dir
	} else if at.Ino, err = f.table.number(dir, name, vol, e.Attr.Ino, at.IsDir()); err != nil {
		return nil, err
	}
	o := &object{attr: at}
	if at.IsSymlink() && len(e.Target) <= maxPath {
		o.target = string(e.Target)
	}
	return o, nil
}

// attrOf translates and checks a stat.
func attrOf(a *wire.Attr) (fsys.Attr, error) {
	for _, n := range []int64{a.Mode, a.Nlink, a.UID, a.GID} {
		if n < 0 || n > math.MaxUint32 {
			return fsys.Attr{}, corrupt("stat", 0, "a field of %d", n)
		}
	}
	if a.Ino <= 0 || a.Size < 0 || a.Blocks < 0 {
		return fsys.Attr{}, corrupt("stat", 0, "inode %d, size %d, %d blocks", a.Ino, a.Size, a.Blocks)
	}
	return fsys.Attr{
		Mode: uint32(a.Mode), Nlink: uint32(a.Nlink), UID: uint32(a.UID), GID: uint32(a.GID), Size: a.Size, Blocks: a.Blocks,
		BlockSize: uint32(max(0, min(a.BlockSize, math.MaxUint32))),
		Major:     unix.Major(uint64(a.Rdev)), Minor: unix.Minor(uint64(a.Rdev)),
		Atime: stamp(a.Atime), Mtime: stamp(a.Mtime), Ctime: stamp(a.Ctime),
	}, nil
}

func stamp(t [2]int64) time.Time {
	return time.Unix(t[0], max(0, min(t[1], 999_999_999))).UTC()
}
