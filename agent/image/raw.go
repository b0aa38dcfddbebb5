package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vmfr/agent/latency"
)

// hostFile is a checked file that holds an image: a regular file or a block device.
type hostFile struct {
	*os.File
	length int64            // bytes
	reads  *latency.Pending // see Options
}

// ReadAt reads as os.File's.
func (f hostFile) ReadAt(p []byte, off int64) (int, error) {
	defer f.reads.Begin().End()
	return f.File.ReadAt(p, off)
}

// Seek is os.File's, which asks the file system for holes.
func (f hostFile) Seek(off int64, whence int) (int64, error) {
	defer f.reads.Begin().End()
	return f.File.Seek(off, whence)
}

// openHost checks that f can hold an image at all. Errors wrap ErrUnsupported.
func openHost(f *os.File, reads *latency.Pending) (hostFile, error) {
	defer reads.Begin().End()
	st, err := f.Stat()
	if err != nil {
		return hostFile{}, fmt.Errorf("image: %w", err)
	}
	what := ""
	switch mode := st.Mode(); {
	case mode.IsRegular():
	case mode.IsDir():
		what = "a directory, not a disk image; name a file in it"
	case mode&fs.ModeCharDevice != 0:
		what = "a character device, not a disk image or a block device"
	case mode&fs.ModeDevice != 0:
	case mode&fs.ModeNamedPipe != 0:
		what = "a pipe, which cannot be read at any offset; copy it into a file first"
	case mode&fs.ModeSocket != 0:
		what = "a socket, not a disk image"
	default:
		what = "neither a regular file nor a block device"
	}
	if what != "" {
		return hostFile{}, fmt.Errorf("%w: %s is %s", ErrUnsupported, f.Name(), what)
	}
	// stat tells no size for a block device.
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return hostFile{}, fmt.Errorf("image: size of %s: %w", f.Name(), err)
	}
	if n == 0 {
		return hostFile{}, fmt.Errorf("%w: %s is empty; a restore of it may not have finished", ErrUnsupported, f.Name())
	}
	return hostFile{f, n, reads}, nil
}

// rawLayer is a file whose bytes are the disk's bytes.
type rawLayer struct {
	f hostFile
	// holes tells whether the file system knows holes; a block device does not.
	holes bool
	// last is the range found last. Neighbouring questions are the rule (a sequential
	// reader, a file system's extents), and a range is immutable, so no lock is needed.
	last atomic.Pointer[span]
}

// span is a range [from, to) of a raw file that is all hole or all data.
type span struct {
	from, to int64
	hole     bool
}

func openRaw(f hostFile) *rawLayer {
	r := &rawLayer{f: f}
	_, err := f.Seek(0, unix.SEEK_HOLE)
	r.holes = err == nil
	return r
}

func (r *rawLayer) size() int64    { return r.f.length }
func (r *rawLayer) host() hostFile { return r.f }

func (r *rawLayer) info() LayerInfo {
	return LayerInfo{Name: r.f.Name(), Format: FormatRaw, Size: r.f.length}
}

func (r *rawLayer) run(off, max int64, holes bool, steps *int) (run, error) {
	*steps--
	if !holes || !r.holes {
		return run{kind: data, n: max, file: r.f, host: off}, nil
	}
	s := r.last.Load()
	if s == nil || off < s.from || off >= s.to {
		var err error
		if s, err = r.span(off); err != nil {
			return run{}, err
		}
		r.last.Store(s)
	}
	n := min(max, s.to-off)
	if s.hole {
		return run{kind: zero, n: n}, nil
	}
	return run{kind: data, n: n, file: r.f, host: off}, nil
}

// span asks the kernel what lies at off, 0 <= off < length.
func (r *rawLayer) span(off int64) (*span, error) {
	at, err := r.f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // no data from off to the end
		return &span{off, r.f.length, true}, nil
	case err != nil:
		return nil, fmt.Errorf("image: %w", err)
	case at > off:
		return &span{off, min(at, r.f.length), true}, nil
	}
	at, err = r.f.Seek(off, unix.SEEK_HOLE)
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return nil, fmt.Errorf("image: %w", err)
	}
	if err != nil || at <= off { // the file changed between the two calls: call it data
		at = r.f.length
	}
	return &span{off, min(at, r.f.length), false}, nil
}
