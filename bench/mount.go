package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// mounted is a file system of one of the contenders.
type mounted struct {
	root string // where the guest's root is
	pids func() []int
	stop func() error
}

type mounter struct {
	name  string
	mount func(c config, f format) (mounted, error)
}

var (
	kernel = mounter{"kernel", mountKernel}
	ours   = mounter{"vmfr", mountOurs}
	guest  = mounter{"guestmount", mountGuest}
	ntfs3g = mounter{"ntfs-3g", mountNTFS3G}
)

func mountKernel(c config, f format) (mounted, error) {
	dir, err := os.MkdirTemp(c.work, "kernel")
	if err != nil {
		return mounted{}, err
	}
	if err := sh("mount", "-o", "loop,ro", f.path, dir); err != nil {
		return mounted{}, err
	}
	return mounted{root: dir, pids: func() []int { return nil }, stop: func() error {
		return errors.Join(sh("umount", dir), os.Remove(dir))
	}}, nil
}

// mountNTFS3G mounts with ntfs-3g on this machine: what guestmount does, without its appliance.
func mountNTFS3G(c config, f format) (mounted, error) {
	dir, err := os.MkdirTemp(c.work, "ntfs3g")
	if err != nil {
		return mounted{}, err
	}
	if err := sh("ntfs-3g", "-o", "ro", f.path, dir); err != nil {
		return mounted{}, err
	}
	return mounted{root: dir, pids: func() []int { return nil }, stop: func() error {
		return errors.Join(sh("umount", dir), os.Remove(dir))
	}}, nil
}

func mountOurs(c config, f format) (mounted, error) {
	dir, err := os.MkdirTemp(c.work, "vmfr")
	if err != nil {
		return mounted{}, err
	}
	args := []string{"mount", "--log-level", "warn"}
	for i, path := range f.disks() {
		args = append(args, "--disk", fmt.Sprintf("b/d%d=%s,format=%s", i, path, f.kind))
	}
	cmd := exec.Command(c.agent, append(args, dir)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return mounted{}, err
	}
	if err := cmd.Start(); err != nil {
		return mounted{}, err
	}
	// The ready line; the first byte read through the mount is what latency measures.
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return mounted{}, fmt.Errorf("vmfr-agent mount said nothing: %w", err)
	}
	root := f.root
	if root == "" {
		root = "d0"
	}
	m := mounted{root: filepath.Join(dir, "backups/b", root), pids: func() []int { return []int{cmd.Process.Pid} }}
	m.stop = func() error {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		return errors.Join(cmd.Wait(), os.Remove(dir))
	}
	return m, nil
}

func mountGuest(c config, f format) (mounted, error) {
	dir, err := os.MkdirTemp(c.work, "guest")
	if err != nil {
		return mounted{}, err
	}
	pidFile := dir + ".pid"
	args := []string{"--ro", "--format=" + f.kind}
	for _, path := range f.disks() {
		args = append(args, "-a", path)
	}
	device := f.device
	if device == "" {
		device = "/dev/sda"
	}
	cmd := exec.Command("guestmount", append(args, "-m", device, "--pid-file", pidFile, dir)...)
	cmd.Env = append(os.Environ(), "LIBGUESTFS_BACKEND=direct")
	if !kvmWorks() {
		cmd.Env = append(cmd.Env, "LIBGUESTFS_BACKEND_SETTINGS=force_tcg")
	}
	before := appliances()
	if out, err := cmd.CombinedOutput(); err != nil {
		return mounted{}, fmt.Errorf("guestmount: %w: %s", err, out)
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return mounted{}, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return mounted{}, fmt.Errorf("guestmount's pid file: %w", err)
	}
	all := []int{pid}
	for p := range appliances() {
		if !before[p] {
			all = append(all, p)
		}
	}
	if len(all) < 2 {
		return mounted{}, errors.New("guestmount's appliance was not found among the processes")
	}
	m := mounted{root: dir, pids: func() []int { return all }}
	m.stop = func() error {
		if err := sh("guestunmount", dir); err != nil {
			return err
		}
		for _, pid := range all { // the appliance ends a little after the mount
			for range 300 {
				if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
		return os.Remove(dir)
	}
	return m, nil
}

// kvmWorks tells whether libguestfs starts its appliance with KVM. Where /dev/kvm is there but
// does not work it fails, and does not fall back by itself.
var kvmWorks = sync.OnceValue(func() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "guestfish", "-a", "/dev/null", "run")
	cmd.Env = append(os.Environ(), "LIBGUESTFS_BACKEND=direct")
	return cmd.Run() == nil
})

// appliances finds the virtual machines that libguestfs runs. They are no children of
// guestmount, which has become a daemon since.
func appliances() map[int]bool {
	found := map[int]bool{}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil
	}
	for _, l := range lines {
		b, err := os.ReadFile(l)
		if err != nil || !strings.Contains(string(b), "qemu") || !strings.Contains(string(b), "guestfs") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(l))); err == nil {
			found[pid] = true
		}
	}
	return found
}

// serving are the processes of the vmfr-agent serve with this pid; the first one reads the images: its
// worker, or itself where there is no sandbox.
func serving(pid int) []int {
	all := []int{pid}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, l := range lists {
		b, _ := os.ReadFile(l) // a thread that has ended has no children
		for _, f := range strings.Fields(string(b)) {
			p, err := strconv.Atoi(f)
			if err != nil {
				continue
			}
			if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p)); err == nil && strings.Contains(string(line), "work-local") {
				all = append([]int{p}, all...)
			}
		}
	}
	return all
}

// peakMiB is the sum of the processes' peak resident sizes (VmHWM).
func peakMiB(pids []int) float64 {
	var kib int
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(b), "\n") {
			if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				n, err := strconv.Atoi(strings.Fields(rest)[0])
				if err == nil {
					kib += n
				}
			}
		}
	}
	return float64(kib) / 1024
}

// dropCaches empties the page, dentry and inode caches.
func dropCaches() error {
	syscall.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200)
}
