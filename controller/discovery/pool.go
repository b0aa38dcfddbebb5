package discovery

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"vmfr/api/v1alpha1"
)

// pool owns all runs: at most one of each discovery, a bounded number at work, and none after the
// manager has stopped.
type pool struct {
	places   chan struct{} // of runs at work
	slots    chan struct{} // of backups at work, for all runs
	events   chan event.GenericEvent
	interval time.Duration // between two events of one run
	metrics  *collectors
	closing  func() // called when no run is left

	mu     sync.Mutex
	closed bool
	runs   map[types.NamespacedName]*run
	all    sync.WaitGroup
}

func newPool(o Options, m *collectors, closing func()) *pool {
	return &pool{
		places: make(chan struct{}, o.MaxConcurrentDiscoveries), slots: make(chan struct{}, o.MaxConcurrentBackups),
		events: make(chan event.GenericEvent), interval: o.StatusInterval, metrics: m, closing: closing,
		runs: map[types.NamespacedName]*run{},
	}
}

var _ manager.LeaderElectionRunnable = (*pool)(nil)

// Start keeps the pool until the manager stops; it returns when no run is left.
func (p *pool) Start(ctx context.Context) error {
	<-ctx.Done()
	p.mu.Lock()
	p.closed = true
	for key, r := range p.runs {
		r.cancel()
		delete(p.runs, key)
	}
	p.mu.Unlock()
	p.all.Wait()
	p.closing()
	return nil
}

// NeedLeaderElection is true: only the leader works.
func (p *pool) NeedLeaderElection() bool { return true }

func (p *pool) get(key types.NamespacedName) *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runs[key]
}

// drop stops the work on a discovery, if there is any.
func (p *pool) drop(key types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.runs[key]; r != nil {
		r.cancel()
		delete(p.runs, key)
	}
}

// start puts a run in the place of an older one of the same discovery. It is nil if the pool is
// closed.
func (p *pool) start(r *run) *run {
	ctx, cancel := context.WithCancel(context.Background())
	r.waiting, r.cancel = true, cancel
	r.changed, r.done = make(chan struct{}, 1), make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		cancel()
		return nil
	}
	older := p.runs[r.key]
	if older != nil {
		older.cancel()
	}
	p.runs[r.key] = r
	p.all.Go(func() { p.tell(ctx, r) })
	p.all.Go(func() {
		defer close(r.done)
		if older != nil {
			<-older.done // it was cancelled: two must not ask for the same at once
		}
		select {
		case p.places <- struct{}{}:
			defer func() { <-p.places }()
		case <-ctx.Done():
			return
		}
		p.metrics.running.Inc()
		defer p.metrics.running.Dec()
		r.work(ctx, p.slots)
	})
	return r
}

// tell sends an event for what has changed, at most one each interval.
func (p *pool) tell(ctx context.Context, r *run) {
	e := event.GenericEvent{Object: &v1alpha1.VirtualMachineBackupsDiscovery{ObjectMeta: metav1.ObjectMeta{Namespace: r.key.Namespace, Name: r.key.Name}}}
	for {
		select {
		case <-r.changed:
		case <-ctx.Done():
			return
		}
		select {
		case p.events <- e:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(p.interval):
		case <-ctx.Done():
			return
		}
	}
}
