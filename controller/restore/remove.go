package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
	"vmfr/controller/velero"
)

// removal is what is left of a restore that is being deleted, found by label and computed name: neither its
// discovery nor its status is needed.
type removal struct {
	*scope
	labels     client.MatchingLabels
	namespaces []corev1.Namespace // those that were made for it
	abandoned  bool               // Velero's namespace is being deleted, and Velero with it
	restores   []velerov1.Restore
	left       []string // what is still there, for the user
	lingering  []string // the same, of what holds up nothing but the finalizer
}

// leaves notes what the deletion waits for.
func (d *removal) leaves(format string, args ...any) {
	d.left = append(d.left, fmt.Sprintf(format, args...))
}

// removals are the steps of a deletion, in order. A step that has left something behind holds up those after it:
// storage is freed before what it depends on goes.
var removals = []struct {
	name string
	run  func(*reconciler, context.Context, *removal) error
}{
	{"holders", (*reconciler).removeHolders},
	{"data movers", (*reconciler).cancelMoves},
	{"Velero Restores", (*reconciler).removeRestores},
	{"snapshot contents", (*reconciler).removeSnapshots},
	{"volumes", (*reconciler).removeVolumes},
	{"objects", (*reconciler).removeObjects},
	{"namespaces", (*reconciler).removeNamespaces},
}

// remove deletes all that was made for a restore, and its finalizer in the end.
func (r *reconciler) remove(ctx context.Context, s *scope) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(s.vmfr, v1alpha1.Finalizer) {
		return ctrl.Result{}, nil
	}
	d := &removal{scope: s, labels: client.MatchingLabels(plan.OriginLabels(s.vmfr.UID))}
	s.names.Suffix = plan.Suffix(s.vmfr.UID)
	step, failure := r.runRemoval(ctx, d)
	if failure == nil && step == "" {
		return ctrl.Result{}, r.finish(ctx, s)
	}
	message := "removing the " + step
	switch {
	case failure != nil:
		message += "; it is tried again: " + failure.Error()
	case len(d.left) > 0:
		message += ": " + enumerate(d.left)
	}
	concludeDeleting(s, clip(message))
	if err := r.patch(ctx, s); err != nil {
		return ctrl.Result{}, err
	}
	// Pods, namespaces and Restores wake us; volumes and snapshots' contents are few and short-lived.
	s.wake(s.now.Add(r.Recheck / 6))
	return r.next(s), failure
}

// runRemoval runs the steps until one leaves something behind; it returns that one's name.
func (r *reconciler) runRemoval(ctx context.Context, d *removal) (string, error) {
	var namespaces corev1.NamespaceList
	if err := r.direct.List(ctx, &namespaces, d.labels, client.MatchingLabels{v1alpha1.LabelTempNamespace: "true"}); err != nil {
		return "namespaces", err
	}
	d.namespaces = namespaces.Items
	if err := r.findRestores(ctx, d); err != nil {
		return "Velero Restores", err
	}
	for _, step := range removals {
		if err := step.run(r, ctx, d); err != nil || len(d.left) > 0 {
			return step.name, err
		}
	}
	if len(d.lingering) > 0 {
		d.left = d.lingering
		return "Velero Restores", nil
	}
	return "", nil
}

// findRestores lists the Velero Restores of the session. Where Velero was uninstalled there are none, and where its
// namespace is being deleted they go with it: so may the controller's Role there, and Velero's server has gone.
func (r *reconciler) findRestores(ctx context.Context, d *removal) error {
	var ns corev1.Namespace
	if err := r.direct.Get(ctx, client.ObjectKey{Name: r.Plan.Namespace}, &ns); err != nil {
		return err
	}
	d.abandoned = ns.DeletionTimestamp != nil
	var restores velerov1.RestoreList
	err := r.direct.List(ctx, &restores, client.InNamespace(r.Plan.Namespace), d.labels)
	switch {
	case velero.NotInstalled(err), d.abandoned && apierrors.IsForbidden(err):
	case err != nil:
		return err
	}
	d.restores = restores.Items
	return nil
}

// finish takes the finalizer off: nothing is left.
func (r *reconciler) finish(ctx context.Context, s *scope) error {
	to := s.before.DeepCopy()
	controllerutil.RemoveFinalizer(to, v1alpha1.Finalizer)
	err := r.client.Patch(ctx, to, client.MergeFromWithOptions(s.before, client.MergeFromWithOptimisticLock{}))
	if client.IgnoreNotFound(err) != nil {
		return err
	}
	key := client.ObjectKeyFromObject(s.vmfr)
	r.slots.leave(key)
	r.metrics.forget(key)
	r.applied.forget(s.vmfr.UID)
	r.moves.forget(s.vmfr.UID)
	r.tell(s, event{corev1.EventTypeNormal, "Deleted", actionSession, "everything that was made for this restore is gone"})
	return nil
}

// places are the namespaces with objects of the session: those that were made, and spec.restoreNamespace.
func (d *removal) places() []string {
	var out []string
	for _, ns := range d.namespaces {
		out = append(out, ns.Name)
	}
	if n := d.vmfr.Spec.RestoreNamespace; n != "" && !slices.Contains(out, n) {
		out = append(out, n)
	}
	return out
}

// removeHolders deletes the Deployments and waits until their pods are gone, which hold the volumes.
func (r *reconciler) removeHolders(ctx context.Context, d *removal) error {
	for _, ns := range d.places() {
		var list appsv1.DeploymentList
		if err := r.direct.List(ctx, &list, client.InNamespace(ns), d.labels); err != nil {
			return err
		}
		for i := range list.Items {
			if err := r.delete(ctx, &list.Items[i]); err != nil {
				return err
			}
		}
		var pods corev1.PodList
		if err := r.direct.List(ctx, &pods, client.InNamespace(ns), d.labels); err != nil {
			return err
		}
		for i := range pods.Items {
			d.leaves("the pod %s/%s", ns, pods.Items[i].Name)
		}
	}
	return nil
}

// cancelMoves stops data movers: one that loses its target volume under its feet leaves pods and mounts
// behind. Who does not answer (a node that is gone) is waited for up to a limit.
func (r *reconciler) cancelMoves(ctx context.Context, d *removal) error {
	if d.abandoned {
		return nil
	}
	for i := range d.restores {
		moves, err := velero.Downloads(ctx, r.direct, r.Plan.Namespace, d.restores[i].Name)
		if velero.NotInstalled(err) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, m := range moves {
			if m.Ended {
				continue
			}
			if err := m.Cancel(ctx, r.client); err != nil {
				return err
			}
			if d.within(d.vmfr.DeletionTimestamp.Time, r.CancelLimit) {
				d.leaves("the data mover %s (phase %q)", m.Name, m.Phase)
			}
		}
	}
	return nil
}

// removeRestores deletes the Velero Restores. One that is making objects is let go first: Velero cannot stop it, and
// would make the namespaces again that are deleted meanwhile. The others are deleted at once, and
// Velero's finalizer removes their logs and results from the object storage.
func (r *reconciler) removeRestores(ctx context.Context, d *removal) error {
	if d.abandoned {
		return nil // they go with their namespace, whoever has to take Velero's finalizer off
	}
	for i := range d.restores {
		o := &d.restores[i]
		if velero.CreatingObjects(o) && d.within(d.vmfr.DeletionTimestamp.Time, r.CancelLimit) {
			d.leaves("the Velero Restore %s, which is running", o.Name)
			continue
		}
		if err := r.delete(ctx, o); err != nil {
			return err
		}
		if len(o.Finalizers) > 0 {
			d.lingering = append(d.lingering, fmt.Sprintf("the Velero Restore %s, until Velero takes its finalizer off: see whether its server runs and the storage location of the backup %s is available", o.Name, o.Spec.BackupName))
		}
	}
	return nil
}

// removeSnapshots deletes the contents of snapshots, not the snapshots: those are the backup's.
func (r *reconciler) removeSnapshots(ctx context.Context, d *removal) error {
	prefix := d.names.Object() + "-"
	left, err := velero.ReleaseSnapshots(ctx, r.direct, r.client, func(restore string) bool { return strings.HasPrefix(restore, prefix) })
	// A content goes when its VolumeSnapshot does, which the namespaces take along: it is not waited for here.
	if len(left) > 0 && len(d.namespaces) == 0 {
		d.leaves("VolumeSnapshotContents %s", enumerate(left))
	}
	return err
}

// removeVolumes deletes the restored volumes. Where their class retains data that is changed first: nobody
// else knows of the copy, and it would stay for ever.
func (r *reconciler) removeVolumes(ctx context.Context, d *removal) error {
	for _, ns := range d.namespaces {
		var claims corev1.PersistentVolumeClaimList
		if err := r.direct.List(ctx, &claims, client.InNamespace(ns.Name)); err != nil {
			return err
		}
		for i := range claims.Items {
			c := &claims.Items[i]
			if !strings.HasPrefix(c.Labels[velero.LabelRestore], d.names.Object()+"-") {
				continue // nobody knows whose; it goes with the namespace
			}
			if err := r.freeVolume(ctx, c); err != nil {
				return err
			}
			if err := r.delete(ctx, c); err != nil {
				return err
			}
			text := fmt.Sprintf("the volume %s/%s", c.Namespace, c.Name)
			if c.DeletionTimestamp != nil && len(c.Finalizers) > 0 {
				text += " (finalizers " + strings.Join(c.Finalizers, ", ") + ")"
			}
			d.leaves("%s", text)
		}
	}
	return nil
}

// freeVolume has the volume behind a restored claim deleted with it. It must have been provisioned for this very claim: a
// volume that somebody made by hand and that happened to fit is not touched.
func (r *reconciler) freeVolume(ctx context.Context, c *corev1.PersistentVolumeClaim) error {
	if c.Spec.VolumeName == "" || c.DeletionTimestamp != nil {
		return nil
	}
	var v corev1.PersistentVolume
	if err := r.direct.Get(ctx, client.ObjectKey{Name: c.Spec.VolumeName}, &v); err != nil {
		return client.IgnoreNotFound(err)
	}
	ref := v.Spec.ClaimRef
	if v.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain || !madeFor(&v, c) || ref == nil || ref.UID != c.UID {
		return nil
	}
	to := v.DeepCopy()
	to.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
	err := r.client.Patch(ctx, to, client.MergeFromWithOptions(&v, client.MergeFromWithOptimisticLock{}))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("having the PersistentVolume %s deleted with its claim: %w", v.Name, err)
	}
	return nil
}

// madeFor tells whether a volume was provisioned, and after the claim that it is bound to.
func madeFor(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	const provisionedBy = "pv.kubernetes.io/provisioned-by"
	return v.Annotations[provisionedBy] != "" && !v.CreationTimestamp.Before(&c.CreationTimestamp)
}

// removeObjects deletes the session's objects from spec.restoreNamespace; temporary namespaces take theirs along.
func (r *reconciler) removeObjects(ctx context.Context, d *removal) error {
	if d.vmfr.Spec.RestoreNamespace == "" {
		return nil
	}
	ns := d.vmfr.Spec.RestoreNamespace
	var objects []client.Object
	for _, list := range r.owned() {
		err := r.direct.List(ctx, list, client.InNamespace(ns), d.labels)
		if err != nil {
			return err
		}
		objects = append(objects, items(list)...)
	}
	// Secrets are asked for by name: the controller may not list those of a namespace.
	for _, name := range []string{d.names.Identity(), d.names.SSH(), d.names.Browser(), d.names.TLS(), d.names.DiskKeys()} {
		secret := new(corev1.Secret)
		err := r.direct.Get(ctx, client.ObjectKey{Namespace: ns, Name: name}, secret)
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		if err == nil && secret.Labels[v1alpha1.LabelOriginUUID] == string(d.vmfr.UID) {
			objects = append(objects, secret)
		}
	}
	for _, o := range objects {
		if !strings.HasPrefix(o.GetName(), d.names.Object()) {
			continue // it carries our label, but we never gave it this name
		}
		if err := r.delete(ctx, o); err != nil {
			return err
		}
		if len(o.GetFinalizers()) > 0 {
			d.leaves("%T %s/%s (finalizers %s)", o, o.GetNamespace(), o.GetName(), strings.Join(o.GetFinalizers(), ", "))
		}
	}
	return nil
}

// removeNamespaces deletes the namespaces that were made, and says what holds one that does not go.
func (r *reconciler) removeNamespaces(ctx context.Context, d *removal) error {
	for i := range d.namespaces {
		ns := &d.namespaces[i]
		if err := r.delete(ctx, ns); err != nil {
			return err
		}
		d.leaves("the namespace %s%s", ns.Name, held(ns))
	}
	return nil
}

// held says what keeps a namespace, as the namespace controller found out.
func held(ns *corev1.Namespace) string {
	var parts []string
	for _, c := range ns.Status.Conditions {
		if c.Status == corev1.ConditionTrue && c.Message != "" && strings.HasPrefix(string(c.Type), "Namespace") && c.Reason != "ContentDeleted" && c.Reason != "ContentRemoved" {
			parts = append(parts, c.Message)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, "; ") + ")"
}

// delete deletes an object as it was read; one that is gone or going is fine.
func (r *reconciler) delete(ctx context.Context, o client.Object) error {
	if o.GetDeletionTimestamp() != nil {
		return nil
	}
	uid := o.GetUID()
	err := r.client.Delete(ctx, o, client.Preconditions{UID: &uid}, client.PropagationPolicy("Background"))
	if client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting %T %s: %w", o, o.GetName(), err)
	}
	return nil
}

func concludeDeleting(s *scope, message string) {
	s.vmfr.Status.Phase = v1alpha1.FileRestoreDeleting
	s.vmfr.Status.ObservedGeneration = s.vmfr.Generation
	s.vmfr.Status.FileServingInfo = nil
	setCondition(s, v1alpha1.ConditionProgressing, true, v1alpha1.ReasonInProgress, message)
	setCondition(s, v1alpha1.ConditionAvailable, false, v1alpha1.ReasonNotReady, "the restore is being deleted")
	setCondition(s, v1alpha1.ConditionReady, false, v1alpha1.ReasonNotReady, "the restore is being deleted")
}
