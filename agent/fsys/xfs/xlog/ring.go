package xlog

import (
	"encoding/binary"
	"fmt"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

const (
	// basicBlock is the unit in bytes of all positions in the log and of all addresses of the
	// device that the log has ("daddr").
	basicBlock = 512

	// maxLogBytes bounds the log and with it the time of a replay: every block is read at most a
	// handful of times. mkfs.xfs makes none above 2 GiB.
	maxLogBytes = 2 << 30

	// windowBlocks is how much is read at once where blocks are looked at one after another.
	windowBlocks = 128
)

// ring is the log as a circle of basic blocks. Positions are basic blocks from its start.
type ring struct {
	r    extent.Reader
	g    *Geometry
	off  int64 // bytes, where the log begins on the device
	size int64 // basic blocks

	window     []byte // holds blocks [from, to)
	from, to   int64
	cycleWords [8]byte
}

// newRing locates the log. A log outside the device is ErrCorrupt.
func newRing(r extent.Reader, g *Geometry) (*ring, error) {
	agno := g.LogStart >> g.AGBlockLog
	agbno := g.LogStart & (1<<g.AGBlockLog - 1)
	start, ok1 := ondisk.Mul(agno, uint64(g.AGBlocks))
	start, ok2 := ondisk.Add(start, agbno)
	if !ok1 || !ok2 || agno >= uint64(g.AGCount) || agbno >= uint64(g.AGBlocks) || g.LogBlocks == 0 {
		return nil, fsys.Corrupt("xfs", "superblock", 0, 0, "a log of %d blocks at block %#x", g.LogBlocks, g.LogStart)
	}
	off, n, ok := ondisk.Range(start, uint64(g.LogBlocks), uint64(g.BlockSize), r.Size())
	if !ok {
		return nil, fsys.Corrupt("xfs", "superblock", 0, 0, "the log of %d blocks at block %#x leaves the device", g.LogBlocks, g.LogStart)
	}
	if n > maxLogBytes {
		return nil, fmt.Errorf("xfs: %w: a log of %d bytes (limit %d)", fsys.ErrUnsupported, n, maxLogBytes)
	}
	return &ring{r: r, g: g, off: off, size: n / basicBlock}, nil
}

// wrap maps a position that may be up to one round behind the end to the ring.
func (l *ring) wrap(blk int64) int64 {
	if blk >= l.size {
		return blk - l.size
	}
	return blk
}

// read fills p, whole blocks and not more than the ring has, from blk on, round the end.
func (l *ring) read(p []byte, blk int64) error {
	if first := (l.size - blk) * basicBlock; int64(len(p)) > first {
		if err := l.readFlat(p[:first], blk); err != nil {
			return err
		}
		p, blk = p[first:], 0
	}
	return l.readFlat(p, blk)
}

func (l *ring) readFlat(p []byte, blk int64) error {
	if _, err := extent.ReadFull(l.r, p, l.off+blk*basicBlock); err != nil {
		return fmt.Errorf("xfs: reading %d bytes of the log from block %d: %w", len(p), blk, err)
	}
	return nil
}

// block returns block blk, valid until the next call. Its neighbours on both sides are read with it.
func (l *ring) block(blk int64) ([]byte, error) {
	if blk < l.from || blk >= l.to {
		if l.window == nil {
			l.window = make([]byte, windowBlocks*basicBlock)
		}
		from := blk / windowBlocks * windowBlocks
		to := min(from+windowBlocks, l.size)
		l.from, l.to = 0, 0
		if err := l.readFlat(l.window[:(to-from)*basicBlock], from); err != nil {
			return nil, err
		}
		l.from, l.to = from, to
	}
	at := (blk - l.from) * basicBlock
	return l.window[at : at+basicBlock], nil
}

// cycle is the number of the round in which block blk was written. Every block of the log begins
// with it; record headers begin with their magic number and have it second.
func (l *ring) cycle(blk int64) (uint32, error) {
	if blk >= l.from && blk < l.to {
		return cycleOf(l.window[(blk-l.from)*basicBlock:]), nil
	}
	b := l.cycleWords[:]
	if err := l.readFlat(b, blk); err != nil {
		return 0, err
	}
	return cycleOf(b), nil
}

func cycleOf(b []byte) uint32 {
	if c := binary.BigEndian.Uint32(b); c != recordMagic {
		return c
	}
	return binary.BigEndian.Uint32(b[4:])
}

// findCycle returns the first block of [start, start+n) of the given cycle, or -1.
func (l *ring) findCycle(start, n int64, cycle uint32) (int64, error) {
	for blk := start; blk < start+n; blk++ {
		b, err := l.block(blk)
		if err != nil {
			return 0, err
		}
		if cycleOf(b) == cycle {
			return blk, nil
		}
	}
	return -1, nil
}

// cycleStart narrows down, by bisection, where cycle begins in (first, last], given that last is
// of it and first is not. A log whose cycles are in disorder gives some block of the cycle.
func (l *ring) cycleStart(first, last int64, cycle uint32) (int64, error) {
	for last-first > 1 {
		mid := (first + last) / 2
		c, err := l.cycle(mid)
		if err != nil {
			return 0, err
		}
		if c == cycle {
			last = mid
		} else {
			first = mid
		}
	}
	return last, nil
}

// corrupt reports a structure of the log at block blk.
func (l *ring) corrupt(structure string, blk int64, reason string, args ...any) error {
	return fsys.Corrupt("xfs", fmt.Sprintf("%s (block %d of the log)", structure, blk), 0, l.off+blk*basicBlock, reason, args...)
}
