package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"vmfr/agent/confine"
	"vmfr/agent/mountns"
	"vmfr/sshd/rsyncargs"
)

// Limits of a run.
const (
	// maxMemory is its address space. rsync needs about 100 bytes for each file of a list that
	// it cannot send in parts: a million files fit several times.
	maxMemory = 1 << 30
	// maxFiles is its open descriptors: the three that it gets, one file, a folder per level.
	maxFiles = 256
	// maxProcesses are its processes and threads.
	maxProcesses = 4
)

var limits = []confine.Limit{
	{Resource: unix.RLIMIT_AS, Value: maxMemory}, {Resource: unix.RLIMIT_NOFILE, Value: maxFiles}, {Resource: unix.RLIMIT_NPROC, Value: maxProcesses},
	{Resource: unix.RLIMIT_FSIZE}, {Resource: unix.RLIMIT_CORE}, {Resource: unix.RLIMIT_MEMLOCK}, {Resource: unix.RLIMIT_MSGQUEUE},
}

// inside is the process that starter.command starts: root of new namespaces, with the starter's
// mounts. It becomes the program; it returns only if that fails.
func inside(settings string, argv []string) int {
	runtime.LockOSThread() // credentials, capabilities and filters belong to a thread
	err := errors.New("no program")
	if len(argv) > 1 {
		err = become(settings, argv)
	}
	fmt.Fprintf(os.Stderr, "rsync cannot be started in its jail: %v\n", err)
	return 126
}

func become(settings string, argv []string) error {
	s, err := decodeSettings(settings)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"mounts", func() error { return enterRoot(s) }},
		{"host name", func() error { return unix.Sethostname([]byte("vmfr")) }},
		{"descriptors", func() error { return unix.CloseRange(3, ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC) }},
		{"privileges", func() error { return confine.DropPrivileges(jailUser) }},
		{"system calls", func() error { return confine.RefuseSystemCalls(confine.NoSockets) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return limitedExec(argv[0], argv[1:], []string{"LC_ALL=C", "PATH=/", "HOME=/"})
}

// limitedExec sets the limits and becomes the program. They are the program's: Go's runtime, which may
// start a thread at any moment, has more address space and threads than they allow, and ends the
// process where it gets none. So nothing is allocated in between, and the runtime is not told of the
// system calls: it takes this thread to be at work, and starts no other one in its place.
func limitedExec(program string, argv, env []string) error {
	path, err := unix.BytePtrFromString(program)
	if err != nil {
		return err
	}
	args, err := syscall.SlicePtrFromStrings(argv)
	if err != nil {
		return err
	}
	vars, err := syscall.SlicePtrFromStrings(env)
	if err != nil {
		return err
	}
	values := make([]unix.Rlimit, len(limits))
	for i, l := range limits {
		values[i] = unix.Rlimit{Cur: l.Value, Max: l.Value}
	}
	for i, l := range limits {
		if _, _, errno := unix.RawSyscall6(unix.SYS_PRLIMIT64, 0, uintptr(l.Resource), uintptr(unsafe.Pointer(&values[i])), 0, 0, 0); errno != 0 {
			return fmt.Errorf("limits: resource %d: %w", l.Resource, errno)
		}
	}
	_, _, errno := unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&args[0])), uintptr(unsafe.Pointer(&vars[0])))
	return errno
}

// enterRoot binds the tree's folders into the jail's root and makes that the only mounts there are.
func enterRoot(s insideSettings) error {
	root, tree := filepath.Join(s.Base, "root"), filepath.Join(s.Base, "tree")
	// Bound once more, since a mount that came from another user namespace cannot be moved.
	if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind the root: %w", err)
	}
	if s.Bind {
		for _, t := range rsyncargs.Tops {
			// The bind inherits ro, nosuid, nodev and noexec, and cannot lose them here.
			if err := unix.Mount(filepath.Join(tree, t), filepath.Join(root, t), "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("bind %s: %w", t, err)
			}
		}
	}
	return mountns.Pivot(root)
}
