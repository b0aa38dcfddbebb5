package guestfs

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/extent"
	"vmfr/agent/guestfs/sandbox"
	"vmfr/agent/guestfs/wire"
	"vmfr/agent/volume"
)

// lentHelper is a helper as a supervisor lends it, whose other ends a test has.
type lentHelper struct {
	conn, lease *net.UnixConn
	log         *os.File
	disk        string // path of its disk's socket
}

// pair is a connection of which one end is handed over.
func pair(t *testing.T) (*net.UnixConn, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "socket")
	c, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.UnixConn), os.NewFile(uintptr(fds[1]), "socket")
}

// lend makes a helper that has handed over the socket of one disk.
func lend(t *testing.T) (*lentHelper, *Helper) {
	t.Helper()
	h, out := &lentHelper{disk: filepath.Join(t.TempDir(), "d0.sock")}, &Helper{}
	h.conn, out.Conn = pair(t)
	h.lease, out.Lease = pair(t)
	var err error
	if out.Log, h.log, err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", h.disk)
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		_, _, err = h.conn.WriteMsgUnix([]byte("disks"), unix.UnixRights(int(fd)), nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.Close(), l.Close()
	return h, out
}

// end is what a supervisor does when the helper has ended.
func (h *lentHelper) end(why string) {
	_, _ = h.conn.Close(), h.log.Close()
	_, _ = h.lease.Write([]byte(why))
	_ = h.lease.Close()
}

// TestLent: a helper that somebody else started is served the disk, waited for, told apart from
// one's own by why it ended, and given up with its lease.
func TestLent(t *testing.T) {
	var h *lentHelper
	given, wait, asked := errors.New("nobody has one"), make(chan struct{}), 0
	o := Options{KeySource: "a letter", Idle: time.Hour, Lend: func(ctx context.Context, backup string, disks int, waiting func(string)) (*Helper, error) {
		asked++
		waiting("it waits for the test")
		<-wait
		if backup != "nightly" || disks != 1 {
			t.Errorf("asked for %s with %d disks", backup, disks)
		}
		var out *Helper
		if given == nil {
			h, out = lend(t)
			go h.serve(t)
		}
		return out, given
	}}
	f, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	a := f.Backup("nightly", []volume.Disk{{Name: "disk", Reader: extent.Zeros(1 << 20)}}).(*Appliance)
	defer a.Close()
	got := make(chan error)
	list := func() {
		found, err := a.Filesystems(t.Context())
		if err == nil && (len(found) != 1 || !strings.Contains(found[0].Err.Error(), "give its passphrase with a letter")) {
			t.Errorf("found %+v", found)
		}
		got <- err
	}
	go list()
	waitUntil(t, func() bool { return a.Status().Stage == "it waits for the test" })
	close(wait)
	if err := <-got; err == nil || !strings.Contains(err.Error(), "nobody has one") || strings.Contains(err.Error(), "libguestfs-test-tool") {
		t.Errorf("none lent: %v", err)
	}
	a.mu.Lock()
	a.retryAt, given = time.Time{}, nil
	a.mu.Unlock()
	go list()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	_, _ = h.log.WriteString("first\nlast words\n")
	h.end("it needed more memory than it may have")
	waitUntil(t, func() bool { return a.Status().State == stateFailed })
	if err := a.Status().Err; !strings.Contains(err.Error(), "more memory than it may have") || !strings.Contains(err.Error(), `"last words"`) {
		t.Errorf("after its end: %v", err)
	}
	a.mu.Lock()
	a.retryAt = time.Time{}
	a.mu.Unlock()
	if _, release, err := a.use(t.Context()); err != nil {
		t.Fatal(err)
	} else {
		release()
	}
	if asked != 3 {
		t.Errorf("asked for %d helpers", asked)
	}
	ended := make(chan error)
	go func() {
		_, err := h.lease.Read(make([]byte, 1)) // a helper that hangs is ended all the same
		h.end("")
		ended <- err
	}()
	closed := make(chan error)
	go func() { closed <- a.Close() }()
	if err := <-ended; err != io.EOF {
		t.Errorf("the lease ended with %v", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// serve answers what an appliance with one encrypted disk would, which it reads first.
func (h *lentHelper) serve(t *testing.T) {
	c := wire.NewConn(h.conn)
	for {
		var r wire.Request
		if _, err := c.Receive(&r); err != nil {
			return
		}
		reply := wire.Reply{ID: r.ID}
		switch r.Op {
		case wire.Start:
			nbd, err := net.Dial("unix", h.disk)
			if err != nil {
				t.Error(err)
				continue
			}
			magic := make([]byte, 8)
			if _, err := io.ReadFull(nbd, magic); err != nil || string(magic) != "NBDMAGIC" {
				t.Errorf("the disk says %q, %v", magic, err)
			}
			_ = nbd.Close()
		case wire.Scan:
			reply.Volumes = []wire.Volume{{Device: "/dev/sda", Type: "crypto_LUKS", Encrypted: true, Locked: true}}
		}
		if c.Send(&reply, nil) != nil {
			return
		}
	}
}

// TestReceive: what is not the sockets of the disks is refused, and leaves no descriptor open.
func TestReceive(t *testing.T) {
	for name, send := range map[string]func(*net.UnixConn){
		"nothing": func(c *net.UnixConn) { _ = c.Close() },
		"a frame": func(c *net.UnixConn) { _, _ = c.Write([]byte{0, 0, 0, 1}) },
		"too many": func(c *net.UnixConn) {
			_, _, _ = c.WriteMsgUnix([]byte("disks"), unix.UnixRights(0, 0, 0), nil)
		},
		"no sockets": func(c *net.UnixConn) {
			f, err := os.Open("/dev/null")
			if err == nil {
				_, _, _ = c.WriteMsgUnix([]byte("disks"), unix.UnixRights(int(f.Fd())), nil)
				_ = f.Close()
			}
		},
	} {
		c, theirs := pair(t)
		before := descriptors(t)
		send(c)
		if _, err := sandbox.Receive(theirs, 1); err == nil {
			t.Errorf("%s: taken for sockets", name)
		}
		if after := descriptors(t); after > before {
			t.Errorf("%s: %d descriptors, %d before", name, after, before)
		}
		_ = theirs.Close()
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}
