package latency

import (
	"sync"
	"testing"
	"time"
)

// TestPending: the age of what does not end, whatever else begins and ends.
func TestPending(t *testing.T) {
	p := NewPending(8)
	at := func(seconds int) time.Time { return time.Unix(int64(seconds), 0) }
	tick := func(now, n, since int) {
		t.Helper()
		gotN, got := p.Tick(at(now))
		if gotN != n || since == 0 != got.IsZero() || since != 0 && !got.Equal(at(since)) {
			t.Errorf("at %d: %d operations since %v, want %d since %d", now, gotN, got, n, since)
		}
	}
	tick(1, 0, 0)
	first := p.Begin()
	p.Begin().End()
	tick(2, 1, 0)
	second := p.Begin()
	tick(3, 2, 2)
	p.Begin().End()
	tick(4, 2, 2)
	first.End()
	tick(5, 1, 3)
	second.End()
	tick(6, 0, 0)
	tick(7, 0, 0)
	if len(p.old) != 1 {
		t.Errorf("%d spans are kept of nothing", len(p.old))
	}
	var none *Pending
	none.Begin().End()
	if n, since := none.Tick(at(8)); n != 0 || !since.IsZero() {
		t.Errorf("of none: %d, %v", n, since)
	}
}

// TestPendingConcurrent: nothing is lost or counted twice while Tick is called, and no more than the limit go on.
func TestPendingConcurrent(t *testing.T) {
	const limit = 4
	p := NewPending(limit)
	held := p.Begin()
	p.Tick(time.Unix(1, 0))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 * limit {
		wg.Go(func() {
			for range 2000 {
				p.Begin().End()
			}
		})
	}
	ticked := make(chan struct{})
	go func() {
		defer close(ticked)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if n, since := p.Tick(time.Now()); n < 1 || n > limit || !since.Equal(time.Unix(1, 0)) {
				t.Errorf("%d operations, since %v", n, since)
				return
			}
		}
	}()
	wg.Wait()
	close(stop)
	<-ticked
	held.End()
	p.Tick(time.Now())
	if n, since := p.Tick(time.Now()); n != 0 || !since.IsZero() {
		t.Errorf("at the end %d operations since %v", n, since)
	}
}

func BenchmarkPending(b *testing.B) {
	p := NewPending(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p.Begin().End()
		}
	})
}
