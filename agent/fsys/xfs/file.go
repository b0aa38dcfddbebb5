package xfs

import (
	"fmt"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/block"
)

// file is the content of a regular file.
type file struct {
	*mapping
	size int64
}

var _ extent.Reader = (*file)(nil)

func (f *file) Size() int64 { return f.size }

// Span is that of block.Content.
func (f *file) Span(off, n int64) (length, place int64, err error) {
	bs := int64(f.fs.sb.blockSize)
	return block.Span(bs, off, n, func(lblk uint64) (int64, uint64, error) {
		r, err := f.at(lblk)
		return r.Place(bs), r.Count, err
	})
}

// Failed is that of block.Content.
func (f *file) Failed(place int64, err error) error {
	return fmt.Errorf("xfs: inode %d at byte %d of the volume: %w", f.num, place, err)
}

func (f *file) ReadAt(p []byte, off int64) (int, error) { return block.ReadAt(f.fs.dev, f, p, off) }

func (f *file) Extent(off, max int64) (extent.Extent, error) {
	return block.Extent(f.fs.dev, f, off, max)
}

// Open returns a regular file's bytes. fsys.ErrIsDir, fsys.ErrNotRegular; fsys.ErrUnsupported
// where the content lies on the realtime device.
func (f *FS) Open(ino fsys.Ino) (extent.Reader, error) {
	n, err := f.inode(ino)
	switch {
	case err != nil:
		return nil, err
	case n.isDir():
		return nil, fsys.ErrIsDir
	case !n.isRegular():
		return nil, fsys.ErrNotRegular
	case n.flags&flagRealtime != 0:
		return nil, fmt.Errorf("xfs: inode %d: %w: its content lies on the realtime device", ino, fsys.ErrUnsupported)
	}
	m, err := f.mapping(n, &n.data, "extent map")
	if err != nil {
		return nil, err
	}
	return &file{mapping: m, size: int64(n.size)}, nil
}
