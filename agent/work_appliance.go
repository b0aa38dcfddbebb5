package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"vmfr/agent/engine"
	"vmfr/agent/guestfs"
	"vmfr/agent/session"
	"vmfr/agent/tree"
	"vmfr/agent/worker"
	api "vmfr/api/session"
)

const (
	// keySecret is where a file restore's keys come from, for people.
	keySecret = "the Secret that spec.diskKeysSecretRef names"
	// applianceMemory is what a backup's first appliance adds to the worker's own memory limit,
	// for what is kept of it (guestfs: 208 MiB of caches, which are rarely full).
	applianceMemory = 192 << 20
	// reportPeriod is how often the supervisor is told what has changed.
	reportPeriod = 2 * time.Second
)

// lender gets libguestfs' helpers from the supervisor, or serve, one at a time.
type lender struct {
	conn     *session.Conn
	turn     chan struct{} // holds one token: whoever has it may ask
	fallback *guestfs.Fallback

	mu   sync.Mutex
	wish *wish           // nil: nothing is asked for
	had  map[string]bool // backups that had an appliance
}

// wish is an appliance that was asked for.
type wish struct {
	waiting   func(string)
	answer    chan answer // one
	abandoned bool
}

type answer struct {
	helper *guestfs.Helper
	err    error
}

// appliances makes the engine that asks the supervisor for appliances; nil: it has none.
func (a *assignment) appliances(conn *session.Conn, log *slog.Logger) (*lender, error) {
	if a.NoAppliance != "" {
		return nil, nil
	}
	o := guestfs.Options{Log: log, KeySource: keySecret}
	for _, name := range slices.Sorted(maps.Keys(a.Credentials.DiskKeys)) {
		for _, k := range keyVariants("", a.Credentials.DiskKeys[name]) {
			if err := k.Check(); err != nil {
				o.BadKeys = append(o.BadKeys, fmt.Errorf("its entry %q cannot be used: %w", name, err))
				break
			}
			o.Keys = append(o.Keys, k)
		}
	}
	return newLender(conn, o)
}

// newLender makes the engine that asks whoever is at the other end of conn.
func newLender(conn *session.Conn, o guestfs.Options) (*lender, error) {
	l := &lender{conn: conn, turn: make(chan struct{}, 1), had: map[string]bool{}}
	l.turn <- struct{}{}
	o.Lend = l.lend
	var err error
	l.fallback, err = guestfs.New(o)
	return l, err
}

// engine is nil where there is none.
func (l *lender) engine() engine.Fallback {
	if l == nil {
		return nil
	}
	return l.fallback
}

// lend implements guestfs.Options.Lend.
func (l *lender) lend(ctx context.Context, backup string, disks int, waiting func(string)) (*guestfs.Helper, error) {
	select {
	case <-l.turn:
	default:
		waiting("it waits until another backup of this session has its appliance")
		select {
		case <-l.turn:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	w := &wish{waiting: waiting, answer: make(chan answer, 1)}
	l.mu.Lock()
	l.wish = w
	if !l.had[backup] {
		l.had[backup] = true
		worker.GrowMemory(applianceMemory)
	}
	l.mu.Unlock()
	if err := l.conn.Send(&session.Message{Appliance: &session.Appliance{Backup: backup, Disks: disks}}, tellLimit); err != nil {
		return nil, err // and with the supervisor this process ends
	}
	select {
	case got := <-w.answer:
		return got.helper, got.err
	case <-ctx.Done():
	}
	l.mu.Lock()
	w.abandoned = true
	l.mu.Unlock()
	select {
	case got := <-w.answer: // it came just now
		if got.helper != nil {
			got.helper.Close()
		}
	default:
	}
	return nil, fmt.Errorf("%w while it waited for an appliance; open the folder again later", context.Cause(ctx))
}

// answered takes the supervisor's answer over, with its files.
func (l *lender) answered(h *session.Helper, files []*os.File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.wish
	if w == nil { // it was not asked
		for _, f := range files {
			_ = f.Close()
		}
		return
	}
	if h.Waiting != "" {
		if !w.abandoned {
			w.waiting(h.Waiting)
		}
		return
	}
	l.wish = nil
	l.turn <- struct{}{}
	var got answer
	if h.Error != "" {
		got.err = errors.New(h.Error)
	} else {
		got.helper = &guestfs.Helper{Conn: files[0], Log: files[1], Lease: files[2]} // as many as the message was checked to have
	}
	if w.abandoned {
		if got.helper != nil {
			got.helper.Close()
		}
		return
	}
	w.answer <- got
}

// obey does what a message of the supervisor's about appliances says; false: it is about
// something else.
func (l *lender) obey(m *session.Message) bool {
	switch {
	case l == nil:
		return false
	case m.Helper != nil:
		l.answered(m.Helper, m.Files)
		m.Files = nil
	case m.Spare != nil:
		go l.fallback.Spare()
	default:
		return false
	}
	return true
}

// follow tells the supervisor what has changed, until nothing can any more.
func follow(ctx context.Context, t *tree.Tree, told []api.BackupReport, tell func([]api.BackupReport) error) {
	tick := time.NewTicker(reportPeriod)
	defer tick.Stop()
	for {
		dynamic := t.Dynamic() // before it is looked at
		if now := reports(t.Backups()); !reflect.DeepEqual(now, told) {
			if tell(now) != nil {
				return
			}
			told = now
		}
		if !dynamic {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
