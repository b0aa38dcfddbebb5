package discovery

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"vmfr/controller/velero"
)

// A location that could not be read for tripAfter backups in a row, each with all its retries, is
// left alone for retryAfter: a thousand backups of a store that is gone must not take hours.
const (
	tripAfter  = 3
	retryAfter = 30 * time.Second
)

// locations notes for one discovery which storage locations can be read.
type locations struct {
	mu    sync.Mutex
	state map[string]*reachability
	since map[string]time.Time // when Velero was first heard to call one unavailable
}

func newLocations() *locations {
	return &locations{state: map[string]*reachability{}, since: map[string]time.Time{}}
}

// unavailable notes what Velero says of a location, and returns for how long it has said that it is
// unavailable.
func (l *locations) unavailable(name string, is bool) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !is {
		delete(l.since, name)
		return 0
	}
	if _, known := l.since[name]; !known {
		l.since[name] = time.Now()
	}
	return time.Since(l.since[name])
}

type reachability struct {
	failures int
	last     error
	at       time.Time
}

// refused returns why a location is not tried now, or nil.
func (l *locations) refused(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.state[name]; r != nil && r.failures >= tripAfter && time.Since(r.at) < retryAfter {
		return fmt.Errorf("not tried, since %d other backups of the location %s failed: %w", r.failures, name, r.last)
	}
	return nil
}

// note takes down how reading a backup of the location ended.
func (l *locations) note(name string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !errors.Is(err, velero.ErrUnreachable) {
		if err == nil {
			delete(l.state, name)
		}
		return
	}
	r := l.state[name]
	if r == nil {
		r = &reachability{}
		l.state[name] = r
	}
	r.failures, r.last, r.at = r.failures+1, err, time.Now()
}
