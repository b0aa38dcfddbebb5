package tree

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"syscall"

	"vmfr/agent/engine"
	"vmfr/agent/fsys"
	"vmfr/agent/image"
)

// Kind is what went wrong, as far as a client can tell the difference. The tree alone maps
// errors to errno, SFTP status and HTTP status, so that all front ends agree.
type Kind int

// The kinds, from the most to the least specific cause.
const (
	KindNotFound    Kind = iota // no such name or inode
	KindNotDir                  // a path goes through something that is not a directory
	KindIsDir                   // a file operation on a directory
	KindNotFile                 // a device node, FIFO or socket has no bytes here
	KindLoop                    // too many symbolic links
	KindName                    // a name or path that is too long
	KindNoKey                   // encrypted by the guest
	KindUnsupported             // an engine does not implement it
	KindCorrupt                 // the guest's metadata is damaged
	KindImage                   // the image's own structure is damaged: a qcow2 table, a compressed cluster
	KindInternal                // a panic: a defect of this program
	KindIO                      // the image could not be read
	kinds
)

// kindTable gives each kind its name (in metrics and JSON), its codes and the next step.
// The SFTP codes are SSH_FX_* of draft-ietf-secsh-filexfer-02, section 7, the version that
// OpenSSH speaks.
var kindTable = [kinds]struct {
	name   string
	errno  syscall.Errno
	sftp   uint32
	http   int
	advice string
}{
	KindNotFound:    {"not_found", syscall.ENOENT, 2, 404, "List the folder above it to see what is there."},
	KindNotDir:      {"not_a_directory", syscall.ENOTDIR, 2, 404, "A part of the path is a file, not a folder."},
	KindIsDir:       {"is_a_directory", syscall.EISDIR, 4, 400, "List it, or name a file in it."},
	KindNotFile:     {"not_a_regular_file", syscall.ENXIO, 3, 403, "Device nodes, FIFOs and sockets are shown but have no content in a backup."},
	KindLoop:        {"link_loop", syscall.ELOOP, 4, 400, "Symbolic links lead in a circle; read the link itself to see where it points."},
	KindName:        {"name_too_long", syscall.ENAMETOOLONG, 4, 400, "Shorten the path."},
	KindNoKey:       {"encrypted", syscall.ENOKEY, 3, 403, "The guest encrypted it and its key is not in the backup; restore the VM and read it there."},
	KindUnsupported: {"unsupported", syscall.EOPNOTSUPP, 8, 501, "See METADATA.json for what this version reads; the whole disk is under /disks."},
	KindCorrupt:     {"corrupt", syscall.EUCLEAN, 4, 500, "The guest's file system is damaged there; other files are not affected. Try another backup."},
	KindImage:       {"image_corrupt", syscall.EIO, 4, 500, "The disk's image is damaged there; other files may not be affected. Check how the image was copied, or try another backup."},
	KindInternal:    {"internal", syscall.EIO, 4, 500, "This is a defect of the program; please report it with the log."},
	KindIO:          {"io", syscall.EIO, 4, 500, "The image could not be read; check the storage that holds it."},
}

// String is the kind's name in metrics and JSON.
func (k Kind) String() string { return kindTable[k].name }

// Errno is the kind's error number on Linux.
func (k Kind) Errno() syscall.Errno { return kindTable[k].errno }

// SFTP is the kind's SSH_FX_* status.
func (k Kind) SFTP() uint32 { return kindTable[k].sftp }

// HTTP is the kind's status code.
func (k Kind) HTTP() int { return kindTable[k].http }

// Advice is a sentence that tells a person what to do next.
func (k Kind) Advice() string { return kindTable[k].advice }

var (
	// ErrLoop: more than MaxLinks symbolic links in one path.
	ErrLoop = errors.New("too many symbolic links")
	// ErrNameTooLong: a path of more than MaxPath bytes after links were replaced.
	ErrNameTooLong = errors.New("path too long")
)

// PanicError is a panic of an engine, caught at the tree.
type PanicError struct {
	Op    string
	Node  Node
	Value any
	Stack []byte
}

// Error tells the operation and the panic's value, without the stack.
func (e *PanicError) Error() string {
	return fmt.Sprintf("internal error in %s of inode %d in file system %d: %v", e.Op, e.Node.ino, e.Node.fs, e.Value)
}

// KindOf classifies err, which is not nil. What is not known is KindIO.
func KindOf(err error) Kind {
	var p *PanicError
	var e *engine.PanicError
	switch {
	case errors.As(err, &p), errors.As(err, &e):
		return KindInternal
	case errors.Is(err, fsys.ErrCorrupt):
		return KindCorrupt
	case errors.Is(err, image.ErrCorrupt):
		return KindImage
	case errors.Is(err, fsys.ErrNoKey):
		return KindNoKey
	case errors.Is(err, fsys.ErrUnsupported):
		return KindUnsupported
	case errors.Is(err, iofs.ErrNotExist):
		return KindNotFound
	case errors.Is(err, fsys.ErrNotDir):
		return KindNotDir
	case errors.Is(err, fsys.ErrIsDir):
		return KindIsDir
	case errors.Is(err, fsys.ErrNotRegular), errors.Is(err, fsys.ErrNotLink):
		return KindNotFile
	case errors.Is(err, ErrLoop):
		return KindLoop
	case errors.Is(err, ErrNameTooLong):
		return KindName
	}
	return KindIO
}
