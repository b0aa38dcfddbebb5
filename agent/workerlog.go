package main

import (
	"fmt"
	"io"
	"strings"
	"sync"

	"golang.org/x/time/rate"

	"vmfr/internal/cli"
)

// printable is one line of a stranger's without what a terminal would take for an order.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c >= 0x7f && c < 0xa0 {
			return ' '
		}
		return c
	}, cli.OneLine(s))
}

// workerLog passes a worker's log on. Until it is open, it keeps the last line, which tells why a
// sandbox could not be set up.
type workerLog struct {
	to    io.Writer
	limit *rate.Limiter

	mu      sync.Mutex
	isOpen  bool
	early   []string
	dropped int
}

func newWorkerLog(to io.Writer) *workerLog {
	return &workerLog{to: to, limit: rate.NewLimiter(logRate, logBurst)}
}

// maxEarly bounds the lines that are kept before the log is open.
const maxEarly = 100

func (w *workerLog) line(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text = printable(text)
	switch {
	case !w.isOpen:
		w.early = append(w.early[max(0, len(w.early)-maxEarly):], text)
	case !w.limit.Allow():
		w.dropped++
	default:
		if w.dropped > 0 {
			_, _ = fmt.Fprintf(w.to, "%d lines of the worker's log were left out\n", w.dropped)
			w.dropped = 0
		}
		_, _ = fmt.Fprintln(w.to, text)
	}
}

func (w *workerLog) open() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isOpen = true
	for _, text := range w.early {
		_, _ = fmt.Fprintln(w.to, text)
	}
	w.early = nil
}

// last is the last line of a worker that never came up.
func (w *workerLog) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.early) == 0 {
		return "it ended without a word"
	}
	return strings.TrimPrefix(w.early[len(w.early)-1], "sandbox: ")
}
