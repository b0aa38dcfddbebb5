package restore

import (
	"context"
	"fmt"
	"sync"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
	"vmfr/controller/velero"
)

// slots bound the Velero Restores that run at a time, and remember who waits for one. Who waits is
// woken when a Restore ends, and looks again by itself after a while.
type slots struct {
	taking  sync.Mutex // held from counting to creating
	mu      sync.Mutex
	waiting map[types.NamespacedName]bool
}

func (s *slots) wait(key types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == nil {
		s.waiting = map[types.NamespacedName]bool{}
	}
	s.waiting[key] = true
}

func (s *slots) leave(key types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, key)
}

// who returns those that wait.
func (s *slots) who() []types.NamespacedName {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make([]types.NamespacedName, 0, len(s.waiting))
	for k := range s.waiting {
		keys = append(keys, k)
	}
	return keys
}

// restores finds or makes the Velero Restore of each backup that is still usable.
func (r *reconciler) restores(ctx context.Context, s *scope) error {
	key := client.ObjectKeyFromObject(s.vmfr)
	waits := false
	for _, b := range s.backups {
		if b.target == nil || b.gaveUp != "" {
			continue
		}
		written := b.restoreName != ""
		if err := r.findRestore(ctx, s, b); err != nil {
			return err
		}
		if again, err := r.refused(ctx, s, b, written); err != nil {
			return err
		} else if again {
			continue
		}
		if b.restore != nil || b.restoreName != "" || !b.usable() {
			continue
		}
		made, err := r.makeRestore(ctx, s, b)
		if err != nil {
			return err
		}
		waits = waits || !made
	}
	if !waits {
		r.slots.leave(key)
		return nil
	}
	r.slots.wait(key)
	s.wake(s.now.Add(r.Recheck))
	return nil
}

// findRestore reads a backup's Restore.
func (r *reconciler) findRestore(ctx context.Context, s *scope, b *backup) error {
	key := types.NamespacedName{Namespace: r.Plan.Namespace, Name: s.names.Restore(b.number)}
	var o velerov1.Restore
	err := r.client.Get(ctx, key, &o)
	if apierrors.IsNotFound(err) {
		err = r.direct.Get(ctx, key, &o) // it may have been made a moment ago
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.Labels[v1alpha1.LabelOriginUUID] != string(s.vmfr.UID) {
		b.fail(v1alpha1.RestoreFailed, fmt.Sprintf("a Velero Restore %s exists that does not belong to this restore: it is not touched", o.Name))
		return nil
	}
	b.took(&o)
	return nil
}

// refused tells whether a Restore that Velero refused, since the backup's storage location was away for a moment, is to
// be made again, and deletes it when the location is back. Before that it must not be in the status any more: there a
// Restore that is gone was deleted by somebody. A location that stays away for LocationLimit costs the backup.
func (r *reconciler) refused(ctx context.Context, s *scope, b *backup, written bool) (again bool, err error) {
	o := b.restore
	if o == nil || !velero.RefusedForLocation(o) {
		return false, nil
	}
	since := o.CreationTimestamp
	if o.DeletionTimestamp != nil {
		since = *o.DeletionTimestamp
	}
	if !s.within(since.Time, r.LocationLimit) {
		return false, nil
	}
	l, err := r.location(ctx, b)
	if err != nil || l == nil {
		return false, err
	}
	b.restore, b.restoreName, b.restorePhase, b.created, b.completed = nil, "", "", nil, nil
	b.waiting = fmt.Sprintf("Velero refused it, since its storage location %s was not available: it is tried again", l.Name)
	s.wake(s.now.Add(r.LocationLimit / 60))
	if written || l.Status.Phase != velerov1.BackupStorageLocationPhaseAvailable || o.DeletionTimestamp != nil {
		return true, nil
	}
	return true, client.IgnoreNotFound(r.client.Delete(ctx, o, client.Preconditions{UID: &o.UID}))
}

// location is a backup's storage location; nil: it is gone, or the backup is, which have their own states.
func (r *reconciler) location(ctx context.Context, b *backup) (*velerov1.BackupStorageLocation, error) {
	var o velerov1.Backup
	err := r.client.Get(ctx, types.NamespacedName{Namespace: b.namespace, Name: b.name}, &o)
	if err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	l := &velerov1.BackupStorageLocation{}
	if err := r.direct.Get(ctx, types.NamespacedName{Namespace: b.namespace, Name: o.Spec.StorageLocation}, l); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return l, nil
}

// took takes over what a Restore says.
func (b *backup) took(o *velerov1.Restore) {
	b.restore, b.restoreName, b.restorePhase = o, o.Name, string(o.Status.Phase)
	b.created, b.completed = o.CreationTimestamp.DeepCopy(), o.Status.CompletionTimestamp
}

// makeRestore makes a backup's Restore if one more may run; made tells whether it did.
func (r *reconciler) makeRestore(ctx context.Context, s *scope, b *backup) (made bool, err error) {
	r.slots.taking.Lock()
	defer r.slots.taking.Unlock()
	var all velerov1.RestoreList
	if err := r.direct.List(ctx, &all, client.InNamespace(r.Plan.Namespace), client.HasLabels{v1alpha1.LabelOriginUUID}); err != nil {
		return false, err
	}
	running := 0
	for i := range all.Items {
		if state, _ := velero.JudgeRestore(&all.Items[i]); state == velero.RestoreRunning && all.Items[i].DeletionTimestamp == nil {
			running++
		}
	}
	if running >= r.MaxConcurrentRestores {
		b.waiting = fmt.Sprintf("%d Velero Restores are running, as many as are allowed at a time", running)
		return false, nil
	}
	request := velero.RestoreRequest{
		Name: s.names.Restore(b.number), Namespace: r.Plan.Namespace, Backup: b.name, Source: s.vm.Namespace, Target: s.names.BackupNamespace(b.number),
		Labels: map[string]string{v1alpha1.LabelOriginUUID: string(s.vmfr.UID)},
		Annotations: map[string]string{
			v1alpha1.AnnotationName: s.vmfr.Name, v1alpha1.AnnotationNamespace: s.vmfr.Namespace, v1alpha1.AnnotationVM: s.vm.Name,
			v1alpha1.AnnotationVMNS: s.vm.Namespace, v1alpha1.AnnotationBackup: b.name, v1alpha1.AnnotationRestore: "true",
		},
	}
	for _, d := range b.disks {
		if !d.failed() && d.known {
			request.PVCUIDs = append(request.PVCUIDs, d.PVCUID)
		}
	}
	o := request.Object()
	if err := r.client.Create(ctx, o, client.FieldOwner(FieldOwner)); apierrors.IsAlreadyExists(err) {
		return true, r.findRestore(ctx, s, b)
	} else if err != nil {
		return false, fmt.Errorf("creating the Velero Restore %s: %w", o.Name, err)
	}
	b.took(o)
	return true, nil
}

// moves remember since when a data mover has written nothing. A controller that was restarted begins anew.
type moves struct {
	mu   sync.Mutex
	seen map[types.UID]map[string]move // by the file restore, then by the DataDownload's UID
}

type move struct {
	phase string
	done  int64
	since time.Time
}

// idle returns since when a download of a file restore is as it is.
func (m *moves) idle(of types.UID, d velero.Download, now time.Time) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	last, ok := m.seen[of][d.UID]
	if !ok || last.phase != d.Phase || last.done != d.BytesDone {
		last = move{d.Phase, d.BytesDone, now}
	}
	if m.seen == nil {
		m.seen = map[types.UID]map[string]move{}
	}
	if m.seen[of] == nil {
		m.seen[of] = map[string]move{}
	}
	m.seen[of][d.UID] = last
	return last.since
}

// forget is for a file restore that is gone.
func (m *moves) forget(of types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.seen, of)
}

// restoreState judges a backup's Restore, also one that is there no more: when a backup is deleted Velero
// deletes its Restores, while the volumes stay.
func (b *backup) restoreState() (velero.RestoreState, string) {
	if b.restore != nil {
		return velero.JudgeRestore(b.restore)
	}
	last := &velerov1.Restore{ObjectMeta: metav1.ObjectMeta{Name: b.restoreName}, Status: velerov1.RestoreStatus{Phase: velerov1.RestorePhase(b.restorePhase)}}
	if state, why := velero.JudgeRestore(last); state != velero.RestoreRunning {
		return state, why
	}
	return velero.RestoreFailed, fmt.Sprintf("the Velero Restore %s was deleted by somebody before it had ended", b.restoreName)
}
