package fusefs

import (
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/hanwen/go-fuse/v2/splice"
	"golang.org/x/sys/unix"

	"vmfr/agent/extent"
	"vmfr/agent/tree"
)

// spliceMin is the smallest read in bytes that is spliced: below it the system calls for the
// pipe cost more than copying does.
const spliceMin = 64 << 10

// Open tells the kernel, once and for all, that a file need not be opened to be read, which
// spares two of three requests for a small file; contents are kept then. What cannot be opened
// (encrypted, damaged) is an error of the first read. A kernel that does not know this gets an
// answer for each file instead.
func (v *view) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY || in.Flags&unix.O_TRUNC != 0 {
		return v.refuse()
	}
	if v.noOpen {
		return fuse.ENOSYS
	}
	v.o.Counters.Count(tree.OpOpen)
	if _, st := v.file("open", in.NodeId); !st.Ok() {
		return st
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	return fuse.OK
}

// Flush is what a close would write: nothing. The kernel does not ask again.
func (v *view) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// file returns the open file of a node, which is kept for the next request.
func (v *view) file(op string, id uint64) (*tree.File, fuse.Status) {
	f, err := v.files.Get(id, func() (*tree.File, error) {
		n, ok := v.t.ByID(id)
		if !ok {
			return nil, os.ErrNotExist
		}
		return v.t.Open(n)
	})
	if err != nil {
		return nil, v.fail(op, id, err)
	}
	return f, fuse.OK
}

// Read reads. Where the range lies in the image as it is, the kernel takes it from there.
func (v *view) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f, st := v.file("read", in.NodeId)
	if !st.Ok() {
		return nil, st
	}
	off := int64(in.Offset)
	if off < 0 || off >= f.Size() {
		v.o.Counters.Read(0)
		return data(nil), fuse.OK
	}
	n := int(min(int64(len(buf)), f.Size()-off))
	v.o.Counters.Read(n)
	if n >= spliceMin {
		x, err := f.Extent(off, int64(n))
		if err == nil && x.Len >= int64(n) {
			if x.Zero {
				clear(buf[:n])
				return data(buf[:n]), fuse.OK
			}
			if r := load(x, n); r != nil {
				return r, fuse.OK
			}
		}
	}
	if _, err := extent.ReadFull(f, buf[:n], off); err != nil {
		return nil, v.fail("read", in.NodeId, err)
	}
	return data(buf[:n]), fuse.OK
}

// load moves n bytes of the image's file into a pipe, from which they go on to the kernel
// without having been copied here. It returns nil where that does not work out in full: the
// bytes must be counted before they are announced, since a short answer means the end of the
// file to the kernel, and an I/O error would silently cut the guest's file off.
func load(x extent.Extent, n int) fuse.ReadResult {
	if x.Host == nil {
		return nil
	}
	pipe, err := splice.Get()
	if err != nil {
		return nil
	}
	if err := pipe.Grow(n + os.Getpagesize()); err != nil {
		splice.Done(pipe)
		return nil
	}
	read := x.Reads.Begin()
	got, err := pipe.LoadFromAt(x.Host.Fd(), n, x.HostOff)
	read.End()
	if err != nil || got != n {
		splice.Done(pipe)
		return nil
	}
	return fuse.ReadResultPipe(pipe, n)
}

// data answers a read with bytes. Of go-fuse's kinds of results this is the one that is
// written with one system call; others are tried as a splice first.
func data(b []byte) fuse.ReadResult { return fuse.ReadResultVector([][]byte{b}) }

// Lseek answers SEEK_DATA and SEEK_HOLE, see lseek(2); there is a hole at the end of every
// file. A file of very many extents can be interrupted.
func (v *view) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	v.o.Counters.Count(tree.OpStat)
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL
	}
	f, st := v.file("seek", in.NodeId)
	if !st.Ok() {
		return st
	}
	size, off := f.Size(), int64(in.Offset)
	if off < 0 || off >= size {
		return fuse.Status(unix.ENXIO)
	}
	for off < size {
		x, err := f.Extent(off, size-off)
		if err != nil {
			return v.fail("seek", in.NodeId, err)
		}
		if x.Zero == (in.Whence == unix.SEEK_HOLE) {
			out.Offset = uint64(off)
			return fuse.OK
		}
		off += x.Len
		select {
		case <-cancel:
			return fuse.EINTR
		default:
		}
	}
	if in.Whence == unix.SEEK_DATA {
		return fuse.Status(unix.ENXIO)
	}
	out.Offset = uint64(size)
	return fuse.OK
}
