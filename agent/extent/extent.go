// Package extent is the one byte interface of the project: a disk, a partition, a logical
// volume and a file are all sized bytes, readable at any offset by many goroutines at once,
// that can say which ranges are holes and where a range lies on the host.
//
// Non-goals: no caching, no formats, no writing. Invariants: a Reader is immutable and safe
// for concurrent use; a hole reads as zeros; Extent never spans a change of kind.
package extent

import (
	"errors"
	"fmt"
	"io"
	"os"

	"vmfr/agent/latency"
)

// ErrRange reports an offset or length outside a Reader: negative, or past its end.
var ErrRange = errors.New("range outside the device")

// Reader is sized, random-access, read-only bytes. ReadAt follows io.ReaderAt exactly:
// a short read has an error, and reading at or past Size is io.EOF.
type Reader interface {
	io.ReaderAt
	// Size is the length in bytes.
	Size() int64
	// Extent tells what lies at off. 0 < Len <= max. It returns io.EOF for off == Size
	// and ErrRange for an offset outside [0, Size] or max <= 0. Len never passes Size.
	Extent(off, max int64) (Extent, error)
}

// Extent describes a range of bytes that is all of one kind.
type Extent struct {
	// Len is the length in bytes, > 0. The next range may be of the same kind.
	Len int64
	// Zero: the range is a hole and reads as zeros.
	Zero bool
	// Host is the file that holds these bytes verbatim at HostOff; nil where they must be
	// decoded through ReadAt (compressed, inline or replayed data). The file stays owned
	// by whoever opened the image and is valid as long as the Reader.
	Host    *os.File
	HostOff int64
	// Reads is to be told by whoever reads Host by himself, while he does; nil: nobody asks.
	Reads *latency.Pending
}

// ReadFull fills p from off on, and returns how many bytes it could fill. Fewer than all are
// always an error: where the source ends early that is io.ErrUnexpectedEOF, which nobody takes
// for the end of what is made of the source.
func ReadFull(r io.ReaderAt, p []byte, off int64) (int, error) {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// ReadAllAt is ReadFull where only all of the bytes are of use.
func ReadAllAt(r io.ReaderAt, p []byte, off int64) error {
	_, err := ReadFull(r, p, off)
	return err
}

// CheckExtent validates the arguments of an Extent call on a Reader of the given size and
// clamps max to what is left. Every Reader calls it first, so all agree on the edge cases.
func CheckExtent(size, off, max int64) (int64, error) {
	switch {
	case off < 0 || off > size || max <= 0:
		return 0, fmt.Errorf("%w: offset %d, length %d, size %d", ErrRange, off, max, size)
	case off == size:
		return 0, io.EOF
	}
	return min(max, size-off), nil
}

// CheckRead validates the arguments of a ReadAt call on a Reader of the given size. It
// returns how many bytes of p can be filled and the error to return with that many bytes:
// nil for a full read, io.EOF for one that meets the end.
func CheckRead(size int64, p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("%w: offset %d", ErrRange, off)
	}
	if off >= size {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	if int64(len(p)) > size-off {
		return int(size - off), io.EOF
	}
	return len(p), nil
}
