package xfs

import (
	"fmt"
	"io"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// file is the content of a regular file.
type file struct {
	*mapping
	size int64
}

var _ extent.Reader = (*file)(nil)

func (f *file) Size() int64 { return f.size }

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
		r, err := f.at(uint64(at / bs))
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
			return done + got, fmt.Errorf("xfs: inode %d at byte %d of the volume: %w", f.num, phys+int64(got), err)
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
		return extent.Extent{}, fmt.Errorf("xfs: inode %d at byte %d of the volume: %w", f.num, phys, err)
	}
	return x, nil
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
