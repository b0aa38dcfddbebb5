package guestfs

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// evictAfter is how long an appliance must have been unused before it is stopped for another
// backup's.
const evictAfter = 2 * time.Second

// pool bounds how many appliances run at a time. Where all places are taken, the one that has
// been unused for longest gives its place away; while all are in use, others wait.
type pool struct {
	mu      sync.Mutex
	max     int
	taken   int
	running map[*Appliance]int // how many places: two while one ends and the next one starts
}

func newPool(n int) *pool { return &pool{max: n, running: map[*Appliance]int{}} }

// waitStep is how often a waiting appliance looks for a place.
const waitStep = 250 * time.Millisecond

// acquire takes a place for a, waiting for one until ctx ends.
func (p *pool) acquire(ctx context.Context, a *Appliance) error {
	for {
		p.mu.Lock()
		if p.taken < p.max {
			p.taken++
			p.running[a]++
			p.mu.Unlock()
			return nil
		}
		var victim *Appliance
		var longest time.Duration
		for other := range p.running {
			if d, ok := other.unused(); ok && d >= evictAfter && d > longest {
				victim, longest = other, d
			}
		}
		p.mu.Unlock()
		if victim != nil && victim.stopUnused(evictAfter) {
			continue
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("libguestfs: %w while waiting for one of the %d other backups' appliances to become idle; see --max-appliances", context.Cause(ctx), p.max)
		case <-time.After(waitStep):
		}
	}
}

func (p *pool) release(a *Appliance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.running[a]--; p.running[a] == 0 {
		delete(p.running, a)
	}
}

// leave gives the place of a's process p back: once, whoever first notices that it has ended.
func (a *Appliance) leave(p *process) { p.left.Do(func() { a.f.pool.release(a) }) }

// spare stops every appliance that has been unused for a moment.
func (p *pool) spare() {
	p.mu.Lock()
	running := slices.Collect(maps.Keys(p.running))
	p.mu.Unlock()
	for _, a := range running {
		a.stopUnused(evictAfter)
	}
}
