package guestfs

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/guestfs/wire"
)

const (
	// smallPiece is read where nothing says that more is wanted, largePiece of small files and
	// for sequential readers: a call costs about as much as half a megabyte of data.
	smallPiece = 128 << 10
	largePiece = 2 << 20
	// sequential is how many reads in a row make a sequential reader.
	sequential = 3
)

// pieceKey names a piece of a file's content.
type pieceKey struct {
	fs   int
	ino  fsys.Ino
	off  int64
	size int64 // of the grid: smallPiece or largePiece
}

// file reads a regular file in pieces, which are kept, and one piece ahead of sequential readers.
type file struct {
	fs   *FS
	ino  fsys.Ino
	path string
	size int64

	mu    sync.Mutex
	next  int64 // where the last read ended
	run   int   // reads in a row
	ahead atomic.Bool
}

var _ extent.Reader = (*file)(nil)

func newFile(f *FS, ino fsys.Ino, path string, size int64) *file {
	return &file{fs: f, ino: ino, path: path, size: size}
}

// Size implements extent.Reader.
func (f *file) Size() int64 { return f.size }

// Extent implements extent.Reader: libguestfs cannot tell holes, so all is data.
func (f *file) Extent(off, limit int64) (extent.Extent, error) {
	n, err := extent.CheckExtent(f.size, off, limit)
	return extent.Extent{Len: n}, err
}

// ReadAt implements extent.Reader.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	n, end := extent.CheckRead(f.size, p, off)
	if n == 0 {
		return 0, end
	}
	grid := f.grid(off, n)
	for done := 0; done < n; {
		at := off + int64(done)
		b, start, err := f.piece(at, grid)
		if err != nil {
			return done, err
		}
		done += copy(p[done:n], b[at-start:])
	}
	if grid == largePiece {
		f.readAhead(off + int64(n))
	}
	return n, end
}

// grid chooses the size of the pieces for a read. Readers such as the kernel's come a little
// out of order, so near the last read's end counts as in a row.
func (f *file) grid(off int64, n int) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := off - f.next; d > -largePiece && d < largePiece {
		f.run++
	} else {
		f.run = 0
	}
	f.next = off + int64(n)
	if f.size <= largePiece || n >= largePiece/2 || f.run >= sequential {
		return largePiece
	}
	return smallPiece
}

// piece returns the piece that holds byte off, and where it starts.
func (f *file) piece(off, grid int64) ([]byte, int64, error) {
	cache := f.fs.a.content
	if grid != largePiece {
		start := off - off%largePiece
		if b, ok := cache.Peek(pieceKey{f.fs.index, f.ino, start, largePiece}); ok {
			return b, start, nil
		}
	}
	start := off - off%grid
	b, err := cache.Get(pieceKey{f.fs.index, f.ino, start, grid}, func() ([]byte, error) {
		want := min(grid, f.size-start)
		var b []byte
		r := &wire.Request{Op: wire.Read, Offset: start, Count: int(want)}
		err := f.fs.ask(r, f.path, func(_ *wire.Reply, payload []byte) error {
			b = payload
			return nil
		})
		if err == nil && int64(len(b)) != want {
			err = fmt.Errorf("libguestfs: %d of %d bytes at %d: %w", len(b), want, start, io.ErrUnexpectedEOF)
		}
		return b, err
	})
	return b, start, err
}

// readAhead fetches the piece after the one that holds off, while the caller is busy with that.
func (f *file) readAhead(off int64) {
	start := off - off%largePiece + largePiece
	if start >= f.size || !f.ahead.CompareAndSwap(false, true) {
		return
	}
	if _, ok := f.fs.a.content.Peek(pieceKey{f.fs.index, f.ino, start, largePiece}); ok {
		f.ahead.Store(false)
		return
	}
	if !f.fs.a.background() {
		f.ahead.Store(false)
		return
	}
	go func() {
		defer f.fs.a.wg.Done()
		defer f.ahead.Store(false)
		_, _, _ = f.piece(start, largePiece) // the reader itself will see the error
	}()
}
