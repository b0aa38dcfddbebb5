package supervisor

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vmfr/agent/session"
	api "vmfr/api/session"
)

// refused brings a part that must not be taken.
func (r *restore) refused(part, why string) {
	r.n.t.Helper()
	c, m, err := r.join(part, "")
	if err != nil {
		r.n.t.Fatal(err)
	}
	_ = c.Close()
	if m.Refused == nil || !strings.Contains(m.Refused.Reason, why) {
		r.n.t.Errorf("%+v, want a refusal because of %q", m, why)
	}
}

// TestLimits: one more than what is allowed is refused with advice, and taken when there is room.
func TestLimits(t *testing.T) {
	t.Parallel()
	t.Run("sessions", func(t *testing.T) {
		n := startNode(t, func(c *Config) { c.MaxSessions = 2 })
		n.newRestore().mustJoin("one", "")
		second := n.newRestore().mustJoin("one", "")
		third := n.newRestore()
		third.refused("one", "serves 2 sessions, which is its limit")
		_ = second.Close()
		eventually(t, func() error {
			c, m, err := third.join("one", "")
			if err == nil && m.Accepted == nil {
				_ = c.Close()
				err = errors.New("still refused")
			}
			return err
		})
	})
	t.Run("of a namespace", func(t *testing.T) {
		n := startNode(t, nil)
		tenant := func() *restore {
			r := n.newRestore()
			return r
		}
		join := func(r *restore) (*session.Message, error) {
			c, err := n.dial()
			if err != nil {
				return nil, err
			}
			t.Cleanup(func() { _ = c.Close() })
			m := r.hello("one", "")
			m.Hello.Token = "tenant/holder/pod"
			if err := c.Send(m, patience); err != nil {
				return nil, err
			}
			return c.Receive(patience)
		}
		for i := range perNamespace + 1 {
			m, err := join(tenant())
			if err != nil {
				t.Fatal(err)
			}
			if (m.Refused != nil) != (i == perNamespace) {
				t.Fatalf("session %d: %+v", i, m)
			}
		}
		n.newRestore().mustJoin("one", "") // of another namespace
	})
	t.Run("descriptors", func(t *testing.T) {
		n := startNode(t, func(c *Config) { c.MaxDescriptors = 4 })
		r, other := n.newRestore(), n.newRestore()
		r.mustJoin("one", "")
		two := r.mustJoin("two", "")
		r.refused(frontPart, "holds 2 descriptors for sessions of the namespace "+r.doc.Name+", of at most 2")
		for _, part := range []string{"one", "two"} { // what one namespace cannot take is left for others
			other.mustJoin(part, "")
		}
		n.newRestore().refused("one", "holds 4 descriptors of at most 4")
		_ = two.Close()
		eventually(t, func() error {
			n.mu.Lock()
			defer n.mu.Unlock()
			if n.files != 3 {
				return errors.New("nothing was given back")
			}
			return nil
		})
		r.mustJoin(frontPart, "")
	})
	t.Run("connections", func(t *testing.T) {
		n := startNode(t, nil)
		n.mu.Lock()
		for range maxConnections { // as many holders would take long to start
			n.conns[session.NewConn(nil)] = true
		}
		n.mu.Unlock()
		c, err := n.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Receive(patience); !errors.Is(err, io.EOF) {
			t.Errorf("%v instead of the end", err)
		}
		n.mu.Lock()
		clear(n.conns)
		n.mu.Unlock()
		n.newRestore().mustJoin("one", "")
	})
	t.Run("identities", func(t *testing.T) {
		n := startNode(t, func(c *Config) { c.UIDs = 2 })
		for range 2 {
			if _, err := serving(t, n.newRestore()).greeting(); err != nil {
				t.Fatal(err)
			}
		}
		r := n.newRestore()
		r.mustJoin("one", "")
		until(t, r.mustJoin(frontPart, ""), func(p *api.Report) bool { return strings.Contains(p.Message, "user ids") })
	})
}

// serving is a session of a front and one backup.
func serving(t testing.TB, r *restore) *restore {
	t.Helper()
	r.mustJoin("one", "")
	until(t, r.mustJoin(frontPart, "u"), func(p *api.Report) bool { return p.State == api.Serving })
	return r
}

// TestSilent: those who connect and say nothing, or not all, keep nobody from being served, and
// do not stay.
func TestSilent(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	other := serving(t, n.newRestore())
	var silent []net.Conn
	for i := range 3 * maxHandshakes {
		c, err := net.Dial("unix", filepath.Join(n.cfg.Dir, api.FileSocket))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		switch i % 3 {
		case 1:
			_, _ = c.Write([]byte("vmfr"))
		case 2:
			_, _ = c.Write([]byte("vmfr\x00\x01\x00\x00\x00\x00\x10\x00{"))
		}
		silent = append(silent, c)
	}
	began := time.Now()
	r := n.newRestore()
	r.mustJoin("one", "")
	took := time.Since(began)
	if took >= helloLimit { // with every place taken twice before, it would be twice that
		t.Errorf("a holder waited for %s among the silent", took)
	}
	t.Logf("a holder waited for %s behind %d silent ones", took, len(silent))
	if line, err := other.greeting(); err != nil || line != "u 1" {
		t.Errorf("another session: %q, %v", line, err)
	}
	for _, c := range silent {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Fatalf("a silent one is still connected: %v", err)
		}
	}
}

// TestFlood: a holder that sends more than it may, or what it must not, loses its part, as if it
// had ended; others are not touched.
func TestFlood(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	other := serving(t, n.newRestore())
	for name, m := range map[string]*session.Message{
		"too many":   {Update: &session.Update{}},
		"a worker's": {Stats: &session.Stats{}},
		"a report":   {Report: []byte(`{}`)},
		"again":      nil,
	} {
		r := n.newRestore()
		c := r.mustJoin(frontPart, "")
		if m == nil {
			m = r.hello(frontPart, "")
		}
		var err error
		for range 100 * messageBurst { // the agent allows some more for each second that it takes to read them
			if err = c.Send(m, patience); err != nil {
				break
			}
		}
		for err == nil {
			_, err = c.Receive(patience)
		}
		m.Close()
		eventually(t, func() error {
			n.mu.Lock()
			defer n.mu.Unlock()
			if n.sessions[r.doc.ID] != nil {
				return errors.New(name + ": the session goes on")
			}
			return nil
		})
	}
	if line, err := other.greeting(); err != nil || line != "u 1" {
		t.Errorf("another session: %q, %v", line, err)
	}
}
