package session

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	api "vmfr/api/session"
	"vmfr/test/stuck"
)

// soon is how long what must not wait for a stranger may take on a busy machine; a stranger takes for ever.
const soon = 10 * time.Second

// within fails the test if f takes longer than soon.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(soon):
		t.Fatalf("%s takes more than %s", what, soon)
	}
}

// sendLast sends b with f's descriptor and closes f: the socket has the last copy then.
func sendLast(t *testing.T, c *net.UnixConn, b []byte, f *os.File) {
	t.Helper()
	if err := control(f, func(fd int) error {
		_, _, err := c.WriteMsgUnix(b, unix.UnixRights(fd), nil)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
}

// TestStuckSocket hands over sockets that keep whoever closes them, at every place of a message.
func TestStuckSocket(t *testing.T) {
	run := frame(0, `{"run":{}}`)
	for name, send := range map[string]func(t *testing.T, far *net.UnixConn){
		"with a header": func(t *testing.T, far *net.UnixConn) {
			sendLast(t, far, frame(1, `{"run":{}}`), stuck.Socket(t))
		},
		"more than a message may have": func(t *testing.T, far *net.UnixConn) {
			f := stuck.Socket(t)
			fds := make([]int, 2*MaxFiles)
			if err := control(f, func(fd int) error {
				for i := range fds {
					fds[i] = fd
				}
				_, _, err := far.WriteMsgUnix(run, unix.UnixRights(fds...), nil)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
		},
		"with a body": func(t *testing.T, far *net.UnixConn) {
			if _, err := far.Write(run[:headerSize]); err != nil {
				t.Fatal(err)
			}
			sendLast(t, far, run[headerSize:], stuck.Socket(t))
		},
		"after the end": func(t *testing.T, far *net.UnixConn) {
			if _, err := far.Write([]byte("GET / HTTP/1")); err != nil {
				t.Fatal(err)
			}
			sendLast(t, far, run, stuck.Socket(t))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, far := pair(t)
			send(t, far)
			within(t, "a message", func() {
				if m, err := c.Receive(patience); !errors.Is(err, ErrProtocol) {
					t.Errorf("%+v, %v", m, err)
				}
			})
			within(t, "the end", func() { _ = c.Close() })
		})
	}
}

// TestStuckFile hands over a file whose server does not answer whoever closes it. That it is not to be
// waited for (O_NONBLOCK) would make the Go runtime's poller ask the server whether it is ready, and keep
// the whole process until it answers.
func TestStuckFile(t *testing.T) {
	m := stuck.New(t)
	c, far := pair(t)
	fd := m.Open(t, unix.O_NONBLOCK)
	b := frame(1, `{"part":{"backup":"nightly","disks":[{}]}}`)
	if _, _, err := far.WriteMsgUnix(b, unix.UnixRights(fd), nil); err != nil {
		t.Fatal(err)
	}
	var got *Message
	within(t, "a message", func() {
		var err error
		if got, err = c.Receive(patience); err != nil || len(got.Files) != 1 {
			t.Errorf("%+v, %v", got, err)
		}
	})
	within(t, "a look at it", func() {
		if err := CheckDisk(got.Files[0], api.Filesystem); err != nil {
			t.Error(err)
		}
	})
	within(t, "closing it", got.Close)
	if n := m.Polls(); n > 0 {
		t.Errorf("its server was asked %d times whether it is ready", n)
	}
	for until := time.Now().Add(patience); m.Flushes() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("nothing has waited for its server: this test tests nothing")
		}
	}
	go func() { _ = unix.Close(fd) }() // until the end of m
}
