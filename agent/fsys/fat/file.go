package fat

import (
	"errors"
	"fmt"
	"io"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/block"
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

// Span is that of block.Content. There are no holes.
func (f *file) Span(off, n int64) (length, place int64, err error) {
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
	return min(n, int64(r.count)*g.cluster-in), g.at(r.phys) + in, nil
}

// Failed is that of block.Content.
func (f *file) Failed(place int64, err error) error {
	if errors.Is(err, extent.ErrRange) { // the device ends before the file system does
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("fat: inode %d at byte %d of the volume: %w", f.ino, place, err)
}

func (f *file) ReadAt(p []byte, off int64) (int, error) { return block.ReadAt(f.fs.dev, f, p, off) }

func (f *file) Extent(off, max int64) (extent.Extent, error) {
	return block.Extent(f.fs.dev, f, off, max)
}
