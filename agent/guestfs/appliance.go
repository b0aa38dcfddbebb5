package guestfs

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"vmfr/agent/cache"
	"vmfr/agent/engine"
	"vmfr/agent/guestfs/sandbox"
	"vmfr/agent/guestfs/wire"
	"vmfr/agent/volume"
)

const (
	// waitLimit is how long a start waits for other backups' appliances to become idle.
	waitLimit = 10 * time.Minute
	// After a failure the next start waits 1, 2, 4 ... up to maxPause; an appliance that ran
	// for soundAfter counts as none.
	maxPause   = time.Minute
	soundAfter = time.Minute
	// contentBytes bounds the file content and listingBytes the listings that are kept for one
	// backup; attrBytes bounds its attributes.
	contentBytes = 48 << 20
	listingBytes = 96 << 20
	attrBytes    = 32 << 20
)

// States of engine.ApplianceStatus.
const (
	stateNew      = "not started"
	stateWaiting  = "waiting"
	stateStarting = "starting"
	stateRunning  = "running"
	stateIdle     = "idle"
	stateFailed   = "failed"
)

// ErrClosed is the error of everything after Close.
var ErrClosed = errors.New("libguestfs: the backup is closed")

// Appliance implements engine.Appliance.
type Appliance struct {
	f     *Fallback
	name  string
	disks []volume.Disk

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // starts, and the watch over each process

	nodes atomic.Int64 // of all file systems
	// Caches are shared by the backup's file systems, which are told apart by their index.
	content *cache.Cache[pieceKey, []byte]
	dirs    *cache.Cache[objectKey, *listing]
	attrs   *cache.Cache[objectKey, *object]
	xattrs  *cache.Cache[objectKey, map[string][]byte]

	scanOnce sync.Mutex // held while found is made

	mu       sync.Mutex
	closed   bool
	proc     *process      // nil: none runs
	began    time.Time     // when it did
	booting  chan struct{} // closed when the start that is under way ends; nil: none is
	state    string
	stage    string
	since    time.Time // of the stage
	err      error     // of the last start
	failures int
	retryAt  time.Time
	users    int
	lastUse  time.Time
	volumes  []wire.Volume // of the first start; later ones must find them again
	found    []engine.Found
}

var _ engine.Appliance = (*Appliance)(nil)

func newAppliance(f *Fallback, name string, disks []volume.Disk) *Appliance {
	a := &Appliance{f: f, name: name, disks: append([]volume.Disk(nil), disks...), state: stateNew}
	a.ctx, a.cancel = context.WithCancelCause(context.Background())
	a.content = cache.NewShards[pieceKey](contentBytes, 2, func(b []byte) int64 { return int64(cap(b)) + 64 })
	a.dirs = cache.NewShards[objectKey](listingBytes, 1, (*listing).size)
	a.attrs = cache.NewShards[objectKey](attrBytes, 4, (*object).size)
	a.xattrs = cache.NewShards[objectKey](attrBytes, 2, xattrsSize)
	return a
}

// Status implements engine.Appliance.
func (a *Appliance) Status() engine.ApplianceStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := engine.ApplianceStatus{State: a.state, Stage: a.stage}
	switch a.state {
	case stateFailed:
		s.Err = a.err
	case stateStarting:
		s.Progress = progress(a.stage, time.Since(a.since))
	case stateRunning, stateIdle:
		s.Progress = 100
	}
	return s
}

// Stages of a start, with the per cent at which each begins, and how long it usually takes.
// libguestfs' Go binding reports no progress, so within a stage time is all there is to go by.
var stages = []struct {
	name  string
	from  int
	usual time.Duration
}{
	{stagePrepare, 0, 2 * time.Second},
	{stageBoot, 10, 15 * time.Second},
	{stageScan, 75, 5 * time.Second},
	{stageMount, 90, 5 * time.Second},
}

const (
	waitIdle     = "waiting for another backup's appliance to become idle"
	stagePrepare = "preparing"
	stageBoot    = "booting the appliance"
	stageScan    = "looking for file systems"
	stageMount   = "mounting file systems"
)

// progress approaches a stage's end as time goes by, and never reaches it.
func progress(stage string, t time.Duration) int {
	for i, s := range stages {
		if s.name != stage {
			continue
		}
		to := 100
		if i+1 < len(stages) {
			to = stages[i+1].from
		}
		return s.from + int(float64(to-s.from)*(1-math.Exp(-t.Seconds()/s.usual.Seconds())))
	}
	return 0
}

func (a *Appliance) setStage(state, stage string) {
	a.mu.Lock()
	a.state, a.stage, a.since = state, stage, time.Now()
	a.mu.Unlock()
}

// stageOf is setStage unless p has ended meanwhile, which says more.
func (a *Appliance) stageOf(p *process, state, stage string) {
	a.mu.Lock()
	if a.proc == p {
		a.state, a.stage, a.since = state, stage, time.Now()
	}
	a.mu.Unlock()
}

// use returns a running helper and starts one where none runs. release must be called when
// the request is done: until then the appliance is not stopped for being unused.
func (a *Appliance) use(ctx context.Context) (p *process, release func(), err error) {
	for {
		a.mu.Lock()
		switch {
		case a.closed:
			a.mu.Unlock()
			return nil, nil, ErrClosed
		case a.proc != nil && !a.proc.ended():
			a.users++
			p := a.proc
			a.mu.Unlock()
			return p, a.release, nil
		case a.proc != nil: // who watches it has not noticed yet
			p := a.proc
			a.mu.Unlock()
			select {
			case <-p.done:
			case <-ctx.Done():
				return nil, nil, context.Cause(ctx)
			}
			a.lost(p)
			continue
		case a.booting == nil && time.Now().Before(a.retryAt):
			err := fmt.Errorf("%w (tried again in %v)", a.err, time.Until(a.retryAt).Round(time.Second))
			a.mu.Unlock()
			return nil, nil, err
		case a.booting == nil:
			a.booting = make(chan struct{})
			a.wg.Add(1)
			go a.start(a.booting)
		}
		booting := a.booting
		a.mu.Unlock()
		select {
		case <-booting:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
		a.mu.Lock()
		err, failed := a.err, a.proc == nil
		a.mu.Unlock()
		if failed && err != nil {
			return nil, nil, err
		}
	}
}

func (a *Appliance) release() {
	a.mu.Lock()
	a.users--
	a.lastUse = time.Now()
	a.mu.Unlock()
}

// start boots an appliance and ends the booting that callers of use wait for.
func (a *Appliance) start(booting chan struct{}) {
	defer a.wg.Done()
	p, err := a.boot()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.booting = nil
	a.err = err
	if err != nil {
		a.state, a.stage = stateFailed, ""
		a.pause()
		a.f.opts.Log.Warn("libguestfs did not start", "backup", a.name, "error", err)
	} else {
		a.proc, a.state, a.stage, a.lastUse = p, stateRunning, "", time.Now()
		a.began = a.lastUse
		a.wg.Add(1)
		go a.watch(p)
	}
	close(booting)
}

// pause sets when the next start may be. a.mu is held.
func (a *Appliance) pause() {
	a.failures++
	d := time.Second << min(a.failures-1, 10)
	a.retryAt = time.Now().Add(min(d, maxPause))
}

// boot starts a helper, with KVM where that works, and scans the disks.
func (a *Appliance) boot() (_ *process, err error) {
	o := &a.f.opts
	a.setStage(stateWaiting, waitIdle)
	wait, cancel := context.WithTimeout(a.ctx, waitLimit)
	defer cancel()
	if err := a.f.pool.acquire(wait, a); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			a.f.pool.release(a)
		}
	}()
	if len(a.disks) > wire.MaxDisks {
		return nil, fmt.Errorf("libguestfs reads at most %d disks of a backup, and there are %d", wire.MaxDisks, len(a.disks))
	}
	began := time.Now()
	withKVM := a.f.kvm.wanted()
	p, err := a.launch(wait, &withKVM)
	if err != nil && withKVM && a.f.kvm.known() && a.ctx.Err() == nil {
		o.Log.Warn("libguestfs does not start with KVM and is started without", "backup", a.name, "error", err)
		a.f.kvm.set(false)
		withKVM = false
		p, err = a.launch(wait, &withKVM)
	}
	if err != nil {
		if o.Lend == nil {
			err = fmt.Errorf("%w; `libguestfs-test-tool` tells what is wrong with its installation", err)
		}
		return nil, fmt.Errorf("libguestfs did not start: %w", err)
	}
	booted := time.Now()
	if err := a.scan(p); err != nil {
		p.kill(err)
		<-p.done
		return nil, err
	}
	o.Log.Info("libguestfs runs", "backup", a.name, "disks", len(a.disks), "kvm", withKVM, "boot", booted.Sub(began), "scan", time.Since(booted))
	return p, nil
}

// obtain starts a helper, or asks for one.
func (a *Appliance) obtain(ctx context.Context) (*child, error) {
	o := &a.f.opts
	if o.Lend != nil {
		h, err := o.Lend(ctx, a.name, len(a.disks), func(what string) { a.setStage(stateWaiting, what) })
		if err != nil {
			return nil, err
		}
		a.setStage(stateStarting, stagePrepare)
		return borrow(h, len(a.disks))
	}
	if err := sandbox.CheckMemory(o.need(), sandbox.AvailableMemory()); err != nil {
		return nil, err
	}
	a.setStage(stateStarting, stagePrepare)
	dir, err := newOwnDir(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("a directory for the appliance: %w", err)
	}
	return startChild(o, dir, a.disks)
}

// launch boots an appliance in a new helper. Where KVM is wanted and nobody knows yet whether
// it works, the helper is asked first.
func (a *Appliance) launch(wait context.Context, withKVM *bool) (_ *process, err error) {
	c, err := a.obtain(wait)
	if err != nil {
		return nil, err
	}
	p := run(c, a.f.opts.limit, a.disks)
	defer func() {
		if err != nil {
			p.kill(err)
			<-p.done
		}
	}()
	if *withKVM && !a.f.kvm.known() {
		err := p.do(a.ctx, &wire.Request{Op: wire.Probe}, func(r *wire.Reply, _ []byte) error {
			*withKVM = r.KVM
			a.f.kvm.set(r.KVM)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	a.setStage(stateStarting, stageBoot)
	r := &wire.Request{Op: wire.Start, KVM: *withKVM, Disks: len(a.disks)}
	if len(a.f.opts.Keys) > 0 {
		r.Memory = sandbox.UnlockMemory
	}
	return p, p.do(a.ctx, r, nil)
}

// kvm is what is known of KVM, which is not tried again where an appliance did not start with it.
type kvm struct {
	mu     sync.Mutex
	probed bool
	works  bool
}

func (k *kvm) known() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.probed
}

// wanted tells whether the next appliance should use KVM, as far as is known.
func (k *kvm) wanted() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.works || !k.probed
}

func (k *kvm) set(works bool) {
	k.mu.Lock()
	k.probed, k.works = true, works
	k.mu.Unlock()
}

// watch ends the appliance when nobody used it for long, and notices when it ends by itself.
func (a *Appliance) watch(p *process) {
	defer a.wg.Done()
	idle := time.NewTimer(a.f.opts.Idle)
	defer idle.Stop()
	for {
		select {
		case <-p.done:
		case <-idle.C:
			if d, ok := a.unused(); ok && d >= a.f.opts.Idle {
				a.stopUnused(a.f.opts.Idle)
			}
			d, _ := a.unused()
			idle.Reset(max(a.f.opts.Idle-d, 10*time.Millisecond))
			continue
		}
		a.lost(p)
		return
	}
}

// lost takes note that p has ended, and gives its place back.
func (a *Appliance) lost(p *process) {
	a.mu.Lock()
	if a.proc == p { // nobody stopped it, or took note of it
		a.proc, a.err = nil, p.death()
		a.state = stateFailed
		if time.Since(a.began) > soundAfter {
			a.failures = 0
		}
		a.pause()
		a.f.opts.Log.Warn("libguestfs ended", "backup", a.name, "error", a.err)
	}
	a.mu.Unlock()
	a.leave(p)
}

// unused tells for how long nobody has used the running appliance; false: it is in use, or
// does not run.
func (a *Appliance) unused() (time.Duration, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.proc == nil || a.users > 0 {
		return 0, false
	}
	return time.Since(a.lastUse), true
}

// stopUnused stops the appliance if nobody has used it for d, and waits for its end.
func (a *Appliance) stopUnused(d time.Duration) bool {
	a.mu.Lock()
	p := a.proc
	if p == nil || a.users > 0 || time.Since(a.lastUse) < d {
		a.mu.Unlock()
		return false
	}
	a.proc, a.state, a.failures = nil, stateIdle, 0
	a.mu.Unlock()
	p.kill(errGone)
	<-p.done
	a.leave(p)
	a.f.opts.Log.Info("libguestfs stopped: nobody used it", "backup", a.name)
	return true
}

// Close implements engine.Appliance. Requests that wait get an error.
func (a *Appliance) Close() error {
	a.mu.Lock()
	a.closed = true
	p := a.proc
	a.proc = nil
	a.mu.Unlock()
	a.cancel(ErrClosed)
	if p != nil {
		p.kill(ErrClosed)
		<-p.done
	}
	a.wg.Wait()
	return nil
}

// background registers a goroutine that Close waits for; false: it is closed. wg.Done ends it.
func (a *Appliance) background() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.wg.Add(1)
	return true
}
