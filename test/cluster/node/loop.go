package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// inode identifies a file whatever its path is in a mount namespace.
type inode struct{ device, number uint64 }

// Loops returns the loop devices whose files lie in dir, and those on top of these: kubelet makes
// one of every block volume's device.
//
// A file is known by its inode: the path that the kernel tells (loop(4)) is that of a mount
// namespace which may be gone. So a file that was removed while a device had it is not found.
func Loops(dir string) ([]string, error) {
	files := map[inode]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil // a running node's
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		file, err := inodeOf(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		files[file] = true
		return err
	})
	if err != nil {
		return nil, err
	}
	blocks, err := filepath.Glob("/sys/block/loop*/loop/backing_file") // there only while a device has a file
	if err != nil {
		return nil, err
	}
	type file struct {
		inode
		device uint64 // that it is a node of; 0: none
	}
	backing := map[string]file{}
	for _, b := range blocks {
		device := "/dev/" + strings.Split(b, "/")[3]
		info, err := loopInfo(device)
		switch {
		case errors.Is(err, unix.ENXIO) || errors.Is(err, os.ErrNotExist): // freed meanwhile
		case err != nil:
			return nil, err
		default:
			backing[device] = file{inode{info.Device, info.Inode}, info.Rdevice}
		}
	}
	var loops []string
	devices := map[uint64]bool{} // whatever their nodes are: every container may have one of its own
	for found := true; found; {  // one layer after the other
		found = false
		for device, file := range backing {
			if !files[file.inode] && !devices[file.device] {
				continue
			}
			found = true
			loops = append(loops, device)
			delete(backing, device)
			var node unix.Stat_t
			if err := unix.Stat(device, &node); err != nil {
				return nil, fmt.Errorf("%s: %w", device, err)
			}
			devices[node.Rdev] = true
		}
	}
	slices.Sort(loops)
	return loops, nil
}

func inodeOf(path string) (inode, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return inode{}, fmt.Errorf("%s: %w", path, err)
	}
	return inode{st.Dev, st.Ino}, nil
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
