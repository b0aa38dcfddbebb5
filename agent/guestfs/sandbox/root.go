package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"vmfr/agent/mountns"
)

// Places in the new root.
const (
	ownDir       = "/vmfr"
	programPath  = ownDir + "/agent"
	applianceDir = ownDir + "/appliance"
	disksDir     = ownDir + "/disks"
	tmpDir       = "/tmp"
)

// tmpSize bounds what libguestfs keeps in /tmp: qemu's overlays, which hold what the appliance's
// kernel writes when it replays a log. It is memory, and counts as the process's.
const tmpSize = "512m"

// place is where the new root is mounted for a moment: a folder that every Linux has.
const place = "/proc"

// programs are the folders of programs and libraries. Where /usr is merged, all but the first are
// symbolic links into it.
var programs = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}

// settings are files that say where libraries are, for the dynamic loader and Debian's alternatives.
var settings = []string{"/etc/ld.so.cache", "/etc/alternatives"}

// devices are lent with the rights that they have, where they are there: KVM's often is not.
var devices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/kvm"}

// makeRoot makes a root of programs, devices and the disks' folder, and enters it.
func makeRoot(o *Options) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("vmfr", place, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "size=1m,mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	for _, p := range programs {
		if err := lendFolder(p); err != nil {
			return err
		}
	}
	for _, p := range settings {
		if err := lend(p, p, unix.MS_NODEV|unix.MS_NOEXEC); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, p := range devices {
		if err := lend(p, p, unix.MS_NOEXEC); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := lend(o.Program, programPath, unix.MS_NODEV); err != nil {
		return err
	}
	if err := lend(o.Appliance, applianceDir, unix.MS_NODEV|unix.MS_NOEXEC); err != nil {
		return err
	}
	for _, dir := range []string{disksDir, tmpDir, "/proc", "/var"} {
		if err := os.MkdirAll(filepath.Join(place, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink(tmpDir, filepath.Join(place, "/var/tmp")); err != nil { // qemu takes no other
		return err
	}
	data := fmt.Sprintf("size=%s,mode=0700,uid=%d,gid=%d", tmpSize, o.UID, o.UID)
	if err := unix.Mount("vmfr", filepath.Join(place, tmpDir), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, data); err != nil {
		return fmt.Errorf("mount /tmp: %w", err)
	}
	// Of its own processes only, without the files that tell of the machine, where the kernel can.
	at, flags := filepath.Join(place, "proc"), uintptr(unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC)
	if err := unix.Mount("proc", at, "proc", flags, "subset=pid"); err != nil {
		if err := unix.Mount("proc", at, "proc", flags, ""); err != nil {
			return fmt.Errorf("mount /proc: %w", err)
		}
	}
	return mountns.Pivot(place)
}

// sealRoot makes the root read-only.
func sealRoot() error {
	return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}

// lendFolder shows a folder of programs in the new root, as what it is: a symbolic link, or a
// folder, which need not be there.
func lendFolder(path string) error {
	target, err := os.Readlink(path)
	if err == nil {
		return os.Symlink(target, filepath.Join(place, path))
	}
	err = lend(path, path, unix.MS_NODEV)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// lend binds a file or folder into the new root, read-only. Mounts below it are not seen.
func lend(path, as string, flags uintptr) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	at := filepath.Join(place, as)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	if st.IsDir() {
		err = os.MkdirAll(at, 0o755)
	} else {
		err = os.WriteFile(at, nil, 0o444)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(path, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("show %s: %w", path, err)
	}
	if err := unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|flags, ""); err != nil {
		return fmt.Errorf("show %s read-only: %w", path, err)
	}
	return nil
}
