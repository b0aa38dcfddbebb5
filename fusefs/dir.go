package fusefs

import (
	"context"
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
// listings are kept then. A kernel that does not know this gets an answer instead, and so does
// everyone as long as some directory can change: its listing must not be kept.
func (v *view) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	switch dynamic := v.t.Dynamic(); {
	case v.noOpenDir && !dynamic:
		return fuse.ENOSYS
	case dynamic:
		n, st := v.node(in.NodeId)
		if !st.Ok() {
			return st
		}
		if v.t.Volatile(n) {
			return fuse.OK
		}
	}
	out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// await waits where what a directory holds is not known yet, for as long as the client does.
func (v *view) await(cancel <-chan struct{}, dir tree.Node) fuse.Status {
	if !v.t.Volatile(dir) {
		return fuse.OK
	}
	ctx, end := context.WithCancel(context.Background())
	defer end()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-cancel:
			end()
		case <-stop:
		}
	}()
	err := v.t.Await(ctx, dir)
	switch {
	case err == nil:
		return fuse.OK
	case ctx.Err() != nil:
		return fuse.EINTR
	}
	return v.fail("await", v.t.ID(dir), err)
}

// ReadDir lists names.
func (v *view) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return v.list(cancel, in, int(in.Size)/direntMin, func(e fuse.DirEntry) bool {
		return out.AddDirEntry(e)
	})
}

// ReadDirPlus lists names with their attributes, which saves the kernel a lookup for each. A
// name whose inode cannot be read is listed without: looking it up tells the error.
func (v *view) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	dir, st := v.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	keep := v.valid(dir)
	return v.list(cancel, in, int(in.Size)/direntPlusMin, func(e fuse.DirEntry) bool {
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
		if err := v.entry(n, keep, entry); err != nil {
			*entry = fuse.EntryOut{}
			v.fail("list", e.Ino, err)
			return true
		}
		out.FixMode(entry.Mode)
		return true
	})
}

// list gives names to add, from the request's offset on, until add finds no room.
func (v *view) list(cancel <-chan struct{}, in *fuse.ReadIn, room int, add func(fuse.DirEntry) bool) fuse.Status {
	v.o.Counters.Count(tree.OpList)
	dir, st := v.node(in.NodeId)
	if !st.Ok() {
		return st
	}
	if st := v.await(cancel, dir); !st.Ok() {
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
