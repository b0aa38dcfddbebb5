package supervisor

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"vmfr/agent/session"
)

// asking is a worker of one backup with two readable disks of three, and its end of the connection.
func asking(t *testing.T, max int) (w *worker, ours, theirs *session.Conn) {
	t.Helper()
	sup := &Supervisor{cfg: Config{Appliances: &Appliances{Program: "/none", Dir: "/none"}}, uids: make(chan int, 1),
		places: places{max: max, turn: time.Hour, ask: func(*appliance) {}}}
	x := &sess{sup: sup, id: strings.Repeat("0", 64), log: slog.New(slog.DiscardHandler)}
	w = &worker{sess: x, gone: make(chan struct{}), parts: map[*part]int{
		{}: 0, {name: "nightly", disks: []session.Disk{{}, {Error: "it is not there"}, {}}}: 0,
	}}
	ours, f, err := session.Pair()
	if err != nil {
		t.Fatal(err)
	}
	if theirs, err = session.FileConn(f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(w.gone)
		sup.wg.Wait()
		_, _ = ours.Close(), theirs.Close()
	})
	return w, ours, theirs
}

// heard is the supervisor's next answer.
func heard(t *testing.T, c *session.Conn) *session.Helper {
	t.Helper()
	m, err := c.Receive(patience)
	if err != nil || m.Helper == nil {
		t.Fatalf("%+v, %v", m, err)
	}
	return m.Helper
}

// TestLend: what no worker of ours asks for ends it; what cannot be is refused with a reason.
func TestLend(t *testing.T) {
	for name, c := range map[string]struct {
		ask  session.Appliance
		want string
	}{
		"another's backup": {session.Appliance{Backup: "weekly", Disks: 1}, `of the backup "weekly"`},
		"the front":        {session.Appliance{Backup: "", Disks: 1}, "for 1 disks"},
		"too many disks":   {session.Appliance{Backup: "nightly", Disks: 3}, "for 3 disks"},
	} {
		w, conn, _ := asking(t, 1)
		if err := w.lend(conn, &c.ask); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w, conn, far := asking(t, 0)
	two := &session.Appliance{Backup: "nightly", Disks: 2}
	if err := w.lend(conn, two); err != nil {
		t.Fatal(err)
	}
	if h := heard(t, far); !strings.Contains(h.Waiting, "it waits for a free appliance: 0 run") {
		t.Errorf("without a place: %+v", h)
	}
	if err := w.lend(conn, two); err == nil || !strings.Contains(err.Error(), "two appliances at a time") {
		t.Errorf("a second one at a time: %v", err)
	}

	w, conn, far = asking(t, 1) // and no user id is free
	for _, want := range []string{"all user ids are in use", "too often"} {
		if err := w.lend(conn, two); err != nil {
			t.Fatal(err)
		}
		if h := heard(t, far); h.Backup != "nightly" || !strings.Contains(h.Error, want) {
			t.Errorf("%+v, want %q", h, want)
		}
		w.sess.sup.wg.Wait()
		w.lends.limit = rate.NewLimiter(0, 0)
	}
	w.lends.active["nightly"].Store(true)
	w.lends.limit = rate.NewLimiter(rate.Inf, 1)
	if err := w.lend(conn, two); err != nil {
		t.Fatal(err)
	}
	if h := heard(t, far); !strings.Contains(h.Error, "has not ended yet") {
		t.Errorf("the second for one backup: %+v", h)
	}

	w, conn, _ = asking(t, 1)
	w.sess.sup.cfg.Appliances = nil
	if err := w.lend(conn, two); err == nil {
		t.Error("there is none, and it was asked for")
	}
}
