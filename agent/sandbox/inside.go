package sandbox

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"vmfr/agent/confine"
	"vmfr/agent/mountns"
)

// place is a folder that every Linux has, to mount the new root on for a moment.
const place = "/proc"

// emptyRoot makes an empty read-only tmpfs the only mount there is.
func emptyRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("vmfr", place, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, "size=4k,nr_inodes=2,mode=0555"); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
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
