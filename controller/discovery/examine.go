package discovery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/cache"

	"vmfr/api/v1alpha1"
	"vmfr/controller/velero"
)

// metadata is what of backups is asked for; *velero.Reader reads it.
type metadata interface {
	Backups(ctx context.Context, namespace string) ([]velero.Backup, error)
	Backup(ctx context.Context, key types.NamespacedName) (velero.Backup, error)
	Location(ctx context.Context, b velero.Backup) (velero.Location, error)
	HasVM(ctx context.Context, b velero.Backup, vm types.NamespacedName, owner metav1.OwnerReference) (bool, error)
	VM(ctx context.Context, b velero.Backup, vm types.NamespacedName, owner metav1.OwnerReference) (velero.VM, error)
}

var _ metadata = (*velero.Reader)(nil)

// outcome is what came of a backup.
type outcome struct {
	status v1alpha1.BackupStatus // Completed, Skipped or Failed
	reason string
	pvcs   []v1alpha1.DiscoveredPVC
}

func skipped(format string, args ...any) outcome {
	return outcome{status: v1alpha1.BackupSkipped, reason: fmt.Sprintf(format, args...)}
}

func failed(format string, args ...any) outcome {
	return outcome{status: v1alpha1.BackupFailed, reason: fmt.Sprintf(format, args...)}
}

// answerTTL bounds how long an answer is remembered; what a backup holds never changes, so it only
// frees memory.
const answerTTL = 24 * time.Hour

// answers remembers what was read of a backup's contents, least recently used first out.
type answers struct{ lru *cache.LRUExpireCache }

// question is about a backup by its UID, since a name can be used again.
type question struct {
	backup types.UID
	vm     types.NamespacedName
}

// examiner examines backups for all discoveries.
type examiner struct {
	metadata metadata
	answers  answers
	timeout  time.Duration
	retries  int
	pause    time.Duration // before the first retry
	grace    time.Duration // for a location that Velero calls unavailable
}

// subject is what backups are examined for, and the discovery that wants to know.
type subject struct {
	vm        types.NamespacedName
	owner     metav1.OwnerReference
	locations *locations
}

// examine finds out whether a backup holds the virtual machine, cheapest questions first. tell is
// called with what is going on. The error is of a context that ended, and nothing else.
func (e *examiner) examine(ctx context.Context, key types.NamespacedName, s subject, tell func(string)) (outcome, error) {
	timed, cancel := context.WithTimeoutCause(ctx, e.timeout, fmt.Errorf("it took longer than %s", e.timeout))
	defer cancel()
	o, err := e.decide(timed, key, s, tell)
	switch {
	case err == nil:
		return o, nil
	case ctx.Err() != nil:
		return outcome{}, context.Cause(ctx)
	case timed.Err() != nil:
		return failed("the backup could not be verified: %v", context.Cause(timed)), nil
	case apierrors.IsNotFound(err):
		return notFound(key), nil
	case errors.Is(err, velero.ErrNotStored):
		return failed("the backup's contents are missing: %v: synchronise or delete the backup", err), nil
	}
	return failed("the backup could not be verified: %v", err), nil
}

// notFound is what becomes of a backup that was asked for and does not exist.
func notFound(key types.NamespacedName) outcome {
	return failed("not found in the cluster: there is no backup %s in the namespace %s", key.Name, key.Namespace)
}

func (e *examiner) decide(ctx context.Context, key types.NamespacedName, s subject, tell func(string)) (outcome, error) {
	var b velero.Backup
	err := e.retry(ctx, tell, func() (err error) {
		b, err = e.metadata.Backup(ctx, key)
		return err
	})
	if err != nil {
		return outcome{}, err
	}
	if reason := b.Excludes(s.vm); reason != "" {
		return skipped("the virtual machine is not in the backup: %s", reason), nil
	}
	if !b.Completed() {
		if b.Failure != "" {
			return skipped("the backup is %s, not Completed: %s", b.Phase, b.Failure), nil
		}
		return skipped("the backup is %s, not Completed", b.Phase), nil
	}
	if b.OpenOperations > 0 {
		return skipped("incomplete asynchronous operations: %d of the backup have not ended", b.OpenOperations), nil
	}
	l, err := e.locate(ctx, b, s, tell)
	switch {
	case err != nil:
		return outcome{}, err
	case !b.Expires.IsZero() && time.Now().After(b.Expires) && !l.ReadOnly:
		return skipped("the backup expired at %s: Velero is about to delete it", b.Expires.UTC().Format(time.RFC3339)), nil
	}
	vm, err := e.read(ctx, b, s, tell)
	switch {
	case errors.Is(err, velero.ErrNoVM):
		return skipped("the virtual machine %s is not in the backup", s.vm), nil
	case err != nil:
		return outcome{}, err
	case len(vm.PVCs) == 0:
		return skipped("the backup holds the virtual machine, but no volume of it"), nil
	}
	o := outcome{status: v1alpha1.BackupCompleted, pvcs: make([]v1alpha1.DiscoveredPVC, 0, len(vm.PVCs))}
	for _, p := range vm.PVCs {
		o.pvcs = append(o.pvcs, v1alpha1.DiscoveredPVC{PVCUID: p.UID, PVCName: p.Name, PVCNamespace: p.Namespace, Size: p.Size})
	}
	if len(vm.Missing) > 0 {
		o.reason = fmt.Sprintf("these volumes of the virtual machine are not in the backup: %v", vm.Missing)
	}
	return o, nil
}

// locate returns the backup's location. Velero's word that it is unavailable can be about one
// connection that failed, and stands until it looks again, by default a minute later: all backups of the
// location wait for that together, once.
func (e *examiner) locate(ctx context.Context, b velero.Backup, s subject, tell func(string)) (l velero.Location, err error) {
	if err := s.locations.refused(b.Location); err != nil {
		return l, err
	}
	for {
		err = e.retry(ctx, tell, func() (err error) {
			l, err = e.metadata.Location(ctx, b)
			return err
		})
		if err != nil {
			s.locations.note(b.Location, err)
			return l, err
		}
		since := s.locations.unavailable(b.Location, l.Unavailable != "")
		if l.Unavailable == "" {
			return l, nil
		}
		err = fmt.Errorf("%w: Velero says that %s is unavailable: %s", velero.ErrUnreachable, l.Name, l.Unavailable)
		if since >= e.grace {
			return l, err
		}
		tell(fmt.Sprintf("waiting for the location: %v", err))
		select {
		case <-time.After(e.grace / 20):
		case <-ctx.Done():
			return l, context.Cause(ctx)
		}
	}
}

// read reads what the backup holds of the virtual machine, once for all discoveries. It is
// ErrNoVM where there is nothing.
func (e *examiner) read(ctx context.Context, b velero.Backup, s subject, tell func(string)) (velero.VM, error) {
	q := question{b.UID, s.vm}
	if a, ok := e.answers.lru.Get(q); ok {
		if vm, ok := a.(velero.VM); ok {
			return vm, nil
		}
		return velero.VM{}, velero.ErrNoVM
	}
	has := true
	err := e.retry(ctx, tell, func() (err error) {
		has, err = e.metadata.HasVM(ctx, b, s.vm, s.owner)
		return err
	})
	if errors.Is(err, velero.ErrNotStored) {
		has, err = true, nil // very old backups have no list: the contents tell, if they are there
	}
	var vm velero.VM
	if err == nil && has {
		tell("reading the backup's contents")
		err = e.retry(ctx, tell, func() (err error) {
			vm, err = e.metadata.VM(ctx, b, s.vm, s.owner)
			return err
		})
	}
	s.locations.note(b.Location, err)
	switch {
	case err == nil && has:
		e.answers.lru.Add(q, vm, answerTTL)
		return vm, nil
	case err == nil, errors.Is(err, velero.ErrNoVM):
		e.answers.lru.Add(q, nil, answerTTL)
		return velero.VM{}, velero.ErrNoVM
	}
	return velero.VM{}, err
}

// maxPause bounds the pause between two attempts.
const maxPause = 30 * time.Second

// retry repeats what may succeed later, with pauses that double and are no two the same.
func (e *examiner) retry(ctx context.Context, tell func(string), do func() error) error {
	for attempt := 0; ; attempt++ {
		err := do()
		if err == nil || attempt == e.retries || !temporary(err) || ctx.Err() != nil {
			return err
		}
		tell(fmt.Sprintf("attempt %d of %d follows, after: %v", attempt+2, e.retries+1, err))
		pause := min(e.pause<<min(attempt, 16), maxPause)
		select {
		case <-time.After(pause/2 + rand.N(pause/2+1)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// temporary tells whether another attempt can have another result.
func temporary(err error) bool {
	switch {
	case errors.Is(err, velero.ErrUnreadable), errors.Is(err, velero.ErrNotStored), errors.Is(err, velero.ErrNoVM),
		apierrors.IsNotFound(err), apierrors.IsForbidden(err), apierrors.IsInvalid(err):
		return false
	}
	return true
}
