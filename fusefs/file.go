package fusefs

import (
	"io"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vmfr/agent/tree"
)

// spliceMin is the smallest read in bytes that is spliced: below it the system calls for the
// pipe cost more than copying does.
const spliceMin = 32 << 10

// Open checks that the file can be read at all, so that an encrypted or damaged one says so
// here: many kernels turn an error of a cached read into EIO, whatever it was. There is no handle: the
// kernel opens a file often and closes it late, while reading needs nothing but the node.
func (v *view) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY || in.Flags&unix.O_TRUNC != 0 {
		return v.refuse()
	}
	v.o.Counters.Count(tree.OpOpen)
	if _, st := v.file("open", in.NodeId); !st.Ok() {
		return st
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	return fuse.OK
}

// file returns the open file of a node, which is kept for the next request.
func (v *view) file(op string, id uint64) (*tree.File, fuse.Status) {
	f, err := v.files.Get(id, func() (*tree.File, error) {
		n, st := v.node(id)
		if !st.Ok() {
			return nil, unix.ENOENT
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
		return fuse.ReadResultData(nil), fuse.OK
	}
	n := int(min(int64(len(buf)), f.Size()-off))
	v.o.Counters.Read(n)
	if n >= spliceMin {
		x, err := f.Extent(off, int64(n))
		if err == nil && x.Len >= int64(n) {
			switch {
			case x.Host != nil:
				return fuse.ReadResultFd(x.Host.Fd(), x.HostOff, n), fuse.OK
			case x.Zero:
				clear(buf[:n])
				return fuse.ReadResultData(buf[:n]), fuse.OK
			}
		}
	}
	got, err := f.ReadAt(buf[:n], off)
	if got < n {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, v.fail("read", in.NodeId, err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

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
