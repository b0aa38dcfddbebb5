package fusefs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"vmfr/agent/tree"
)

// fsName is the source and the subtype of the mount: "vmfr" and "fuse.vmfr" in /proc/mounts.
const fsName = "vmfr"

// Mount mounts t at dir, an empty directory, and serves it; it returns when the mount answers.
// As root it calls mount(2), otherwise fusermount3 does. The mount that a killed predecessor
// left at dir is removed first.
func Mount(dir string, t *tree.Tree, o Options) (*Server, error) {
	o = o.withDefaults()
	dir, err := prepare(dir, o)
	if err != nil {
		return nil, err
	}
	at := &Mountpoint{dir: dir, o: o}
	var s *Server
	if os.Geteuid() == 0 {
		dev, err := attach(dir, o)
		if err != nil {
			return nil, err
		}
		if s, err = Serve(dev, t, o); err != nil {
			_ = unix.Unmount(dir, unix.MNT_DETACH)
			return nil, fmt.Errorf("mount at %s: %w", dir, err)
		}
	} else if s, err = newServer(dir, t, o); err != nil {
		return nil, fmt.Errorf("mount at %s: %w", dir, err)
	}
	s.at = at
	if err := at.Settle(); err != nil {
		return nil, err
	}
	return s, nil
}

// Mountpoint is where a file system is mounted. Whoever mounted it unmounts it, also where
// another process serves it.
type Mountpoint struct {
	dir string // absolute, without links
	dev string // "major:minor" of the mount; empty before Settle
	o   Options

	unmount sync.Mutex // one Unmount at a time
}

// Attach mounts a FUSE file system at dir, an empty directory, and returns the /dev/fuse that
// Serve answers, maybe in another process. It needs CAP_SYS_ADMIN. Until Serve runs, using dir
// blocks; when all copies of the file are closed, it fails with ENOTCONN. The mount that a killed
// predecessor left at dir is removed first.
func Attach(dir string, o Options) (*Mountpoint, *os.File, error) {
	o = o.withDefaults()
	dir, err := prepare(dir, o)
	if err != nil {
		return nil, nil, err
	}
	dev, err := attach(dir, o)
	if err != nil {
		return nil, nil, err
	}
	return &Mountpoint{dir: dir, o: o}, dev, nil
}

// Settle waits until the mount answers, and raises what the kernel reads ahead. After an error
// the mount is gone.
func (m *Mountpoint) Settle() error {
	if err := m.answer(); err != nil {
		_ = m.force()
		return fmt.Errorf("mount at %s does not answer: %w", m.dir, err)
	}
	var err error
	if m.dev, err = device(m.dir); err == nil {
		err = SetReadAhead(m.dev, m.o.ReadAhead)
	}
	if err != nil {
		m.o.Log.Debug("reading in sequence will be slower: the read-ahead could not be raised", "dir", m.dir, "err", err)
	}
	return nil
}

func attach(dir string, o Options) (*os.File, error) {
	dev, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w (is FUSE available here?)", err)
	}
	data := []string{
		fmt.Sprintf("fd=%d", dev.Fd()), "rootmode=40000", // octal S_IFDIR
		fmt.Sprintf("user_id=%d", os.Geteuid()), fmt.Sprintf("group_id=%d", os.Getegid()),
		fmt.Sprintf("max_read=%d", maxRead),
	}
	if o.DefaultPermissions {
		data = append(data, "default_permissions")
	}
	if o.AllowOther {
		data = append(data, "allow_other")
	}
	err = unix.Mount(fsName, dir, "fuse."+fsName, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, strings.Join(data, ","))
	if err != nil {
		_ = dev.Close()
		return nil, fmt.Errorf("mount at %s: %w", dir, err)
	}
	return dev, nil
}

// mountOptions are the same for fusermount3.
func mountOptions(o Options) []string {
	opts := []string{"ro", "nosuid", "nodev", "noexec"}
	if o.DefaultPermissions {
		opts = append(opts, "default_permissions")
	}
	return opts
}

// staleLayers bounds the dead mounts that are removed from one directory.
const staleLayers = 16

// prepare checks dir and returns its real path. Mounting over files would hide them.
func prepare(dir string, o Options) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for range staleLayers {
		var st unix.Stat_t
		if err := unix.Stat(abs, &st); !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
			break
		}
		if m, err := lookupMount(abs); err != nil || m.fstype != "fuse."+fsName {
			return "", fmt.Errorf("%s is the mount of a program that has ended (%s); unmount it with: umount -l %s", dir, m.fstype, dir)
		}
		o.Log.Warn("removing the mount that an earlier run left behind", "dir", abs)
		if err := detach(abs); err != nil {
			return "", fmt.Errorf("%s is a mount that an earlier run left behind: %w", dir, err)
		}
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", fmt.Errorf("mount point: %w (create the directory first)", err)
	}
	f, err := os.Open(abs)
	if err != nil {
		return "", fmt.Errorf("mount point: %w", err)
	}
	defer f.Close()
	switch _, err = f.Readdirnames(1); {
	case err == nil:
		return "", fmt.Errorf("mount point %s is not empty; choose an empty directory", dir)
	case errors.Is(err, unix.ENOTDIR):
		return "", fmt.Errorf("mount point %s is not a directory", dir)
	case err != io.EOF:
		return "", fmt.Errorf("mount point %s: %w", dir, err)
	}
	return abs, nil
}

// answer waits until the mount answers. It also has the kernel learn that the files here know
// no poll(2): otherwise opening a file of our own mount with package os could wait for a
// request that no thread is left to serve, since the Go runtime polls what it opens.
func (m *Mountpoint) answer() error {
	var fs unix.Statfs_t
	if err := retry(func() error { return unix.Statfs(m.dir, &fs) }); err != nil {
		return err
	}
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Open(filepath.Join(m.dir, "README.txt"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return err
	}
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return unix.Close(fd)
}

// retry calls f until no signal interrupts it.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// mountEntry is a line of proc_pid_mountinfo(5).
type mountEntry struct {
	dev    string // "major:minor"
	fstype string
}

// lookupMount finds the topmost mount at an absolute path without asking the file system,
// which may not answer.
func lookupMount(dir string) (mountEntry, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return mountEntry{}, err
	}
	want := strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`).Replace(dir)
	var m mountEntry
	for _, line := range strings.Split(string(info), "\n") {
		// 36 35 98:0 /root /mount/point options [optional fields] - type source superoptions
		f := strings.Split(line, " ")
		if len(f) < 5 || f[4] != want {
			continue
		}
		m.dev = f[2]
		if _, rest, ok := strings.Cut(line, " - "); ok {
			m.fstype, _, _ = strings.Cut(rest, " ")
		}
	}
	if m.dev == "" {
		return m, fmt.Errorf("%s is not a mount point", dir)
	}
	return m, nil
}

func device(dir string) (string, error) {
	m, err := lookupMount(dir)
	return m.dev, err
}

// SetReadAhead sets how many KiB the kernel reads ahead on the mount with the device number
// dev, "major:minor". It works once the mount is served, and needs a writable /sys.
func SetReadAhead(dev string, kib int) error {
	return os.WriteFile("/sys/class/bdi/"+dev+"/read_ahead_kb", fmt.Appendf(nil, "%d", kib), 0)
}
