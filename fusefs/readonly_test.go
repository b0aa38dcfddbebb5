package fusefs

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/tree"
)

// Everything that would write is EROFS, whether the kernel refuses or we do.
func TestReadOnly(t *testing.T) {
	_, dir := serveOdd(t, Options{})
	p, q := filepath.Join(dir, "data"), filepath.Join(dir, "new")
	open := func(flags int) error {
		fd, err := unix.Open(p, flags, 0o600)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	for name, op := range map[string]func() error{
		"open for writing":  func() error { return open(unix.O_WRONLY) },
		"open for both":     func() error { return open(unix.O_RDWR) },
		"open and truncate": func() error { return open(unix.O_RDONLY | unix.O_TRUNC) },
		"create":            func() error { _, err := unix.Open(q, unix.O_CREAT|unix.O_WRONLY, 0o600); return err },
		"tmpfile":           func() error { _, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600); return err },
		"mkdir":             func() error { return unix.Mkdir(q, 0o700) },
		"mknod":             func() error { return unix.Mknod(q, unix.S_IFREG|0o600, 0) },
		"symlink":           func() error { return unix.Symlink("x", q) },
		"link":              func() error { return unix.Link(p, q) },
		"rename":            func() error { return unix.Rename(p, q) },
		"unlink":            func() error { return unix.Unlink(p) },
		"rmdir":             func() error { return unix.Rmdir(filepath.Dir(dir)) },
		"chmod":             func() error { return unix.Chmod(p, 0o600) },
		"chown":             func() error { return unix.Chown(p, 1, 1) },
		"truncate":          func() error { return unix.Truncate(p, 0) },
		"utimes":            func() error { return unix.Utimes(p, make([]unix.Timeval, 2)) },
		"setxattr":          func() error { return unix.Setxattr(p, "user.x", []byte("y"), 0) },
		"removexattr":       func() error { return unix.Removexattr(p, "user.x") },
		"access":            func() error { return unix.Access(p, unix.W_OK) },
	} {
		if err := op(); err != unix.EROFS {
			t.Errorf("%s: %v, want EROFS", name, err)
		}
	}
	if err := unix.Access(p, unix.R_OK); err != nil {
		t.Errorf("access for reading: %v", err)
	}
}

func TestReadOnlyEvenIfTheKernelAsked(t *testing.T) {
	var c tree.Counters
	v := newView(emptyTree(t), Options{Counters: &c}.withDefaults())
	for name, st := range map[string]func() int32{
		"setattr":   func() int32 { return int32(v.SetAttr(nil, nil, nil)) },
		"mknod":     func() int32 { return int32(v.Mknod(nil, nil, "", nil)) },
		"mkdir":     func() int32 { return int32(v.Mkdir(nil, nil, "", nil)) },
		"unlink":    func() int32 { return int32(v.Unlink(nil, nil, "")) },
		"rmdir":     func() int32 { return int32(v.Rmdir(nil, nil, "")) },
		"rename":    func() int32 { return int32(v.Rename(nil, nil, "", "")) },
		"symlink":   func() int32 { return int32(v.Symlink(nil, nil, "", "", nil)) },
		"link":      func() int32 { return int32(v.Link(nil, nil, "", nil)) },
		"create":    func() int32 { return int32(v.Create(nil, nil, "", nil)) },
		"tmpfile":   func() int32 { return int32(v.Tmpfile(nil, nil, nil)) },
		"write":     func() int32 { _, st := v.Write(nil, nil, nil); return int32(st) },
		"writev":    func() int32 { _, st := v.Writev(nil, nil, nil); return int32(st) },
		"fallocate": func() int32 { return int32(v.Fallocate(nil, nil)) },
		"copy":      func() int32 { _, st := v.CopyFileRange(nil, nil); return int32(st) },
		"setxattr":  func() int32 { return int32(v.SetXAttr(nil, nil, "", nil)) },
		"rmxattr":   func() int32 { return int32(v.RemoveXAttr(nil, nil, "")) },
	} {
		if got := st(); got != int32(unix.EROFS) {
			t.Errorf("%s: %d", name, got)
		}
	}
	if n := c.Snapshot().Ops[tree.OpRefused.String()]; n != 16 {
		t.Errorf("%d refusals counted", n)
	}
}
