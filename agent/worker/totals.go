package worker

import (
	"sync/atomic"
	"time"

	"vmfr/agent/latency"
	"vmfr/agent/tree"
)

// Totals is what all front ends of a session did together. The zero value is ready.
type Totals struct {
	s       atomic.Pointer[session]
	storage atomic.Pointer[storage]
}

// Sums are the totals of one moment.
type Sums struct {
	ReadBytes, Operations, Errors uint64
	Connections, OpenFiles        int64
	Latency                       latency.Snapshot // see tree.Stats
	// StorageWait is how long the oldest read has waited that storage has not answered, to the
	// second, and Stalled how many disks do not answer at all, see Stall.
	StorageWait time.Duration
	Stalled     int
}

// Read adds up; before the session serves, there is only what is told of storage.
func (t *Totals) Read() (sum Sums) {
	if x := t.storage.Load(); x != nil {
		sum.StorageWait, sum.Stalled = x.waiting()
		sum.StorageWait = sum.StorageWait.Truncate(time.Second)
	}
	s := t.s.Load()
	if s == nil {
		return sum
	}
	for _, c := range s.metrics.counters {
		n := c.Snapshot()
		sum.ReadBytes += n.Bytes
		sum.Connections += n.Connections
		sum.OpenFiles += n.OpenFiles
		for op, k := range n.Ops {
			if op != tree.OpRead.String() { // which comes with every piece of a file
				sum.Operations += k
			}
		}
	}
	stats := s.disks.Tree.Stats()
	for _, n := range stats.Errors {
		sum.Errors += n
	}
	sum.Latency = stats.Latency
	return sum
}
