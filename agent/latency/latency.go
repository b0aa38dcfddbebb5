// Package latency counts how long operations take, in the same classes wherever it is counted or
// shown: in the tree, in what a worker tells its supervisor, in metrics.
//
// Non-goals: no labels, no metrics library. Invariant: Observe takes no lock.
package latency

import (
	"slices"
	"sync/atomic"
	"time"
)

// Bounds are the longest durations of the classes; one more class has what takes longer. They
// reach from the page cache to storage that hardly answers.
var Bounds = [...]time.Duration{
	100 * time.Microsecond, 300 * time.Microsecond, time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond,
	100 * time.Millisecond, 300 * time.Millisecond, time.Second, 3 * time.Second, 10 * time.Second,
}

// Histogram counts durations. The zero value is ready; it is safe for concurrent use.
type Histogram struct {
	counts [len(Bounds) + 1]atomic.Uint64
	nanos  atomic.Uint64
}

// Observe counts one operation.
func (h *Histogram) Observe(d time.Duration) {
	class, _ := slices.BinarySearch(Bounds[:], d)
	h.counts[class].Add(1)
	h.nanos.Add(uint64(max(d, 0)))
}

// Snapshot is a Histogram at one moment.
type Snapshot struct {
	Counts [len(Bounds) + 1]uint64 `json:"counts"` // of each class alone
	Nanos  uint64                  `json:"nanos"`  // the sum of all durations
}

// Snapshot reads the counts.
func (h *Histogram) Snapshot() (s Snapshot) {
	for i := range h.counts {
		s.Counts[i] = h.counts[i].Load()
	}
	s.Nanos = h.nanos.Load()
	return s
}

// Plus adds what two histograms counted.
func (s Snapshot) Plus(o Snapshot) Snapshot {
	for i, n := range o.Counts {
		s.Counts[i] += n
	}
	s.Nanos += o.Nanos
	return s
}

// Cumulative is what metrics want: the number of all, their sum in seconds, and for each bound in
// seconds how many took at most as long.
func (s Snapshot) Cumulative() (count uint64, sum float64, buckets map[float64]uint64) {
	buckets = make(map[float64]uint64, len(Bounds))
	for i, n := range s.Counts {
		count += n
		if i < len(Bounds) {
			buckets[Bounds[i].Seconds()] = count
		}
	}
	return count, time.Duration(s.Nanos).Seconds(), buckets
}

// Slice is Counts for a message, and Of makes a Snapshot of what came with one.
func (s Snapshot) Slice() []uint64 { return s.Counts[:] }

// Of takes the classes that both ends know.
func Of(counts []uint64, nanos uint64) (s Snapshot) {
	copy(s.Counts[:], counts)
	s.Nanos = nanos
	return s
}
