package audit

import (
	"log/slog"
	"slices"
	"sync"
	"time"
)

// maxRanges bounds what is remembered of one open file. Readers in sequence, also with many
// requests at once, need a few; a file that is read here and there in more places than this is
// recorded with its nearest ranges joined.
const maxRanges = 32

// File joins the reads of one open file into one line, written by Close. A nil *File records
// nothing; its methods are safe for concurrent use.
type File struct {
	l       *Log
	who     Who
	path    string
	size    int64
	started time.Time

	mu     sync.Mutex
	ranges []span // sorted, disjoint, not adjacent
	joined bool   // some of ranges hold bytes that were not read
	bytes  int64
	reads  int64
	err    error // the first
}

// span is the bytes from (inclusive) to to (exclusive).
type span struct{ from, to int64 }

// Open begins the record of a file of size bytes.
func (l *Log) Open(w Who, path string, size int64) *File {
	if l == nil {
		return nil
	}
	return &File{l: l, who: w, path: path, size: size, started: time.Now()}
}

// Read takes note of n bytes that were sent from off, and of an error (nil and io.EOF are for
// the caller to leave out).
func (f *File) Read(off int64, n int, err error) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	if err != nil && f.err == nil {
		f.err = err
	}
	if n > 0 {
		f.bytes += int64(n)
		f.add(span{off, off + int64(n)})
	}
}

// add merges s into the ranges.
func (f *File) add(s span) {
	if n := len(f.ranges); n > 0 && f.ranges[n-1].to == s.from { // in sequence
		f.ranges[n-1].to = s.to
		return
	}
	at, _ := slices.BinarySearchFunc(f.ranges, s.from, func(r span, from int64) int {
		if r.to < from {
			return -1
		}
		return 1
	})
	end := at
	for end < len(f.ranges) && f.ranges[end].from <= s.to {
		s.from, s.to = min(s.from, f.ranges[end].from), max(s.to, f.ranges[end].to)
		end++
	}
	f.ranges = slices.Replace(f.ranges, at, end, s)
	if len(f.ranges) <= maxRanges {
		return
	}
	best := 1
	for i := 2; i < len(f.ranges); i++ {
		if f.gap(i) < f.gap(best) {
			best = i
		}
	}
	f.ranges[best-1].to = f.ranges[best].to
	f.ranges = slices.Delete(f.ranges, best, best+1)
	f.joined = true
}

func (f *File) gap(i int) int64 { return f.ranges[i].from - f.ranges[i-1].to }

// Close writes the line, unless nothing was read. Later calls do nothing.
func (f *File) Close() {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reads == 0 {
		return
	}
	ranges := make([][2]int64, len(f.ranges))
	for i, r := range f.ranges {
		ranges[i] = [2]int64{r.from, r.to}
	}
	attrs := []slog.Attr{slog.String("path", Escape(f.path)), slog.Int64("size", f.size), slog.Any("ranges", ranges),
		slog.Int64("bytes", f.bytes), slog.Int64("reads", f.reads), seconds(time.Since(f.started)), failure(f.err)}
	if f.joined {
		attrs = append(attrs, slog.Bool("rangesJoined", true))
	}
	f.reads = 0
	f.l.send("read", f.who, attrs...)
}
