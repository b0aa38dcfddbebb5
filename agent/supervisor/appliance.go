package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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
	conn, theirs, err := streams()
	if err != nil {
		return err
	}
	defer closeAll(conn, theirs)
	lease, workers, err := streams()
	if err != nil {
		return err
	}
	defer closeAll(lease, workers)
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer closeAll(out, in)
	cfg := sup.cfg.Appliances
	cmd, err := sandbox.New(sandbox.Options{UID: uid, Program: cfg.Program, Appliance: cfg.Dir, Disks: a.disks}, theirs)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = in, in
	if err := sup.spawn.Start(cmd); err != nil {
		return err
	}
	a.process.Store(cmd.Process)
	began := time.Now()
	closeAll(theirs, in)
	group, err := sup.groups.add(a.sess().id[:12]+"-appliance", cmd.Process.Pid, sandbox.Limit(a.keys))
	if err != nil {
		log.Debug("the appliance has no memory limit of the kernel's", "err", err)
	}
	if err := a.w.grow(a.backup); err != nil {
		log.Warn("the worker's memory limit stays as it is", "err", err)
	}
	log.Info("an appliance starts", "pid", cmd.Process.Pid, "disks", a.disks)
	a.answer(&session.Helper{}, conn, out, workers)
	closeAll(conn, out, workers) // the worker has its own
	end := make(chan struct{})
	go func() {
		defer close(end)
		_, _ = lease.Read(make([]byte, 1)) // nothing is said: it ends, with the worker or before
		_ = cmd.Process.Kill()             // the first of its process namespace, so all of them
	}()
	err = cmd.Wait()
	why := reason(err, cmd, group, a.overdue.Load())
	_, _ = lease.Write([]byte(why)) // what the worker has not read of it is lost with the worker
	shutdown(lease)
	group.remove()
	log.Info("an appliance ended", "pid", cmd.Process.Pid, "why", why, "after", time.Since(began).Round(time.Second))
	<-end
	return nil
}

// reason tells why a helper ended; empty: because it was to end.
func reason(err error, cmd *exec.Cmd, g *group, overdue bool) string {
	switch {
	case overdue:
		return "another session waited for its place; open the folder again to wait for one"
	case g.outOfMemory():
		return "it needed more memory than it may have"
	case err == nil:
		return ""
	}
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return "it was killed (" + s.Signal().String() + ")"
	}
	return err.Error()
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

func closeAll(files ...*os.File) {
	for _, f := range files {
		_ = f.Close() // twice for some, the second time with an error
	}
}

// streams are two ends of a connection, non-blocking, the second for another process.
func streams() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// shutdown ends a connection for both sides; what was written before is still read.
func shutdown(f *os.File) {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	}
}

// set changes the limit of x, in bytes.
func (g *groups) set(x *group, limit int64) error {
	if g == nil || x == nil {
		return nil
	}
	return os.WriteFile(filepath.Join(x.dir, g.limit), []byte(strconv.FormatInt(limit, 10)), 0)
}
