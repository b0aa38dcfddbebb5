package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"vmfr/agent/mountns"
)

// tunables are kernel settings of the whole machine that kubelet would set, with the values that it
// wants. It sees files with these values in their place: among them is one that reboots a machine
// after an oops.
var tunables = map[string]string{
	"kernel/keys/root_maxbytes": "25000000",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
}

// Shared is the folder that all nodes of a cluster have in common, as others have a network's storage.
const Shared = "/var/lib/vmfr-shared"

// prepareMounts changes what is mounted in this process's own mount namespace to what a node is to
// see: itself in /proc, its own /run, /var/lib and /var/log, its cluster's Shared, and none of the
// machine's loop and FUSE mounts, which it would keep busy.
func (p place) prepareMounts(dir string) error {
	if err := mountns.LeaveOthers(dir); err != nil {
		return err
	}
	if err := mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := mount("run", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	for _, own := range []string{"/var/lib", "/var/log"} {
		if err := mount(filepath.Join(dir, own), own, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	if err := mount(filepath.Join(p.clusterDir(dir), Shared), Shared, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	for name, value := range tunables {
		at := filepath.Join("/proc/sys", name)
		if _, err := os.Stat(at); errors.Is(err, os.ErrNotExist) {
			continue
		}
		file := filepath.Join("/run/tunables", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := mount(file, at, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	// Volumes of Pods may ask for propagation to the node and back.
	return mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

func mount(source, target, fstype string, flags uintptr, options string) error {
	if err := unix.Mount(source, target, fstype, flags, options); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}

// overlayWorks tells whether containers' roots can be overlays in dir; an overlay or a network file
// system cannot hold one.
func overlayWorks(dir string) error {
	at := filepath.Join(dir, "tmp", "overlay")
	var paths []any
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		path := filepath.Join(at, d)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		paths = append(paths, path)
	}
	merged := paths[3].(string)
	if err := mount("overlay", merged, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", paths[:3]...)); err != nil {
		return err
	}
	return errors.Join(unix.Unmount(merged, 0), os.RemoveAll(at))
}
