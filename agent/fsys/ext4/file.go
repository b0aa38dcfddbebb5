package ext4

import (
	"fmt"
	"io"
	"sync/atomic"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// file is the mapped content of an inode: a regular file, a directory, a long symbolic link,
// the value of an attribute, the journal. It keeps one decoded leaf of the extent tree (at most
// 5,461 extents) and nothing else, however fragmented the file is.
type file struct {
	fs   *FS
	ino  *inode
	size int64
	leaf atomic.Pointer[extentLeaf] // used last
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
func (f *file) run(lblk uint64) (mapped, error) {
	if !f.ino.has(flagExtents) {
		return f.fs.indirectRun(f.ino, lblk)
	}
	if lblk >= logicalEnd {
		return mapped{logical: lblk, count: 1 << 53}, nil // more than the rest of any file
	}
	l := f.leaf.Load()
	if l == nil || lblk < l.first || lblk >= l.end {
		var err error
		if l, err = f.fs.extentLeafAt(f.ino, lblk); err != nil {
			return mapped{}, err
		}
		f.leaf.Store(l)
	}
	return l.find(lblk), nil
}

// maxMerge bounds how many runs one span joins: a file whose every extent is adjacent to the
// last must not make one call as long as the file.
const maxMerge = 1024

// span returns how many bytes from off on, at most n, lie together at byte phys of the volume,
// or are zeros (phys 0).
func (f *file) span(off, n int64) (length, phys int64, err error) {
	bs := int64(f.fs.sb.blockSize)
	in := off % bs
	for i := 0; i < maxMerge && length < n; i++ {
		at := off + length
		r, err := f.run(uint64(at / bs))
		if err != nil {
			if length > 0 {
				return length, phys, nil // the error comes up when its own bytes are asked for
			}
			return 0, 0, err
		}
		start := int64(r.phys) * bs
		if i == 0 {
			if phys = start; phys != 0 {
				phys += in
			}
		} else if phys == 0 && start != 0 || phys != 0 && start != phys+length {
			break
		}
		room := n - length
		if r.count <= uint64(room/bs)+1 {
			room = min(room, int64(r.count)*bs-at%bs)
		}
		length += room
	}
	return length, phys, nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	n, end := extent.CheckRead(f.size, p, off)
	done := 0
	for done < n {
		length, phys, err := f.span(off+int64(done), int64(n-done))
		if err != nil {
			return done, err
		}
		q := p[done : done+int(length)]
		if phys == 0 {
			clear(q)
		} else if got, err := extent.ReadFull(f.fs.dev, q, phys); err != nil {
			return done + got, fmt.Errorf("ext4: inode %d at byte %d of the volume: %w", f.ino.num, phys+int64(got), err)
		}
		done += len(q)
	}
	return n, end
}

func (f *file) Extent(off, max int64) (extent.Extent, error) {
	max, err := extent.CheckExtent(f.size, off, max)
	if err != nil {
		return extent.Extent{}, err
	}
	length, phys, err := f.span(off, max)
	if err != nil {
		return extent.Extent{}, err
	}
	if phys == 0 {
		return extent.Extent{Len: length, Zero: true}, nil
	}
	x, err := f.fs.dev.Extent(phys, length)
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return extent.Extent{}, fmt.Errorf("ext4: inode %d at byte %d of the volume: %w", f.ino.num, phys, err)
	}
	return x, nil
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
