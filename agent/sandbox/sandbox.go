// Package sandbox starts a process that can do nothing but use the descriptors that it was given:
// the worker, which reads what guests wrote.
//
//	Command ── clone(2) ──> Main: new namespaces, still root
//	                          │ an all but empty root directory, limits, own uid, no capability
//	                          └─ execveat(2) ──> the program ── Seal: Landlock, seccomp
//
// Main runs in the first process of new mount, PID, IPC, UTS, network and cgroup namespaces. It
// replaces the root by a read-only tmpfs of two files and starts the program again from a descriptor,
// since credentials and capabilities are a thread's own and only exec makes them the process's.
// The program then calls Seal before it reads a byte from anybody.
//
// Non-goals: no user namespace (the ids are real ones, from a range of the caller's), and no
// memory limit, which is the caller's cgroup's. Invariants: without the namespaces, the empty
// root, the user id, the empty capability sets, no_new_privs and the system call filter nothing
// is run; what a kernel may lack, Landlock, is reported.
package sandbox

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"vmfr/agent/confine"
	"vmfr/agent/mountns"
)

// Command is the hidden first argument of the program under which Main runs.
const Command = "sandbox"

// Limits of a sandboxed process.
const (
	// maxFiles are its open descriptors: 64 disks in each of 128 backups, and connections.
	maxFiles = 16 << 10
	// maxTasks are the threads of one user id: Go starts one for each read that waits for storage.
	maxTasks = 2048
	// maxLocked is its locked memory, in bytes.
	maxLocked = 64 << 10
	// niceness is added to the supervisor's: a session must not keep others from being managed.
	niceness = 5
	// oomScore makes the kernel choose a worker before anything else. It is the highest there is,
	// because a kubelet starts pods with up to 999, and below that only CAP_SYS_RESOURCE may go.
	oomScore = 1000
)

// Options say who the process is.
type Options struct {
	UID  int      `json:"uid"` // and GID: real ones that own nothing and that no other process has
	Args []string `json:"args"`
	Env  []string `json:"env"`
	// Alone tells that the process serves its caller's only session: it is as nice as the caller.
	Alone bool `json:"alone,omitempty"`
}

// ErrDynamic tells that this program needs files to start, which an empty root does not have.
var ErrDynamic = errors.New("this build of the program is dynamically linked and cannot run in an empty root directory; use the static one of `make build`")

// Check tells whether this program can be started in a sandbox.
func Check() error {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return ErrDynamic
		}
	}
	if os.Geteuid() != 0 {
		return errors.New("the sandbox needs root: it makes namespaces and takes another user id")
	}
	_, err = policy(runtime.GOARCH)
	return err
}

// New prepares this program as a new sandboxed process that runs with o.Args; files become its
// descriptors from 3 on. It dies with the thread that starts it.
func New(o Options, files ...*os.File) (*exec.Cmd, error) {
	settings, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	return &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{"vmfr-sandbox", Command, string(settings), strconv.Itoa(3 + len(files))}, Dir: "/", Env: []string{},
		ExtraFiles: files,
		SysProcAttr: &unix.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP,
			Setsid:     true, // a terminal's Ctrl-C is for the supervisor, which ends in order
			Pdeathsig:  unix.SIGKILL,
		},
	}, nil
}

// Main is the first program of the new process. It is to be called first of all when the
// program's first argument is Command, with the arguments after that. It returns only if it
// cannot go on, with an exit status.
func Main(args []string) int {
	err := errors.New("this command is for the program's own use")
	if len(args) == 2 {
		err = mountns.OwnRoot() // may start this again, while descriptors are still inherited
		if err == nil {
			err = become(args[0], args[1])
		}
	}
	fmt.Fprintf(os.Stderr, "sandbox: %v\n", err)
	return 126
}

func become(settings, files string) error {
	runtime.LockOSThread() // credentials belong to a thread
	var o Options
	if err := json.Unmarshal([]byte(settings), &o); err != nil {
		return err
	}
	first, err := strconv.Atoi(files)
	if err != nil || o.UID <= 0 || len(o.Args) == 0 {
		return errors.New("wrong settings")
	}
	self, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"out-of-memory score", func() error { return os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(oomScore)), 0) }},
		{"mounts", emptyRoot},
		{"host name", func() error { return unix.Sethostname([]byte("vmfr")) }},
		{"descriptors", func() error { return unix.CloseRange(uint(first), ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC) }},
		{"niceness", func() error {
			if o.Alone {
				return nil
			}
			return beNicer()
		}},
		{"limits", setLimits},
		{"privileges", func() error { return confine.DropPrivileges(o.UID) }},
		// A change of ids cancels what the parent asked for.
		{"end with the parent", func() error { return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return fmt.Errorf("start: %w", execAt(self, o.Args, o.Env))
}

// beNicer gives way to the process that started this one, whatever its own niceness is: a lower
// one than that would need CAP_SYS_NICE.
func beNicer() error {
	p, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return err
	}
	const highest = 19
	// getpriority(2) itself returns 20 less the niceness.
	return unix.Setpriority(unix.PRIO_PROCESS, 0, min(20-p+niceness, highest))
}
