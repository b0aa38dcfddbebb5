package supervisor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/session"
	api "vmfr/api/session"
	"vmfr/test/fixture"
)

// client is a transfer that lasts until it is cut.
func (r *restore) client() *bufio.Reader {
	r.n.t.Helper()
	c, err := net.Dial("tcp", r.address)
	if err != nil {
		r.n.t.Fatal(err)
	}
	r.n.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetReadDeadline(time.Now().Add(3 * patience)) // others wait for something before it is to be cut
	b := bufio.NewReader(c)
	if _, err := b.ReadString('\n'); err != nil {
		r.n.t.Fatal(err)
	}
	return b
}

// hears waits until new clients hear want: a worker that was told to end may take some more.
func (r *restore) hears(want string) {
	r.n.t.Helper()
	eventually(r.n.t, func() error {
		if line, err := r.greeting(); err != nil || line != want {
			return fmt.Errorf("a client hears %q, not %q, %w", line, want, err)
		}
		return nil
	})
}

// newest is the process that serves a session.
func (r *restore) newest() (pid, restarts int) {
	r.n.mu.Lock()
	x := r.n.sessions[r.doc.ID]
	r.n.mu.Unlock()
	if x == nil {
		return 0, 0
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.serving == nil {
		return 0, x.restarts
	}
	return x.serving.pid, x.restarts
}

// TestReturning: to a new agent a session's holders come back one after the other, and no client meets
// a part of it.
func TestReturning(t *testing.T) {
	t.Parallel()
	n := startNode(t, func(c *Config) { c.Returning = time.Hour })
	r := n.newRestore()
	r.mustJoin(frontPart, "old")
	r.mustJoin("one", "")
	heard := make(chan string, 1)
	go func() {
		line, err := r.greeting()
		heard <- fmt.Sprint(line, err)
	}()
	select {
	case line := <-heard:
		t.Errorf("a client heard %q before all were back", line)
	case <-time.After(time.Second):
	}
	r.mustJoin("two", "")
	r.hears("old 2")
}

// TestRenewal: what changes while a transfer goes on, and what the transfer sees of it.
func TestRenewal(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	r := n.newRestore()
	one := r.mustJoin("one", "")
	front := r.mustJoin(frontPart, "old")
	until(t, front, func(p *api.Report) bool { return p.State == api.Serving && p.Backups[0].State == api.Readable })
	transfer := r.client()
	first, _ := r.newest()

	// A backup joins: the transfer goes on beside a new worker.
	two := r.mustJoin("two", "")
	until(t, front, func(p *api.Report) bool { return p.Backups[1].State == api.Readable })
	r.hears("old 2")
	if err := unix.Kill(first, 0); err != nil {
		t.Errorf("the worker of a transfer is gone when a backup joins: %v", err)
	}

	// Its holder connects again with the same: nothing changes.
	second, _ := r.newest()
	again := r.mustJoin("two", "")
	until(t, again, func(p *api.Report) bool { return p.State == api.Serving })
	if m, err := two.Receive(patience); err == nil && m.Report != nil { // what came before
		m, err = two.Receive(patience)
		if err != nil || m.Closed == nil && m.Report == nil {
			t.Errorf("the connection that was replaced: %+v, %v", m, err)
		}
	}
	if now, _ := r.newest(); now != second {
		t.Errorf("a holder that only connected again cost a worker: %d, before %d", now, second)
	}

	// Credentials change: new clients at once, the transfer has a moment, and then ends.
	changed := time.Now()
	if err := front.Send(&session.Message{Update: &session.Update{Credentials: session.Credentials{SSHUser: []byte("new")}}}, patience); err != nil {
		t.Fatal(err)
	}
	// One that was told to take no more clients may not have heard of it yet.
	if line, err := r.greeting(); err != nil || line != "new 2" && line != "old 2" && line != "old 1" {
		t.Errorf("%q, %v", line, err)
	}
	if _, err := transfer.ReadString('\n'); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the transfer goes on with credentials that were taken away: %v", err)
	}
	if took := time.Since(changed); took < endLimit {
		t.Errorf("the transfer was cut after %s, not %s", took, endLimit)
	}
	r.hears("new 2")

	// A backup leaves: its descriptors are closed before its holder hears so.
	if err := one.Send(&session.Message{Closing: &session.Closing{}}, patience); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := one.Receive(patience)
		if err != nil {
			t.Fatal(err)
		}
		if m.Closed != nil {
			break
		}
	}
	if n := openAt(t, r.disks["one"]); n != 1 { // the holder's own
		t.Errorf("the disk is open %d times when its holder hears that it is closed", n)
	}
	r.hears("new 1")
	if n := openAt(t, r.disks["two"]); n < 3 { // the holder's, the supervisor's, the worker's
		t.Errorf("the disk of the backup that stays is open %d times", n)
	}
}

// TestSuperseded: whom a worker let in before it could say that it serves, is not cut off because a part joins.
func TestSuperseded(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	r := n.newRestore()
	r.mustJoin("one", "")
	r.mustJoin(frontPart, "late")
	transfer := r.client()
	joined := time.Now()
	r.mustJoin("two", "")
	if _, err := transfer.ReadString('\n'); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the worker stays: %v", err)
	}
	if took := time.Since(joined); took < endLimit {
		t.Errorf("the transfer was cut after %s", took)
	}
	r.hears("late 2")
}

// unresponsive is the Patience of agents whose tests wait for it to end. It begins with a worker's start, which takes
// seconds on a busy machine.
const unresponsive = 8 * time.Second

// TestMisbehaving: workers that do not do what they should are killed and started again, and no
// other session sees anything of it.
func TestMisbehaving(t *testing.T) {
	t.Parallel()
	n := startNode(t, func(c *Config) { c.Patience = unresponsive })
	other := serving(t, n.newRestore())
	calm, _ := other.newest()
	for user, want := range map[string]string{
		"flood": "too many messages", "garbage": "no vmfr message", "hang": "it did not answer for 8s and was killed",
	} {
		r := n.newRestore()
		r.mustJoin("one", "")
		p := until(t, r.mustJoin(frontPart, user), func(p *api.Report) bool { return p.Restarts > 0 && p.State == api.Waiting })
		if !strings.Contains(p.Message, want) {
			t.Errorf("%s: %+v", user, p)
		}
	}
	if m := n.metricsText(); strings.Contains(m, "vmfr_node_workers_hung_total 0\n") || strings.Contains(m, "vmfr_node_worker_restarts_total 0\n") {
		t.Errorf("nothing was counted:\n%s", m)
	}
	if line, err := other.greeting(); err != nil || line != "u 1" {
		t.Errorf("another session: %q, %v", line, err)
	}
	if now, restarts := other.newest(); now != calm || restarts != 0 {
		t.Errorf("another session's worker is %d after %d restarts, it was %d", now, restarts, calm)
	}
}

// TestStopped: a worker whose process does not run any more is killed.
func TestStopped(t *testing.T) {
	t.Parallel()
	n := startNode(t, func(c *Config) { c.Patience = unresponsive })
	r := n.newRestore()
	r.mustJoin("one", "")
	front := r.mustJoin(frontPart, "u")
	until(t, front, func(p *api.Report) bool { return p.State == api.Serving })
	pid, before := r.newest()
	fixture.Stop(t, pid)
	until(t, front, func(p *api.Report) bool { return p.Restarts > before && p.State == api.Serving })
	if line, err := r.greeting(); err != nil || line != "u 1" {
		t.Errorf("%q, %v", line, err)
	}
	// Health is asked of nobody: it is the same with a worker that hangs.
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the stopped worker is still there: %v", err)
	}
}

// TestBroken: a worker that says that something is broken is replaced, and transfers go on.
func TestBroken(t *testing.T) {
	t.Parallel()
	n := startNode(t, func(c *Config) { c.Patience = unresponsive })
	r := n.newRestore()
	r.mustJoin("one", "")
	front := r.mustJoin(frontPart, "broken")
	until(t, front, func(p *api.Report) bool { return p.State == api.Serving })
	transfer := r.client()
	first, _ := r.newest()
	until(t, front, func(p *api.Report) bool {
		if p.State != api.Serving {
			t.Errorf("the session stopped serving: %+v", p)
		}
		now, _ := r.newest()
		return p.Restarts > 0 && now != first && now != 0
	})
	if err := unix.Kill(first, 0); err != nil {
		t.Errorf("the worker that has a transfer is gone: %v", err)
	}
	if transfer.Buffered() != 0 {
		t.Error("the client heard something else")
	}
}

// TestRecords: lines of the audit log belong to the session whose worker wrote them, whatever they say.
func TestRecords(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit")
	n := startNode(t, func(c *Config) { c.Audit = openAudit(t, path) })
	r := n.newRestore()
	r.mustJoin("one", "")
	until(t, r.mustJoin(frontPart, "audit"), func(p *api.Report) bool { return p.State == api.Serving })
	a := n.cfg.Audit
	eventually(t, func() error {
		if a.written.Load() < 5 {
			return errors.New("lines are missing")
		}
		return nil
	})
	n.end()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	lines := auditLines(t, path)
	records, refused := 0, 0
	for _, l := range lines {
		if l.Session != r.doc.ID[:12] || l.Namespace != "velero" || l.Name != r.doc.Name || l.Node != "node-1" {
			t.Errorf("a line of another session: %+v", l)
		}
		if l.Record != nil {
			records++
		}
		if l.Refused != "" {
			refused++
		}
	}
	if records != 3 || refused != 2 || a.refused.Load() != 2 {
		t.Errorf("%d records and %d refusals: %+v", records, refused, lines)
	}
}

// openAt counts the descriptors of a file in all processes.
func openAt(t testing.TB, f *os.File) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == f.Name() {
			n++
		}
	}
	return n
}
