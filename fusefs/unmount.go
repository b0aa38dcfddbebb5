package fusefs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Unmount unmounts and waits until the serving has ended. While the mount is in use it tries
// again for Options.Grace (or until ctx ends, if that is sooner); then it detaches the mount and
// ends the connection: files that are still open fail with ENOTCONN from then on. The same happens
// to a copy of the mount in another mount namespace that outlives it by Grace. It is no error if
// the mount is gone already. An error means that the server may still be running.
func (s *Server) Unmount(ctx context.Context) error {
	if s.at == nil {
		return errors.New("this mount was made by another process, which must unmount it")
	}
	if err := s.at.leave(ctx, s.done); err != nil {
		return err
	}
	// Requests under way end with their I/O, which a hanging storage can delay.
	if s.ended(ctx) {
		return nil
	}
	// Whatever made a mount namespace while this was mounted has a copy, and the files with it.
	s.o.Log.Warn("another mount namespace still has a copy of the mount, or requests hang; ending the connection", "dir", s.at.dir)
	err := s.at.abort()
	if s.ended(context.WithoutCancel(ctx)) {
		return nil
	}
	return errors.Join(fmt.Errorf("unmount %s: the mount is gone, but requests are still being answered", s.at.dir), err)
}

// ended waits for the end of the serving, for Options.Grace at most.
func (s *Server) ended(ctx context.Context) bool {
	select {
	case <-s.done:
	case <-time.After(s.o.Grace):
	case <-ctx.Done():
	}
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// Unmount is Server's Unmount for a mount that another process serves, for which it does not wait:
// copies of the mount in other mount namespaces end with that process.
func (m *Mountpoint) Unmount(ctx context.Context) error { return m.leave(ctx, nil) }

// leave unmounts; it returns, too, when served is closed.
func (m *Mountpoint) leave(ctx context.Context, served <-chan struct{}) error {
	m.unmount.Lock()
	defer m.unmount.Unlock()
	grace, cancel := context.WithTimeout(ctx, m.o.Grace)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		select {
		case <-served:
			return nil
		default:
		}
		err := umount(m.dir, 0)
		if err == nil {
			return nil
		}
		if served == nil && !m.mounted() {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("unmount %s: %w", m.dir, err)
		}
		select {
		case <-time.After(wait):
			continue
		case <-served:
			return nil
		case <-grace.Done():
		}
		m.o.Log.Warn("the mount is still in use; detaching it, open files will fail", "dir", m.dir)
		if err := m.force(); err != nil {
			return fmt.Errorf("unmount %s: %w", m.dir, err)
		}
		return nil
	}
}

// mounted tells whether the mount is still there: somebody else may have unmounted it.
func (m *Mountpoint) mounted() bool {
	now, err := lookupMount(m.dir)
	return err == nil && now.fstype == "fuse."+fsName && (m.dev == "" || m.dev == now.dev)
}

// force ends the connection with the kernel and detaches the mount, whoever uses it.
func (m *Mountpoint) force() error {
	if os.Geteuid() != 0 {
		_ = m.abort() // only root may use MNT_FORCE
	}
	return umount(m.dir, unix.MNT_DETACH|unix.MNT_FORCE)
}

// abort ends the connection with the kernel, wherever it is mounted.
func (m *Mountpoint) abort() error {
	_, minor, ok := strings.Cut(m.dev, ":")
	if !ok {
		return errors.New("the mount's device is not known")
	}
	name := minor + "/abort"
	// The file belongs to the user who mounted.
	err := os.WriteFile("/sys/fs/fuse/connections/"+name, []byte("1"), 0)
	if err == nil || os.Geteuid() != 0 {
		return err
	}
	// Where nobody has mounted that file system, root can have it without a mount point.
	control, err := openControl()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(control) }()
	fd, err := unix.Openat(control, name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // it has ended meanwhile
	}
	if err != nil {
		return fmt.Errorf("fusectl: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	_, err = unix.Write(fd, []byte("1"))
	return err
}

// openControl opens the root of the kernel's file system of FUSE connections
// (Documentation/filesystems/fuse/fuse.rst), mounted nowhere.
func openControl() (dir int, err error) {
	fs, err := unix.Fsopen("fusectl", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fusectl: %w", err)
	}
	defer func() { _ = unix.Close(fs) }()
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("fusectl: %w", err)
	}
	dir, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fusectl: %w", err)
	}
	return dir, nil
}

// detach removes a mount whose server has ended.
func detach(dir string) error { return umount(dir, unix.MNT_DETACH) }

// umount is umount2(2), by way of fusermount3 where we are not root.
func umount(dir string, flags int) error {
	if os.Geteuid() == 0 {
		return retry(func() error { return unix.Unmount(dir, flags|unix.UMOUNT_NOFOLLOW) })
	}
	arg := "-u"
	if flags&unix.MNT_DETACH != 0 {
		arg = "-uz"
	}
	out, err := exec.Command("fusermount3", arg, "--", dir).CombinedOutput()
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(string(out))
	if strings.Contains(text, "busy") {
		return unix.EBUSY
	}
	return fmt.Errorf("%w: %s", err, text)
}
