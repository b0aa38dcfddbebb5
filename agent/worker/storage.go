package worker

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"vmfr/agent/latency"
)

const (
	// stallAfter is when a read that has not ended is told: a disk that is busy answers within that,
	// one whose path fails over or whose pool has lost too much does not.
	stallAfter = 10 * time.Second
	// storageTick is how exact that is.
	storageTick = time.Second
	// diskReads is how many reads of one disk go on at a time; more wait, each without a thread.
	// Storage that does not answer keeps a thread for each read, and the sandbox allows 2,048 of them
	// (agent/sandbox); that many are for allReads, of all disks, but each has leastReads.
	diskReads, leastReads, allReads = 256, 8, 1536
)

// Stall is a disk whose storage does not answer. Whoever reads it waits; nothing gives up, since
// storage that fails over answers in the end, and a read of a local file cannot be taken back.
type Stall struct {
	Backup, Disk string
	Since        time.Time // when the oldest read that waits had begun
	Reads        int       // that wait
}

// String tells a person. It stays the same while the disk does not answer.
func (s Stall) String() string {
	return fmt.Sprintf("the storage of disk %s/%s has not answered since %s; what reads it waits", s.Backup, s.Disk, s.Since.UTC().Format(time.RFC3339))
}

// StallText tells a person of several; empty: there are none.
func StallText(stalls []Stall) string {
	var all []string
	for _, s := range stalls {
		all = append(all, s.String())
	}
	return strings.Join(all, "; ")
}

// storage watches the reads of all disks of a session.
type storage struct {
	disks []watched
	log   *slog.Logger

	mu     sync.Mutex
	stalls []Stall // of the last look
	oldest time.Time
}

// watched is one disk; the numbers are of the last look.
type watched struct {
	backup, disk string
	reads        *latency.Pending
	n            int
	since        time.Time
}

func newStorage(backups []Backup, log *slog.Logger) *storage {
	s := &storage{log: log}
	n := 0
	for _, b := range backups {
		n += len(b.Disks)
	}
	limit := readsOf(n)
	for _, b := range backups {
		for _, k := range b.Disks {
			s.disks = append(s.disks, watched{backup: b.Name, disk: k.Name, reads: latency.NewPending(limit)})
		}
	}
	return s
}

// readsOf is how many reads go on at a time of each of n disks.
func readsOf(n int) int { return max(leastReads, min(diskReads, allReads/max(n, 1))) }

// watch looks at the reads until ctx ends, and calls told with the disks that do not answer when these
// are others than before.
func (s *storage) watch(ctx context.Context, told func([]Stall)) {
	tick := time.NewTicker(storageTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if changed := s.look(time.Now()); changed && told != nil {
			told(s.stalled())
		}
	}
}

// look takes the numbers, and logs what has changed.
func (s *storage) look(now time.Time) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.stalls
	s.stalls, s.oldest = nil, time.Time{}
	for i := range s.disks {
		d := &s.disks[i]
		d.n, d.since = d.reads.Tick(now)
		if d.since.IsZero() {
			continue
		}
		if s.oldest.IsZero() || d.since.Before(s.oldest) {
			s.oldest = d.since
		}
		if now.Sub(d.since) >= stallAfter {
			s.stalls = append(s.stalls, Stall{d.backup, d.disk, d.since, d.n})
		}
	}
	same := func(a Stall) func(Stall) bool {
		return func(b Stall) bool { return a.Backup == b.Backup && a.Disk == b.Disk }
	}
	for _, a := range s.stalls {
		if !slices.ContainsFunc(before, same(a)) {
			changed = true
			s.log.Warn("storage does not answer; what reads it waits", "backup", a.Backup, "disk", a.Disk, "since", a.Since.UTC().Format(time.RFC3339), "reads", a.Reads)
		}
	}
	for _, a := range before {
		if !slices.ContainsFunc(s.stalls, same(a)) {
			changed = true
			s.log.Info("storage answers again", "backup", a.Backup, "disk", a.Disk, "after", now.Sub(a.Since).Round(time.Second))
		}
	}
	return changed
}

func (s *storage) stalled() []Stall {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.stalls)
}

// waiting is how long the oldest read has waited at the last look, and how many disks do not answer.
func (s *storage) waiting() (oldest time.Duration, stalled int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.oldest.IsZero() {
		return 0, 0
	}
	return time.Since(s.oldest), len(s.stalls)
}

// snapshot is each disk as the last look found it.
func (s *storage) snapshot() []watched {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.disks)
}
