package spawn

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// A new process has copies of all descriptors of the thread that starts it, and closes those that are not
// meant for it when it executes its program. A disk that a holder handed over may keep whoever closes it,
// where it is a file of a FUSE file system whose server does not answer: the process would never get to its
// program, nor the thread to the next process. So the thread that starts processes has a table of
// descriptors of its own (CLONE_FILES of unshare(2)), with nothing in it but what the Go runtime needs, and
// for a moment what is meant for the new process.

// maxPassed bounds the descriptors of a new process.
const maxPassed = 64

// pipe is the way into that table: descriptors that are sent to out arrive at in, which is one of it.
type pipe struct{ out, in int }

// ownTable gives the calling thread its table. The thread must be locked, and not the process's first:
// that one's table is taken for the process's by whoever looks into /proc. Both ends of the pipe are open
// in the other table, too.
func ownTable() (p pipe, err error) {
	// The runtime's descriptors must be there already, since both tables are to have them.
	r, w, err := os.Pipe()
	if err != nil {
		return p, err
	}
	_, _ = r.Close(), w.Close()
	keep, err := runtimes("/proc/self/fd")
	if err != nil {
		return p, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return p, fmt.Errorf("socketpair: %w", err)
	}
	p = pipe{out: pair[0], in: pair[1]}
	keep = append(keep, p.in)
	slices.Sort(keep)
	// What is above them is not even copied.
	err = unix.CloseRange(uint(keep[len(keep)-1])+1, ^uint(0)>>32, unix.CLOSE_RANGE_UNSHARE)
	before := 2
	for _, fd := range keep {
		if err == nil && before+1 < fd {
			err = unix.CloseRange(uint(before)+1, uint(fd)-1, 0)
		}
		before = fd
	}
	if err != nil {
		return p, fmt.Errorf("a table of descriptors: %w", err)
	}
	return p, nil
}

// runtimes are the numbers of the Go runtime's descriptors.
func runtimes(dir string) (fds []int, err error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		link, err := os.Readlink(filepath.Join(dir, n.Name()))
		if err != nil || link != "anon_inode:[eventpoll]" && link != "anon_inode:[eventfd]" {
			continue
		}
		fd, err := strconv.Atoi(n.Name())
		if err != nil {
			return nil, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// send sends a command's files, which stay open until receive has been called.
func (p pipe) send(files []*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd()) // and makes it blocking, as a program expects
	}
	err := unix.Sendmsg(p.out, []byte{0}, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
	runtime.KeepAlive(files)
	return err
}

// receive is called by the thread whose table it is.
func (p pipe) receive() (fds []int, err error) {
	oob := make([]byte, unix.CmsgSpace(4*maxPassed))
	_, n, _, _, err := unix.Recvmsg(p.in, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, err
	}
	controls, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(controls) != 1 {
		return nil, errors.Join(errors.New("no descriptors came"), err)
	}
	return unix.ParseUnixRights(&controls[0])
}

// filesOf are the files of a command, from standard input on. null is for those that it does not name.
func filesOf(cmd *exec.Cmd, null *os.File) ([]*os.File, error) {
	files := []*os.File{null, null, null}
	for i, s := range [...]any{cmd.Stdin, cmd.Stdout, cmd.Stderr} {
		switch f := s.(type) {
		case nil:
		case *os.File:
			files[i] = f
		default:
			return nil, fmt.Errorf("spawn: %T is no file", s)
		}
	}
	if files = append(files, cmd.ExtraFiles...); len(files) > maxPassed {
		return nil, fmt.Errorf("spawn: %d descriptors", len(files))
	}
	return files, nil
}

// fork starts cmd with files that were sent; it is called by the thread whose table it is. exec.Cmd itself
// would keep a descriptor of the process, of the wrong table.
func (p pipe) fork(cmd *exec.Cmd) (pid int, err error) {
	fds, err := p.receive()
	if err != nil {
		return 0, err
	}
	attr := &syscall.ProcAttr{Dir: cmd.Dir, Env: cmd.Env, Sys: cmd.SysProcAttr}
	for _, fd := range fds {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	if attr.Env == nil {
		attr.Env = os.Environ()
	}
	if pid, err = syscall.ForkExec(cmd.Path, cmd.Args, attr); err != nil {
		err = &os.PathError{Op: "fork/exec", Path: cmd.Path, Err: err}
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	return pid, err
}
