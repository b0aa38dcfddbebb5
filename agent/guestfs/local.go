package guestfs

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"vmfr/agent/guestfs/sandbox"
	"vmfr/agent/volume"
)

// startChild starts a helper as a child of this process, with dir as its own directory, which
// goes when it ends.
func startChild(o *Options, dir *ownDir, disks []volume.Disk) (_ *child, err error) {
	c := &child{log: &tail{}}
	defer func() {
		if err != nil {
			for _, l := range c.disks {
				_ = l.Close()
			}
			if c.sock != nil {
				_ = c.sock.Close()
			}
			_ = dir.remove()
		}
	}()
	for i := range disks {
		l, err := net.Listen("unix", filepath.Join(dir.path, sandbox.DiskSocket(i)))
		if err != nil {
			return nil, fmt.Errorf("a socket for disk %q: %w; if its path is too long, set TMPDIR to a shorter one", disks[i].Name, err)
		}
		c.disks = append(c.disks, l)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "helper")
	defer theirs.Close()
	if err := unix.SetNonblock(pair[0], true); err != nil {
		_ = unix.Close(pair[0])
		return nil, err
	}
	c.sock = os.NewFile(uintptr(pair[0]), "helper")
	gone := make(chan struct{})
	cmd, own, err := spawn(o, dir.path, theirs, c.log, gone)
	if err != nil {
		return nil, fmt.Errorf("starting the libguestfs helper: %w", err)
	}
	c.pid = cmd.Process.Pid
	c.end = func() { _ = unix.Kill(-c.pid, unix.SIGKILL) }
	c.wait = func() error {
		defer close(gone)
		err := cmd.Wait()
		if !own { // then qemu can outlive the helper; it is in its group
			c.end()
		}
		return err
	}
	c.clean = func() { _ = dir.remove() }
	return c, nil
}

// spawn starts the program, in namespaces of its own where that is allowed. The thread that did
// lives until gone is closed.
func spawn(o *Options, dir string, theirs *os.File, log *tail, gone <-chan struct{}) (_ *exec.Cmd, own bool, err error) {
	if err := os.MkdirAll(o.CacheDir, 0o755); err != nil {
		return nil, false, err
	}
	env := []string{"PATH=" + searchPath(), sandbox.EnvDir + "=" + dir, sandbox.EnvCache + "=" + o.CacheDir}
	for _, name := range []string{"LIBGUESTFS_PATH", "LIBGUESTFS_HV", "SUPERMIN_KERNEL", "SUPERMIN_MODULES", "LIBGUESTFS_DEBUG", "LIBGUESTFS_TRACE"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	for own = true; ; own = false {
		cmd := exec.Command(o.Command[0], o.Command[1:]...)
		cmd.Env = env
		cmd.ExtraFiles = []*os.File{theirs}
		cmd.Stderr, cmd.Stdout = log, log
		cmd.WaitDelay = exitLimit
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL} // its group, which dies with this process
		if own {
			isolate(cmd.SysProcAttr)
			cmd.Env = append(cmd.Env, sandbox.EnvNamespaces+"=1")
		}
		err := startLocked(cmd, gone)
		if err == nil {
			return cmd, own, nil
		}
		if !own || !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EACCES) {
			return nil, false, err
		}
		o.Log.Debug("libguestfs runs without namespaces of its own", "reason", err)
	}
}

// searchPath finds qemu and what supermin needs also where a service's PATH is short.
func searchPath() string {
	return strings.TrimPrefix(os.Getenv("PATH")+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", ":")
}

// isolate asks for mount, process, IPC and network namespaces. In a process namespace of its
// own the helper is the first process: when it dies, the kernel kills qemu with it. Who is not
// root gets them in a user namespace.
func isolate(a *syscall.SysProcAttr) {
	a.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWNET
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		a.Cloneflags |= unix.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	}
}

// startLocked starts cmd from a thread that lives until done: the signal that a child asks for
// when its parent dies is sent when the thread that made it ends.
func startLocked(cmd *exec.Cmd, done <-chan struct{}) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			<-done
		}
	}()
	return <-started
}
