package supervisor

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// spareEvery is how often the workers are asked to end appliances that nobody uses, while
	// others wait for a place.
	spareEvery = time.Second
	// turn is how long an appliance may keep its place from others: whoever waits gives up after
	// ten minutes (guestfs.waitLimit). Only a worker decides what is in use, and it may be hostile.
	turn = 8 * time.Minute
)

// places bounds how many appliances run on the node. A place that becomes free goes to whoever
// waits and whose session has the fewest; among those, to the one that came first.
type places struct {
	max  int
	turn time.Duration
	ask  func(*appliance) // asks it to make room

	mu      sync.Mutex
	running []*appliance // in the order of their starts
	waiting []*appliance
}

// take waits for a place for a until ctx ends. waiting is called once if there is none at once.
func (p *places) take(ctx context.Context, a *appliance, waiting func(running int)) error {
	p.mu.Lock()
	a.turn = make(chan struct{})
	p.waiting = append(p.waiting, a)
	p.next()
	n := len(p.running)
	p.mu.Unlock()
	select {
	case <-a.turn:
		return nil
	default:
		waiting(n)
	}
	tick := time.NewTicker(spareEvery)
	defer tick.Stop()
	for asked := time.Now(); ; {
		for _, o := range p.inTheWay(a, time.Since(asked)) {
			p.ask(o)
		}
		select {
		case <-a.turn:
			return nil
		case <-ctx.Done():
			p.give(a)
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// next gives free places away. It is called with the lock held.
func (p *places) next() {
	for len(p.waiting) > 0 && len(p.running) < p.max {
		best, fewest := 0, len(p.running)+1
		for i, a := range p.waiting {
			if n := p.of(a.sess()); n < fewest {
				best, fewest = i, n
			}
		}
		a := p.waiting[best]
		p.waiting = slices.Delete(p.waiting, best, best+1)
		p.running = append(p.running, a)
		a.began = time.Now()
		close(a.turn)
	}
}

func (p *places) of(x *sess) (n int) {
	for _, a := range p.running {
		if a.sess() == x {
			n++
		}
	}
	return n
}

// give takes the place of a, or its wish for one, back.
func (p *places) give(a *appliance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	same := func(o *appliance) bool { return o == a }
	p.running, p.waiting = slices.DeleteFunc(p.running, same), slices.DeleteFunc(p.waiting, same)
	p.next()
}

// inTheWay are the appliances that could make room for a, if it is the first that waits. The
// one of another session that has run for longest loses its place when a has waited for a turn,
// and it has had one.
func (p *places) inTheWay(a *appliance, waited time.Duration) []*appliance {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 || p.waiting[0] != a {
		return nil
	}
	oldest := slices.IndexFunc(p.running, func(o *appliance) bool { return o.sess() != a.sess() })
	if oldest >= 0 && waited > p.turn && time.Since(p.running[oldest].began) > p.turn {
		p.running[oldest].overdue.Store(true)
	}
	return slices.Clone(p.running)
}

var descAppliances = desc("appliances", "libguestfs appliances by state: running, or waiting for a place.", "state")

// Describe sends the description of what Collect makes.
func (p *places) Describe(ch chan<- *prometheus.Desc) { ch <- descAppliances }

// Collect sends how many run and wait.
func (p *places) Collect(ch chan<- prometheus.Metric) {
	p.mu.Lock()
	running, waiting := len(p.running), len(p.waiting)
	p.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(descAppliances, prometheus.GaugeValue, float64(running), "running")
	ch <- prometheus.MustNewConstMetric(descAppliances, prometheus.GaugeValue, float64(waiting), "waiting")
}
