package fat

import (
	"fmt"
	iofs "io/fs"
	"time"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// FAT has no inodes. An object's number is the place of its directory entry on the volume in
// units of entries: stable, unique, and above the root's number because the boot sector comes
// before. Cached directories are known by their first cluster, the root by rootDir.
const (
	rootIno fsys.Ino = 1
	rootDir uint32   = 0

	sectorUnit = 512 // of Attr.Blocks

	modeAll      = 0o755
	modeReadOnly = 0o555
)

// entryAt reads the entry of an object other than the root.
func (f *FS) entryAt(ino fsys.Ino) (dirent, error) {
	absent := fmt.Errorf("fat: inode %d: %w", ino, iofs.ErrNotExist)
	first, end := f.geo.data, f.geo.end()
	if f.geo.fixedRoot > 0 {
		first = f.geo.fixedRoot
	}
	if ino < fsys.Ino(first)/entrySize || ino >= fsys.Ino(end)/entrySize {
		return dirent{}, absent
	}
	var b [entrySize]byte
	if _, err := extent.ReadFull(f.dev, b[:], int64(ino)*entrySize); err != nil {
		return dirent{}, fmt.Errorf("fat: entry of inode %d at byte %d: %w", ino, int64(ino)*entrySize, err)
	}
	d := f.geo.decodeDirent(b[:])
	if !d.isObject() || d.isDot() {
		return dirent{}, absent
	}
	return d, nil
}

// Stat returns an object's attributes. fs.ErrNotExist for a number that no object has. The size
// of a directory is that of its clusters.
func (f *FS) Stat(ino fsys.Ino) (fsys.Attr, error) {
	a := fsys.Attr{Ino: ino, Mode: fsys.ModeDir | modeAll, Nlink: 2, BlockSize: uint32(f.geo.cluster)}
	var d dirent
	if ino == rootIno {
		a.Atime, a.Mtime, a.Ctime = time.Unix(0, 0), time.Unix(0, 0), time.Unix(0, 0)
	} else {
		var err error
		if d, err = f.entryAt(ino); err != nil {
			return fsys.Attr{}, err
		}
		// The kernel takes the time of the last change for the time of the last change of
		// attributes, which FAT does not record.
		a.Mtime = when(d.mdate, d.mtime, 0)
		a.Ctime, a.Atime = a.Mtime, when(d.adate, 0, 0)
		if d.cdate != 0 {
			a.Btime = when(d.cdate, d.ctime, d.centis)
		}
		if d.adate == 0 {
			a.Atime = a.Mtime
		}
	}
	if ino == rootIno || d.isDir() {
		x, err := f.directoryOf(ino, &d)
		if err != nil {
			return fsys.Attr{}, err
		}
		a.Size, a.Nlink = x.size, 2+x.subdirs
	} else {
		a.Mode, a.Nlink, a.Size = fsys.ModeRegular|modeAll, 1, int64(d.size)
		if d.attr&attrReadOnly != 0 {
			a.Mode = fsys.ModeRegular | modeReadOnly
		}
	}
	a.Blocks = (a.Size + f.geo.cluster - 1) / f.geo.cluster * f.geo.cluster / sectorUnit
	return a, nil
}

// directoryOf returns the directory of an inode whose entry is d.
func (f *FS) directoryOf(ino fsys.Ino, d *dirent) (*directory, error) {
	if ino == rootIno {
		return f.directory(rootDir)
	}
	if !f.geo.valid(d.cluster) || d.cluster == f.geo.rootStart {
		return nil, fsys.Corrupt("fat", "directory entry", ino, int64(ino)*entrySize, "the directory starts at cluster %d", d.cluster)
	}
	return f.directory(d.cluster)
}
