package tree

import "sync/atomic"

// Op is an operation of a front end, for its counters.
type Op int

// The operations that are counted.
const (
	OpLookup Op = iota
	OpStat
	OpList
	OpReadlink
	OpXattr
	OpOpen
	OpRead
	OpRefused // a write, or anything else that this service does not do
	ops
)

var opNames = [ops]string{"lookup", "stat", "list", "readlink", "xattr", "open", "read", "refused"}

// String is the operation's name in metrics.
func (o Op) String() string { return opNames[o] }

// Counters is what one front end did. The zero value is ready; all methods are safe for
// concurrent use and a nil *Counters counts nothing.
type Counters struct {
	ops   [ops]atomic.Uint64
	bytes atomic.Uint64
	files atomic.Int64
	conns atomic.Int64
}

// Count counts one operation.
func (c *Counters) Count(o Op) {
	if c != nil {
		c.ops[o].Add(1)
	}
}

// Read counts one read of n bytes of file content.
func (c *Counters) Read(n int) {
	if c != nil {
		c.ops[OpRead].Add(1)
		c.bytes.Add(uint64(max(n, 0)))
	}
}

// Files changes the number of open files by d.
func (c *Counters) Files(d int64) {
	if c != nil {
		c.files.Add(d)
	}
}

// Conns changes the number of open connections by d.
func (c *Counters) Conns(d int64) {
	if c != nil {
		c.conns.Add(d)
	}
}

// CountersSnapshot is the state of Counters at one moment.
type CountersSnapshot struct {
	Ops         map[string]uint64
	Bytes       uint64
	OpenFiles   int64
	Connections int64
}

// Snapshot reads the counters.
func (c *Counters) Snapshot() CountersSnapshot {
	s := CountersSnapshot{Ops: map[string]uint64{}, Bytes: c.bytes.Load(), OpenFiles: c.files.Load(), Connections: c.conns.Load()}
	for o := range ops {
		s.Ops[o.String()] = c.ops[o].Load()
	}
	return s
}
