package discovery

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
)

// conflictPause is how long the cache may need to show what was just written.
const conflictPause = 200 * time.Millisecond

type reconciler struct {
	client     client.Client
	recorder   events.EventRecorder
	pool       *pool
	examiner   *examiner
	metrics    *collectors
	namespaces []string // that discoveries may be in; empty: all
}

// Reconcile starts and stops runs, and writes what they have found.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var d v1alpha1.VirtualMachineBackupsDiscovery
	if err := r.client.Get(ctx, req.NamespacedName, &d); err != nil {
		if apierrors.IsNotFound(err) {
			r.pool.drop(req.NamespacedName)
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, err
	}
	if d.DeletionTimestamp != nil || over(&d) {
		r.pool.drop(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	before := d.DeepCopy()
	vm := types.NamespacedName{Namespace: d.Spec.VirtualMachineNamespace, Name: d.Spec.VirtualMachineName}
	if s, err := r.validate(&d); err != nil {
		r.pool.drop(req.NamespacedName)
		d.Status = refused(d.Status, d.Generation, vm.String(), err)
	} else {
		run := r.pool.get(req.NamespacedName)
		if run == nil || run.uid != d.UID || run.generation != d.Generation {
			if run = r.pool.start(r.newRun(&d, s, vm)); run == nil {
				return ctrl.Result{}, nil // the manager stops
			}
		}
		d.Status = run.status(d.Status)
	}
	if equality.Semantic.DeepEqual(before.Status, d.Status) {
		return ctrl.Result{}, nil
	}
	// Only over what was read: lists are compared with it, and a stale one would hide a change.
	err := r.client.Status().Patch(ctx, &d, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	switch {
	case apierrors.IsConflict(err):
		return ctrl.Result{RequeueAfter: conflictPause}, nil
	case err != nil:
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	r.record(&before.Status, &d)
	if over(&d) {
		r.pool.drop(req.NamespacedName)
		r.metrics.ended(&d.Status)
	}
	return ctrl.Result{}, nil
}

// over tells whether the status is the last one for the specification.
func over(d *v1alpha1.VirtualMachineBackupsDiscovery) bool {
	return d.Status.ObservedGeneration == d.Generation && slices.Contains([]v1alpha1.DiscoveryPhase{
		v1alpha1.DiscoveryCompleted, v1alpha1.DiscoveryPartiallyFailed, v1alpha1.DiscoveryFailed}, d.Status.Phase)
}

// validate checks what the API server cannot.
func (r *reconciler) validate(d *v1alpha1.VirtualMachineBackupsDiscovery) (selection, error) {
	if len(r.namespaces) > 0 && !slices.Contains(r.namespaces, d.Namespace) {
		return selection{}, fmt.Errorf("discoveries belong into Velero's namespace: create this one in %s", strings.Join(r.namespaces, " or "))
	}
	return selectionOf(&d.Spec)
}

// newRun prepares the work. What an earlier controller found for the same specification counts.
func (r *reconciler) newRun(d *v1alpha1.VirtualMachineBackupsDiscovery, s selection, vm types.NamespacedName) *run {
	n := &run{
		key: client.ObjectKeyFromObject(d), uid: d.UID, generation: d.Generation, selection: s, examiner: r.examiner, started: time.Now(),
		subject: subject{
			vm:        vm,
			owner:     metav1.OwnerReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "VirtualMachineBackupsDiscovery", Name: d.Name, UID: d.UID},
			locations: newLocations(),
		},
	}
	if d.Status.ObservedGeneration == d.Generation {
		n.prior = priorEntries(&d.Status)
		if st := d.Status.DiscoveryStats; st != nil && st.StartTime != nil {
			n.started = st.StartTime.Time
		}
	}
	return n
}

// record writes an Event where the phase has changed.
func (r *reconciler) record(before *v1alpha1.VirtualMachineBackupsDiscoveryStatus, d *v1alpha1.VirtualMachineBackupsDiscovery) {
	if before.Phase == d.Status.Phase && before.ObservedGeneration == d.Status.ObservedGeneration {
		return
	}
	kind, condition := corev1.EventTypeNormal, v1alpha1.ConditionReady
	switch d.Status.Phase {
	case v1alpha1.DiscoveryInProgress:
		condition = v1alpha1.ConditionProgressing
	case v1alpha1.DiscoveryPartiallyFailed:
		kind, condition = corev1.EventTypeWarning, v1alpha1.ConditionDegraded
	case v1alpha1.DiscoveryFailed:
		kind = corev1.EventTypeWarning
	case v1alpha1.DiscoveryNew:
		return
	}
	if c := meta.FindStatusCondition(d.Status.Conditions, condition); c != nil {
		r.recorder.Eventf(d, nil, kind, c.Reason, "Discover", "%s", c.Message)
	}
}
