// Package confine is what a process takes from itself before it runs what is not trusted: rights,
// resources and system calls. The rsync jail, the workers' sandbox and libguestfs' call it, each
// with its own values.
//
// Non-goals: it makes no namespace and no root directory. Invariant: nothing that was given up can
// be had again by this thread or what it executes.
package confine

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Limit is a hard limit of one resource, see prlimit(2).
type Limit struct {
	Resource int
	Value    uint64
}

// SetLimits sets the limits of this process; the error names the resource.
func SetLimits(limits ...Limit) error {
	for _, l := range limits {
		if err := unix.Prlimit(0, l.Resource, &unix.Rlimit{Cur: l.Value, Max: l.Value}, nil); err != nil {
			return fmt.Errorf("resource %d: %w", l.Resource, err)
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

// DropPrivileges gives up root and every capability for good, of the calling thread, which
// becomes user and group id with no further groups than those named.
func DropPrivileges(id int, groups ...int) error {
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
	// By hand: package syscall would change all threads, the others of which are about to end.
	list := make([]uint32, len(groups)+1)
	for i, g := range groups {
		list[i] = uint32(g)
	}
	_, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&list[0])), 0)
	runtime.KeepAlive(list)
	if e != 0 {
		return fmt.Errorf("groups: %w", e)
	}
	for _, call := range [][2]uintptr{{unix.SYS_SETRESGID, uintptr(id)}, {unix.SYS_SETRESUID, uintptr(id)}} {
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
