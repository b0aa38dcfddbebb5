package supervisor

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"vmfr/agent/session"
	"vmfr/test/stuck"
)

// soon is how long what must not wait for a stranger may take on a busy machine; a stranger takes for ever.
const soon = 15 * time.Second

// within fails the test if f takes longer than soon.
func within(t *testing.T, what string, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	case <-time.After(soon):
		t.Fatalf("%s takes more than %s", what, soon)
	}
}

// serves fails the test unless a new session is served.
func (n *node) serves(t *testing.T, what string) {
	t.Helper()
	r := n.newRestore()
	for _, part := range []string{frontPart, "one", "two"} {
		within(t, what, func() error {
			c, m, err := r.join(part, "user")
			if err == nil {
				t.Cleanup(func() { _ = c.Close() })
				if m.Accepted == nil {
					err = fmt.Errorf("refused: %+v", m.Refused)
				}
			}
			return err
		})
	}
	within(t, what, func() error {
		for {
			if line, err := r.greeting(); err != nil || line == "user 2" {
				return err
			}
		}
	})
}

// TestStuckDisk has a session with a disk on a FUSE file system whose server does not answer whoever closes
// it: a process that is started with a copy of the descriptor cannot even begin its program. Other sessions
// go on while it is held, and while it is being closed; its holder is told when it is.
func TestStuckDisk(t *testing.T) {
	n := startNode(t, nil)
	r := n.newRestore()
	m := stuck.New(t)
	_ = r.disks["one"].Close()
	r.disks["one"] = os.NewFile(uintptr(m.Open(t, 0)), "stuck")
	holder := r.mustJoin("one", "") // and no front, since a worker would have a copy, too
	n.serves(t, "a session beside one whose disk is stuck")

	before := m.Flushes()
	if err := holder.Send(&session.Message{Closing: &session.Closing{}}, patience); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if m.Flushes() == before {
			return fmt.Errorf("nobody closes the disk")
		}
		return nil
	})
	within(t, "/metrics", func() error { _ = n.metricsText(); return nil })
	n.serves(t, "a session beside one whose disk is being closed")
	within(t, "a message of another part", func() error {
		c, m, err := r.join("two", "")
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
			if m.Accepted == nil {
				err = fmt.Errorf("refused: %+v", m.Refused)
			}
		}
		return err
	})
	if _, err := closed(holder, time.Second/2); err == nil {
		t.Error("it is told to be closed before it is")
	}
	m.Release()
	if _, err := closed(holder, patience); err != nil {
		t.Errorf("nothing confirms that the disk is closed: %v", err)
	}
}

// closed receives until the supervisor says that descriptors are closed.
func closed(c *session.Conn, limit time.Duration) (*session.Closed, error) {
	for {
		m, err := c.Receive(limit)
		if err != nil {
			return nil, err
		}
		if m.Closed != nil {
			return m.Closed, nil
		}
	}
}

// TestStuckHellos has more of them than may be in their handshake, each refused, with such a file.
func TestStuckHellos(t *testing.T) {
	n := startNode(t, nil)
	r := n.newRestore()
	m := stuck.New(t)
	file := os.NewFile(uintptr(m.Open(t, 0)), "stuck")
	t.Cleanup(func() { _ = file.Close() })
	t.Cleanup(m.Release)
	var all sync.WaitGroup
	for range 2 * maxHandshakes {
		all.Go(func() {
			c, err := n.dial()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			hello := r.hello("one", "")
			hello.Hello.Token, hello.Files = "nobody", []*os.File{file}
			_ = c.Send(hello, patience)
			_, _ = c.Receive(soon) // a refusal, or nothing
		})
	}
	within(t, "their refusal", func() error { all.Wait(); return nil })
	n.serves(t, "a session after them")
}
