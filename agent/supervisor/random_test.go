package supervisor

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/session"
)

// TestRandom does what holders and fate may do, in any order and at any moment, to many sessions
// at a time: every Hello is answered, whoever leaves in order is told that its descriptors are closed,
// a session that has its parts is served, and in the end nothing is left.
func TestRandom(t *testing.T) {
	sequences, atOnce := 200, 24
	if testing.Short() {
		sequences = 48
	}
	n := startNode(t, func(c *Config) { c.Log = slog.New(slog.DiscardHandler); c.MaxSessions, c.UIDs = sequences, 1024 })
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	var all sync.WaitGroup
	places := make(chan struct{}, atOnce)
	for i := range sequences {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			q := &sequence{r: n.newRestore(), rand: rand.New(rand.NewPCG(seed, uint64(i))), parts: map[string]*session.Conn{}}
			if err := q.run(); err != nil {
				t.Errorf("sequence %d of seed %d: %v\n%s", i, seed, err, strings.Join(q.did, "\n"))
			}
		})
	}
	all.Wait()
	n.idle()
	eventually(t, func() error {
		if now := openFiles(t) - 3*sequences; now > files { // listener and disks are each restore's
			return fmt.Errorf("%d descriptors are open, %d were before", now, files)
		}
		if now := runtime.NumGoroutine(); now > goroutines {
			b := make([]byte, 1<<20)
			return fmt.Errorf("%d goroutines, %d were before:\n%s", now, goroutines, b[:runtime.Stack(b, true)])
		}
		children, _ := filepath.Glob("/proc/self/task/*/children")
		for _, c := range children {
			if b, _ := os.ReadFile(c); len(b) > 0 {
				return fmt.Errorf("children %s are left", b)
			}
		}
		return nil
	})
	if m := n.metricsText(); strings.Contains(m, "vmfr_node_session_") || !strings.Contains(m, "vmfr_node_held_descriptors 0\n") {
		t.Errorf("series of sessions that have ended:\n%s", m)
	}
}

func openFiles(t testing.TB) int {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// sequence is what happens to one session.
type sequence struct {
	r       *restore
	rand    *rand.Rand
	parts   map[string]*session.Conn // that were accepted, and not left since
	version int                      // of the credentials
	did     []string
}

func (q *sequence) note(format string, args ...any) {
	q.did = append(q.did, fmt.Sprintf(format, args...))
}

func (q *sequence) run() error {
	for range 4 + q.rand.IntN(8) {
		part := []string{frontPart, "one", "two"}[q.rand.IntN(3)]
		var err error
		switch q.rand.IntN(8) {
		case 0, 1, 2:
			err = q.arrive(part)
		case 3:
			err = q.leave(part)
		case 4:
			q.vanish(part)
		case 5:
			err = q.update()
		case 6:
			q.kill()
		case 7:
			err = q.truncated()
		}
		if err != nil {
			return err
		}
		if q.rand.IntN(3) == 0 {
			time.Sleep(time.Duration(q.rand.IntN(int(2 * settle)))) // any moment of a worker's start
		}
	}
	if err := q.served(); err != nil {
		return err
	}
	// The end: all leave, half of them without a word.
	for part := range q.parts {
		if q.rand.IntN(2) == 0 {
			q.vanish(part)
		} else if err := q.leave(part); err != nil {
			return err
		}
	}
	return nil
}

// arrive brings a part, also one that is there.
func (q *sequence) arrive(part string) error {
	q.note("arrive %q", part)
	c, m, err := q.r.join(part, fmt.Sprintf("v%d", q.version))
	if err != nil {
		return fmt.Errorf("no answer to a Hello: %w", err)
	}
	if m.Accepted == nil {
		_ = c.Close()
		return fmt.Errorf("a Hello was refused: %+v", m.Refused)
	}
	if old := q.parts[part]; old != nil {
		_ = old.Close()
	}
	q.parts[part] = c
	return nil
}

// leave ends in order.
func (q *sequence) leave(part string) error {
	c := q.parts[part]
	if c == nil {
		return nil
	}
	q.note("leave %q", part)
	delete(q.parts, part)
	defer c.Close()
	if err := c.Send(&session.Message{Closing: &session.Closing{}}, patience); err != nil {
		return fmt.Errorf("leaving: %w", err)
	}
	for {
		m, err := c.Receive(patience)
		if err != nil {
			return fmt.Errorf("nothing confirms that %q is closed: %w", part, err)
		}
		if m.Closed != nil {
			return nil
		}
	}
}

// vanish ends without a word.
func (q *sequence) vanish(part string) {
	if c := q.parts[part]; c != nil {
		q.note("vanish %q", part)
		delete(q.parts, part)
		_ = c.Close()
	}
}

func (q *sequence) update() error {
	c := q.parts[frontPart]
	if c == nil {
		return nil
	}
	q.version++
	q.note("update to v%d", q.version)
	if err := c.Send(&session.Message{Update: &session.Update{Credentials: session.Credentials{SSHUser: fmt.Appendf(nil, "v%d", q.version)}}}, patience); err != nil {
		return fmt.Errorf("an update: %w", err)
	}
	return nil
}

// kill kills a worker of the session, wherever it is.
func (q *sequence) kill() {
	n := q.r.n
	n.mu.Lock()
	x := n.sessions[q.r.doc.ID]
	n.mu.Unlock()
	if x == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for w := range x.workers {
		w.mu.Lock()
		if w.process != nil {
			q.note("kill %d", w.pid)
			_ = w.process.Signal(unix.SIGKILL)
		}
		w.mu.Unlock()
		return
	}
}

// truncated is a Hello with descriptors that ends in the middle.
func (q *sequence) truncated() error {
	q.note("truncated")
	c, err := q.r.n.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	m := q.r.hello("one", "")
	m.Hello.Token = strings.Repeat("x", session.MaxToken)
	if err := c.Send(m, time.Nanosecond); err == nil {
		// It got through at once: then it is a Hello with a token of nobody.
		m, err := c.Receive(patience)
		if err != nil || m.Refused == nil {
			return fmt.Errorf("a token of nobody: %+v, %w", m, err)
		}
	}
	return nil
}

// served tells whether the session does what its parts allow.
func (q *sequence) served() error {
	if q.parts[frontPart] == nil {
		return nil
	}
	want := fmt.Sprintf("v%d ", q.version)
	backups := 0
	for p := range q.parts {
		if p != frontPart {
			backups++
		}
	}
	q.note("expect %s%d", want, backups)
	var line string
	var err error
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		// Workers that end, and parts that vanished, may still answer for a while.
		if line, err = q.r.greeting(); err == nil && line == fmt.Sprintf("%s%d", want, backups) {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
			break
		}
	}
	return fmt.Errorf("a client hears %q, %w, want %s%d", line, err, want, backups)
}
