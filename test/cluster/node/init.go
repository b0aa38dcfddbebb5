package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/mountns"
)

// The names (argv[0]) of the processes that this program starts again as.
const (
	initName       = "vmfr-node-init"       // with the node's directory and ID
	joinName       = "vmfr-node-join"       // with those of the init that it starts
	supervisorName = "vmfr-node-supervisor" // with the directory
)

// The descriptors that init is started with, and one that it keeps for others to open.
const (
	reportFD       = 3 // a pipe that takes events
	lockFD         = 4 // the lock on the node's directory
	programsLockFD = 5 // the lock on its programs
	firstNetFD     = 6 // the first node's network namespace; not of the first node
	peerNetFD      = 100
)

// event is what a starting node reports, as a JSON document.
type event struct {
	What  string        `json:"what,omitempty"`
	After time.Duration `json:"after,omitempty"` // since the start
	Up    bool          `json:"up,omitempty"`    // Pods can run; nothing follows
	Error string        `json:"error,omitempty"` // nothing follows
}

// Init makes this process a node's init or supervisor if it was started as one, and then does not
// return. A program that starts nodes calls it before anything else.
func Init() {
	var err error
	switch {
	case os.Args[0] == initName && len(os.Args) == 3:
		err = beInit(os.Args[1], os.Args[2])
	case os.Args[0] == joinName && len(os.Args) == 3:
		err = startInit(os.Args[1], os.Args[2])
	case os.Args[0] == supervisorName && len(os.Args) == 2:
		err = supervise(os.Args[1])
	default:
		return
	}
	if err != nil {
		_ = json.NewEncoder(os.NewFile(reportFD, "report")).Encode(event{Error: err.Error()})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// newNamespaces are what every node has of its own.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// startInit starts a further node's init from within the first one's PID namespace, of which the new
// one becomes a part: the kernel ends both together. When this process has ended, the first node's
// init reaps the new one.
func startInit(dir, id string) error {
	files := []uintptr{0, 1, 2, reportFD, firstNetFD: firstNetFD}
	for _, closed := range []int{lockFD, programsLockFD} { // the first node's init has them
		files[closed] = ^uintptr(0)
	}
	_, err := syscall.ForkExec("/proc/self/exe", []string{initName, dir, id}, &syscall.ProcAttr{
		Env: os.Environ(), Files: files, Sys: &syscall.SysProcAttr{Setsid: true, Cloneflags: newNamespaces}})
	return err
}

// beInit is the first process of the node's PID namespace: when it ends the kernel ends all others.
// It prepares the other namespaces, starts the supervisor and reaps what that and containerd leave.
func beInit(dir, id string) error {
	s, err := readSettings(dir)
	if err != nil {
		return err
	}
	if err := mountns.OwnRoot(); err != nil { // runc makes its containers' roots by pivot_root(2)
		return fmt.Errorf("make the root directory a mount: %w", err)
	}
	for _, fd := range []int{reportFD, lockFD, programsLockFD, firstNetFD} {
		unix.CloseOnExec(fd)
	}
	if err := joinGroups(id); err != nil {
		return fmt.Errorf("control groups: %w", err)
	}
	if err := s.prepareMounts(dir); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(s.Name())); err != nil {
		return err
	}
	if s.first() {
		err = keepClientNetwork()
	} else {
		err = unix.Dup3(firstNetFD, peerNetFD, unix.O_CLOEXEC)
	}
	if err != nil {
		return fmt.Errorf("the peer's network namespace: %w", err)
	}
	report := os.NewFile(reportFD, "report")
	supervisor, err := os.StartProcess("/proc/self/exe", []string{supervisorName, dir}, &os.ProcAttr{
		Dir: "/", Env: append(os.Environ(), "TMPDIR="+filepath.Join(dir, "tmp")), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, reportFD: report}})
	if err != nil {
		return err
	}
	_ = report.Close() // whoever reads it is to notice the supervisor's end
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case pid == supervisor.Pid:
			os.Exit(status.ExitStatus())
		}
	}
}

// keepClientNetwork makes the client's network namespace, which lives as long as its descriptor.
func keepClientNetwork() error {
	runtime.LockOSThread()
	const own = "/proc/thread-self/ns/net"
	nodes, err := unix.Open(own, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(nodes) }()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	clients, err := unix.Open(own, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(clients) }()
	if err := unix.Setns(nodes, unix.CLONE_NEWNET); err != nil {
		return err
	}
	runtime.UnlockOSThread()
	return unix.Dup3(clients, peerNetFD, unix.O_CLOEXEC)
}
