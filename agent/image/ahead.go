package image

import (
	"math"
	"runtime"
	"sync"
	"sync/atomic"
)

// Read-ahead. A read that meets a compressed cluster asks for the rest of its own range and,
// once it has followed on two others, for a window behind it. Workers inflate those clusters
// into the cache, where the reader finds them or waits for the one under way.
//
//	... done ... | p of this read |      window       |
//	             ^at          end ^ next       next+window ^ asked
const (
	aheadStreams = 8         // sequential readers told apart
	aheadHits    = 2         // reads in a row that make a sequential reader
	aheadSlack   = 1 << 20   // bytes that concurrent reads of one reader may be out of order
	aheadUnit    = 64 << 10  // bytes of one job, or a cluster if that is more
	aheadWindow  = 512 << 10 // bytes, or two jobs for each worker if that is more
)

// ahead has a fixed number of workers, which start with the first job and end in close.
type ahead struct {
	m       *Image
	workers int
	most    int64 // bytes the window may have: a part of the cache
	count   atomic.Uint64

	mu      sync.Mutex
	streams [aheadStreams]stream
	oldest  int // the stream to forget next
	closed  bool
	jobs    chan aheadJob // nil: no worker runs
	stop    chan struct{}
	running sync.WaitGroup
}

// stream is one reader.
type stream struct {
	next  int64 // where its next read is expected
	asked int64 // clusters that start below are asked for
	hits  int
}

// aheadJob is a range of the disk whose compressed clusters to inflate.
type aheadJob struct{ from, to int64 }

func newAhead(m *Image, most int64) *ahead {
	return &ahead{m: m, workers: runtime.GOMAXPROCS(0), most: most, stop: make(chan struct{})}
}

// note tells that [from, to) is being read and that clusters of that size are packed at from.
// It never waits: where the workers are behind, nothing more is asked for.
func (a *ahead) note(from, to, cluster int64) {
	unit := max(cluster, aheadUnit)
	window := min(max(aheadWindow, 2*unit*int64(a.workers)), a.most)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	s := a.find(from)
	// The reader itself inflates the first cluster.
	start, end := max(s.asked, from&^(cluster-1)+cluster), to
	if s.next = max(s.next, to); s.hits >= aheadHits {
		end = s.next + window
	}
	end = min(end, a.m.size)
	for start < end {
		job := aheadJob{start, min(start&^(unit-1)+unit, a.m.size)}
		if !a.queue(job, window/unit) {
			break
		}
		a.count.Add(uint64((job.to - job.from + cluster - 1) / cluster))
		start = job.to
		s.asked = start
	}
}

// find returns the stream that a read at from continues, or a new one. a.mu is held.
func (a *ahead) find(from int64) *stream {
	for i := range a.streams {
		s := &a.streams[i]
		if s.next > 0 && from >= s.next-aheadSlack && from <= s.next+aheadSlack {
			s.hits = min(s.hits+1, math.MaxInt32)
			return s
		}
	}
	s := &a.streams[a.oldest]
	a.oldest = (a.oldest + 1) % aheadStreams
	*s = stream{next: from}
	return s
}

// queue hands a job to the workers, starting them if this is the first, or tells that they
// have enough to do. a.mu is held.
func (a *ahead) queue(j aheadJob, backlog int64) bool {
	if a.jobs == nil {
		a.jobs = make(chan aheadJob, max(backlog, 1))
		for range a.workers {
			a.running.Go(a.work)
		}
	}
	select {
	case a.jobs <- j:
		return true
	default:
		return false
	}
}

// work inflates until close. Errors are left for the reader, who meets them again: they are
// not kept.
func (a *ahead) work() {
	for {
		select {
		case <-a.stop:
			return
		case j := <-a.jobs:
			a.inflate(j)
		}
	}
}

func (a *ahead) inflate(j aheadJob) {
	for off := j.from; off < j.to; {
		select {
		case <-a.stop:
			return
		default:
		}
		steps := int((j.to-off)>>minSubclusterBits) + 1
		r, err := a.m.at(off, j.to-off, false, &steps)
		if err != nil {
			return
		}
		if r.kind == packed {
			if _, err := a.m.packs.get(r.pack); err != nil {
				return
			}
		}
		off += r.n
	}
}

// close ends the workers and waits for them.
func (a *ahead) close() {
	a.mu.Lock()
	if !a.closed {
		a.closed = true
		close(a.stop)
	}
	a.mu.Unlock()
	a.running.Wait()
}
