package sshd

import (
	"io"
	"sync"
)

const (
	// maxAhead bounds what a session reads ahead, in bytes. It is a part of maxReading, the
	// other part of which is always left to reads that were asked for.
	maxAhead = maxReading / 2
	// maxMisses is how often in a row a client may not want what was read ahead for it before
	// that ends for its file.
	maxMisses = 4
)

// ahead reads, for an open file, what a client will ask for next, while the client takes in the
// last answer. It is for clients that have one request outstanding and read on from where they
// were: those with more are ahead themselves.
type ahead struct {
	mu      sync.Mutex
	next    int64  // where the last read ended
	run     int    // reads, up to the last one, that each began where the one before ended
	pending int    // reads that are not answered yet
	misses  int    // pieces in a row that were not wanted
	piece   *piece // holds what is at next; nil: none
	closed  bool
}

// piece is a read of up to maxRead bytes that nobody has asked for yet, a multiple of the size
// of the client's own reads. It holds its size in the session's room.
type piece struct {
	off  int64
	size int
	buf  *readBuffer
	pool *sync.Pool

	using sync.WaitGroup // the answers that are made from it

	done chan struct{} // closed when n and err are set
	n    int
	err  error
}

// begin takes note of a read of f and returns the piece that holds its answer, nil if there is
// none. It may begin to read the next one. It is called in the order of the requests; finish must
// follow, and using.Done for the piece.
func (w *wire) begin(f *file, off int64, size int) *piece {
	a := &f.ahead
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.run > 0 && off == a.next {
		a.run++
	} else {
		a.run = 1
	}
	a.next = off + int64(size)
	p := a.piece
	switch {
	case p == nil:
	case p.off <= off && off-p.off <= int64(p.size-size):
		a.misses = 0
		p.using.Add(1)
		if a.next == p.off+int64(p.size) {
			w.drop(p)
			a.piece = nil
		}
	default:
		a.misses++
		w.drop(p)
		p, a.piece = nil, nil
	}
	if a.piece == nil && a.run > 1 && a.pending == 0 && a.misses < maxMisses && !a.closed && size > 0 {
		a.piece = w.readAhead(f, a.next, maxRead-maxRead%size)
	}
	a.pending++
	return p
}

// read waits for p and reads from it, as ReadAt does; false: it has to be read again, since
// nobody had asked for what failed.
func (p *piece) read(b []byte, off int64) (n int, ok bool, err error) {
	if <-p.done; p.err != nil && p.err != io.EOF {
		return 0, false, nil
	}
	if at := off - p.off; at < int64(p.n) {
		n = copy(b, (*p.buf)[dataHeader+at:dataHeader+p.n])
	}
	if n < len(b) {
		err = io.EOF
	}
	return n, true, err
}

// finish takes note of an answer, before the client has it: its next request may come at once.
func (a *ahead) finish() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pending--
}

// close returns the piece that will not be asked for.
func (a *ahead) close() *piece {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.piece
	a.piece, a.closed = nil, true
	return p
}

// readAhead begins to read size bytes of f at off; nil: there is no room, or nothing there.
func (w *wire) readAhead(f *file, off int64, size int) *piece {
	if off < 0 || off >= f.f.Size() || !w.aheadRoom.TryAcquire(int64(size)) {
		return nil
	}
	if !w.room.TryAcquire(int64(size)) {
		w.aheadRoom.Release(int64(size))
		return nil
	}
	p := &piece{off: off, size: size, done: make(chan struct{}), err: errPanic}
	p.buf, p.pool = w.v.s.buffers.get(size)
	w.reads.Go(func() {
		defer w.v.s.caught("sftp read ahead")
		defer close(p.done)
		p.n, p.err = f.f.ReadAt((*p.buf)[dataHeader:dataHeader+size], off)
	})
	return p
}

// drop gives back what p holds once it has been read and used.
func (w *wire) drop(p *piece) {
	w.reads.Go(func() {
		<-p.done
		p.using.Wait()
		p.pool.Put(p.buf)
		w.room.Release(int64(p.size))
		w.aheadRoom.Release(int64(p.size))
	})
}
