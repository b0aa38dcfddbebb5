//go:build guestfs

package helper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vmfr/agent/guestfs/sandbox"
	"vmfr/agent/mountns"
)

// Confine gives up everything that the appliance does not need and starts this program again,
// so that all of its threads are without it. It returns in the program started anew, with the
// directory that is the process's own.
//
// Where the engine could give the process namespaces of its own, the directory becomes /tmp,
// because libguestfs puts its sockets there when it runs as root: nothing is then left
// elsewhere after a kill. No new privileges, no capability and no core dump in any case.
func Confine() (dir string, err error) {
	dir = os.Getenv(sandbox.EnvDir)
	if dir == "" {
		return "", errors.New("this command is for vmfr-agent's own use: it is started by the engine that reads a backup through libguestfs")
	}
	if os.Getenv(sandbox.EnvConfined) != "" {
		return dir, nil
	}
	if os.Getenv(sandbox.EnvNamespaces) != "" {
		if err := mountns.OwnRoot(); err != nil {
			return "", err
		}
	}
	// Not by its name: that may lie below the /tmp that is hidden now.
	const self = "/proc/self/exe"
	runtime.LockOSThread() // what follows is the thread's own until exec
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, sandbox.EnvDir+"=") })
	cache := os.Getenv(sandbox.EnvCache)
	if os.Getenv(sandbox.EnvNamespaces) != "" {
		if err := ownMounts(dir, cache); err != nil {
			return "", err
		}
		dir = "/tmp"
		if cache != "" {
			cache = "/tmp/cache"
		}
	}
	env = append(env, sandbox.EnvConfined+"=1", sandbox.EnvDir+"="+dir, "TMPDIR="+dir, "LIBGUESTFS_TMPDIR="+dir,
		"XDG_RUNTIME_DIR="+dir, "HOME="+dir, "LIBGUESTFS_BACKEND=direct", "LC_ALL=C",
		"TAR_OPTIONS=--no-same-owner") // supermin's tar, as root without CAP_CHOWN
	if cache != "" {
		env = append(env, "LIBGUESTFS_CACHEDIR="+cache)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return "", fmt.Errorf("rlimit: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return "", fmt.Errorf("no_new_privs: %w", err)
	}
	dropCapabilities()
	if err := unix.Chdir(dir); err != nil {
		return "", err
	}
	return "", fmt.Errorf("starting again: %w", unix.Exec(self, os.Args, env))
}

// ownMounts makes dir the process's /tmp and gives it a /proc of its own process namespace.
func ownMounts(dir, cache string) error {
	if err := mountns.LeaveOthers(dir, cache); err != nil {
		return fmt.Errorf("own mounts: %w", err)
	}
	if cache != "" {
		at := filepath.Join(dir, "cache")
		if err := os.MkdirAll(at, 0o700); err != nil {
			return err
		}
		if err := unix.Mount(cache, at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cache directory %s: %w", cache, err)
		}
	}
	if err := unix.Mount(dir, "/tmp", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("own /tmp: %w", err)
	}
	// In a container whose /proc is masked the kernel refuses this; then the old one stays.
	_ = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	return nil
}

// dropCapabilities empties all sets. Without capabilities there is nothing to drop, and errors
// say no more than that.
func dropCapabilities() {
	for c := 0; c <= 63; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			break // EINVAL: past the kernel's last; EPERM: none to drop
		}
	}
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	var none [2]unix.CapUserData
	_ = unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
}
