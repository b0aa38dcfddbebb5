package discovery

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	"vmfr/api/v1alpha1"
	"vmfr/controller/velero"
)

// entry is a candidate and what is known of it.
type entry struct {
	name    string
	taken   time.Time // zero: there is no such backup
	updated time.Time
	outcome // its status is New or InProgress, too
}

// run is one discovery's work, for one generation of its specification.
type run struct {
	key        types.NamespacedName
	uid        types.UID
	generation int64
	selection  selection
	subject    subject
	examiner   *examiner
	prior      map[string]entry // decided before the controller restarted
	started    time.Time

	changed chan struct{} // holds one if something is to be told
	done    chan struct{} // closed when nothing works on it any more
	cancel  context.CancelFunc

	mu      sync.Mutex
	waiting bool     // for a place in the pool, and then for the list of backups
	entries []*entry // oldest first; those that do not exist last
	free    int      // bytes of the status that are not spoken for
	failure error    // why the discovery as a whole failed
	ended   time.Time
}

// work does all of it; slots bounds how many backups are examined at a time by all runs.
func (r *run) work(ctx context.Context, slots chan struct{}) {
	err := r.discover(ctx, slots)
	if ctx.Err() != nil {
		return // stopped: nothing is said, so that another controller goes on
	}
	r.update(func() { r.waiting, r.failure, r.ended = false, err, time.Now() })
}

// update changes what is shown and tells that it was.
func (r *run) update(f func()) {
	r.mu.Lock()
	f()
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default: // it is to be told already
	}
}

// discover examines the candidates. Its error is for the user and ends the discovery.
func (r *run) discover(ctx context.Context, slots chan struct{}) error {
	var all []velero.Backup
	err := r.examiner.retry(ctx, func(string) {}, func() (err error) {
		all, err = r.examiner.metadata.Backups(ctx, r.key.Namespace)
		return err
	})
	if err != nil {
		return fmt.Errorf("the backups of the namespace %s could not be listed: %w", r.key.Namespace, err)
	}
	chosen, missing := r.selection.candidates(all)
	if err := r.enter(chosen, missing); err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(max(1, cap(slots)))
	for _, e := range r.undecided() {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			r.examine(ctx, slots, e)
			return nil
		})
	}
	_ = group.Wait() // none returns an error
	if r.selection.first {
		return r.findFirst(ctx, slots, all)
	}
	return nil
}

// enter makes the candidates known.
func (r *run) enter(chosen []velero.Backup, missing []string) (err error) {
	r.update(func() {
		r.waiting, r.free = false, maxStatus
		for _, b := range chosen {
			if err = r.add(r.entryOf(b)); err != nil {
				r.entries = nil
				err = specError{fmt.Errorf("%d backups are more than a discovery's status can hold: narrow the time range or ask for fewer, and make several discoveries", len(chosen)+len(missing))}
				return
			}
		}
		for _, name := range missing {
			o := notFound(types.NamespacedName{Namespace: r.key.Namespace, Name: name})
			if err = r.add(&entry{name: name, updated: time.Now(), outcome: o}); err != nil {
				return
			}
		}
	})
	return err
}

// add takes room in the status for an entry. r.mu is held.
func (r *run) add(e *entry) error {
	need := entryBytes + 2*(len(e.name)+len(r.key.Namespace)) + pvcBytes(e.pvcs)
	if need > r.free {
		return fmt.Errorf("the status is full")
	}
	r.free -= need
	r.entries = append(r.entries, e)
	return nil
}

// entryOf is a backup as it enters, or as it was decided before a restart.
func (r *run) entryOf(b velero.Backup) *entry {
	if e, ok := r.prior[b.Name]; ok && e.taken.Equal(b.Taken.Truncate(time.Second)) {
		return &e
	}
	return &entry{name: b.Name, taken: b.Taken, updated: time.Now(), outcome: outcome{status: v1alpha1.BackupNew}}
}

func (r *run) undecided() []*entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*entry
	for _, e := range r.entries {
		if e.status == v1alpha1.BackupNew {
			all = append(all, e)
		}
	}
	return all
}

// examine finds out about one entry, when it is its turn.
func (r *run) examine(ctx context.Context, slots chan struct{}, e *entry) {
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return
	}
	set := func(o outcome) {
		r.update(func() { e.outcome, e.updated = o, time.Now() })
	}
	set(outcome{status: v1alpha1.BackupInProgress, reason: "looking at the backup"})
	key := types.NamespacedName{Namespace: r.key.Namespace, Name: e.name}
	o, err := r.examiner.examine(ctx, key, r.subject, func(message string) {
		set(outcome{status: v1alpha1.BackupInProgress, reason: message})
	})
	if err != nil {
		return // the run was stopped
	}
	r.decided(e, o)
}

// decided notes what came of an entry, if there is room for it.
func (r *run) decided(e *entry, o outcome) {
	r.update(func() {
		if need := pvcBytes(o.pvcs); need <= r.free {
			r.free -= need
		} else {
			o = failed("the backup is valid, but the discovery's status is full: ask for fewer backups at a time")
		}
		e.outcome, e.updated = o, time.Now()
	})
}

// findFirst examines the backups that are no candidates from the oldest on, until one is known to
// hold the virtual machine. One after the other: a later one is not asked for.
func (r *run) findFirst(ctx context.Context, slots chan struct{}, all []velero.Backup) error {
	sortByTime(all)
	for _, b := range all {
		e := r.entry(b.Name)
		if e == nil {
			e = r.entryOf(b)
			var err error
			r.update(func() {
				if err = r.add(e); err == nil {
					slices.SortStableFunc(r.entries, byTime)
				}
			})
			if err != nil {
				return fmt.Errorf("the first backup was not found among as many as a discovery's status can hold: name it in spec.requestedBackups")
			}
		}
		if e.status == v1alpha1.BackupNew {
			r.examine(ctx, slots, e)
		}
		if e.status == v1alpha1.BackupCompleted || ctx.Err() != nil {
			return nil
		}
	}
	return nil
}

func (r *run) entry(name string) *entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.entries {
		if e.name == name {
			return e
		}
	}
	return nil
}

// byTime sorts oldest first; what does not exist has no time and comes last.
func byTime(a, b *entry) int {
	switch {
	case a.taken.IsZero() != b.taken.IsZero():
		if a.taken.IsZero() {
			return 1
		}
		return -1
	case !a.taken.Equal(b.taken):
		return a.taken.Compare(b.taken)
	}
	return strings.Compare(a.name, b.name)
}
