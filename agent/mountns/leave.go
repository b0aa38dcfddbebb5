package mountns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// LeaveOthers makes the mounts of this process's namespace private and unmounts, there, the file systems
// of loop devices and of FUSE, except those that hold one of the paths in keep or a folder of the system. A namespace
// begins with all mounts of the one that it was made in, and whoever unmounts a file system there
// waits for its device until no other namespace has it.
func LeaveOthers(keep ...string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("this process may not mount: %w", err)
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	keep = append([]string{"/usr", "/lib", "/etc", "/var", "/dev", "/proc", "/sys"}, keep...)
	for line := range strings.Lines(string(b)) {
		at := othersMount(line)
		if at == "" || slices.ContainsFunc(keep, func(path string) bool { return below(path, at) }) {
			continue
		}
		// EINVAL: it was below another that has gone; EACCES: of a server that lets nobody else in.
		err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EACCES) {
			return fmt.Errorf("unmount %s: %w", at, err)
		}
	}
	return nil
}

// othersMount is where a line of proc_pid_mountinfo(5) has a loop device or FUSE mounted; else "".
func othersMount(line string) string {
	// 36 35 98:0 /root /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
	mount, fs, ok := strings.Cut(line, " - ")
	m, f := strings.Fields(mount), strings.Fields(fs)
	if !ok || len(m) < 6 || len(f) < 2 {
		return ""
	}
	// btrfs has a device number of its own, so the device's name counts, too.
	fuse := f[0] == "fuse" || f[0] == "fuseblk" || strings.HasPrefix(f[0], "fuse.")
	if !fuse && !strings.HasPrefix(m[2], "7:") && !strings.HasPrefix(f[1], "/dev/loop") {
		return ""
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(m[4])
}

// below tells whether path is dir or lies in it.
func below(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
