package xfs

import (
	"errors"
	"io"
	iofs "io/fs"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
)

// ofKnownKind tells whether an error of a damaged image is one that an FS may return. The device
// may be shorter than the damaged superblock says.
func ofKnownKind(err error) bool {
	for _, k := range []error{fsys.ErrCorrupt, fsys.ErrUnsupported, iofs.ErrNotExist, io.ErrUnexpectedEOF} {
		if errors.Is(err, k) {
			return true
		}
	}
	return false
}

// survey is fsystest.Survey.
func survey(fs *FS) error { return fsystest.Survey(fs, ofKnownKind, cookieDamaged) }
