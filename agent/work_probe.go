//go:build probe

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probe does what a worker would that a guest's bytes have taken over, and logs what came of it,
// for a test. It is not part of the program that is delivered. What is not left to the filter of
// system calls alone is tried before the process is sealed, too.
func probe(log *slog.Logger, sealed bool) {
	raw := func(nr uintptr, a ...uintptr) error {
		var x [6]uintptr
		copy(x[:], a)
		if _, _, e := syscall.Syscall6(nr, x[0], x[1], x[2], x[3], x[4], x[5]); e != 0 {
			return e
		}
		return nil
	}
	file := func(path string, flags int) func() error {
		return func() error {
			f, err := os.OpenFile(path, flags, 0o600)
			if err == nil {
				_ = f.Close()
			}
			return err
		}
	}
	type attempt struct {
		name string
		do   func() error
	}
	always := []attempt{
		{"read /etc/passwd", file("/etc/passwd", os.O_RDONLY)},
		{"something in the root", func() error {
			var files []string
			err := fs.WalkDir(os.DirFS("/"), ".", func(path string, d fs.DirEntry, err error) error {
				if err == nil && !d.IsDir() {
					files = append(files, path)
				}
				return err
			})
			if err == nil && slices.Equal(files, []string{"dev/null", "proc/sys/fs/pipe-max-size"}) {
				err = errors.New("it holds what is shown, and nothing else")
			}
			return err
		}},
		{"read /proc", file("/proc/self/status", os.O_RDONLY)},
		{"write a file", file("/x", os.O_RDWR|os.O_CREATE)},
		{"the agent's socket", func() error { _, err := net.Dial("unix", "/run/vmfr/agent.sock"); return err }},
		{"an abstract socket", func() error { _, err := net.Dial("unix", "@vmfr"); return err }},
		{"connect", func() error { _, err := net.Dial("tcp", "127.0.0.1:22"); return err }},
		{"start a program", func() error { return exec.Command("/bin/true").Run() }},
		{"mount", func() error { return unix.Mount("x", "/", "tmpfs", 0, "") }},
		{"chroot", func() error { return unix.Chroot("/") }},
		{"become root", func() error { return raw(unix.SYS_SETRESUID, 0, 0, 0) }},
		{"signal others", func() error { return unix.Kill(-1, unix.SIGKILL) }},
		{"raise a limit", func() error {
			return unix.Prlimit(0, unix.RLIMIT_NPROC, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}, nil)
		}},
	}
	filtered := []attempt{
		{"listen", func() error { _, err := net.Listen("tcp", "127.0.0.1:0"); return err }},
		{"read memory", func() error { return raw(unix.SYS_PROCESS_VM_READV, 2) }},
		{"stat the root", func() error { _, err := os.Stat("/"); return err }},
		{"a netlink socket", func() error { return raw(unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, 0) }},
		{"fork", func() error { return raw(unix.SYS_CLONE, uintptr(unix.SIGCHLD)) }},
		{"a user namespace", func() error { return raw(unix.SYS_UNSHARE, unix.CLONE_NEWUSER) }},
		{"trace", func() error { return raw(unix.SYS_PTRACE, unix.PTRACE_TRACEME) }},
		{"prctl", func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) }},
		{"bpf", func() error { return raw(unix.SYS_BPF) }},
		{"io_uring", func() error { return raw(unix.SYS_IO_URING_SETUP, 1, 0) }},
		{"keys", func() error { return raw(unix.SYS_KEYCTL, 0) }},
		{"memory as a file", func() error { _, err := unix.MemfdCreate("x", 0); return err }},
		{"a device's control", func() error { return raw(unix.SYS_IOCTL, 0, 0x5401, uintptr(unsafe.Pointer(new([64]byte)))) }},
	}
	if sealed {
		always = append(always, filtered...)
	}
	for _, try := range always {
		if err := try.do(); err == nil {
			log.Error("PROBE got through", "what", try.name, "sealed", sealed)
		} else {
			log.Info("probe refused", "what", try.name, "sealed", sealed, "err", err)
		}
	}
	var open []int
	for fd := range 1024 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			open = append(open, fd)
		}
	}
	log.Info("probe ended", "sealed", sealed, "uid", os.Getuid(), "gid", os.Getgid(), "pid", os.Getpid(), "open", fmt.Sprint(open))
}
