package session

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// closeWait is how long CloseFiles waits for what others handed over to be closed.
	closeWait = 250 * time.Millisecond
	// maxClosers bounds what is being closed at a time, each of which may need a thread: Go ends
	// a program that has 10,000. Beyond it what came with messages is waited for.
	maxClosers = 1024
	// maxRights is the kernel's own bound of the descriptors that come at once (SCM_MAX_FD): those for
	// which there is no room are closed by the kernel while it receives, see CloseFiles.
	maxRights = 253
)

var closers = make(chan struct{}, maxClosers)

// CloseFiles closes files that somebody else handed over, and may keep whoever closes them for as long as
// he likes: a socket can wait for its other end (SO_LINGER, which is turned off), a file of a FUSE
// file system for the process that serves it (FUSE_FLUSH), and a unix socket for those in it. It waits
// closeWait at most; done is closed when all are closed.
func CloseFiles(files []*os.File) (done <-chan struct{}) {
	return finish(closing(files), func() { closers <- struct{}{} })
}

// refuse is CloseFiles for what came with messages: when too much is being closed it waits, so that no
// more come.
func refuse(files []*os.File) {
	if len(files) > 0 {
		closers <- struct{}{}
		finish(closing(files), func() {})
	}
}

// closing makes sockets close at once, and returns what closes all.
func closing(files []*os.File) func() {
	for _, f := range files {
		_ = control(f, func(fd int) error {
			return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{}) // ENOTSOCK for others
		})
	}
	return func() {
		for _, f := range files {
			_ = f.Close()
		}
	}
}

// finish takes a place among the closers, calls do, and waits for that, closeWait at most.
func finish(do, place func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		place()
		defer func() { <-closers }()
		do()
	}()
	limit := time.NewTimer(closeWait)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
	}
	return done
}

// take makes files of descriptors that somebody sent. Only sockets and pipes may get into the Go
// runtime's poller: epoll_ctl(2) asks a file whether it is ready, which for one of a FUSE file system is a
// question to the process that serves it (FUSE_POLL), with the poller's lock held. os.NewFile puts there
// whatever is non-blocking at that moment, and whoever sent the descriptor can change that at any time.
// All descriptors are files or closed, also with an error.
func take(fds []int) (files []*os.File, err error) {
	var spare []int
	for _, fd := range fds {
		if isSocket(fd) || isPipe(fd) {
			files = append(files, os.NewFile(uintptr(fd), received))
			continue
		}
		spare = append(spare, fd)
		place, perr := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if perr != nil {
			err = fmt.Errorf("a descriptor: %w", perr)
			continue
		}
		files = append(files, os.NewFile(uintptr(place), received)) // which blocks, and so is not in the poller
		if perr := unix.Dup3(fd, place, unix.O_CLOEXEC); perr != nil {
			err = fmt.Errorf("a descriptor: %w", perr)
		}
	}
	if len(spare) > 0 {
		closers <- struct{}{}
		finish(func() {
			for _, fd := range spare {
				_ = unix.Close(fd)
			}
		}, func() {})
	}
	return files, err
}

func isSocket(fd int) bool {
	_, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil
}

func isPipe(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
	return err == nil
}

const received = "received"

// drain ends the connection for both sides and closes the descriptors that wait in it: the kernel would
// close them within the close(2) of the connection.
func (c *Conn) drain() {
	raw, err := c.c.SyscallConn()
	if err != nil {
		return
	}
	m := new(Message)
	b, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*maxRights))
	_ = raw.Control(func(fd uintptr) {
		_ = unix.Shutdown(int(fd), unix.SHUT_RDWR) // so that nothing more comes
		for {
			n, rights, _, _, err := unix.Recvmsg(int(fd), b, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
			if err == unix.EINTR {
				continue
			}
			if err != nil || n == 0 {
				return
			}
			_ = m.collect(oob[:rights])
		}
	})
	m.Close()
}
