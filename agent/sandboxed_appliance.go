package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"vmfr/agent/guestfs/sandbox"
	"vmfr/agent/session"
	"vmfr/agent/spawn"
	api "vmfr/api/session"
)

const (
	// helperRate is how often the worker may ask for a helper, after a burst: whoever lists the
	// folders of all backups one after the other asks once for each.
	helperRate, helperBurst = 10 * time.Second, 32
	// helperUIDs is the distance between the ranges of user ids of the worker and of each helper:
	// process ids are below. maxHelpers of them are below the last user id, 2^32-2.
	helperUIDs, maxHelpers = 1 << 22, 256
)

// appliances lends libguestfs' helpers to the workers of serve, each in a jail of its own
// (agent/guestfs/sandbox), as the node's supervisor does. Workers may be hostile.
type appliances struct {
	*fallback
	log     *slog.Logger
	spawner *spawn.Spawner
	limit   *rate.Limiter
	uids    chan int // of those that may still run
	wg      sync.WaitGroup

	mu      sync.Mutex
	running map[string]bool // backups
}

func newAppliances(f *fallback, s *spawn.Spawner, log *slog.Logger) *appliances {
	a := &appliances{fallback: f, log: log, spawner: s, limit: rate.NewLimiter(rate.Every(helperRate), helperBurst),
		uids: make(chan int, min(f.atOnce(), maxHelpers)), running: map[string]bool{}}
	for i := range cap(a.uids) {
		a.uids <- firstUID + (i+1)*helperUIDs + os.Getpid()
	}
	return a
}

// lend answers the worker's wish for a helper. An error is about what no worker of ours asks for, or
// the connection's.
func (l *life) lend(m *session.Appliance) error {
	disks := 0
	for _, b := range l.disks.backups {
		if b.Name == m.Backup {
			disks = len(b.Disks)
		}
	}
	if l.appliances == nil || m.Disks > disks {
		return fmt.Errorf("the worker asks for an appliance for %d disks of the backup %.80q", m.Disks, m.Backup)
	}
	answer := &session.Message{Helper: &session.Helper{Backup: m.Backup}}
	h, err := l.appliances.start(m)
	if err != nil {
		answer.Helper.Error = api.Text(err.Error())
	} else {
		answer.Files = h.Files
		defer h.CloseFiles() // without a copy of the worker's it ends
	}
	if err := l.w.Conn.Send(answer, tellLimit); err != nil {
		return l.died(err)
	}
	return nil
}

// start starts a helper. The error is for people.
func (a *appliances) start(m *session.Appliance) (_ *spawn.Helper, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running[m.Backup] {
		return nil, errors.New("the appliance before this one has not ended yet; open the folder again later")
	}
	if !a.limit.Allow() {
		return nil, errors.New("it was started too often; open the folder again later")
	}
	var uid int
	select {
	case uid = <-a.uids:
	default: // it knows how many there are, and waits by itself
		return nil, fmt.Errorf("%d of them run, and no more may; open the folder again later", cap(a.uids))
	}
	defer func() {
		if err != nil {
			a.uids <- uid
		}
	}()
	if err := sandbox.CheckMemory(sandbox.Need(len(a.keys) > 0), sandbox.AvailableMemory()); err != nil {
		return nil, err
	}
	h, err := a.spawner.Helper(sandbox.Options{UID: uid, Program: a.program, Appliance: a.appliance, Disks: m.Disks})
	if err != nil {
		return nil, err
	}
	a.running[m.Backup] = true
	log := a.log.With("backup", m.Backup, "pid", h.Process().Pid)
	log.Debug("an appliance starts", "disks", m.Disks)
	a.wg.Go(func() {
		why := h.Wait(func() string { // before the worker knows that it may ask again
			a.mu.Lock()
			defer a.mu.Unlock()
			delete(a.running, m.Backup)
			a.uids <- uid
			return ""
		})
		log.Debug("an appliance ended", "why", why)
	})
	return h, nil
}
