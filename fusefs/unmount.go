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
// ends the connection: files that are still open fail with ENOTCONN from then on. It is no
// error if the mount is gone already. An error means that the server may still be running.
func (s *Server) Unmount(ctx context.Context) error {
	s.unmount.Lock()
	defer s.unmount.Unlock()
	if s.dir == "" {
		return errors.New("this mount was made by another process, which must unmount it")
	}
	grace, cancel := context.WithTimeout(ctx, s.o.Grace)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		select {
		case <-s.done:
			return nil
		default:
		}
		err := umount(s.dir, 0)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("unmount %s: %w", s.dir, err)
		}
		select {
		case <-time.After(wait):
			continue
		case <-s.done:
			return nil
		case <-grace.Done():
		}
		s.o.Log.Warn("the mount is still in use; detaching it, open files will fail", "dir", s.dir)
		if err := s.force(); err != nil {
			return fmt.Errorf("unmount %s: %w", s.dir, err)
		}
		break
	}
	// Requests under way end with their I/O, which a hanging storage can delay.
	select {
	case <-s.done:
		return nil
	case <-time.After(s.o.Grace):
	case <-ctx.Done():
	}
	select {
	case <-s.done:
		return nil
	default:
		return fmt.Errorf("unmount %s: the mount is gone, but requests are still being answered", s.dir)
	}
}

// force ends the connection with the kernel and detaches the mount, whoever uses it.
func (s *Server) force() error {
	if s.dev != "" && os.Geteuid() != 0 {
		// Only root may use MNT_FORCE; this file belongs to the user who mounted.
		_, minor, _ := strings.Cut(s.dev, ":")
		_ = os.WriteFile("/sys/fs/fuse/connections/"+minor+"/abort", []byte("1"), 0)
	}
	return umount(s.dir, unix.MNT_DETACH|unix.MNT_FORCE)
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
