package discovery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/cache"

	"vmfr/api/v1alpha1"
	"vmfr/controller/velero"
)

// script answers as a test wants: what a real store cannot be made to do at a given moment. The
// way to real ones is TestVelero's.
type script struct {
	has, vm func(n int64) error // the answer to the n-th question, from 1
	lists   atomic.Int64
	reads   atomic.Int64
	down    atomic.Int64 // how often Velero says that the location is unavailable
}

func (s *script) Backups(context.Context, string) ([]velero.Backup, error) { return nil, nil }

func (s *script) Backup(_ context.Context, key types.NamespacedName) (velero.Backup, error) {
	return velero.Backup{Name: key.Name, Namespace: key.Namespace, UID: types.UID(key.Name), Phase: "Completed", Location: "default"}, nil
}

func (s *script) Location(context.Context, velero.Backup) (velero.Location, error) {
	l := velero.Location{Name: "default"}
	if s.down.Add(-1) >= 0 {
		l.Unavailable = "a connection failed"
	}
	return l, nil
}

func (s *script) HasVM(ctx context.Context, _ velero.Backup, _ types.NamespacedName, _ metav1.OwnerReference) (bool, error) {
	err := s.has(s.lists.Add(1))
	if errors.Is(err, errHang) {
		<-ctx.Done()
		return false, ctx.Err()
	}
	return err == nil, err
}

func (s *script) VM(context.Context, velero.Backup, types.NamespacedName, metav1.OwnerReference) (velero.VM, error) {
	if err := s.vm(s.reads.Add(1)); err != nil {
		return velero.VM{}, err
	}
	return velero.VM{PVCs: []velero.PVC{{Name: "root", Namespace: "shop"}}}, nil
}

var errHang = errors.New("hang")

func always(err error) func(int64) error { return func(int64) error { return err } }

func examinerOf(m metadata) *examiner {
	return &examiner{metadata: m, answers: answers{cache.NewLRUExpireCache(100)}, timeout: time.Minute, retries: 2, pause: time.Millisecond, grace: 40 * time.Millisecond}
}

func subjectOf() subject {
	return subject{vm: shopDB, locations: newLocations()}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	refused := fmt.Errorf("%w: connection refused", velero.ErrUnreachable)
	for name, c := range map[string]struct {
		has, vm      func(int64) error
		timeout      time.Duration
		status       v1alpha1.BackupStatus
		reason       string
		lists, reads int64
	}{
		"at once":           {always(nil), always(nil), 0, v1alpha1.BackupCompleted, "", 1, 1},
		"the third time":    {func(n int64) error { return map[bool]error{true: refused}[n < 3] }, always(nil), 0, v1alpha1.BackupCompleted, "", 3, 1},
		"never":             {always(refused), always(nil), 0, v1alpha1.BackupFailed, "connection refused", 3, 0},
		"contents later":    {always(nil), func(n int64) error { return map[bool]error{true: velero.ErrNotAnswered}[n < 2] }, 0, v1alpha1.BackupCompleted, "", 1, 2},
		"damaged":           {always(nil), always(fmt.Errorf("%w: gzip", velero.ErrUnreadable)), 0, v1alpha1.BackupFailed, "unreadable contents: gzip", 1, 1},
		"no list, contents": {always(velero.ErrNotStored), always(nil), 0, v1alpha1.BackupCompleted, "", 1, 1},
		"nothing stored":    {always(velero.ErrNotStored), always(velero.ErrNotStored), 0, v1alpha1.BackupFailed, "contents are missing", 1, 1},
		"listed, not there": {always(nil), always(velero.ErrNoVM), 0, v1alpha1.BackupSkipped, "is not in the backup", 1, 1},
		"slow":              {always(errHang), always(nil), 30 * time.Millisecond, v1alpha1.BackupFailed, "it took longer than 30ms", 1, 0},
	} {
		s := &script{has: c.has, vm: c.vm}
		e := examinerOf(s)
		if c.timeout > 0 {
			e.timeout = c.timeout
		}
		o, err := e.examine(context.Background(), types.NamespacedName{Name: "b"}, subjectOf(), func(string) {})
		if err != nil || o.status != c.status || !strings.Contains(o.reason, c.reason) || s.lists.Load() != c.lists || s.reads.Load() != c.reads {
			t.Errorf("%s: %s %q, %v after %d lists and %d contents", name, o.status, o.reason, err, s.lists.Load(), s.reads.Load())
		}
	}
}

// An answer is asked for once, for each virtual machine; a failure is no answer.
func TestAnswers(t *testing.T) {
	t.Parallel()
	s := &script{has: func(n int64) error { return map[bool]error{true: velero.ErrUnreadable}[n == 1] }, vm: always(nil)}
	e := examinerOf(s)
	look := func(backup, vm string) outcome {
		sub := subjectOf()
		sub.vm.Name = vm
		o, err := e.examine(context.Background(), types.NamespacedName{Name: backup}, sub, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	for i, c := range []struct {
		backup, vm string
		status     v1alpha1.BackupStatus
		asked      int64
	}{
		{"b", "db", v1alpha1.BackupFailed, 1}, {"b", "db", v1alpha1.BackupCompleted, 2}, {"b", "db", v1alpha1.BackupCompleted, 2},
		{"b", "web", v1alpha1.BackupCompleted, 3}, {"c", "db", v1alpha1.BackupCompleted, 4}, {"b", "web", v1alpha1.BackupCompleted, 4},
	} {
		if o := look(c.backup, c.vm); o.status != c.status || s.lists.Load() != c.asked {
			t.Errorf("%d: %s after %d questions, want %s after %d", i, o.status, s.lists.Load(), c.status, c.asked)
		}
	}
	s.vm = always(velero.ErrNoVM)
	for range 2 {
		if o := look("d", "db"); o.status != v1alpha1.BackupSkipped || s.lists.Load() != 5 {
			t.Errorf("%+v after %d questions", o, s.lists.Load())
		}
	}
}

// A location that is gone costs its retries for a few backups, not for each of a thousand, and one
// that answers again is used again.
func TestLocations(t *testing.T) {
	t.Parallel()
	gone := fmt.Errorf("%w: connection refused", velero.ErrUnreachable)
	s := &script{has: always(gone), vm: always(nil)}
	e, sub := examinerOf(s), subjectOf()
	for i := range 100 {
		o, err := e.examine(context.Background(), types.NamespacedName{Name: fmt.Sprint(i)}, sub, func(string) {})
		if err != nil || o.status != v1alpha1.BackupFailed || !strings.Contains(o.reason, "connection refused") {
			t.Fatalf("%+v, %v", o, err)
		}
	}
	if got := s.lists.Load(); got != tripAfter*3 {
		t.Errorf("%d questions to a location that is gone, want %d", got, tripAfter*3)
	}
	s.has = always(nil)
	s.down.Store(2)            // it was Velero's mistake
	e.grace = 10 * time.Second // of which two pauses take one
	sub.locations.state["default"].at = time.Now().Add(-2 * retryAfter)
	if o, err := e.examine(context.Background(), types.NamespacedName{Name: "x"}, sub, func(string) {}); err != nil || o.status != v1alpha1.BackupCompleted {
		t.Errorf("%+v, %v", o, err)
	}
	if err := sub.locations.refused("default"); err != nil {
		t.Error(err)
	}
}

// What Velero says of a location is a failure of its backups when it stays so.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	s := &script{has: always(nil), vm: always(nil)}
	s.down.Store(1 << 30)
	e, sub := examinerOf(s), subjectOf()
	for i := range 10 {
		o, err := e.examine(context.Background(), types.NamespacedName{Name: fmt.Sprint(i)}, sub, func(string) {})
		if err != nil || o.status != v1alpha1.BackupFailed || !strings.Contains(o.reason, "Velero says that default is unavailable: a connection failed") {
			t.Fatalf("%+v, %v", o, err)
		}
	}
	// The first waits, the others do not.
	if asked := 1<<30 - s.down.Load(); s.lists.Load() != 0 || asked < 3 || asked > 20+10 {
		t.Errorf("%d lists read, %d questions", s.lists.Load(), asked)
	}
}

// A stopped run says nothing.
func TestStopped(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	s := &script{has: func(int64) error { cancel(); return errHang }, vm: always(nil)}
	if o, err := examinerOf(s).examine(ctx, types.NamespacedName{Name: "b"}, subjectOf(), func(string) {}); !errors.Is(err, context.Canceled) || o.status != "" {
		t.Errorf("%+v, %v", o, err)
	}
}
