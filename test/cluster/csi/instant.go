package csi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// copyTries is how often a volume that was written meanwhile is copied again.
	copyTries = 5
	// copyPause is the time between two tries, and grows with them.
	copyPause = 100 * time.Millisecond
	// copyChunk is what is copied between two looks at the context, in bytes.
	copyChunk = 64 << 20
)

// linux/fs.h
const (
	ioctlFreeze = 0xc0045877 // FIFREEZE
	ioctlThaw   = 0xc0045878 // FITHAW
)

// copyInstant copies an image that may be in use, as it is at one instant. File systems on it that
// are mounted here are frozen meanwhile, so their copies are clean; block devices are flushed
// before. Where the state directory cannot clone files, a copy during which something was written
// is made again, and after some the error is codes.Unavailable: the callers of CSI try again.
// What another node uses cannot be frozen here: codes.Unavailable, too.
func (d *Driver) copyInstant(ctx context.Context, to *os.File, from string) error {
	for try := 1; ; try++ {
		still, err := d.copyOnce(ctx, to, from)
		if err != nil || still {
			return err
		}
		if try == copyTries {
			return status.Errorf(codes.Unavailable, "%s is written all the time, and only XFS and btrfs can clone it meanwhile", from)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(try) * copyPause):
		}
	}
}

// copyOnce copies an image; still tells whether the copy is of one instant.
func (d *Driver) copyOnce(ctx context.Context, to *os.File, from string) (still bool, err error) {
	src, err := os.Open(from)
	if err != nil {
		return false, err
	}
	defer src.Close()
	loops, err := loopsOf(from)
	if err != nil {
		return false, err
	}
	for _, l := range loops {
		if l.node != d.node {
			return false, status.Errorf(codes.Unavailable, "%s is in use on node %s, and this driver, which copies it, is on %s", from, l.node, d.node)
		}
		thaw, err := l.quiesce()
		if err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, thaw()) }()
	}
	before, _, err := marks(loops)
	if err != nil {
		return false, err
	}
	switch err := unix.IoctlFileClone(int(to.Fd()), int(src.Fd())); {
	case err == nil:
		return true, nil
	case !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EINVAL):
		return false, fmt.Errorf("clone %s: %w", from, err)
	}
	if err := copySparse(ctx, to, src); err != nil {
		return false, err
	}
	loops, err = loopsOf(from) // one more could have been attached, and one could have gone
	if err != nil {
		return false, err
	}
	after, busy, err := marks(loops)
	return before == after && !busy, err
}

// marks are the devices' marks of what was written to them.
func marks(loops []loop) (all string, busy bool, err error) {
	var b strings.Builder
	for _, l := range loops {
		mark, writing, err := l.writes()
		if err != nil {
			return "", false, err
		}
		b.WriteString(mark + "\n")
		busy = busy || writing
	}
	return b.String(), busy, nil
}

// quiesce brings what was written to the device to its file, and freezes its file system if it is
// mounted here. The caller thaws it.
func (l loop) quiesce() (thaw func() error, err error) {
	path, err := l.mounted()
	if err != nil {
		return nil, err
	}
	if path == "" {
		return func() error { return nil }, l.flush()
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlSetInt(int(dir.Fd()), ioctlFreeze, 0); err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("freeze %s: %w", path, err)
	}
	return func() error {
		defer dir.Close()
		if err := unix.IoctlSetInt(int(dir.Fd()), ioctlThaw, 0); err != nil {
			return fmt.Errorf("thaw %s: %w", path, err)
		}
		return nil
	}, nil
}

// thawAll thaws file systems of the shelf's images that a killed driver has left frozen.
func (s shelf) thawAll() error {
	volumes, err := s.list()
	if err != nil {
		return err
	}
	for _, v := range volumes {
		loops, err := loopsOf(s.image(v.ID))
		if err != nil {
			return err
		}
		for _, l := range loops {
			path, err := l.mounted()
			if err != nil {
				return err
			}
			if path == "" {
				continue
			}
			dir, err := os.Open(path)
			if err != nil {
				return err
			}
			err = unix.IoctlSetInt(int(dir.Fd()), ioctlThaw, 0)
			_ = dir.Close()
			if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it is not frozen
				return fmt.Errorf("thaw %s: %w", path, err)
			}
		}
	}
	return nil
}

// copySparse makes to a copy of from, with its holes.
func copySparse(ctx context.Context, to, from *os.File) error {
	size, err := from.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	// To nothing first: an earlier try may have left data where there is a hole now.
	if err := errors.Join(to.Truncate(0), to.Truncate(size)); err != nil {
		return err
	}
	for at := int64(0); at < size; {
		begin, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but a hole
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", from.Name(), err)
		}
		if at, err = unix.Seek(int(from.Fd()), begin, unix.SEEK_HOLE); err != nil {
			return fmt.Errorf("%s: %w", from.Name(), err)
		}
		if err := copyRange(ctx, to, from, begin, at); err != nil {
			return fmt.Errorf("copy %s: %w", from.Name(), err)
		}
	}
	return nil
}

// copyRange copies the bytes from begin to end.
func copyRange(ctx context.Context, to, from *os.File, begin, end int64) error {
	in, out := begin, begin
	for in < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := unix.CopyFileRange(int(from.Fd()), &in, int(to.Fd()), &out, int(min(end-in, copyChunk)), 0)
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
	}
	return nil
}
