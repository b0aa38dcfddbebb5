package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"vmfr/agent/confine"
	"vmfr/agent/mountns"
)

// place is a folder that every Linux has, to mount the new root on for a moment.
const place = "/proc"

// shown are the files that the program finds in its root until it calls Seal: go-fuse splices by way
// of the first, and asks the second how large a pipe may be.
var shown = [...]string{"/dev/null", "/proc/sys/fs/pipe-max-size"}

// emptyRoot makes a read-only tmpfs that holds nothing but what is shown the only root there is.
func emptyRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	var trees [len(shown)]int // taken before place is covered
	for i, name := range shown {
		fd, err := unix.OpenTree(unix.AT_FDCWD, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return fmt.Errorf("open_tree %s: %w", name, err)
		}
		trees[i] = fd
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("vmfr", place, "tmpfs", flags, "size=4k,nr_inodes=16,mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	defer unix.Umask(unix.Umask(0)) // another user is to find them
	for i, name := range shown {
		at := filepath.Join(place, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(at, nil, 0o444); err != nil {
			return err
		}
		if err := unix.MoveMount(trees[i], "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("move_mount %s: %w", name, err)
		}
	}
	if err := unix.Mount("", place, "", flags|unix.MS_RDONLY|unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	return mountns.Pivot(place)
}

func setLimits() error {
	err := confine.SetLimits(
		confine.Limit{Resource: unix.RLIMIT_NPROC, Value: maxTasks}, confine.Limit{Resource: unix.RLIMIT_MEMLOCK, Value: maxLocked},
		confine.Limit{Resource: unix.RLIMIT_FSIZE}, confine.Limit{Resource: unix.RLIMIT_CORE}, confine.Limit{Resource: unix.RLIMIT_MSGQUEUE},
	)
	if err != nil {
		return err
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	return confine.SetLimits(confine.Limit{Resource: unix.RLIMIT_NOFILE, Value: min(files.Max, maxFiles)})
}

// execAt starts the program that fd is open at: there is no path to it any more.
func execAt(fd int, args, env []string) error {
	argv, err := pointers(args)
	if err != nil {
		return err
	}
	envv, err := pointers(env)
	if err != nil {
		return err
	}
	empty, err := unix.BytePtrFromString("")
	if err != nil {
		return err
	}
	_, _, e := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(empty)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])), unix.AT_EMPTY_PATH, 0)
	runtime.KeepAlive(argv)
	runtime.KeepAlive(envv)
	return e
}

// pointers is a list of C strings that ends with a null pointer.
func pointers(list []string) ([]*byte, error) {
	out := make([]*byte, 0, len(list)+1)
	for _, s := range list {
		p, err := unix.BytePtrFromString(s)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return append(out, nil), nil
}
