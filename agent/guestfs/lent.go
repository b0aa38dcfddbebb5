package guestfs

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"vmfr/agent/guestfs/sandbox"
)

// Helper is a helper process that somebody else started in its sandbox, for a process that may
// start none. The files are non-blocking.
type Helper struct {
	Conn *os.File // its connection: the disks' sockets come first (sandbox.Receive), then package wire
	Log  *os.File // what it prints
	// Lease is a stream socket. When our end of it says no more, the helper is ended; when it has
	// ended, the other end says why, if it was not in order, and closes.
	Lease *os.File
}

// Close gives the helper up.
func (h *Helper) Close() {
	for _, f := range []*os.File{h.Conn, h.Log, h.Lease} {
		_ = f.Close()
	}
}

// maxReason bounds why a helper ended, in bytes.
const maxReason = 1024

// borrow takes a helper over, which must be for as many disks.
func borrow(h *Helper, disks int) (_ *child, err error) {
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	c := &child{sock: h.Conn, log: &tail{}, clean: func() {}}
	if c.disks, err = sandbox.Receive(h.Conn, disks); err != nil {
		_ = h.Lease.Close() // and with the helper's end its log ends
		_ = h.Log.SetReadDeadline(time.Now().Add(exitLimit))
		why, _ := io.ReadAll(io.LimitReader(h.Log, tailBytes))
		_, _ = c.log.Write(why)
		return nil, fmt.Errorf("starting the libguestfs helper: %w%s", err, c.log.last())
	}
	lease, err := net.FileConn(h.Lease)
	if err != nil {
		for _, l := range c.disks {
			_ = l.Close()
		}
		return nil, err
	}
	_ = h.Lease.Close() // lease is a descriptor of its own
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		defer func() { _ = h.Log.Close() }()
		_, _ = io.Copy(plainWriter{c.log}, h.Log)
	}()
	c.end = func() {
		if u, ok := lease.(*net.UnixConn); ok {
			_ = u.CloseWrite()
		}
	}
	c.wait = func() error {
		defer func() { _ = lease.Close() }()
		why, err := io.ReadAll(io.LimitReader(lease, maxReason))
		<-printed
		if err == nil && len(why) > 0 {
			err = errors.New(string(why))
		}
		return err
	}
	return c, nil
}

// plainWriter hides what would let io.Copy take a way of its own.
type plainWriter struct{ io.Writer }
