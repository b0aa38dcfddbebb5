package spawn

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"vmfr/agent/guestfs/sandbox"
)

// Helper is a started libguestfs helper (agent/guestfs/sandbox), to be lent to a worker: neither can
// start the other, and whoever starts both reads nothing of what they say.
type Helper struct {
	// Files are the worker's, in the order of session.Helper; close them when they were sent. When
	// all copies of the last one are closed, the helper is ended.
	Files []*os.File

	cmd   *exec.Cmd
	lease *os.File // the other end of the last file
}

// Helper starts a helper in its sandbox.
func (s *Spawner) Helper(o sandbox.Options) (_ *Helper, err error) {
	conn, theirs, err := streams()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	h := &Helper{Files: []*os.File{conn}}
	defer func() {
		if err != nil {
			h.CloseFiles()
			_ = h.lease.Close() // nil, too
		}
	}()
	log, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	h.Files = append(h.Files, log)
	lease, workers, err := streams()
	if err != nil {
		return nil, err
	}
	h.lease, h.Files = lease, append(h.Files, workers)
	if h.cmd, err = sandbox.New(o, theirs); err != nil {
		return nil, err
	}
	h.cmd.Stdout, h.cmd.Stderr = in, in
	if err := s.Start(h.cmd); err != nil {
		return nil, fmt.Errorf("the sandbox: %w", err)
	}
	return h, nil
}

// Process is the first one of the helper's PID namespace: with it all of them end.
func (h *Helper) Process() *os.Process { return h.cmd.Process }

// CloseFiles closes Files.
func (h *Helper) CloseFiles() {
	for _, f := range h.Files {
		_ = f.Close()
	}
}

// Wait waits until the worker has no use for the helper any more, or until it has ended, ends it, and
// tells the worker why, if not because it was to end. why is asked first, when the process has ended
// and the worker does not know yet.
func (h *Helper) Wait(why func() string) (reason string) {
	end := make(chan struct{})
	go func() {
		defer close(end)
		_, _ = h.lease.Read(make([]byte, 1)) // nothing is said: it ends, with the worker or before
		_ = h.cmd.Process.Kill()
	}()
	err := h.cmd.Wait()
	reason = cmp.Or(why(), ended(err, h.cmd.ProcessState))
	_, _ = h.lease.Write([]byte(reason))               // what the worker has not read of it is lost with the worker
	if raw, err := h.lease.SyscallConn(); err == nil { // for both sides; what was written before is still read
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	}
	<-end
	_ = h.lease.Close()
	return reason
}

// ended tells why a process ended; empty: because it was to end.
func ended(err error, state *os.ProcessState) string {
	if err == nil {
		return ""
	}
	if s, ok := state.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return "it was killed (" + s.Signal().String() + ")"
	}
	return err.Error()
}

// streams are two ends of a connection, non-blocking, the second for another process.
func streams() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}
