package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"vmfr/agent/session"
	api "vmfr/api/session"
)

// How long things may take. A holder that is deleted has at most lostGrace + endLimit, 8 s, until
// nothing of its part is left.
const (
	// settle is how long a new worker waits for further parts that arrive together.
	settle = 150 * time.Millisecond
	// lostGrace is how long a part outlives its holder's connection.
	lostGrace = 2 * time.Second
	// endLimit is how long a worker may let transfers go on when it must end; then it is killed.
	endLimit = 6 * time.Second
	// drainLimit is the same for a worker that was replaced by one that serves more.
	drainLimit = 10 * time.Minute
	// Waits before a worker that died is started again, doubled up to the last one, and how long
	// one must live for the wait to be the first one again.
	firstRestart, lastRestart, proven = 100 * time.Millisecond, 30 * time.Second, time.Minute
)

// errOver tells that a session has ended meanwhile.
var errOver = errors.New("the session has ended")

// errStopping tells holders to come back to the next agent.
var errStopping = errors.New("the node's agent ends; connect again")

// sess is one session: its parts and the workers that serve them.
type sess struct {
	sup       *Supervisor
	log       *slog.Logger
	id        string
	doc       *api.Session  // merged of all holders'; guarded by mu, and never changed itself
	namespace string        // of the first holder
	over      chan struct{} // closed when nothing is left

	mu       sync.Mutex
	parts    map[string]*part
	closing  []*part // left, but workers still hold their files
	workers  map[*worker]bool
	newest   *worker     // starting or serving; nil: none
	serving  *worker     // the newest that has answered; nil: none
	timer    *time.Timer // of the next start; nil: none
	wait     time.Duration
	restarts int
	state    api.State // while nothing serves
	message  string
	stopping bool // the agent ends
	ended    bool
	report   []byte
	past     session.Stats // of workers that have ended
	begun    time.Time

	recordLimit *rate.Limiter // of the workers' audit lines
}

func newSession(s *Supervisor, doc *api.Session, namespace string) *sess {
	x := &sess{
		sup: s, id: doc.ID, doc: doc, namespace: namespace, over: make(chan struct{}),
		log:   s.log.With("session", doc.ID[:12], "restore", doc.Namespace+"/"+doc.Name),
		parts: map[string]*part{}, workers: map[*worker]bool{}, wait: firstRestart, state: api.Waiting, begun: time.Now(),
		recordLimit: rate.NewLimiter(recordRate, recordBurst),
	}
	x.log.Info("session begins")
	return x
}

// add takes a part in, in the place of one that is the same holder's.
func (x *sess) add(doc *api.Session, p *part, from *peer) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended {
		return errOver
	}
	if x.stopping {
		return errStopping
	}
	defer x.finish() // a session that was begun for a part that is refused
	if doc.UID != x.doc.UID || doc.Name != x.doc.Name || doc.Namespace != x.doc.Namespace || doc.VM != x.doc.VM {
		return errors.New("another holder of this session brought the document of another file restore; as soon as both have the same, this one is served")
	}
	old := x.parts[p.name]
	if old != nil && old.who.account() != p.who.account() {
		return fmt.Errorf("this part is held by a pod of the service account %s", old.who.account())
	}
	if old != nil && old.sameFiles(p) && reflect.DeepEqual(merged(x.doc, doc, p.name, x.parts), x.doc) {
		x.renew(old, p, from)
		return nil
	}
	if err := x.sup.reserve(x.namespace, len(p.files)); err != nil {
		return err
	}
	p.sess, p.peer = x, from
	x.doc = merged(x.doc, doc, p.name, x.parts)
	if old != nil {
		x.drop(old, "another holder brought this part")
	}
	x.parts[p.name] = p
	x.log.Info("a part joined", "part", session.Part{Backup: p.name}.Name(), "pod", p.who.Namespace+"/"+p.who.Pod, "files", len(p.files))
	x.welcome(from)
	x.schedule(settle)
	x.publish()
	return nil
}

// merged is the session's document when a holder brought doc: a ConfigMap that changes reaches its
// pods at different times. The front decides what is served by and which backups are waited for,
// a backup's holder decides about its backup.
func merged(was, doc *api.Session, name string, parts map[string]*part) *api.Session {
	out, from := *was, was
	if name == frontPart {
		out, from = *doc, doc
	}
	out.Backups = nil
	set := func(b *api.Backup) {
		for i := range out.Backups {
			if out.Backups[i].Name == b.Name {
				out.Backups[i] = *b
				return
			}
		}
		out.Backups = append(out.Backups, *b)
	}
	for i := range from.Backups {
		set(&from.Backups[i])
	}
	if name != frontPart {
		if b := findBackup(doc, name); b != nil {
			set(b)
		}
		return &out
	}
	for i := range was.Backups {
		if parts[was.Backups[i].Name] != nil {
			set(&was.Backups[i])
		}
	}
	return &out
}

// renew gives old, whose holder connected again, its new connection.
func (x *sess) renew(old, p *part, from *peer) {
	if old.peer != nil {
		old.peer.send(&session.Message{Closed: &session.Closed{Reason: "another connection of this part's holder replaced this one"}})
	}
	if old.lost != nil {
		old.lost.Stop()
		old.lost = nil
	}
	old.peer, old.who, p.same = from, p.who, old
	session.CloseFiles(p.files)
	x.log.Info("a part's holder connected again", "part", session.Part{Backup: p.name}.Name())
	x.welcome(from)
	x.credentials(old, p.credentials)
	x.publish()
}

func (x *sess) welcome(to *peer) {
	to.send(&session.Message{Accepted: &session.Accepted{ID: x.id}})
	if x.report != nil {
		to.send(&session.Message{Report: x.report})
	}
}

// update takes new credentials of the front. What was sent before the holder connected again may be
// read after its new hello, which has newer ones.
func (x *sess) update(p *part, from *peer, c session.Credentials) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if p.peer == from {
		x.credentials(p, c)
	}
}

// credentials replaces those of p. What the old ones let in, ends: a key may have been revoked.
func (x *sess) credentials(p *part, c session.Credentials) {
	if x.parts[p.name] != p || reflect.DeepEqual(p.credentials, c) {
		return
	}
	p.credentials = c
	p.version++
	x.log.Info("credentials changed: clients have to log in again")
	for w := range x.workers {
		w.end(endLimit)
	}
	x.wait = firstRestart
	x.schedule(0)
}

// lost is called when a holder's connection has ended.
func (x *sess) lost(p *part, from *peer) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if p.peer != from || x.parts[p.name] != p {
		return
	}
	p.peer = nil
	x.log.Info("a part's holder is gone", "part", session.Part{Backup: p.name}.Name(), "grace", lostGrace)
	p.lost = time.AfterFunc(lostGrace, func() { x.leave(p, nil, "") })
}

// leave closes a part: because its holder asks through its connection, or did not come back: then
// there is none.
func (x *sess) leave(p *part, from *peer, why string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.parts[p.name] != p || p.peer != from {
		return
	}
	x.drop(p, why)
	x.schedule(0)
	x.publish()
	x.finish()
}

// drop takes a part out. Its files are closed when no worker has them any more.
func (x *sess) drop(p *part, why string) {
	if p.lost != nil {
		p.lost.Stop()
	}
	delete(x.parts, p.name)
	p.leaving = why
	x.closing = append(x.closing, p)
	x.log.Info("a part leaves", "part", session.Part{Backup: p.name}.Name())
	for w := range x.workers {
		if _, has := w.parts[p]; has || p.name == frontPart {
			w.end(endLimit)
		}
	}
	x.sweep()
}

// sweep closes the files of parts that no worker has any more and confirms that.
func (x *sess) sweep() {
	left := x.closing[:0]
	for _, p := range x.closing {
		used := false
		for w := range x.workers {
			_, has := w.parts[p]
			used = used || has
		}
		if used {
			left = append(left, p)
			continue
		}
		p.closeFiles()
	}
	clear(x.closing[len(left):])
	x.closing = left
}

// endAll ends the session; over is closed when nothing is left.
func (x *sess) endAll(why string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stopping = true
	for _, p := range x.parts {
		x.drop(p, why)
	}
	x.finish()
}

// finish ends a session that has nothing any more.
func (x *sess) finish() {
	if x.ended || len(x.parts) > 0 || len(x.closing) > 0 || len(x.workers) > 0 {
		return
	}
	x.ended = true
	if x.timer != nil {
		x.timer.Stop()
	}
	x.log.Info("session ends")
	x.sup.remove(x)
	close(x.over)
}

// schedule makes sure that a worker for the present parts is started after a wait.
func (x *sess) schedule(after time.Duration) {
	if x.parts[frontPart] == nil {
		x.state, x.message = api.Waiting, "the front holder is not connected to the agent of the node of the volumes"
		return
	}
	if x.newest != nil && x.newest.serves(x.parts) {
		return
	}
	if x.serving == nil && x.partial() {
		after = max(after, x.sup.cfg.Returning-time.Since(x.sup.began))
	}
	if x.timer != nil {
		x.timer.Stop()
	}
	x.timer = time.AfterFunc(after, x.start)
}

// partial tells whether a backup of the session has no holder here.
func (x *sess) partial() bool {
	return slices.ContainsFunc(x.doc.Backups, func(b api.Backup) bool { return x.parts[b.Name] == nil })
}

// start starts a worker for the parts that are there.
func (x *sess) start() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.timer = nil
	if x.ended || x.parts[frontPart] == nil || x.newest != nil && x.newest.serves(x.parts) {
		return
	}
	if x.newest != nil && x.newest != x.serving {
		x.newest.supersede()
	}
	w := newWorker(x)
	x.workers[w] = true
	x.newest = w
	x.sup.wg.Go(w.run)
}

// answered takes a worker's report.
func (x *sess) answered(w *worker, r *api.Report) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.workers[w] || w.ending {
		return
	}
	w.report = r
	if w == x.newest {
		x.state, x.message = r.State, r.Message
	}
	if r.State == api.Serving && x.serving != w && w == x.newest {
		x.serving = w
		x.sup.metrics.opened.Observe(time.Since(w.began).Seconds())
		x.log.Info("serving", "worker", w.pid, "parts", len(w.parts), "took", time.Since(w.began).Round(time.Millisecond))
		for o := range x.workers {
			if o != w && !o.ending {
				o.drain()
			}
		}
	}
	x.publish()
}

// replace starts another worker in the place of one that says that something is broken; it serves
// until the other one does.
func (x *sess) replace(w *worker, why string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.serving != w || x.newest != w || w.ending || w.stale {
		return
	}
	w.stale = true
	x.log.Error("a worker is replaced", "pid", w.pid, "why", why, "wait", x.wait)
	x.again(w)
}

// again counts a restart and schedules it, later each time.
func (x *sess) again(w *worker) {
	x.restarts++
	x.sup.metrics.restarts.Inc()
	if time.Since(w.began) > proven {
		x.wait = firstRestart
	}
	x.schedule(x.wait)
	x.wait = min(2*x.wait, lastRestart)
}

// exited is called when a worker's process has ended.
func (x *sess) exited(w *worker, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.workers, w)
	x.past = addStats(x.past, w.stats)
	if x.serving == w {
		x.serving = nil
	}
	if x.newest == w {
		x.newest = nil
		if !w.ending {
			if w.report == nil || w.report.State != api.Failed {
				x.state, x.message = api.Waiting, api.Text(fmt.Sprintf("the worker ended unexpectedly (%v) and is started again", err))
			}
			x.log.Error("a worker ended unexpectedly and is started again", "err", err, "wait", x.wait)
			if w.hung.Load() {
				x.sup.metrics.hung.Inc()
			}
			x.again(w)
		} else {
			x.schedule(0)
		}
	}
	x.sweep()
	x.publish()
	x.finish()
}

// publish sends the report to all holders, if it is another one than before.
func (x *sess) publish() {
	r := x.compose()
	if x.report != nil {
		var last api.Report
		if json.Unmarshal(x.report, &last) == nil {
			last.Updated = r.Updated
			if reflect.DeepEqual(&last, r) {
				return
			}
		}
	}
	b, err := json.Marshal(r)
	if err == nil && len(b) > api.MaxReportBytes {
		// The volumes are what makes it long; the tree's METADATA.json has them all.
		for i := range r.Backups {
			for k := range r.Backups[i].Disks {
				r.Backups[i].Disks[k].Volumes = nil
			}
		}
		b, err = json.Marshal(r)
	}
	if err != nil || len(b) > api.MaxReportBytes {
		x.log.Error("the report is too long", "bytes", len(b), "err", err)
		return
	}
	x.report = b
	for _, p := range x.parts {
		if p.peer != nil {
			p.peer.send(&session.Message{Report: b})
		}
	}
}

// compose joins what the serving worker says with what is waited for.
func (x *sess) compose() *api.Report {
	r := &api.Report{
		Version: api.Version, ID: x.id, Node: x.sup.cfg.Node, Updated: time.Now().UTC().Truncate(time.Second),
		State: x.state, Message: x.message, Restarts: x.restarts,
	}
	if x.serving != nil && x.parts[frontPart] != nil {
		r.State, r.Message = api.Serving, x.serving.report.Message
	} else if r.State == api.Serving {
		r.State = api.Waiting
	}
	for _, b := range x.doc.Backups {
		r.Backups = append(r.Backups, x.backup(b.Name))
	}
	return r
}

func (x *sess) backup(name string) api.BackupReport {
	p := x.parts[name]
	if p == nil {
		return api.BackupReport{Name: name, State: api.Waiting, Message: "its holder is not connected to the agent of this node"}
	}
	if x.serving != nil {
		if _, has := x.serving.parts[p]; has {
			for _, b := range x.serving.report.Backups {
				if b.Name == name {
					return b
				}
			}
		}
	}
	return api.BackupReport{Name: name, State: api.Waiting, Message: "its disks are being opened"}
}
