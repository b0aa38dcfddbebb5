package fsys

import (
	"errors"
	"fmt"
)

var (
	// ErrCorrupt: the guest's metadata contradicts itself or its checksum. No other engine
	// is asked. Use Corrupt to make one.
	ErrCorrupt = errors.New("corrupt")
	// ErrUnsupported: well-formed as far as can be seen, but this engine does not implement
	// it. At Open the next engine is asked.
	ErrUnsupported = errors.New("not supported")
	// ErrNotRecognized is the ErrUnsupported of an engine whose format this is not at all.
	ErrNotRecognized = fmt.Errorf("%w: not this format", ErrUnsupported)
	// ErrNoKey: the object exists, but the guest encrypted it and the key is not in the image.
	ErrNoKey = errors.New("encrypted by the guest")
	// ErrNotDir: a directory operation on something else.
	ErrNotDir = errors.New("not a directory")
	// ErrNotLink: Readlink on something that is not a symbolic link.
	ErrNotLink = errors.New("not a symbolic link")
	// ErrIsDir: Open on a directory.
	ErrIsDir = errors.New("is a directory")
	// ErrNotRegular: Open on a device node, FIFO or socket.
	ErrNotRegular = errors.New("not a regular file")
)

// CorruptError names what is corrupt and where. It wraps ErrCorrupt and, if there is one, a cause.
type CorruptError struct {
	Format    string // "ext4"
	Structure string // "inode", "extent tree", "directory block"
	Ino       Ino    // 0: not about one object
	Off       int64  // byte offset in the volume (or, by Structure, in the file); -1: none
	Reason    string
	Err       error
}

// Error gives format, structure, inode, offset and reason in one line.
func (e *CorruptError) Error() string {
	s := e.Format + ": " + e.Structure
	if e.Ino != 0 {
		s += fmt.Sprintf(" of inode %d", e.Ino)
	}
	if e.Off >= 0 {
		s += fmt.Sprintf(" at byte %d", e.Off)
	}
	s += " is corrupt: " + e.Reason
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap makes errors.Is find ErrCorrupt and the cause.
func (e *CorruptError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrCorrupt}
	}
	return []error{ErrCorrupt, e.Err}
}

// Corrupt returns a CorruptError. off is -1 where no offset helps.
func Corrupt(format, structure string, ino Ino, off int64, reason string, args ...any) error {
	return &CorruptError{Format: format, Structure: structure, Ino: ino, Off: off, Reason: fmt.Sprintf(reason, args...)}
}
