package fusefs

import (
	"io"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
)

// Positions in a directory. The tree's cookies are numbers of its own choosing, except that 0
// is the start; FUSE's offset 0 is the start as well, and two names come before the tree's.
//
//	FUSE offset   0      1       2        c+2
//	next name     "."    ".."    first    the one at cookie c
const (
	offDot    = 0
	offDotDot = 1
	offFirst  = 2 // added to the tree's cookie
)

// direntMin is the least room a name takes in an answer: a header of 24 bytes and the name
// padded to 8; readdirplus puts an EntryOut of 128 bytes before it.
const (
	direntMin     = 24 + 8
	direntPlusMin = direntMin + 128
)

// batch is how many names are asked of the tree at once.
const batch = 256

var batches = sync.Pool{New: func() any { return new([batch]fsys.Dirent) }}

// OpenDir tells the kernel, once and for all, that a directory need not be opened to be read;
// listings are kept then. A kernel that does not know this gets an answer instead.
func (v *view) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if v.noOpenDir {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// ReadDir lists names.
func (v *view) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return v.list(in, int(in.Size)/direntMin, func(e fuse.DirEntry) bool {
		return out.AddDirEntry(e)
	})
}

// ReadDirPlus lists names with their attributes, which saves the kernel a lookup for each. A
// name whose inode cannot be read is listed without: looking it up tells the error.
func (v *view) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return v.list(in, int(in.Size)/direntPlusMin, func(e fuse.DirEntry) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if e.Name == "." || e.Name == ".." {
			return true // node id 0: the kernel wants no attributes of these
		}
		n, ok := v.t.ByID(e.Ino)
		if !ok {
			return true
		}
		if err := v.entry(n, entry); err != nil {
			*entry = fuse.EntryOut{}
			v.fail("list", e.Ino, err)
			return true
		}
		out.FixMode(entry.Mode)
		return true
	})
}

// list gives names to add, from the request's offset on, until add finds no room.
func (v *view) list(in *fuse.ReadIn, room int, add func(fuse.DirEntry) bool) fuse.Status {
	v.o.Counters.Count(tree.OpList)
	dir, st := v.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	off := in.Offset
	if off == offDot {
		if !add(fuse.DirEntry{Name: ".", Ino: in.NodeId, Mode: fsys.ModeDir, Off: offDotDot}) {
			return fuse.OK
		}
		off = offDotDot
	}
	if off == offDotDot {
		// The tree knows no parents; readers of ".." use the kernel's.
		if !add(fuse.DirEntry{Name: "..", Ino: fuse.FUSE_UNKNOWN_INO, Mode: fsys.ModeDir, Off: offFirst}) {
			return fuse.OK
		}
		off = offFirst
	}
	buf := batches.Get().(*[batch]fsys.Dirent)
	defer batches.Put(buf)
	defer clear(buf[:]) // names would keep directory blocks alive
	for from, some := fsys.Cookie(off-offFirst), false; ; some = true {
		k, err := v.t.ReadDir(dir, from, buf[:max(1, min(batch, room))])
		for _, d := range buf[:k] {
			next := uint64(d.Next) + offFirst
			if next < offFirst { // the last two of 2^64 positions, which no format has
				return fuse.Status(unix.EOVERFLOW)
			}
			if !add(fuse.DirEntry{Name: d.Name, Ino: uint64(d.Ino), Mode: d.Type, Off: next}) {
				return fuse.OK
			}
			from = d.Next
		}
		switch {
		case err == io.EOF:
			return fuse.OK
		case err != nil && (some || k > 0):
			return fuse.OK // what there is; the next request meets the error
		case err != nil:
			return v.fail("list", in.NodeId, err)
		case k == 0:
			return fuse.OK
		}
	}
}
