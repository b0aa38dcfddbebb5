package worker

import (
	"sync/atomic"

	"vmfr/agent/latency"
	"vmfr/agent/tree"
)

// Totals is what all front ends of a session did together. The zero value is ready.
type Totals struct{ s atomic.Pointer[session] }

// Sums are the totals of one moment.
type Sums struct {
	ReadBytes, Operations, Errors uint64
	Connections, OpenFiles        int64
	Latency                       latency.Snapshot // see tree.Stats
}

// Read adds up; before the session serves, everything is zero.
func (t *Totals) Read() (sum Sums) {
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
