package sandbox

import (
	"fmt"
	"runtime"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
)

// Seal gives up what only the sandboxed program itself can: the use of paths and of ports
// (Landlock, where the kernel has it) and all system calls but those that it needs. weaker names
// what this kernel lacks. It holds for all threads, now and later.
func Seal() (weaker []string, err error) {
	// No process of the same user may look into this one, whose memory holds keys.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("dumpable: %w", err)
	}
	if _, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION); e != 0 {
		weaker = append(weaker, fmt.Sprintf("Landlock: the kernel has none (%v)", e))
	} else {
		// Not the scope of signals: kernels before 6.15 take the threads of one process, each of
		// which is restricted on its own, for strangers.
		c := landlock.V5.BestEffort()
		if err := c.RestrictPaths(); err != nil {
			return nil, fmt.Errorf("landlock: %w", err)
		}
		if err := c.RestrictNet(); err != nil {
			return nil, fmt.Errorf("landlock: %w", err)
		}
	}
	p, err := policy(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	if err := seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: p}); err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	return weaker, nil
}

// allowed are the system calls of a Go program that reads, answers and accepts, by architecture
// where they differ: names that the machine does not have are left out. Everything that names
// a path, makes a process, a socket of a network or a namespace, or loads anything, is missing.
var allowed = []string{
	// Bytes of open files, and what they are.
	"read", "pread64", "readv", "preadv", "preadv2", "write", "writev", "lseek", "fstat", "fstatfs", "close", "dup", "dup3", "pipe2", "sendfile",
	"splice", "vmsplice", "tee", "fadvise64", "readahead",
	// Sockets that are there already.
	"accept4", "recvfrom", "recvmsg", "sendto", "sendmsg", "shutdown", "getsockname", "getpeername", "getsockopt", "setsockopt",
	"epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd2", "poll", "ppoll",
	// Go's memory, threads, signals and clocks.
	"brk", "mmap", "munmap", "mprotect", "madvise", "mremap", "mincore", "futex", "set_robust_list", "rseq", "arch_prctl", "membarrier",
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "tgkill", "restart_syscall", "sched_yield", "sched_getaffinity",
	"nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "timer_create", "timer_settime", "timer_delete", "setitimer",
	"getpid", "gettid", "getuid", "geteuid", "getgid", "getegid", "getrandom", "uname", "getrlimit", "getrusage", "sysinfo",
	"exit", "exit_group",
}

// ioctls are requests that tell the size of a block device or what a pipe holds, and nothing else.
var ioctls = []uint64{unix.BLKGETSIZE64, unix.BLKSSZGET, unix.BLKPBSZGET, unix.TIOCINQ}

// fcntls change nothing but the descriptor.
var fcntls = []uint64{unix.F_DUPFD_CLOEXEC, unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_SETFL, unix.F_SETPIPE_SZ, unix.F_GETPIPE_SZ}

// threads are the flags with which Go starts a thread, and the only ones for clone(2).
const threads = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD

// policy refuses with EPERM, so that what a library would like to have and does not need, such
// as a file with time zones, is a plain error.
func policy(goarch string) (seccomp.Policy, error) {
	name, ok := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[goarch]
	if !ok {
		return seccomp.Policy{}, fmt.Errorf("no system call filter is made for %s", goarch)
	}
	info, err := arch.GetInfo(name)
	if err != nil {
		return seccomp.Policy{}, fmt.Errorf("seccomp: %w", err)
	}
	group := seccomp.SyscallGroup{Action: seccomp.ActionAllow}
	for _, n := range allowed {
		if _, ok := info.SyscallNames[n]; ok {
			group.Names = append(group.Names, n)
		}
	}
	when := func(name string, argument uint32, values []uint64) {
		for _, v := range values {
			group.NamesWithCondtions = append(group.NamesWithCondtions, seccomp.NameWithConditions{Name: name,
				Conditions: seccomp.ArgumentConditions{{Argument: argument, Operation: seccomp.Equal, Value: v}}})
		}
	}
	when("ioctl", 1, ioctls)
	when("fcntl", 1, fcntls)
	when("socketpair", 0, []uint64{unix.AF_UNIX})                    // for rsync's runs
	when("prlimit64", 2, []uint64{0})                                // to ask, not to set
	when("clone", 0, []uint64{threads, threads | unix.CLONE_SETTLS}) // the latter on amd64
	return seccomp.Policy{DefaultAction: seccomp.ActionErrno, Syscalls: []seccomp.SyscallGroup{group}}, nil
}
