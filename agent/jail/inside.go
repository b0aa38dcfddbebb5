package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

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

var limits = []struct {
	resource int
	value    uint64
}{
	{unix.RLIMIT_AS, maxMemory}, {unix.RLIMIT_NOFILE, maxFiles}, {unix.RLIMIT_NPROC, maxProcesses},
	{unix.RLIMIT_FSIZE, 0}, {unix.RLIMIT_CORE, 0}, {unix.RLIMIT_MEMLOCK, 0}, {unix.RLIMIT_MSGQUEUE, 0},
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
		{"limits", setLimits},
		{"privileges", dropPrivileges},
		{"system calls", filterSystemCalls},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return unix.Exec(argv[0], argv[1:], []string{"LC_ALL=C", "PATH=/", "HOME=/"})
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
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	return unix.Chdir("/")
}

func setLimits() error {
	for _, l := range limits {
		if err := unix.Prlimit(0, l.resource, &unix.Rlimit{Cur: l.value, Max: l.value}, nil); err != nil {
			return fmt.Errorf("resource %d: %w", l.resource, err)
		}
	}
	return nil
}

// Bits of securebits(7), from linux/securebits.h, each with its lock: root's id gives no
// capabilities, and none can be made ambient.
const (
	secNoRoot         = 1<<0 | 1<<1
	secKeepCapsLocked = 1 << 5
	secNoAmbientRaise = 1<<6 | 1<<7
)

// dropPrivileges gives up root and every capability for good, of the calling thread.
func dropPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	for c := uintptr(0); c < 64; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			if errors.Is(err, unix.EINVAL) {
				break // the last capability that this kernel knows was the one before
			}
			return fmt.Errorf("bounding set: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("ambient set: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, secNoRoot|secKeepCapsLocked|secNoAmbientRaise, 0, 0, 0); err != nil {
		return fmt.Errorf("securebits: %w", err)
	}
	for _, call := range [][2]uintptr{{unix.SYS_SETGROUPS, 0}, {unix.SYS_SETRESGID, jailUser}, {unix.SYS_SETRESUID, jailUser}} {
		// By hand: package syscall would change all threads, the others of which are about to end.
		if _, _, e := unix.RawSyscall(call[0], call[1], call[1], call[1]); e != 0 {
			return fmt.Errorf("user id: %w", e)
		}
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&head, &none[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	return nil
}

// filterSystemCalls installs the seccomp filter of the calling thread.
func filterSystemCalls() error {
	filter, err := systemCallFilter(runtime.GOARCH)
	if err != nil {
		return err
	}
	p := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, e := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&p)))
	runtime.KeepAlive(filter)
	if e != 0 {
		return e
	}
	return nil
}
