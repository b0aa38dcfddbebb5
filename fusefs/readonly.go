package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"vmfr/agent/tree"
)

// The kernel refuses these itself, since the mount is read-only. They are refused here as
// well because who mounts is not always who serves.

func (v *view) refuse() fuse.Status {
	v.o.Counters.Count(tree.OpRefused)
	return fuse.EROFS
}

// SetAttr is chmod, chown, utimes and truncate.
func (v *view) SetAttr(<-chan struct{}, *fuse.SetAttrIn, *fuse.AttrOut) fuse.Status {
	return v.refuse()
}

// Mknod makes nothing.
func (v *view) Mknod(<-chan struct{}, *fuse.MknodIn, string, *fuse.EntryOut) fuse.Status {
	return v.refuse()
}

// Mkdir makes nothing.
func (v *view) Mkdir(<-chan struct{}, *fuse.MkdirIn, string, *fuse.EntryOut) fuse.Status {
	return v.refuse()
}

// Symlink makes nothing.
func (v *view) Symlink(<-chan struct{}, *fuse.InHeader, string, string, *fuse.EntryOut) fuse.Status {
	return v.refuse()
}

// Link makes nothing.
func (v *view) Link(<-chan struct{}, *fuse.LinkIn, string, *fuse.EntryOut) fuse.Status {
	return v.refuse()
}

// Create makes nothing.
func (v *view) Create(<-chan struct{}, *fuse.CreateIn, string, *fuse.CreateOut) fuse.Status {
	return v.refuse()
}

// Tmpfile makes nothing.
func (v *view) Tmpfile(<-chan struct{}, *fuse.CreateIn, *fuse.CreateOut) fuse.Status {
	return v.refuse()
}

// Unlink removes nothing.
func (v *view) Unlink(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return v.refuse() }

// Rmdir removes nothing.
func (v *view) Rmdir(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return v.refuse() }

// Rename moves nothing.
func (v *view) Rename(<-chan struct{}, *fuse.RenameIn, string, string) fuse.Status {
	return v.refuse()
}

// Write writes nothing.
func (v *view) Write(<-chan struct{}, *fuse.WriteIn, []byte) (uint32, fuse.Status) {
	return 0, v.refuse()
}

// Writev writes nothing.
func (v *view) Writev(<-chan struct{}, *fuse.WriteIn, [][]byte) (uint32, fuse.Status) {
	return 0, v.refuse()
}

// Fallocate changes nothing.
func (v *view) Fallocate(<-chan struct{}, *fuse.FallocateIn) fuse.Status { return v.refuse() }

// CopyFileRange writes nothing.
func (v *view) CopyFileRange(<-chan struct{}, *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	return 0, v.refuse()
}

// SetXAttr changes nothing.
func (v *view) SetXAttr(<-chan struct{}, *fuse.SetXAttrIn, string, []byte) fuse.Status {
	return v.refuse()
}

// RemoveXAttr changes nothing.
func (v *view) RemoveXAttr(<-chan struct{}, *fuse.InHeader, string) fuse.Status {
	return v.refuse()
}
