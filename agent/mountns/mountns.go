// Package mountns prepares a process that has a mount namespace of its own, before it changes
// what is mounted there.
//
// Non-goal: it makes no namespace; whoever starts the process does.
package mountns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// OwnRoot makes this process's root directory the root of its mount namespace, which is its own.
// It returns having done nothing where that is so already; else it starts the program again from
// the beginning, with the same arguments, environment and inherited descriptors, so it must be
// called before anything else is done.
//
// In a chroot the kernel makes no user namespaces (user_namespaces(7)), and there is no mount at
// "/" whose propagation could be changed. What the process sees stays the same: the tree of mounts
// at its root is cloned, put in the place of the namespace's, and all others are left behind.
func OwnRoot() error {
	if chroot, err := InChroot(); err != nil || !chroot {
		return err
	}
	runtime.LockOSThread() // until the program starts again: the other threads keep the old root
	// setns(2) wants a root that is not shared with other threads.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	self, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	clone, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("clone the mounts: %w", err)
	}
	ns, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil { // to where it is: this leads to the namespace's root
		return fmt.Errorf("setns: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	const place = "/proc" // a folder that every root has; it is hidden for a moment
	if err := unix.MoveMount(clone, "", unix.AT_FDCWD, place, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount the clone: %w", err)
	}
	if err := Pivot(place); err != nil {
		return err
	}
	return fmt.Errorf("start again: %w", unix.Exec(fmt.Sprintf("/proc/self/fd/%d", self), os.Args, os.Environ()))
}

// Pivot makes the mount at dir the root of this process's mount namespace and leaves the old
// root behind.
func Pivot(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	return unix.Chdir("/")
}

// InChroot tells whether this process's root directory is not a mount's, which OwnRoot would change;
// for that it needs CAP_SYS_CHROOT beside CAP_SYS_ADMIN (setns(2)).
func InChroot() (bool, error) {
	atMount, err := isMount("/")
	return !atMount, err
}

// isMount tells whether a mount's root is at path.
func isMount(path string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_NO_AUTOMOUNT, 0, &st); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 { // Linux before 5.8: a chroot shows itself later
		return true, nil
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
