// Package sandbox is what libguestfs' helper process runs in: what it is told by its environment,
// how much memory it takes, and, where root starts it, a jail.
//
//	New ── clone(2) ──> Main: new namespaces, still root
//	                      │ a root directory with nothing but programs, sockets for the disks,
//	                      │ limits, an own user id, no capability, fewer system calls
//	                      └─ execve(2) ──> the helper ── clone(2) ──> qemu ──> the appliance
//
// A guest's file system can take over the appliance's kernel, from there attack qemu, and from
// qemu the helper. Whoever gets so far sees the programs and libraries of /usr, the appliance's
// own image, the sockets at which the worker serves the disks, and an empty /tmp.
//
//	/usr /lib ...      of the starter's root, read-only; /etc/ld.so.cache
//	/vmfr/agent        the helper's program       /vmfr/appliance/  kernel, initrd, root
//	/vmfr/disks/d0...  the disks' sockets         /dev/             null, zero, full, urandom, kvm
//	/tmp, /var/tmp     a tmpfs of its own         /proc             of its own processes
//
// The sockets are made here, before the program runs, and sent through its connection to whoever
// holds the other end: that may be a process without the right to make sockets (Receive).
//
// Non-goals: no memory limit, which is the caller's cgroup's, and no appliance: one that is built
// already (libguestfs-make-fixed-appliance(1)) must be given, since what a session builds another
// one must not use. Invariants: without every one of these measures nothing is run; the process
// ends with the thread that started it, and all that it started with it.
package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Variables of the helper's environment.
const (
	EnvDir        = "VMFR_APPLIANCE_DIR"        // the process's own directory
	EnvDisks      = "VMFR_APPLIANCE_DISKS"      // where the disks' sockets are; empty: in its own directory
	EnvCache      = "VMFR_APPLIANCE_CACHE"      // where the built appliance is kept; empty: libguestfs' place
	EnvNamespaces = "VMFR_APPLIANCE_NAMESPACES" // set: it runs in namespaces of its own
	EnvConfined   = "VMFR_APPLIANCE_CONFINED"   // set: privileges are gone
)

// Socket is the descriptor of the helper's end of its connection.
const Socket = 3

// Argument is the helper program's only one.
const Argument = "appliance"

// DiskSocket is the name of the socket that disk i is served at.
func DiskSocket(i int) string { return "d" + strconv.Itoa(i) + ".sock" }

// Command is the hidden first argument of the program under which Main runs.
const Command = "guestfs-sandbox"

// MaxDisks is how many sockets go with one message: the kernel passes at most 253 descriptors
// (SCM_MAX_FD).
const MaxDisks = 250

// Options say what runs, and as whom.
type Options struct {
	UID     int    `json:"uid"`     // and GID: real ones that own nothing and that no other process has
	Program string `json:"program"` // vmfr-agent, built with libguestfs
	// Appliance is the folder with what libguestfs-make-fixed-appliance made.
	Appliance string `json:"appliance"`
	Disks     int    `json:"disks"`
}

// parts are the files of an appliance.
var parts = []string{"kernel", "initrd", "root", "README.fixed"}

// Check tells whether program and appliance are there.
func Check(program, appliance string) error {
	if st, err := os.Stat(program); err != nil {
		return err
	} else if !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
		return fmt.Errorf("%s is no program", program)
	}
	for _, name := range parts {
		st, err := os.Stat(filepath.Join(appliance, name))
		if err != nil {
			return fmt.Errorf("%w; `libguestfs-make-fixed-appliance %s` makes an appliance", err, appliance)
		}
		if st.Mode()&0o004 == 0 {
			return fmt.Errorf("%s must be readable by everybody: the appliance's process has a user id of its own", filepath.Join(appliance, name))
		}
	}
	return nil
}

// New prepares this program as a new process that becomes a helper whose requests come through
// conn. It needs root. It dies with the thread that starts it.
func New(o Options, conn *os.File) (*exec.Cmd, error) {
	if o.UID <= 0 || o.Disks < 1 || o.Disks > MaxDisks {
		return nil, fmt.Errorf("an appliance for user id %d with %d disks", o.UID, o.Disks)
	}
	settings, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	return &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{"vmfr-guestfs-sandbox", Command, string(settings)}, Dir: "/", Env: []string{},
		ExtraFiles: []*os.File{conn},
		SysProcAttr: &unix.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP,
			Setsid:     true,
			Pdeathsig:  unix.SIGKILL,
		},
	}, nil
}

// greeting is the message that carries the sockets.
var greeting = []byte("disks")

// receiveLimit is how long a helper's sandbox may take to be set up.
const receiveLimit = time.Minute

// Receive takes the sockets of the disks from a helper's connection, in the disks' order. It waits
// for them, or for the helper's end, up to receiveLimit. Nothing may have been read from conn before.
func Receive(conn *os.File, disks int) (_ []net.Listener, err error) {
	c, err := net.FileConn(conn) // a descriptor of its own
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("the helper's connection is of %s", c.LocalAddr().Network())
	}
	if err := u.SetReadDeadline(time.Now().Add(receiveLimit)); err != nil {
		return nil, err
	}
	b, oob := make([]byte, len(greeting)), make([]byte, unix.CmsgSpace(4*MaxDisks))
	n, rights, flags, _, err := u.ReadMsgUnix(b, oob)
	files, ferr := descriptors(oob[:rights])
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	switch {
	case err != nil:
		return nil, err
	case ferr != nil:
		return nil, ferr
	case n == 0:
		return nil, errors.New("its sandbox could not be set up")
	case string(b[:n]) != string(greeting) || flags&unix.MSG_CTRUNC != 0 || len(files) != disks:
		return nil, fmt.Errorf("the helper sent %d sockets for %d disks", len(files), disks)
	}
	var out []net.Listener
	for _, f := range files {
		l, err := net.FileListener(f)
		if err != nil {
			for _, l := range out {
				_ = l.Close()
			}
			return nil, fmt.Errorf("a socket for a disk: %w", err)
		}
		out = append(out, l)
	}
	return out, nil
}

// descriptors are those of a control message.
func descriptors(oob []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "socket"))
		}
	}
	return files, nil
}
