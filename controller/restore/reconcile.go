package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"vmfr/api/v1alpha1"
)

// reconciler works at file restores. Its fields never change; what it remembers may be lost.
type reconciler struct {
	Options
	client client.Client // reads from the cache, as far as there is one of a kind
	direct client.Reader // reads from the API server: secrets, and what must not be stale
	events events.EventRecorder

	applied applied
	slots   slots
	moves   moves
	metrics *instruments
}

// errStop ends a line of phases: the scope says why.
var errStop = errors.New("stop")

// phase is one part of the work. It returns errStop where the next phases have nothing to do yet.
type phase struct {
	name string
	run  func(*reconciler, context.Context, *scope) error
}

// phases in order. Each can be repeated at any time, and finds what it did before.
var phases = []phase{
	{"validate", (*reconciler).validate},
	{"disks", (*reconciler).readDisks},
	{"namespaces", (*reconciler).namespaces},
	{"credentials", (*reconciler).credentials},
	{"objects", (*reconciler).serve},
	{"restores", (*reconciler).restores},
	{"volumes", (*reconciler).follow},
	{"holders", (*reconciler).holders},
	{"report", (*reconciler).report},
}

// conflictDelay gives the cache time to show the object that somebody else changed.
const conflictDelay = 100 * time.Millisecond

// Reconcile does what can be done for one file restore and writes what became of it.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	result, err := r.reconcile(ctx, req)
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: conflictDelay}, nil // no error: nothing is wrong
	}
	return result, err
}

func (r *reconciler) reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var vmfr v1alpha1.VirtualMachineFileRestore
	if err := r.client.Get(ctx, req.NamespacedName, &vmfr); err != nil {
		if apierrors.IsNotFound(err) {
			r.slots.leave(req.NamespacedName)
			r.metrics.forget(req.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if vmfr.Namespace != r.Plan.Namespace {
		log.FromContext(ctx).V(1).Info("a file restore outside Velero's namespace is left alone")
		return ctrl.Result{}, nil
	}
	before := vmfr.DeepCopy()
	s := &scope{vmfr: &vmfr, before: before, now: r.Now()}
	if vmfr.DeletionTimestamp != nil {
		return r.remove(ctx, s)
	}
	if expired, err := r.expire(ctx, s); expired || err != nil {
		return ctrl.Result{}, err
	}
	if controllerutil.AddFinalizer(&vmfr, v1alpha1.Finalizer) {
		// Nothing is made before the finalizer is there, or it would be left behind.
		status := vmfr.Status
		err := r.client.Patch(ctx, &vmfr, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
		if err != nil {
			return ctrl.Result{}, err
		}
		s.before = vmfr.DeepCopy()
		vmfr.Status = status
	}
	failure := r.run(ctx, s)
	if errors.Is(failure, context.Canceled) {
		return ctrl.Result{}, failure
	}
	r.conclude(s, failure)
	if err := r.patch(ctx, s); err != nil {
		return ctrl.Result{}, err
	}
	return r.next(s), failure
}

// run goes through the phases until one has to wait. An error is one of the API server, and temporary.
func (r *reconciler) run(ctx context.Context, s *scope) error {
	for _, p := range phases {
		switch err := p.run(r, ctx, s); {
		case errors.Is(err, errStop):
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// patch writes the status if it differs, then tells events and metrics what has changed.
func (r *reconciler) patch(ctx context.Context, s *scope) error {
	if equality.Semantic.DeepEqual(s.before.Status, s.vmfr.Status) {
		return nil
	}
	to := s.before.DeepCopy()
	s.vmfr.Status.DeepCopyInto(&to.Status)
	// With the version: a status that was computed from a stale cache must not undo a newer one.
	if err := r.client.Status().Patch(ctx, to, client.MergeFromWithOptions(s.before, client.MergeFromWithOptimisticLock{})); err != nil {
		return client.IgnoreNotFound(err)
	}
	for _, e := range changes(&s.before.Status, &s.vmfr.Status) {
		r.tell(s, e)
	}
	r.metrics.changed(client.ObjectKeyFromObject(s.vmfr), &s.before.Status, &s.vmfr.Status, s.now)
	s.before, s.vmfr.ResourceVersion = to, to.ResourceVersion
	return nil
}

// tell writes an Event beside the restore.
func (r *reconciler) tell(s *scope, e event) {
	r.events.Eventf(s.vmfr, nil, e.kind, e.reason, e.action, "%s", clip(e.message))
}

// next is when to look again without an event.
func (r *reconciler) next(s *scope) ctrl.Result {
	if s.wakeAt.IsZero() {
		return ctrl.Result{}
	}
	return ctrl.Result{RequeueAfter: max(s.wakeAt.Sub(s.now), 10*time.Millisecond)}
}

// expire deletes a restore whose time has come, and says when that will be.
func (r *reconciler) expire(ctx context.Context, s *scope) (bool, error) {
	s.vmfr.Status.ExpiresAt = nil
	ttl := s.vmfr.Spec.TTL
	if ttl == nil {
		return false, nil
	}
	end := s.vmfr.CreationTimestamp.Add(ttl.Duration)
	expires := s.vmfr.CreationTimestamp.DeepCopy()
	expires.Time = end
	s.vmfr.Status.ExpiresAt = expires
	if s.now.Before(end) {
		s.wake(end)
		return false, nil
	}
	uid := s.vmfr.UID
	err := r.client.Delete(ctx, s.vmfr, client.Preconditions{UID: &uid})
	if err == nil {
		r.tell(s, event{corev1.EventTypeNormal, "Expired", actionSession, fmt.Sprintf("spec.ttl of %s is over", ttl.Duration)})
	}
	return true, client.IgnoreNotFound(err)
}
