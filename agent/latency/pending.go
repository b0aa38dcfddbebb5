package latency

import (
	"sync"
	"sync/atomic"
	"time"
)

// Pending are operations that have begun and not ended. They are not timed one by one: they belong to
// the time between two calls of Tick, which costs a page cache's read little. It is safe for
// concurrent use; of a nil *Pending nothing is known.
type Pending struct {
	slots chan struct{}
	now   atomic.Pointer[span]

	mu  sync.Mutex // of Tick
	old []*span    // with operations that have not ended, the oldest first
}

// span has the operations that began in it.
type span struct {
	n   atomic.Int64
	end time.Time // set when another one replaces it
}

// NewPending lets at most limit operations go on at a time; more wait until one ends.
func NewPending(limit int) *Pending {
	p := &Pending{slots: make(chan struct{}, limit)}
	p.now.Store(&span{})
	return p
}

// Operation is one that has begun.
type Operation struct {
	p *Pending
	s *span
}

// Begin begins an operation, for which End must be called.
func (p *Pending) Begin() Operation {
	if p == nil {
		return Operation{}
	}
	p.slots <- struct{}{}
	for {
		s := p.now.Load()
		s.n.Add(1)
		if p.now.Load() == s { // so Tick, which replaces it before it looks, has not missed this
			return Operation{p, s}
		}
		s.n.Add(-1)
	}
}

// End ends the operation.
func (o Operation) End() {
	if o.p != nil {
		o.s.n.Add(-1)
		<-o.p.slots
	}
}

// Tick tells how many operations have begun and not ended, and since when the oldest of them has been
// waiting at least; zero: none had begun at the last Tick. It is to be called regularly: the time is
// as exact as that.
func (p *Pending) Tick(now time.Time) (n int, since time.Time) {
	if p == nil {
		return 0, time.Time{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.now.Swap(&span{})
	last.end = now
	kept := p.old[:0]
	for _, s := range p.old {
		if s.n.Load() > 0 {
			kept = append(kept, s)
		}
	}
	clear(p.old[len(kept):])
	p.old = kept
	if len(p.old) > 0 {
		since = p.old[0].end
	}
	p.old = append(p.old, last)
	return len(p.slots), since
}
