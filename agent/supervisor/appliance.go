package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"vmfr/agent/guestfs/sandbox"
	"vmfr/agent/session"
	api "vmfr/api/session"
)

// Appliances say how libguestfs' helpers are started, see agent/guestfs/sandbox: one for a backup
// at a time, when its worker asks. The supervisor connects the two and reads nothing of what they say.
type Appliances struct {
	Program string // vmfr-agent, built with libguestfs
	Dir     string // of the fixed appliance
	Max     int    // at a time, on this node; zero: by memory
}

const (
	// applianceRate is how often a worker may ask for an appliance, after a burst: whoever lists
	// the folders of a session's backups one after the other asks once for each.
	applianceRate, applianceBurst = 10 * time.Second, 32
	// workerGrowth is what the worker's memory may grow by for each backup that gets an appliance:
	// what libguestfs tells is kept, since asking again is slow (guestfs: 208 MiB of caches). No
	// worker grows more than maxGrowths times.
	workerGrowth, maxGrowths = 256 << 20, 8
)

// appliance is one helper: asked for, or running.
type appliance struct {
	w      *worker
	conn   *session.Conn // to its worker
	backup string
	disks  int
	keys   bool // it may have to open encrypted volumes

	turn    chan struct{} // closed when it has a place
	began   time.Time     // when it got it
	overdue atomic.Bool   // it has to make room
	process atomic.Pointer[os.Process]
}

func (a *appliance) sess() *sess { return a.w.sess }

// lends are a worker's appliances. limit and active belong to the goroutine that listens to it.
type lends struct {
	limit  *rate.Limiter
	asking atomic.Bool
	active map[string]*atomic.Bool // by backup; false: ended
	spared atomic.Bool             // it is being asked to spare some
	grown  map[string]bool         // backups that its memory has grown for; guarded by worker.mu
	growth atomic.Int64            // bytes
}

// lend answers a worker's wish for an appliance; errors are of what no worker of ours asks for.
func (w *worker) lend(conn *session.Conn, m *session.Appliance) error {
	sup := w.sess.sup
	if sup.cfg.Appliances == nil {
		return errors.New("it asks for an appliance, and was told that there is none")
	}
	a := &appliance{w: w, conn: conn, backup: m.Backup, disks: m.Disks}
	readable := -1
	w.sess.mu.Lock()
	for p := range w.parts {
		switch p.name {
		case frontPart:
			a.keys = len(p.credentials.DiskKeys) > 0
		case m.Backup:
			readable = 0
			for _, d := range p.disks {
				if d.Error == "" {
					readable++
				}
			}
		}
	}
	w.sess.mu.Unlock()
	if m.Disks > readable {
		return fmt.Errorf("it asks for an appliance for %d disks of the backup %.80q", m.Disks, m.Backup)
	}
	l := &w.lends
	if l.limit == nil {
		l.limit, l.active = rate.NewLimiter(rate.Every(applianceRate), applianceBurst), map[string]*atomic.Bool{}
	}
	if !l.asking.CompareAndSwap(false, true) {
		return errors.New("it asks for two appliances at a time")
	}
	refusal := ""
	switch old := l.active[a.backup]; {
	case old != nil && old.Load():
		refusal = "the appliance before this one has not ended yet; open the folder again later"
	case !l.limit.Allow():
		refusal = "it was started too often; open the folder again later"
	}
	active := &atomic.Bool{}
	if refusal == "" {
		l.active[a.backup] = active
		active.Store(true)
	}
	sup.wg.Go(func() {
		defer active.Store(false)
		if refusal != "" {
			a.answer(&session.Helper{Error: refusal})
			return
		}
		a.live()
	})
	return nil
}

// answer sends the worker what became of its wish, and what comes with it. Unless it is told to
// wait, it may ask for another one then.
func (a *appliance) answer(h *session.Helper, files ...*os.File) {
	h.Backup, h.Error, h.Waiting = a.backup, api.Text(h.Error), api.Text(h.Waiting)
	if h.Waiting == "" {
		a.w.lends.asking.Store(false)
	}
	_ = a.conn.Send(&session.Message{Helper: h, Files: files}, sendLimit) // where that fails, the worker is gone
}

// live waits for a place, runs the helper and gives the place back.
func (a *appliance) live() {
	p := &a.sess().sup.places
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-a.w.gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := p.take(ctx, a, func(running int) {
		a.answer(&session.Helper{Waiting: fmt.Sprintf("it waits for a free appliance: %d run on this node, and no more may", running)})
	})
	if err != nil {
		return // the worker is gone
	}
	defer p.give(a)
	if err := sandbox.CheckMemory(sandbox.Need(a.keys), sandbox.AvailableMemory()); err != nil {
		a.answer(&session.Helper{Error: err.Error()})
		return
	}
	if err := a.run(); err != nil {
		a.sess().log.Warn("an appliance cannot be started", "backup", a.backup, "err", err)
		a.answer(&session.Helper{Error: "the node's agent could not start it: " + err.Error()})
	}
}

// run starts the helper, hands it to the worker and waits for its end. An error means that there
// is nothing to hand over.
func (a *appliance) run() error {
	sup, log := a.sess().sup, a.sess().log.With("backup", a.backup)
	var uid int
	select {
	case uid = <-sup.uids:
		defer func() { sup.uids <- uid }()
	default:
		return errors.New("all user ids are in use; give the agent a larger range")
	}
	cfg := sup.cfg.Appliances
	h, err := sup.spawn.Helper(sandbox.Options{UID: uid, Program: cfg.Program, Appliance: cfg.Dir, Disks: a.disks})
	if err != nil {
		return err
	}
	pid, began := h.Process().Pid, time.Now()
	a.process.Store(h.Process())
	group, err := sup.groups.add(a.sess().id[:12]+"-appliance", pid, sandbox.Limit(a.keys))
	if err != nil {
		log.Debug("the appliance has no memory limit of the kernel's", "err", err)
	}
	if err := a.w.grow(a.backup); err != nil {
		log.Warn("the worker's memory limit stays as it is", "err", err)
	}
	log.Info("an appliance starts", "pid", pid, "disks", a.disks)
	a.answer(&session.Helper{}, h.Files...)
	h.CloseFiles() // the worker has its own
	why := h.Wait(func() string { return a.why(group) })
	group.remove(removeLimit)
	log.Info("an appliance ended", "pid", pid, "why", why, "after", time.Since(began).Round(time.Second))
	return nil
}

// why tells why the helper was ended, where the supervisor knows.
func (a *appliance) why(g *group) string {
	switch {
	case a.overdue.Load():
		return "another session waited for its place; open the folder again to wait for one"
	case g.outOfMemory():
		return "it needed more memory than it may have"
	}
	return ""
}

// grow raises the worker's memory limit for a backup that gets its first appliance.
func (w *worker) grow(backup string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lends.grown[backup] || len(w.lends.grown) == maxGrowths {
		return nil
	}
	if w.lends.grown == nil {
		w.lends.grown = map[string]bool{}
	}
	w.lends.grown[backup] = true
	w.lends.growth.Add(workerGrowth)
	return w.sess.sup.groups.set(w.group, w.memory())
}

// makeRoom asks for the appliance's end if nobody uses it, and brings it about when it is overdue.
func (a *appliance) makeRoom() {
	if p := a.process.Load(); p != nil && a.overdue.Load() {
		_ = p.Kill()
		return
	}
	if a.w.lends.spared.CompareAndSwap(false, true) { // a worker that does not read holds up itself only
		a.sess().sup.wg.Go(func() {
			defer a.w.lends.spared.Store(false)
			_ = a.conn.Send(&session.Message{Spare: &session.Spare{}}, sendLimit)
		})
	}
}

// set changes the limit of x, in bytes.
func (g *groups) set(x *group, limit int64) error {
	if g == nil || x == nil {
		return nil
	}
	return os.WriteFile(filepath.Join(x.dir, g.limit), []byte(strconv.FormatInt(limit, 10)), 0)
}
