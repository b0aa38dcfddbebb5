package confine

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// refusedCalls fail with EPERM: what makes namespaces or mounts, looks at other processes, or has
// been the way into kernels. A list of what is allowed instead would break with the next version
// of a program that is not ours, or of its libc; the other measures do not depend on this one.
var refusedCalls = []uint32{
	unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT,
	unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_GETFD, unix.SYS_KCMP,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL,
	unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_FANOTIFY_INIT, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX, unix.SYS_PERSONALITY, unix.SYS_MEMFD_CREATE,
	unix.SYS_MEMFD_SECRET, unix.SYS_LANDLOCK_CREATE_RULESET, unix.SYS_SYSLOG, unix.SYS_VHANGUP, unix.SYS_LOOKUP_DCOOKIE,
}

// socketCalls are refused, too, to who needs no socket.
var socketCalls = []uint32{
	unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_ACCEPT, unix.SYS_ACCEPT4,
}

// Sockets are those that a filter of system calls leaves.
type Sockets int

// The sockets: none, or unix ones. What a network namespace does not confine, such as AF_VSOCK,
// is never left.
const (
	NoSockets Sockets = iota
	UnixSockets
)

// archs are the kernel's numbers of architectures (linux/audit.h). The other calling conventions
// of a machine, such as a 32-bit one, have other numbers and are refused as a whole.
var archs = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// Offsets in struct seccomp_data (linux/seccomp.h), on a little-endian machine.
const (
	dataNumber = 0
	dataArch   = 4
	dataFirst  = 16 // the low half of the first argument: clone's flags, socket's domain
)

// x32 marks system calls of the x32 convention, which shares its architecture with amd64.
const x32 = 0x40000000

// newNamespaces are the flags of clone(2) that make namespaces.
const newNamespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// RefuseSystemCalls installs a seccomp filter in the calling thread, which must have no_new_privs.
func RefuseSystemCalls(left Sockets) error {
	filter, err := systemCallFilter(runtime.GOARCH, left)
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

// systemCallFilter is a classic BPF program (bpf(2), seccomp(2)).
func systemCallFilter(goarch string, left Sockets) ([]unix.SockFilter, error) {
	arch, ok := archs[goarch]
	if !ok {
		return nil, fmt.Errorf("no filter is made for %s", goarch)
	}
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	ret := func(v uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: v} }
	// jump skips t instructions where the condition holds, and f where it does not.
	jump := func(cond uint16, k uint32, t, f uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | cond | unix.BPF_K, K: k, Jt: t, Jf: f}
	}
	refused := func(e unix.Errno) unix.SockFilter { return ret(unix.SECCOMP_RET_ERRNO | uint32(e)) }
	prog := []unix.SockFilter{
		load(dataArch), jump(unix.BPF_JEQ, arch, 1, 0), ret(unix.SECCOMP_RET_KILL_PROCESS),
		load(dataNumber), jump(unix.BPF_JGE, x32, 0, 1), ret(unix.SECCOMP_RET_KILL_PROCESS),
		// clone3's flags are in memory, where a filter cannot see them; libc goes on with clone.
		jump(unix.BPF_JEQ, unix.SYS_CLONE3, 0, 1), refused(unix.ENOSYS),
	}
	calls := refusedCalls
	if left == NoSockets {
		calls = slices.Concat(calls, socketCalls)
	}
	for _, c := range calls {
		prog = append(prog, jump(unix.BPF_JEQ, c, 0, 1), refused(unix.EPERM))
	}
	if left == UnixSockets {
		for _, c := range []uint32{unix.SYS_SOCKET, unix.SYS_SOCKETPAIR} {
			prog = append(prog, jump(unix.BPF_JEQ, c, 0, 4), load(dataFirst), jump(unix.BPF_JEQ, unix.AF_UNIX, 1, 0), refused(unix.EPERM),
				ret(unix.SECCOMP_RET_ALLOW))
		}
	}
	return append(prog,
		jump(unix.BPF_JEQ, unix.SYS_CLONE, 0, 3), load(dataFirst), jump(unix.BPF_JSET, newNamespaces, 0, 1), refused(unix.EPERM),
		ret(unix.SECCOMP_RET_ALLOW)), nil
}
