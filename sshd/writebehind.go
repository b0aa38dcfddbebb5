package sshd

import (
	"net"
	"sync"
	"time"
)

// writeBehindSize bounds what a connection has encrypted and not yet given to the kernel.
const writeBehindSize = 256 << 10

// closeFlush is how long a closing connection may take to send what is left.
const closeFlush = 250 * time.Millisecond

// writeBehind is a connection whose writes return once they are buffered, while a goroutine of
// its own sends. x/crypto/ssh writes an SSH packet in two pieces and flushes each packet; here
// encryption goes on during the system call, and one call sends all packets that are ready.
// Write blocks while writeBehindSize bytes wait, so a slow client slows its sender down.
type writeBehind struct {
	net.Conn
	mu     sync.Mutex
	change sync.Cond // of the fields below
	buf    []byte    // to be sent next
	err    error     // of the connection: nothing more is sent
	closed bool
}

func newWriteBehind(c net.Conn) *writeBehind {
	w := &writeBehind{Conn: c}
	w.change.L = &w.mu
	go w.send()
	return w
}

// Write buffers all of p or returns the error of an earlier send.
func (w *writeBehind) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.buf) > 0 && len(w.buf)+len(p) > writeBehindSize && w.err == nil && !w.closed {
		w.change.Wait()
	}
	if w.closed {
		return 0, net.ErrClosed
	}
	if w.err != nil {
		return 0, w.err
	}
	w.buf = append(w.buf, p...)
	w.change.Broadcast()
	return len(p), nil
}

// send owns the writing side of the connection and closes it.
func (w *writeBehind) send() {
	defer w.Conn.Close()
	var out []byte
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		for len(w.buf) == 0 && !w.closed {
			w.change.Wait()
		}
		if len(w.buf) == 0 || w.err != nil {
			return
		}
		out, w.buf = w.buf, out[:0]
		w.change.Broadcast()
		w.mu.Unlock()
		_, err := w.Conn.Write(out)
		w.mu.Lock()
		if err != nil {
			w.err = err
			w.change.Broadcast()
			return
		}
	}
}

// Close sends what is buffered, for closeFlush at most, and closes. It does not wait for that.
func (w *writeBehind) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.closed = true
		_ = w.Conn.SetWriteDeadline(time.Now().Add(closeFlush))
		_ = w.Conn.SetReadDeadline(time.Now())
		w.change.Broadcast()
	}
	return nil
}

// SetDeadline does nothing: gliderlabs/ssh clears all deadlines before every read and write,
// which would undo those of Close.
func (w *writeBehind) SetDeadline(time.Time) error { return nil }
