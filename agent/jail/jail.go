// Package jail runs rsync where it can see nothing but the tree.
//
//	serve ── SOCK_SEQPACKET ── starter ── clone(2) ── inside ── execve(2) ── rsync
//	  └──────────── /dev/fuse ── mount ──────────────────────────── reads ────┘
//
// A process that serves a FUSE mount must not start programs that use it (see fusefs), so a
// second process does: the starter, the same binary, which is started before anything is served.
// It lives in a mount and a PID namespace of its own, mounts FUSE there and hands /dev/fuse to
// the server; when either of them ends, however it ends, the kernel removes the mount and kills
// what the starter started. For each run it clones a process into new user, mount, PID, IPC, UTS,
// network and cgroup namespaces, whose root becomes
//
//	/.vmfr-<random>/  rsync and its libraries, on a tmpfs that is read-only
//	/dev/null
//	/backups /restores /README.txt /METADATA.json  bound from FUSE: ro, nosuid, nodev, noexec
//
// and which gives up all capabilities (effective, bounding, ambient), the way back to them
// (no_new_privs, securebits), root's user id, most system calls that are of no use to rsync, and
// memory, processes, files and file sizes beyond its limits. The user namespace maps every id to
// itself, so that owners and file capabilities are seen as the guest recorded them.
//
// Non-goals: no other program, no network, nothing that writes. Invariants: arguments are checked
// by rsyncargs here as well as in the SSH server; without every one of these measures nothing is
// run; a run ends with the connection that asked for it.
package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// Command is the hidden first argument of the program under which Main runs.
	Command = "jail"

	// MaxRuns is how many programs run at a time.
	MaxRuns = 32

	// jailUser is the user and group id of all runs, which owns nothing.
	jailUser = 65534

	// tmpfsSize bounds the program with its libraries; rsync needs about 8 MiB.
	tmpfsSize = "64m"
)

// ErrUnavailable: this machine or this user cannot have a jail.
var ErrUnavailable = errors.New("rsync is not offered")

// hello is the starter's first message, which carries /dev/fuse.
type hello struct {
	Error string `json:"error,omitempty"`
}

// result is how a run ended, sent over its own socket.
type result struct {
	Exit  int    `json:"exit"` // status; -1: killed
	Error string `json:"error,omitempty"`
}

// lookRequest asks for a look at the mount, in the place of a command line.
const lookRequest = "look"

// The descriptors that come with a request.
const (
	fdStdin = iota
	fdStdout
	fdStderr
	fdControl // a socket: result is sent here; the run is killed when the other end is closed
	requestFDs
)

// send writes one message with descriptors.
func send(sock *os.File, message []byte, fds ...int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	return control(sock, func(fd int) error { return unix.Sendmsg(fd, message, rights, nil, unix.MSG_NOSIGNAL) })
}

// receive reads one message of at most max bytes and exactly n descriptors, or fails. The other
// end's close is errClosed.
func receive(sock *os.File, max, n int) (message []byte, files []*os.File, err error) {
	b, oob := make([]byte, max+1), make([]byte, unix.CmsgSpace(4*requestFDs))
	var size, rights, flags int
	err = control(sock, func(fd int) (err error) {
		size, rights, flags, _, err = unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("receive: %w", err)
	}
	if size == 0 && rights == 0 {
		return nil, nil, errClosed
	}
	messages, err := unix.ParseSocketControlMessage(oob[:rights])
	if err != nil {
		return nil, nil, fmt.Errorf("receive: %w", err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	if size > max || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || len(files) != n {
		closeAll(files)
		return nil, nil, fmt.Errorf("receive: %d bytes and %d descriptors, want at most %d and exactly %d", size, len(files), max, n)
	}
	return b[:size], files, nil
}

var errClosed = errors.New("the other end is closed")

// control calls f with the descriptor of a blocking socket until no signal interrupts it.
func control(sock *os.File, f func(fd int) error) error {
	c, err := sock.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := c.Control(func(fd uintptr) {
		for {
			if inner = f(int(fd)); !errors.Is(inner, unix.EINTR) {
				return
			}
		}
	}); err != nil {
		return err
	}
	return inner
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// pair is a socketpair as two blocking files.
func pair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of our own plain structs
	}
	return b
}
