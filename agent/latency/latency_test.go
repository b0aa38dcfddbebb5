package latency

import (
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{-1, 0, 100 * time.Microsecond, 100*time.Microsecond + 1, time.Second, time.Hour} {
		h.Observe(d)
	}
	s := h.Snapshot()
	count, sum, buckets := s.Plus(s).Cumulative()
	if count != 12 || sum < 7202 || sum > 7203 {
		t.Errorf("%d operations of %v s", count, sum)
	}
	for bound, want := range map[float64]uint64{.0001: 6, .0003: 8, .3: 8, 1: 10, 10: 10} {
		if buckets[bound] != want {
			t.Errorf("%v s: %d, want %d", bound, buckets[bound], want)
		}
	}
	if len(buckets) != len(Bounds) {
		t.Errorf("%d buckets", len(buckets))
	}
}
