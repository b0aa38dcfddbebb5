package xfs

import (
	"io"
	iofs "io/fs"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
)

// ofKnownKind tells whether an error of a damaged image is one that an FS may return. The device
// may be shorter than the damaged superblock says.
var ofKnownKind = fsystest.OneOf(fsys.ErrCorrupt, fsys.ErrUnsupported, iofs.ErrNotExist, io.ErrUnexpectedEOF)

// survey is fsystest.Survey.
func survey(fs fsys.FS) error { return fsystest.Survey(fs, ofKnownKind, cookieDamaged) }
