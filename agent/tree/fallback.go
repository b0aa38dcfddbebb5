package tree

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"vmfr/agent/engine"
	"vmfr/agent/fsys"
)

// boot is the start of a backup's appliance: once, when it is first needed, again after a
// failure. A nil *boot belongs to a backup that needs none.
type boot struct {
	engine    string // its name
	appliance engine.Appliance

	mu      sync.Mutex
	flight  chan struct{} // closed when the boot under way has ended and its table is current; nil: none
	settled bool          // it worked: nothing waits any more
	failure error         // of the last one
	retry   time.Time     // when to try again after failure
	wg      sync.WaitGroup
}

func newBoot(name string, a engine.Appliance) *boot { return &boot{engine: name, appliance: a} }

// errLate says that a boot takes longer than it may.
var errLate = errors.New("it did not answer in time")

// graceful is how much longer than BootLimit a caller waits, for the appliance to notice.
const graceful = 10 * time.Second

// unsettled tells whether a boot can still change what the tree shows.
func (b *boot) unsettled() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.settled || b.flight != nil
}

// awaited tells, while a table is made, whether what the boot has to tell is not known.
func (b *boot) awaited() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.settled
}

func (b *boot) lastFailure() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failure
}

// Dynamic tells whether anything in the tree is Volatile. Once false it stays so.
func (t *Tree) Dynamic() bool {
	for _, b := range t.backups {
		if b.boot.unsettled() {
			return true
		}
	}
	return false
}

// Volatile tells that the names in directory n, where they lead, and n's own attributes can
// still change: nobody may keep them. Everything else in the tree stays as it is.
func (t *Tree) Volatile(n Node) bool {
	if n.fs != 0 {
		m, err := t.cur.Load().at(n)
		return err == nil && m.wait != nil
	}
	if n.ino == 1 {
		return t.Dynamic()
	}
	f, err := t.cur.Load().static.node(n.ino)
	if err != nil {
		return false
	}
	for _, b := range t.backups {
		if f.entries != nil && (f.path+"/" == b.folder() || strings.HasPrefix(f.path, b.folder())) {
			return b.boot.unsettled()
		}
	}
	return false
}

// folder is the path of the backup's folder, ended by a slash.
func (b *backup) folder() string { return "/backups/" + b.Name + "/" }

// Await waits until the boot that n's content depends on has ended, well or not; it starts
// that boot where nobody did. Lookup and ReadDir of n do not wait then. It is for front ends
// whose callers can give up: errors are ctx's and those of a tree that is being closed.
func (t *Tree) Await(ctx context.Context, n Node) error {
	m, err := t.cur.Load().at(n)
	if err != nil || m.wait == nil {
		return nil
	}
	for _, b := range t.backups {
		if b.boot == m.wait {
			return t.await(ctx, b)
		}
	}
	return nil
}

// Settle boots every appliance that is needed, and waits for all of them. The reports tell
// what came of it.
func (t *Tree) Settle(ctx context.Context) error {
	errs := make(chan error, len(t.backups))
	for _, b := range t.backups {
		go func() { errs <- t.await(ctx, b) }()
	}
	var all []error
	for range t.backups {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// ready returns a table in which n is as it will stay, or shows why not.
func (t *Tree) ready(n Node) (*table, error) {
	tab := t.cur.Load()
	if int(n.fs) < len(tab.mounts) && tab.mounts[n.fs] != nil && tab.mounts[n.fs].wait != nil {
		if err := t.Await(context.Background(), n); err != nil {
			return nil, err
		}
		tab = t.cur.Load()
	}
	return tab, nil
}

// await waits for the boot of b, started where none is under way and the last one did not
// fail a moment ago.
func (t *Tree) await(ctx context.Context, b *backup) error {
	k := b.boot
	if k == nil {
		return nil
	}
	k.mu.Lock()
	if k.flight == nil && (k.settled || k.failure != nil && t.now().Before(k.retry)) {
		k.mu.Unlock()
		return nil
	}
	if t.ctx.Err() != nil {
		k.mu.Unlock()
		return t.ctx.Err()
	}
	if k.flight == nil {
		k.flight = make(chan struct{})
		k.wg.Add(1)
		go t.run(b, k.flight)
	}
	flight := k.flight
	k.mu.Unlock()
	late := time.NewTimer(t.cfg.BootLimit + graceful)
	defer late.Stop()
	select {
	case <-flight:
		return nil
	case <-late.C:
		return fmt.Errorf("%s for backup %q: %w", k.engine, b.Name, errLate)
	case <-ctx.Done():
		return ctx.Err()
	case <-t.ctx.Done():
		return t.ctx.Err()
	}
}

// run boots once and puts what was found into the tree.
func (t *Tree) run(b *backup, flight chan struct{}) {
	k := b.boot
	defer k.wg.Done()
	ctx, cancel := context.WithTimeout(t.ctx, t.cfg.BootLimit)
	defer cancel()
	found, err := t.filesystems(ctx, k)
	if err != nil && ctx.Err() != nil && t.ctx.Err() == nil {
		err = fmt.Errorf("%w (limit %v): %w", errLate, t.cfg.BootLimit, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k.mu.Lock()
	k.failure = err
	k.settled = err == nil
	k.retry = t.now().Add(t.cfg.RetryAfter)
	k.mu.Unlock()
	if !t.closed {
		if err == nil {
			t.take(b, found)
		}
		t.recompose(b)
	}
	k.mu.Lock()
	k.flight = nil
	k.mu.Unlock()
	close(flight)
}

// filesystems is the appliance's call with the last net below it.
func (t *Tree) filesystems(ctx context.Context, k *boot) (found []engine.Found, err error) {
	defer func() {
		if p := recover(); p != nil {
			t.panics.Add(1)
			err = &engine.PanicError{Engine: k.engine, Value: p, Stack: debug.Stack()}
		}
	}()
	return k.appliance.Filesystems(ctx)
}

// close ends the appliance and waits, within reason, for a boot under way.
func (b *boot) close() error {
	if b == nil {
		return nil
	}
	err := b.appliance.Close()
	done := make(chan struct{})
	go func() { b.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(graceful):
		err = errors.Join(err, fmt.Errorf("%s: %w", b.engine, errLate))
	}
	return err
}

// report tells how the boot stands; nil where there is none. What happens after it worked is
// the appliance's own affair: the tree does not change any more.
func (b *boot) report() *FallbackReport {
	if b == nil {
		return nil
	}
	status := b.appliance.Status()
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &FallbackReport{Engine: b.engine, State: FallbackNotStarted}
	switch {
	case b.settled:
		r.State = FallbackReady
	case b.flight != nil:
		r.State, r.Stage, r.Progress = FallbackStarting, status.Stage, min(max(status.Progress, 0), 100)
	case b.failure != nil:
		r.State, r.Error, r.Advice = FallbackFailed, b.failure.Error(), bootAdvice
	}
	return r
}

const bootAdvice = "Open the folder again later: then it is tried once more. The whole disk is under /disks; the log of the service says more."

// advice tells what to do about a volume that cannot be read.
func (c *Config) advice(v *openedVolume, err error) string {
	source, build := cmp.Or(c.KeySource, keySource), cmp.Or(c.NoFallback, buildAdvice)
	switch {
	case errors.Is(err, fsys.ErrNoKey):
		return "It is encrypted by the guest. Give its key with " + source + ", or restore the VM and read it there."
	case v.left && c.Fallback == nil && v.sig.Type == "crypto_LUKS":
		return "It is encrypted. " + build + " Give it the key with " + source + "."
	case v.left && c.Fallback == nil:
		return build + " Until then its bytes are under /disks for other tools."
	case v.LV != nil && v.Err != nil && !v.left:
		return "Choose a backup that has all disks of the VM; the bytes that are there are under /disks."
	}
	return KindOf(err).Advice()
}

const (
	keySource   = "--key-file"
	buildAdvice = "libguestfs reads this, and is not used here."
)
