package session

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	api "vmfr/api/session"
)

// CheckDisk tells whether f is a disk as a holder must hand it over: read-only, and a block device
// or a regular file as mode says. It asks only the kernel: a file on storage that does not answer
// holds nobody up.
func CheckDisk(f *os.File, mode api.Mode) error {
	return control(f, func(fd int) error {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil {
			return err
		}
		if flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_PATH != 0 {
			return fmt.Errorf("a disk must be open for reading and nothing else, its flags are %#x", flags)
		}
		var st unix.Statx_t
		if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st); err != nil {
			return fmt.Errorf("statx: %w", err)
		}
		want := uint16(unix.S_IFREG)
		if mode == api.Block {
			want = unix.S_IFBLK
		}
		if got := st.Mode & unix.S_IFMT; got != want {
			return fmt.Errorf("a %s volume's disk has the file type %#o instead of %#o", mode, got, want)
		}
		return nil
	})
}

// CheckListener tells whether f is a listening TCP socket.
func CheckListener(f *os.File) error {
	return control(f, func(fd int) error {
		for _, want := range [...]struct {
			name string
			opt  int
			ok   func(int) bool
		}{
			{"domain", unix.SO_DOMAIN, func(v int) bool { return v == unix.AF_INET || v == unix.AF_INET6 }},
			{"type", unix.SO_TYPE, func(v int) bool { return v == unix.SOCK_STREAM }},
			{"protocol", unix.SO_PROTOCOL, func(v int) bool { return v == unix.IPPROTO_TCP || v == unix.IPPROTO_MPTCP }},
			{"accepting", unix.SO_ACCEPTCONN, func(v int) bool { return v == 1 }},
		} {
			v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, want.opt)
			if err != nil {
				return fmt.Errorf("a listener: %w", err)
			}
			if !want.ok(v) {
				return fmt.Errorf("a listener must be a listening TCP socket: %s %d", want.name, v)
			}
		}
		return nil
	})
}

// control calls do with f's descriptor, which stays open and as it is meanwhile.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil {
		return err
	}
	return inner
}
