package ext4

import (
	"fmt"
	"sync/atomic"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/block"
)

// file is the mapped content of an inode: a regular file, a directory, a long symbolic link,
// the value of an attribute, the journal. It keeps one decoded leaf of the extent tree (at most
// 5,461 extents) and nothing else, however fragmented the file is.
type file struct {
	fs   *FS
	ino  *inode
	size int64
	leaf atomic.Pointer[block.Leaf] // used last
}

var _ extent.Reader = (*file)(nil)

// content takes n over.
func (f *FS) content(n *inode) *file {
	// The inode's extra bytes are a part of a cached chunk, which an open file must not keep.
	n.extra = nil
	return &file{fs: f, ino: n, size: int64(n.size)}
}

func (f *file) Size() int64 { return f.size }

// run maps logical block lblk: the result starts there.
func (f *file) run(lblk uint64) (block.Run, error) {
	if !f.ino.has(flagExtents) {
		return f.fs.indirectRun(f.ino, lblk)
	}
	if lblk >= logicalEnd {
		return block.Run{Logical: lblk, Count: 1 << 53}, nil // more than the rest of any file
	}
	l := f.leaf.Load()
	if l == nil || lblk < l.First || lblk >= l.End {
		var err error
		if l, err = f.fs.extentLeafAt(f.ino, lblk); err != nil {
			return block.Run{}, err
		}
		f.leaf.Store(l)
	}
	return l.Find(lblk), nil
}

// Span is that of block.Content.
func (f *file) Span(off, n int64) (length, place int64, err error) {
	bs := int64(f.fs.sb.blockSize)
	return block.Span(bs, off, n, func(lblk uint64) (int64, uint64, error) {
		r, err := f.run(lblk)
		return r.Place(bs), r.Count, err
	})
}

// Failed is that of block.Content.
func (f *file) Failed(place int64, err error) error {
	return fmt.Errorf("ext4: inode %d at byte %d of the volume: %w", f.ino.num, place, err)
}

func (f *file) ReadAt(p []byte, off int64) (int, error) { return block.ReadAt(f.fs.dev, f, p, off) }

func (f *file) Extent(off, max int64) (extent.Extent, error) {
	return block.Extent(f.fs.dev, f, off, max)
}

// Open returns a regular file's bytes. fsys.ErrIsDir, fsys.ErrNotRegular; fsys.ErrNoKey where
// the guest encrypted the file.
func (f *FS) Open(ino fsys.Ino) (extent.Reader, error) {
	n, err := f.inode(ino)
	switch {
	case err != nil:
		return nil, err
	case n.isDir():
		return nil, fsys.ErrIsDir
	case !n.isRegular():
		return nil, fsys.ErrNotRegular
	case n.has(flagEncrypt):
		return nil, fmt.Errorf("ext4: inode %d: %w (fscrypt)", ino, fsys.ErrNoKey)
	case n.has(flagInline):
		return f.inlineFile(n)
	}
	return f.content(n), nil
}
