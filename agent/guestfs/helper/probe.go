//go:build guestfs && probe

package helper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probe does what a helper would that a guest's bytes have taken over, says what came of it, and
// ends. It is not part of the program that is delivered.
func probe() {
	raw := func(nr uintptr, a ...uintptr) error {
		var x [6]uintptr
		copy(x[:], a)
		if _, _, e := syscall.Syscall6(nr, x[0], x[1], x[2], x[3], x[4], x[5]); e != 0 {
			return e
		}
		return nil
	}
	open := func(path string, flags int) func() error {
		return func() error {
			f, err := os.OpenFile(path, flags, 0o600)
			if err == nil {
				_ = f.Close()
			}
			return err
		}
	}
	socket := func(domain int) func() error {
		return func() error { return raw(unix.SYS_SOCKET, uintptr(domain), unix.SOCK_DGRAM, 0) }
	}
	attempts := map[string]func() error{
		"read /etc/passwd":      open("/etc/passwd", os.O_RDONLY),
		"read a token":          open("/var/run/secrets/kubernetes.io/serviceaccount/token", os.O_RDONLY),
		"read the machine's":    open("/proc/kcore", os.O_RDONLY),
		"read the kernel's log": open("/dev/kmsg", os.O_RDONLY),
		"change its program":    open("/vmfr/agent", os.O_WRONLY),
		"change the appliance":  open("/vmfr/appliance/root", os.O_RDWR),
		"change a library":      open("/usr/lib/x", os.O_WRONLY|os.O_CREATE),
		"write to the root":     open("/x", os.O_WRONLY|os.O_CREATE),
		"write beside a socket": open("/vmfr/disks/x", os.O_WRONLY|os.O_CREATE),
		"take a socket's place": func() error { return os.Remove("/vmfr/disks/d0.sock") },
		"see more than is shown": func() error {
			names, err := os.ReadDir("/")
			var more []string
			for _, n := range names {
				if !strings.Contains(" bin dev etc lib lib32 lib64 libx32 proc sbin tmp usr var vmfr ", " "+n.Name()+" ") {
					more = append(more, n.Name())
				}
			}
			if err == nil && len(more) == 0 {
				err = errors.New("nothing")
			}
			return err
		},
		"see more of /var": func() error {
			names, err := os.ReadDir("/var")
			if err == nil && len(names) == 1 && names[0].Name() == "tmp" {
				err = errors.New("nothing")
			}
			return err
		},
		"see other processes": func() error {
			all, err := filepath.Glob("/proc/[0-9]*")
			if err == nil && len(all) <= 1 {
				err = errors.New("there are none")
			}
			return err
		},
		"reach the agent":      func() error { _, err := net.Dial("unix", "/run/vmfr/agent.sock"); return err },
		"an abstract socket":   func() error { _, err := net.Dial("unix", "@vmfr"); return err },
		"connect":              func() error { _, err := net.Dial("tcp", "127.0.0.1:22"); return err },
		"listen":               func() error { _, err := net.Listen("tcp", "127.0.0.1:0"); return err },
		"a netlink socket":     socket(unix.AF_NETLINK),
		"a packet socket":      socket(unix.AF_PACKET),
		"a socket to the host": socket(unix.AF_VSOCK),
		"a crypto socket":      socket(unix.AF_ALG),
		"become root":          func() error { return raw(unix.SYS_SETRESUID, 0, 0, 0) },
		"run with privileges":  func() error { return exec.Command("/bin/su", "-c", "true").Run() },
		"signal others":        func() error { return unix.Kill(-1, 0) },
		"mount":                func() error { return unix.Mount("x", "/tmp", "tmpfs", 0, "") },
		"chroot":               func() error { return unix.Chroot("/") },
		"a device":             func() error { return unix.Mknod("/tmp/x", unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))) },
		"a user namespace":     func() error { return raw(unix.SYS_UNSHARE, unix.CLONE_NEWUSER) },
		"a cloned namespace":   func() error { return raw(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD)) },
		"trace":                func() error { return raw(unix.SYS_PTRACE, unix.PTRACE_TRACEME) },
		"bpf":                  func() error { return raw(unix.SYS_BPF) },
		"io_uring":             func() error { return raw(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(new([128]byte)))) },
		"keys":                 func() error { return raw(unix.SYS_KEYCTL, 0) },
		"run from /tmp":        runFromTmp,
		"raise a limit":        func() error { return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}) },
	}
	var through []string
	for name, do := range attempts {
		if do() == nil {
			through = append(through, name)
		}
	}
	if len(through) > 0 {
		fmt.Fprintf(os.Stderr, "PROBE got through: %q\n", through)
	} else {
		fmt.Fprintf(os.Stderr, "PROBE refused all of %d ways out\n", len(attempts))
	}
	os.Exit(9)
}

func runFromTmp() error {
	b, err := os.ReadFile("/bin/true")
	if err == nil {
		err = os.WriteFile("/tmp/true", b, 0o700)
	}
	if err == nil {
		err = exec.Command("/tmp/true").Run()
	}
	return err
}
