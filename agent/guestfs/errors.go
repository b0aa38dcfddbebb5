package guestfs

import (
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"vmfr/agent/fsys"
	"vmfr/agent/guestfs/wire"
)

// applianceError is an error that libguestfs returned. It wraps what the errno stands for.
type applianceError struct {
	wire wire.Error
	op   wire.Op
	disk error // why one of the disks could not be read, if one could not
}

// Error quotes the message: the appliance, and through it the guest, shapes it.
func (e *applianceError) Error() string {
	m, _, _ := strings.Cut(e.wire.Message, "\nTo see full error messages") // libguestfs' advice to its developers
	m = m[:min(len(m), maxMessage)]
	s := fmt.Sprintf("libguestfs: %s: %q", e.op, m)
	if e.disk != nil && e.wire.Errno == int(unix.EIO) {
		s += ": " + e.disk.Error()
	}
	return s
}

// maxMessage bounds an error text in bytes.
const maxMessage = 500

// Unwrap maps the errno to the project's errors.
func (e *applianceError) Unwrap() []error { return errno(e.wire.Errno, e.disk) }

func errno(n int, disk error) []error {
	switch syscall.Errno(n) {
	case 0:
		return nil
	case unix.ENOENT:
		return []error{fs.ErrNotExist}
	case unix.ENOTDIR:
		return []error{fsys.ErrNotDir}
	case unix.EISDIR:
		return []error{fsys.ErrIsDir}
	case unix.EUCLEAN, unix.EBADMSG:
		return []error{fsys.ErrCorrupt}
	case unix.ENOTSUP, unix.ENAMETOOLONG:
		return []error{fsys.ErrUnsupported}
	case unix.ENOKEY:
		return []error{fsys.ErrNoKey}
	case unix.EIO:
		if disk != nil {
			return []error{unix.EIO, disk}
		}
	}
	return []error{syscall.Errno(n)}
}

// corrupt is the error for an answer that cannot be true: nothing that a sound file system
// makes the appliance's kernel say.
func corrupt(what string, ino fsys.Ino, format string, args ...any) error {
	return fsys.Corrupt(Name, what, ino, -1, format, args...)
}
