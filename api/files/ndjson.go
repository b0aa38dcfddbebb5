package files

import (
	"bufio"
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

const (
	// flushEvery is how long a line waits at most.
	flushEvery = 100 * time.Millisecond
	lineBuffer = 32 << 10
)

// lines sends JSON values, one a line, soon after each was found. Its methods are safe for
// concurrent use.
type lines struct {
	w   *response
	end chan struct{}
	wg  sync.WaitGroup

	mu    sync.Mutex
	out   *bufio.Writer
	enc   *json.Encoder
	dirty bool
	err   error
}

// newLines begins the answer.
func newLines(w *response, mediaType string) *lines {
	hdr := w.Header()
	hdr.Set("Content-Type", mediaType)
	hdr.Set("Cache-Control", noStore)
	w.WriteHeader(http.StatusOK)
	l := &lines{w: w, end: make(chan struct{}), out: bufio.NewWriterSize(w, lineBuffer)}
	l.enc = json.NewEncoder(l.out)
	l.enc.SetEscapeHTML(true)
	l.flush() // the client sees that it has begun
	l.wg.Go(l.tick)
	return l
}

// tick flushes, and tells the connection that there is progress where there is nothing to say.
func (l *lines) tick() {
	t := time.NewTicker(flushEvery)
	defer t.Stop()
	for {
		select {
		case <-l.end:
			return
		case now := <-t.C:
			l.mu.Lock() // whoever waits for the client holds it, and then there is no progress
			l.w.extend(now)
			if l.dirty {
				l.flush()
			}
			l.mu.Unlock()
		}
	}
}

func (l *lines) flush() {
	l.dirty = false
	if err := l.out.Flush(); err != nil && l.err == nil {
		l.err = err
	}
	if err := l.w.rc.Flush(); err != nil && l.err == nil {
		l.err = err
	}
}

// send sends one value. Its error is the client's.
func (l *lines) send(v any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = l.enc.Encode(v)
		l.dirty = true
	}
	return l.err
}

// text sends a line as it is.
func (l *lines) text(s string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		_, l.err = l.out.WriteString(s)
		l.dirty = true
	}
	return l.err
}

// close sends what waits and ends the helper; the answer is complete unless an error is returned.
func (l *lines) close() error {
	close(l.end)
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
	return l.err
}
