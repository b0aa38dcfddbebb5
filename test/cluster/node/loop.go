package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// inode identifies a file whatever its path is in a mount namespace.
type inode struct{ device, number uint64 }

// Loops returns the loop devices whose files lie in dir. A file is known by its inode: the path
// that the kernel tells (loop(4)) is that of a mount namespace which may be gone. A removed file is
// known by its path alone.
func Loops(dir string) ([]string, error) {
	files := map[inode]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil // a running node's
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); errors.Is(err, unix.ENOENT) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		files[inode{st.Dev, st.Ino}] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	blocks, err := filepath.Glob("/sys/block/loop*/loop/backing_file") // there only while a device has a file
	if err != nil {
		return nil, err
	}
	var loops []string
	for _, b := range blocks {
		device := "/dev/" + strings.Split(b, "/")[3]
		path, _ := os.ReadFile(b)
		info, err := loopInfo(device)
		switch {
		case errors.Is(err, unix.ENXIO) || errors.Is(err, os.ErrNotExist): // freed meanwhile
		case err != nil:
			return nil, err
		case files[inode{info.Device, info.Inode}] || strings.HasPrefix(string(path), dir+"/"):
			loops = append(loops, device)
		}
	}
	return loops, nil
}

func loopInfo(device string) (*unix.LoopInfo64, error) {
	f, err := os.Open(device)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", device, err)
	}
	return info, nil
}

// freeLoops detaches the loop devices whose files lie in dir, and waits until they are.
func freeLoops(ctx context.Context, dir string) error {
	return await(ctx, func() error {
		loops, err := Loops(dir)
		if err != nil {
			return err
		}
		for _, device := range loops {
			f, err := os.Open(device)
			if err != nil {
				return err
			}
			// A device in use is detached by the kernel when its last user closes it.
			if err := unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
				return errors.Join(fmt.Errorf("%s: %w", device, err), f.Close())
			}
			_ = f.Close()
		}
		if len(loops) > 0 {
			return fmt.Errorf("%s: still in use", strings.Join(loops, ", "))
		}
		return nil
	})
}
