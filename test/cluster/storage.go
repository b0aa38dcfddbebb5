package cluster

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// The classes of the storage. A claim of StorageClassLate gets its volume when a Pod names it
// (WaitForFirstConsumer), one of StorageClass at once.
const (
	StorageClass     = "disks"
	StorageClassLate = "disks-late"
	StorageDriver    = "disks.test"
)

// selectedNode is the annotation by which a scheduler asks for a late claim's volume.
const selectedNode = "volume.kubernetes.io/selected-node"

// Storage stands in for a CSI driver with snapshots: it answers claims and VolumeSnapshots as the
// provisioner and the snapshotter would, and has no bytes. It is not told on which node a Pod is.
type Storage struct {
	client client.Client

	mu        sync.Mutex
	snapshots map[string]bool // by handle
}

// StartStorage starts the storage, until the test ends, and the controllers, which bind.
func StartStorage(t testing.TB, cp ControlPlane) *Storage {
	t.Helper()
	cp.StartControllers(t)
	files, err := snapshotCRDs()
	if err != nil {
		t.Fatal(err)
	}
	cp.install(t, envtest.CRDInstallOptions{Paths: files})
	s := &Storage{client: cp.Client(t), snapshots: map[string]bool{}}
	now, late := storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer
	create(t, s.client, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: StorageClass}, Provisioner: StorageDriver, VolumeBindingMode: &now})
	create(t, s.client, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: StorageClassLate}, Provisioner: StorageDriver, VolumeBindingMode: &late})
	create(t, s.client, &snapshotv1.VolumeSnapshotClass{
		ObjectMeta: metav1.ObjectMeta{Name: StorageClass, Labels: map[string]string{"velero.io/csi-volumesnapshot-class": "true"}},
		Driver:     StorageDriver, DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete,
	})

	m, err := ctrl.NewManager(cp.Config, ctrl.Options{
		Scheme: s.client.Scheme(), Logger: logr.Discard(), Metrics: server.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: new(true)},
	})
	if err != nil {
		t.Fatal(err)
	}
	inNamespace := handler.EnqueueRequestsFromMapFunc(s.claimsBeside)
	for _, err := range []error{
		ctrl.NewControllerManagedBy(m).For(&corev1.PersistentVolumeClaim{}).Watches(&corev1.Pod{}, inNamespace).
			Watches(&snapshotv1.VolumeSnapshot{}, inNamespace).Complete(reconcile.Func(s.claim)),
		ctrl.NewControllerManagedBy(m).For(&corev1.PersistentVolume{}).Complete(reconcile.Func(s.volume)),
		ctrl.NewControllerManagedBy(m).For(&snapshotv1.VolumeSnapshot{}).
			Watches(&snapshotv1.VolumeSnapshotContent{}, handler.EnqueueRequestsFromMapFunc(snapshotOf)).
			Watches(&corev1.PersistentVolumeClaim{}, handler.EnqueueRequestsFromMapFunc(s.snapshotsBeside)).Complete(reconcile.Func(s.snapshot)),
		ctrl.NewControllerManagedBy(m).For(&snapshotv1.VolumeSnapshotContent{}).Complete(reconcile.Func(s.content)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the storage: %v", err)
		}
	})
	return s
}

// Snapshots are the handles of the snapshots that exist in the storage, sorted, whatever objects
// there are for them.
func (s *Storage) Snapshots() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.snapshots))
}

func (s *Storage) has(snapshot string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshots[snapshot]
}

// claim makes the volume of a claim. The controller manager binds them.
func (s *Storage) claim(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	var claim corev1.PersistentVolumeClaim
	if err := s.client.Get(ctx, r.NamespacedName, &claim); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	class := ""
	if claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	if claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil || class != StorageClass && class != StorageClassLate {
		return reconcile.Result{}, nil
	}
	if class == StorageClassLate && claim.Annotations[selectedNode] == "" {
		if used, err := s.used(ctx, &claim); err != nil || !used {
			return reconcile.Result{}, err
		}
	}
	if from := claim.Spec.DataSource; from != nil && from.Kind == "VolumeSnapshot" {
		var snapshot snapshotv1.VolumeSnapshot
		if err := s.client.Get(ctx, types.NamespacedName{Namespace: claim.Namespace, Name: from.Name}, &snapshot); err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
		if snapshot.Status == nil || snapshot.Status.ReadyToUse == nil || !*snapshot.Status.ReadyToUse {
			return reconcile.Result{}, nil
		}
	}
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-" + string(claim.UID), Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": StorageDriver}},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: class, VolumeMode: claim.Spec.VolumeMode, AccessModes: claim.Spec.AccessModes,
			Capacity:                      claim.Spec.Resources.Requests,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: StorageDriver, VolumeHandle: "pvc-" + string(claim.UID)}},
			ClaimRef:                      &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
		},
	}
	return reconcile.Result{}, ignoreExists(s.client.Create(ctx, volume))
}

// used tells whether a Pod names the claim.
func (s *Storage) used(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	var pods corev1.PodList
	if err := s.client.List(ctx, &pods, client.InNamespace(claim.Namespace)); err != nil {
		return false, err
	}
	for _, p := range pods.Items {
		for _, v := range p.Spec.Volumes {
			if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim.Name {
				return true, nil
			}
		}
	}
	return false, nil
}

// volume deletes a released volume, as its reclaim policy says.
func (s *Storage) volume(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	var volume corev1.PersistentVolume
	if err := s.client.Get(ctx, r.NamespacedName, &volume); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	ours := volume.Spec.CSI != nil && volume.Spec.CSI.Driver == StorageDriver
	if ours && volume.Status.Phase == corev1.VolumeReleased && volume.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
		return reconcile.Result{}, client.IgnoreNotFound(s.client.Delete(ctx, &volume))
	}
	return reconcile.Result{}, nil
}

// claimsBeside are the claims of the object's namespace.
func (s *Storage) claimsBeside(ctx context.Context, o client.Object) []reconcile.Request {
	var claims corev1.PersistentVolumeClaimList
	_ = s.client.List(ctx, &claims, client.InNamespace(o.GetNamespace())) // none: the next event asks again
	return requests(claims.Items)
}

// requests are one for each object.
func requests[T any, P interface {
	*T
	client.Object
}](items []T) []reconcile.Request {
	var all []reconcile.Request
	for i := range items {
		all = append(all, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(P(&items[i]))})
	}
	return all
}

// contentFinalizer keeps a VolumeSnapshotContent until its snapshot is deleted or left, as
// CSI's own does.
const contentFinalizer = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"

// snapshot binds a VolumeSnapshot to its content, which it makes where a claim is the source.
func (s *Storage) snapshot(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	var snapshot snapshotv1.VolumeSnapshot
	if err := s.client.Get(ctx, r.NamespacedName, &snapshot); apierrors.IsNotFound(err) {
		return reconcile.Result{}, s.deleteContentOf(ctx, r.NamespacedName)
	} else if err != nil {
		return reconcile.Result{}, err
	}
	if snapshot.Status != nil && snapshot.Status.BoundVolumeSnapshotContentName != nil {
		return reconcile.Result{}, nil // for good: Velero deletes the content first, which must not make another
	}
	var content snapshotv1.VolumeSnapshotContent
	if from := snapshot.Spec.Source.PersistentVolumeClaimName; from != nil {
		var claim corev1.PersistentVolumeClaim
		if err := s.client.Get(ctx, types.NamespacedName{Namespace: snapshot.Namespace, Name: *from}, &claim); err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
		if claim.Status.Phase != corev1.ClaimBound {
			return reconcile.Result{}, nil
		}
		content = snapshotv1.VolumeSnapshotContent{
			ObjectMeta: metav1.ObjectMeta{Name: "snapcontent-" + string(snapshot.UID)},
			Spec: snapshotv1.VolumeSnapshotContentSpec{
				Driver: StorageDriver, DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete, VolumeSnapshotClassName: snapshot.Spec.VolumeSnapshotClassName,
				VolumeSnapshotRef: corev1.ObjectReference{APIVersion: snapshotv1.SchemeGroupVersion.String(), Kind: "VolumeSnapshot", Namespace: snapshot.Namespace, Name: snapshot.Name, UID: snapshot.UID},
				Source:            snapshotv1.VolumeSnapshotContentSource{VolumeHandle: new("pvc-" + string(claim.UID))},
			},
		}
		if err := ignoreExists(s.client.Create(ctx, &content)); err != nil {
			return reconcile.Result{}, err
		}
	} else if from := snapshot.Spec.Source.VolumeSnapshotContentName; from != nil {
		content.Name = *from
	}
	if err := s.client.Get(ctx, client.ObjectKeyFromObject(&content), &content); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if ref := &content.Spec.VolumeSnapshotRef; ref.UID == "" && ref.Namespace == snapshot.Namespace && ref.Name == snapshot.Name {
		ref.UID = snapshot.UID
		if err := s.client.Update(ctx, &content); err != nil {
			return reconcile.Result{}, err
		}
	}
	if content.Status == nil || content.Spec.VolumeSnapshotRef.UID != snapshot.UID {
		return reconcile.Result{}, nil // the content's next event comes here
	}
	before := snapshot.DeepCopy()
	snapshot.Status = &snapshotv1.VolumeSnapshotStatus{BoundVolumeSnapshotContentName: &content.Name, ReadyToUse: content.Status.ReadyToUse,
		CreationTime: &snapshot.CreationTimestamp, Error: content.Status.Error}
	return reconcile.Result{}, s.client.Status().Patch(ctx, &snapshot, client.MergeFrom(before))
}

// deleteContentOf deletes the content of a VolumeSnapshot that is gone, if its policy is Delete.
func (s *Storage) deleteContentOf(ctx context.Context, snapshot types.NamespacedName) error {
	var contents snapshotv1.VolumeSnapshotContentList
	if err := s.client.List(ctx, &contents); err != nil {
		return err
	}
	for _, c := range contents.Items {
		ref := c.Spec.VolumeSnapshotRef
		if ref.UID == "" || ref.Namespace != snapshot.Namespace || ref.Name != snapshot.Name || c.Spec.DeletionPolicy != snapshotv1.VolumeSnapshotContentDelete {
			continue
		}
		if err := s.client.Delete(ctx, &c); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// content takes the snapshot of a content, or looks for a given one, and deletes it with the
// content where the policy says so.
func (s *Storage) content(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	var content snapshotv1.VolumeSnapshotContent
	if err := s.client.Get(ctx, r.NamespacedName, &content); err != nil || content.Spec.Driver != StorageDriver {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	handle := "snapshot-of-" + string(content.UID)
	if given := content.Spec.Source.SnapshotHandle; given != nil {
		handle = *given
	}
	if content.DeletionTimestamp != nil {
		if content.Spec.DeletionPolicy == snapshotv1.VolumeSnapshotContentDelete {
			s.mu.Lock()
			delete(s.snapshots, handle)
			s.mu.Unlock()
		}
		if controllerutil.RemoveFinalizer(&content, contentFinalizer) {
			return reconcile.Result{}, client.IgnoreNotFound(s.client.Update(ctx, &content))
		}
		return reconcile.Result{}, nil
	}
	if controllerutil.AddFinalizer(&content, contentFinalizer) {
		return reconcile.Result{}, s.client.Update(ctx, &content) // and once more, by its event
	}
	if content.Status != nil {
		return reconcile.Result{}, nil
	}
	if content.Spec.Source.SnapshotHandle == nil {
		s.mu.Lock()
		s.snapshots[handle] = true
		s.mu.Unlock()
	}
	before := content.DeepCopy()
	content.Status = &snapshotv1.VolumeSnapshotContentStatus{SnapshotHandle: &handle, ReadyToUse: new(s.has(handle))}
	if !*content.Status.ReadyToUse {
		content.Status.Error = &snapshotv1.VolumeSnapshotError{Message: new("there is no snapshot " + handle)}
	}
	return reconcile.Result{}, s.client.Status().Patch(ctx, &content, client.MergeFrom(before))
}

// snapshotOf is the VolumeSnapshot that a content belongs to.
func snapshotOf(_ context.Context, o client.Object) []reconcile.Request {
	ref := o.(*snapshotv1.VolumeSnapshotContent).Spec.VolumeSnapshotRef
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}}}
}

// snapshotsBeside are the VolumeSnapshots of the object's namespace.
func (s *Storage) snapshotsBeside(ctx context.Context, o client.Object) []reconcile.Request {
	var all snapshotv1.VolumeSnapshotList
	_ = s.client.List(ctx, &all, client.InNamespace(o.GetNamespace())) // none: the next event asks again
	return requests(all.Items)
}
