package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"vmfr/agent/session"
	"vmfr/agent/spawn"
	api "vmfr/api/session"
)

const (
	// workerLogRate is how many lines a worker may log in a second, after a burst: the log is the
	// node's, and a worker may be hostile.
	workerLogRate, workerLogBurst = 20, 200
	// rsyncMemory is what all runs of rsync of a session may take together, in bytes: what one may
	// alone (agent/jail), and a few of the ordinary kind. A file list has about 100 bytes for each file.
	rsyncMemory = 1<<30 + 256<<20
	// reapLimit is how long the kernel may take to end a killed process before that is told.
	reapLimit = 5 * time.Second
)

// worker is one process that serves a set of parts.
type worker struct {
	sess  *sess
	doc   *api.Session
	parts map[*part]int // with the version of their credentials
	began time.Time
	pid   int

	// Guarded by sess.mu.
	report *api.Report
	stats  session.Stats
	ending bool // it was told to end
	stale  bool // it shall be replaced by one that serves the same
	kill   *time.Timer

	mu      sync.Mutex // the process's
	conn    *session.Conn
	process *os.Process
	killed  bool
	group   *group
	rsync   *group        // of its jail's processes; the feeder's alone
	gone    chan struct{} // closed when the process has ended

	unanswered atomic.Int32 // pings
	hung       atomic.Bool  // it was killed for that

	lends lends // its appliances
}

// newWorker is called with the session's lock held.
func newWorker(x *sess) *worker {
	w := &worker{sess: x, doc: x.doc, parts: map[*part]int{}, began: time.Now(), gone: make(chan struct{})}
	for _, p := range x.parts {
		w.parts[p] = p.version
	}
	return w
}

// serves tells whether parts are exactly the worker's, with the same credentials.
func (w *worker) serves(parts map[string]*part) bool {
	if w.ending || w.stale || len(parts) != len(w.parts) {
		return false
	}
	for _, p := range parts {
		if v, has := w.parts[p]; !has || v != p.version {
			return false
		}
	}
	return true
}

// end tells the worker to end within limit. It is called with the session's lock held.
func (w *worker) end(limit time.Duration) {
	w.ending = true
	w.stop(limit)
}

// drain is end for a worker that was replaced, but whose clients have done nothing wrong.
func (w *worker) drain() { w.end(drainLimit) }

// supersede ends a worker that has not answered: it would only come too late. It may have let clients in before it
// could say so, who have done nothing wrong either. One that was not started yet never is.
func (w *worker) supersede() {
	if !w.ending {
		w.end(endLimit)
	}
	w.mu.Lock()
	w.killed = w.killed || w.process == nil
	w.mu.Unlock()
}

func (w *worker) stop(limit time.Duration) {
	if w.kill == nil {
		w.kill = time.AfterFunc(limit, w.slay)
	} else if limit < drainLimit {
		w.kill.Stop()
		w.kill = time.AfterFunc(limit, w.slay)
	}
	w.mu.Lock()
	c := w.conn
	w.mu.Unlock()
	if c != nil {
		go func() { _ = c.Send(&session.Message{Drain: &session.Drain{}}, sendLimit) }()
	}
}

// slay kills the process, or keeps it from being started.
func (w *worker) slay() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.killed = true
	if w.process == nil {
		return
	}
	_ = w.process.Kill()
	time.AfterFunc(reapLimit, func() {
		select {
		case <-w.gone:
		default:
			w.sess.log.Error("a killed worker does not end: its storage does not answer", "pid", w.pid)
		}
	})
}

// run is the worker's life.
func (w *worker) run() {
	err := w.live()
	w.sess.exited(w, err)
}

// live starts the process, feeds it and waits for its end.
func (w *worker) live() error {
	sup := w.sess.sup
	var uid int
	select {
	case uid = <-sup.uids:
		defer func() { sup.uids <- uid }()
	default:
		return errors.New("all user ids of workers are in use; give the agent a larger range")
	}
	p, err := w.launch(uid)
	if err != nil {
		return err
	}
	conn := p.Conn
	defer conn.Close()
	defer p.Log.Close()
	var weaker []string
	var logs sync.WaitGroup
	logs.Go(func() { w.log(p.Log) })
	if w.group, err = sup.groups.add(w.sess.id[:12], w.pid, w.memory()); err != nil {
		weaker = append(weaker, "no memory limit of the kernel's")
	}
	records, err := w.openRecords()
	if err == nil {
		err = w.feed(conn, weaker, records)
	}
	if err == nil {
		probing, end := context.WithCancel(context.Background())
		go w.probe(probing, conn)
		err = w.listen(conn)
		end()
	}
	_ = conn.Close() // which tells the worker to end, too
	if w.alone() {
		// It broke the rules, or the feeding did: what it does now does not matter.
		w.slay()
	}
	werr := p.Wait()
	close(w.gone)
	logs.Wait()
	if werr != nil {
		err = errors.Join(werr, err)
	}
	switch {
	case w.hung.Load():
		err = fmt.Errorf("it did not answer for %s and was killed: %w", sup.cfg.Patience, err)
	case w.group.outOfMemory():
		err = fmt.Errorf("it needed more than its limit of %d MiB of memory: %w", w.memory()>>20, err)
	}
	w.group.remove(removeLimit)
	if w.rsync.outOfMemory() {
		w.sess.log.Warn("rsync needed more than its limit of memory", "MiB", rsyncMemory>>20)
	}
	sup.wg.Go(func() { w.rsync.remove(jailLimit) }) // its session goes on meanwhile
	return err
}

// alone tells whether nobody has told the worker to end.
func (w *worker) alone() bool {
	w.sess.mu.Lock()
	defer w.sess.mu.Unlock()
	return !w.ending
}

func (w *worker) launch(uid int) (*spawn.Worker, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.killed {
		return nil, errors.New("it is not needed any more")
	}
	sup := w.sess.sup
	p, err := sup.spawn.Worker(func(theirs *os.File) (*exec.Cmd, error) { return sup.command(uid, theirs) })
	if err != nil {
		return nil, err
	}
	w.process, w.pid = p.Process(), p.Process().Pid
	return p, nil
}

// memory is the kernel's limit for the worker: Go's own (see the worker's) and room for the page
// cache, which belongs to who reads.
func (w *worker) memory() int64 {
	disks := 0
	for p := range w.parts {
		disks += len(p.disks)
	}
	return 256<<20 + int64(disks)*32<<20 + w.lends.growth.Load()
}

// openRecords makes the pipe for the worker's audit lines; nil where none are kept.
func (w *worker) openRecords() (*os.File, error) {
	if w.sess.sup.cfg.Audit == nil {
		return nil, nil
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	w.sess.sup.wg.Go(func() {
		defer out.Close()
		w.records(out)
	})
	return in, nil
}

// feed gives the worker all that it serves.
func (w *worker) feed(conn *session.Conn, weaker []string, records *os.File) error {
	defer func() { _ = records.Close() }() // nil, too
	x := w.sess
	doc, err := json.Marshal(w.doc)
	if err != nil {
		return err
	}
	c := &session.Configure{Session: doc, Node: x.sup.cfg.Node, Version: x.sup.cfg.Version, Grace: drainLimit, Weaker: weaker,
		NoAppliance: x.sup.cfg.NoAppliances}
	message := &session.Message{Configure: c}
	var backups []*part
	x.mu.Lock()
	c.Restarts = x.restarts
	for p := range w.parts {
		if p.name == frontPart {
			c.Listeners, c.Credentials = p.ears, p.credentials
			message.Files = slices.Clone(p.files)
		} else {
			backups = append(backups, p)
		}
	}
	x.mu.Unlock()
	if c.SSH && x.sup.cfg.Rsync != nil {
		if jail, err := x.sup.cfg.Rsync(x.sup.spawn.Start); err != nil {
			x.log.Warn("rsync is refused", "err", err)
		} else {
			defer func() { _ = jail.Close() }() // the worker has its own copies then, and with its end the jail ends
			if w.rsync, err = x.sup.groups.add(x.id[:12]+"-rsync", jail.PID(), rsyncMemory); err != nil {
				x.log.Debug("rsync has no memory limit of the kernel's", "err", err)
			}
			socket, device := jail.Files()
			message.Files = append(message.Files, socket, device)
			c.Rsync = true
		}
	}
	if records != nil {
		message.Files = append(message.Files, records)
		c.Audit = true
	}
	if err := conn.Send(message, sendLimit); err != nil {
		return err
	}
	for _, p := range backups {
		x.mu.Lock()
		files := slices.Clone(p.files)
		x.mu.Unlock()
		if err := conn.Send(&session.Message{Part: &session.Part{Backup: p.name, Disks: p.disks}, Files: files}, sendLimit); err != nil {
			return err
		}
	}
	if err := conn.Send(&session.Message{Run: &session.Run{}}, sendLimit); err != nil {
		return err
	}
	w.mu.Lock()
	w.conn = conn
	w.mu.Unlock()
	x.mu.Lock()
	told := w.ending
	x.mu.Unlock()
	if told { // before it could be told
		return conn.Send(&session.Message{Drain: &session.Drain{}}, sendLimit)
	}
	return nil
}

// listen takes what the worker says until it ends.
func (w *worker) listen(conn *session.Conn) error {
	limit := rate.NewLimiter(5, 50)
	for {
		m, err := conn.Receive(0)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the worker's messages: %w", err)
		}
		m.Close()
		if !limit.Allow() {
			return errors.New("the worker sends too many messages")
		}
		switch {
		case m.Stats != nil:
			w.sess.mu.Lock()
			w.stats = *m.Stats
			w.sess.mu.Unlock()
		case m.Report != nil:
			r, err := api.DecodeReport(m.Report, w.sess.id)
			if err == nil {
				err = w.about(r)
			}
			if err != nil {
				return fmt.Errorf("the worker's report: %w", err)
			}
			w.sess.answered(w, r)
		case m.Appliance != nil:
			if err := w.lend(conn, m.Appliance); err != nil {
				return err
			}
		case m.Pong != nil:
			w.unanswered.Store(0)
			if m.Pong.Error != "" {
				w.sess.replace(w, m.Pong.Error)
			}
		default:
			return errors.New("the worker sent what only others send")
		}
	}
}

// pings is how many of them may be without an answer. They are counted, not timed: a node that was
// suspended must not take its workers for dead.
const pings = 3

// probe asks the worker again and again whether it still works, and kills one that does not say so.
func (w *worker) probe(ctx context.Context, conn *session.Conn) {
	tick := time.NewTicker(w.sess.sup.cfg.Patience / (pings + 1))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if w.unanswered.Load() >= pings {
			if w.alone() {
				w.sess.log.Error("a worker does not answer and is killed", "pid", w.pid, "patience", w.sess.sup.cfg.Patience)
				w.hung.Store(true)
				w.slay()
			}
			return
		}
		w.unanswered.Add(1)
		if conn.Send(&session.Message{Ping: &session.Ping{}}, sendLimit) != nil {
			return
		}
	}
}

// about checks that a report is about nothing but the worker's own parts.
func (w *worker) about(r *api.Report) error {
	for _, b := range r.Backups {
		known := false
		for p := range w.parts {
			known = known || p.name == b.Name && p.name != frontPart
		}
		doc := findBackup(w.doc, b.Name)
		if !known || doc == nil || len(b.Disks) > len(doc.Disks) {
			return fmt.Errorf("it is about the backup %.80q", b.Name)
		}
		for _, d := range b.Disks {
			if !slices.ContainsFunc(doc.Disks, func(k api.Disk) bool { return k.Name == d.Name }) {
				return fmt.Errorf("it is about the disk %.80q", d.Name)
			}
		}
	}
	return nil
}

// log copies the worker's lines to the log, as what they are: words of a process that may be hostile.
func (w *worker) log(from io.Reader) {
	limit := rate.NewLimiter(workerLogRate, workerLogBurst)
	dropped := 0
	spawn.Lines(from, func(line string) {
		if limit.Allow() {
			w.sess.log.Info("worker", "pid", w.pid, "line", line)
		} else {
			dropped++
		}
	})
	if dropped > 0 {
		w.sess.log.Warn("a worker logged too much", "pid", w.pid, "linesDropped", dropped)
	}
}
