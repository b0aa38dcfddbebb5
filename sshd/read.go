package sshd

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"github.com/pkg/sftp"

	"vmfr/agent/audit"
	"vmfr/agent/tree"
)

const (
	// dataHeader precedes the content in a DATA packet: length, type, id, length of the content.
	dataHeader = 4 + 1 + 4 + 4
	// maxReadRequest is the length of a READ from its id on: id, handle, offset and length are
	// 4 + (4 + 20) + 8 + 4 bytes, since RequestServer's handles are numbers.
	maxReadRequest = 40
)

var (
	// errHandle is the answer to a read of what is not an open file.
	errHandle = &statusError{fxFailure, "invalid handle: no file is open under this name"}
	// errPanic is the answer to a read that ended in a panic.
	errPanic = &statusError{fxFailure, "internal error. " + tree.KindInternal.Advice()}
)

// readBuffer holds a DATA packet. A server's sessions share a pool of them for each size.
type readBuffer []byte

// readSizes are the contents that buffers are made for. Many clients ask for 32 KiB at a time.
var readSizes = [...]int{32 << 10, 64 << 10, maxRead}

// buffers is a pool for each of readSizes.
type buffers [len(readSizes)]sync.Pool

// get returns a buffer for n bytes of content, n at most maxRead, and the pool to put it back into.
func (b *buffers) get(n int) (*readBuffer, *sync.Pool) {
	i := 0
	for readSizes[i] < n {
		i++
	}
	if r, ok := b[i].Get().(*readBuffer); ok {
		return r, &b[i]
	}
	r := make(readBuffer, dataHeader+readSizes[i])
	return &r, &b[i]
}

// handles are a session's open files by RequestServer's names for them, the handles of the
// protocol.
//
// A name is known only from the HANDLE reply that goes to the client. RequestServer opens one
// object at a time, in the order of the requests, and keeps that order in its replies, so the
// HANDLE replies belong to what view opened one by one.
type handles struct {
	mu     sync.Mutex
	opened []*file          // those whose HANDLE reply is to come; nil stands for a directory
	files  map[string]*file // those that are open and have a name
}

// add takes note of what view has just opened successfully; f is nil for a directory.
func (h *handles) add(f *file) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opened = append(h.opened, f)
}

// name takes note of a HANDLE reply, given from its id on.
func (h *handles) name(reply []byte) {
	d := decoder{b: reply}
	_, name := d.u32(), d.str()
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.bad || len(h.opened) == 0 {
		return
	}
	f := h.opened[0]
	h.opened = h.opened[1:]
	// A client may guess a handle, and close it before it has read its name.
	if f == nil || f.closed {
		return
	}
	if h.files == nil {
		h.files = map[string]*file{}
	}
	f.name = string(name)
	h.files[f.name] = f
}

// get returns nil if name is not that of an open file.
func (h *handles) get(name []byte) *file {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.files[string(name)]
}

// remove forgets a closed file. Reads that have begun go on.
func (h *handles) remove(f *file) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f.closed = true
	if h.files[f.name] == f {
		delete(h.files, f.name)
	}
}

// file is an open file.
type file struct {
	v      *view
	f      *tree.File
	record *audit.File
	ahead  ahead
	last   *turn // of the last read; startRead's alone

	name   string // its handle; this and the next are guarded by handles.mu
	closed bool
}

// ReadAt counts a read, and gives its error a status.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(p, off)
	return n, f.answered(off, n, err)
}

// readFrom is ReadAt that takes from p what is there already; p may be nil.
func (f *file) readFrom(p *piece, b []byte, off int64) (int, error) {
	if p != nil {
		if n, ok, err := p.read(b, off); ok {
			return n, f.answered(off, n, err)
		}
	}
	return f.ReadAt(b, off)
}

// answered takes note of a read for a client, and gives its error a status.
func (f *file) answered(off int64, n int, err error) error {
	f.v.s.cfg.Counters.Read(n)
	if err == io.EOF {
		f.record.Read(off, n, nil)
		return err
	}
	f.record.Read(off, n, err)
	return status(err)
}

func (f *file) Close() error {
	f.record.Close()
	f.v.open.remove(f)
	if p := f.ahead.close(); p != nil {
		f.v.wire.drop(p)
	}
	f.v.release()
	return nil
}

// turn is a read's place among those of its file.
type turn struct {
	room chan struct{} // closed when it has its room
	sent chan struct{} // closed when its answer was sent, or never will be
}

// startRead begins to answer a READ of n bytes at off, n at most maxRead. All are read at the same time, and those of
// one file are answered in the order of the requests: a client writes each answer to its place, and one whose
// connection breaks while an earlier answer is missing keeps a file with a hole, which OpenSSH's reget takes for
// whole up to its end. A slow read does not hold up those of other files. maxPending and maxReading bound the
// reads of a session.
func (w *wire) startRead(f *file, id uint32, off int64, n int) {
	ready := w.begin(f, off, n)
	before, own := f.last, &turn{room: make(chan struct{}), sent: make(chan struct{})}
	f.last = own
	w.reads.Go(func() {
		defer w.v.s.caught("sftp read")
		defer close(own.sent)
		answered := sync.OnceFunc(f.ahead.finish)
		defer answered()
		if ready != nil {
			defer ready.using.Done()
		}
		// Those before it end, if need be by the connection's end, so this is not for ever. Room is given in the
		// order of the answers: else later ones could have all of it, and wait for one that gets none.
		if before != nil {
			<-before.room
		}
		_ = w.room.Acquire(context.Background(), int64(n))
		close(own.room)
		defer w.room.Release(int64(n))
		if w.ended() != nil {
			return
		}
		b, pool := w.v.s.buffers.get(n)
		defer pool.Put(b)
		reply := f.reply(*b, id, off, n, ready)
		if before != nil {
			<-before.sent
		}
		_ = w.sendAfter(reply, answered) // an error ends the session, see fail
	})
}

// reply reads n bytes at off, from ready if that is not nil, and returns the packet for the client: DATA in b, or a STATUS.
func (f *file) reply(b readBuffer, id uint32, off int64, n int, ready *piece) (packet []byte) {
	defer func() {
		if packet == nil {
			packet = statusPacket(id, errPanic)
		}
	}()
	defer f.v.s.caught("sftp read")
	p := b[: dataHeader+n : dataHeader+n]
	k, err := f.readFrom(ready, p[dataHeader:], off)
	if err != nil && (k == 0 || err != io.EOF) {
		return statusPacket(id, err)
	}
	p = p[:dataHeader+k]
	setLength(p)
	p[4] = fxpData
	binary.BigEndian.PutUint32(p[5:], id)
	binary.BigEndian.PutUint32(p[9:], uint32(k))
	return p
}

// statusPacket tells the client about err, which is not nil, as RequestServer does.
func statusPacket(id uint32, err error) []byte {
	code := uint32(fxFailure)
	var e *statusError
	switch {
	case err == io.EOF:
		code = fxEOF
	case errors.As(err, &e):
		code = e.code
	}
	p := append(make([]byte, 4, 256), fxpStatus)
	p = binary.BigEndian.AppendUint32(p, id)
	p = binary.BigEndian.AppendUint32(p, code)
	p = appendString(appendString(p, err.Error()), "") // the message and its language
	setLength(p)
	return p
}

// The status codes of section 7 that are used here.
const (
	fxEOF              = 1
	fxNoSuchFile       = 2
	fxPermissionDenied = 3
	fxFailure          = 4
	fxOpUnsupported    = 8
)

// codes are pkg/sftp's errors by status; others are failures.
var codes = map[uint32]error{
	fxNoSuchFile:       sftp.ErrSSHFxNoSuchFile,
	fxPermissionDenied: sftp.ErrSSHFxPermissionDenied,
	fxOpUnsupported:    sftp.ErrSSHFxOpUnsupported,
}

// statusError is an error with its SSH_FX_* code and a message for the client.
type statusError struct {
	code uint32
	msg  string
}

func (e *statusError) Error() string { return e.msg }

// Unwrap is how pkg/sftp learns the code.
func (e *statusError) Unwrap() error {
	if err, ok := codes[e.code]; ok {
		return err
	}
	return sftp.ErrSSHFxFailure
}

// status gives an error of the tree its code and the advice that belongs to it.
func status(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	k := tree.KindOf(err)
	return &statusError{k.SFTP(), err.Error() + ". " + k.Advice()}
}
