// Package stuck makes descriptors that keep whoever touches them, for tests of what others hand over:
// a file of a FUSE file system whose server has stopped to answer, and a socket that waits on close.
//
// Non-goal: nothing but tests uses it. Invariant: Cleanup lets go of whoever still waits.
package stuck

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// FUSE's numbers of requests (linux/fuse.h).
const (
	getattr  = 3
	open     = 14
	release  = 18
	initiate = 26
	flush    = 25
	poll     = 40
)

// Mount is a file system with one file, which is its root. Its server answers whoever opens the file or
// asks what it is, and nobody who closes it (FUSE_FLUSH).
type Mount struct {
	Path    string
	device  int
	release func()
	flushes atomic.Int64
	polls   atomic.Int64
}

// New mounts it until the end of the test, which needs root.
func New(t testing.TB) *Mount {
	t.Helper()
	m := &Mount{Path: filepath.Join(t.TempDir(), "stuck")}
	if err := os.WriteFile(m.Path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if m.device, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=100444,user_id=0,group_id=0", m.device)
	if err := unix.Mount("stuck", m.Path, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		_ = unix.Close(m.device)
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.serve()
	}()
	m.release = sync.OnceFunc(func() {
		// Ends all requests, and the server with ENODEV.
		if err := unix.Unmount(m.Path, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		<-done
		_ = unix.Close(m.device)
	})
	t.Cleanup(m.release)
	return m
}

// Release lets go of whoever waits.
func (m *Mount) Release() { m.release() }

// Flushes tells how often somebody has begun to close the file.
func (m *Mount) Flushes() int64 { return m.flushes.Load() }

// Polls tells how often the kernel has asked whether the file is ready. It is answered: epoll waits for
// that with its lock held, and with it the whole of a Go program, tests included.
func (m *Mount) Polls() int64 { return m.polls.Load() }

// Open opens the file with flags, such as O_NONBLOCK, without a file of package os, whose poller would be
// the first that it keeps.
func (m *Mount) Open(t testing.TB, flags int) (fd int) {
	t.Helper()
	fd, err := unix.Open(m.Path, unix.O_RDONLY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func (m *Mount) serve() {
	request := make([]byte, 128<<10)
	for {
		n, err := unix.Read(m.device, request)
		switch {
		case err == unix.EINTR, err == unix.EAGAIN, err == unix.ENOENT: // ENOENT: the request is gone
			continue
		case err != nil || n < 40:
			return
		}
		le := binary.LittleEndian
		answer := make([]byte, 16, 128)
		copy(answer[8:], request[8:16]) // which request this is about
		switch le.Uint32(request[4:]) {
		case initiate:
			answer = answer[:16+64]
			le.PutUint32(answer[16:], 7) // the protocol's version
			le.PutUint32(answer[20:], 31)
			le.PutUint32(answer[36:], 4096) // max_write
		case getattr:
			answer = answer[:16+104]
			le.PutUint64(answer[16:], 3600) // seconds for which it is true
			le.PutUint64(answer[32:], 1)    // inode
			le.PutUint32(answer[92:], unix.S_IFREG|0o444)
			le.PutUint32(answer[96:], 1) // links
		case open:
			answer = answer[:16+16]
		case release:
		case flush:
			m.flushes.Add(1)
			continue
		case poll:
			m.polls.Add(1)
			answer = answer[:16+8]
		default:
			le.PutUint32(answer[4:], uint32(1<<32-uint64(unix.ENOSYS)))
		}
		le.PutUint32(answer, uint32(len(answer)))
		_, _ = unix.Write(m.device, answer)
	}
}
