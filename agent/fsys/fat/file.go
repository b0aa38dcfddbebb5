package fat

import (
	"errors"
	"fmt"
	"io"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// file is the content of a regular file. It keeps its chain, at most 128 KiB.
type file struct {
	fs    *FS
	ino   fsys.Ino
	size  int64
	chain *chain
}

var _ extent.Reader = (*file)(nil)

// Open returns a regular file's bytes. fsys.ErrIsDir. A file whose chain is damaged can be
// read up to the damage.
func (f *FS) Open(ino fsys.Ino) (extent.Reader, error) {
	if ino == rootIno {
		return nil, fsys.ErrIsDir
	}
	d, err := f.entryAt(ino)
	switch {
	case err != nil:
		return nil, err
	case d.isDir():
		return nil, fsys.ErrIsDir
	case d.size == 0:
		return extent.Zeros(0), nil
	}
	n := uint32((int64(d.size) + f.geo.cluster - 1) / f.geo.cluster)
	c, err := f.chains.Get(d.cluster, func() (*chain, error) { return f.readChain(d.cluster, n, "file", ino) })
	if err == nil && c.needed != n { // another size of the same chain: cross-linked files
		c, err = f.readChain(d.cluster, n, "file", ino)
	}
	if err != nil {
		return nil, err
	}
	return &file{fs: f, ino: ino, size: int64(d.size), chain: c}, nil
}

func (f *file) Size() int64 { return f.size }

// span returns where byte off lies and how many bytes, at most n, lie together there.
func (f *file) span(off, n int64) (at, length int64, err error) {
	g := f.fs.geo
	logical := uint32(off / g.cluster)
	if logical >= f.chain.count {
		if f.chain.damage != nil {
			return 0, 0, f.chain.damage
		}
		return 0, 0, fsys.Corrupt("fat", "file", f.ino, -1, "it has %d clusters and byte %d is asked for", f.chain.count, off)
	}
	r, err := f.fs.run(f.chain, logical)
	if err != nil {
		return 0, 0, err
	}
	in := off % g.cluster
	return g.at(r.phys) + in, min(n, int64(r.count)*g.cluster-in), nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	n, end := extent.CheckRead(f.size, p, off)
	done := 0
	for done < n {
		at, length, err := f.span(off+int64(done), int64(n-done))
		if err != nil {
			return done, err
		}
		got, err := extent.ReadFull(f.fs.dev, p[done:done+int(length)], at)
		done += got
		if err != nil {
			return done, fmt.Errorf("fat: inode %d at byte %d of the volume: %w", f.ino, at+int64(got), err)
		}
	}
	return n, end
}

func (f *file) Extent(off, max int64) (extent.Extent, error) {
	max, err := extent.CheckExtent(f.size, off, max)
	if err != nil {
		return extent.Extent{}, err
	}
	at, length, err := f.span(off, max)
	if err != nil {
		return extent.Extent{}, err
	}
	x, err := f.fs.dev.Extent(at, length)
	if err != nil {
		if err == io.EOF || errors.Is(err, extent.ErrRange) { // the device ends before the file system does
			err = io.ErrUnexpectedEOF
		}
		return extent.Extent{}, fmt.Errorf("fat: inode %d at byte %d of the volume: %w", f.ino, at, err)
	}
	return x, nil
}
