package restore

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	velerov2alpha1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v2alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"vmfr/api/v1alpha1"
	"vmfr/controller/velero"
	"vmfr/test/cluster"
)

// removedAnywhere: a deletion that comes at any point of the story leaves nothing, and another restore of the
// same machine is not touched.
func (su *suite) removedAnywhere(t *testing.T) {
	w := su.newWorld(t, 1, nil)
	neighbour := w.restore(t, "neighbour", nil)
	w.story(t, neighbour, func() { w.drive(t, neighbour) })
	before := w.inventory(t, neighbour)
	var going []*v1alpha1.VirtualMachineFileRestore
	for at := range 5 {
		v := w.restore(t, fmt.Sprintf("removed-%d", at), nil)
		steps := 0
		w.story(t, v, func() {
			if steps++; steps > at && steps > 1 {
				return // the deletion comes here; the rest of the story is not watched
			}
			w.drive(t, v)
		})
		if at == 0 { // before anything was made
			w.get(t, v)
		}
		if err := w.client.Delete(ctx, v); err != nil {
			t.Fatal(err)
		}
		if at == 3 { // the discovery is gone, too
			if err := w.client.Delete(ctx, &v1alpha1.VirtualMachineBackupsDiscovery{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "find"}}); err != nil {
				t.Fatal(err)
			}
			su.discovery(t, w.namespace, "find", w.vm, discoveredBackup(w.namespace, "b1", time.Now(), corev1.PersistentVolumeClaim{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-root", UID: "uid-root", Labels: map[string]string{v1alpha1.LabelPVCUID: "uid-root"}}}))
		}
		going = append(going, v)
	}
	for _, v := range going {
		cluster.Await(t, limit, func() error {
			if _, there := w.drive(t, v); there {
				return fmt.Errorf("%s: %+v", v.Name, progressing(&v.Status))
			}
			return nil
		})
		if left := w.inventory(t, v); len(left) > 0 {
			t.Errorf("%s left behind:\n%s", v.Name, strings.Join(left, "\n"))
		}
	}
	if after := w.inventory(t, neighbour); strings.Join(before, "\n") != strings.Join(after, "\n") {
		t.Errorf("the other restore was\n%s\nand is\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

// storage: a deletion frees what was made for the restore (also where its class retains volumes), and never a
// snapshot or a volume that is somebody else's.
func (su *suite) storage(t *testing.T) {
	w := su.newWorld(t, 1, nil)
	v := w.restore(t, "storage", nil)
	w.drive(t, v)
	w.velero(t, v, 1, velerov1.RestorePhaseCompleted, both...)
	w.drive(t, v)
	names := w.names(v)
	volume := func(claim string, provisioned bool) *corev1.PersistentVolume {
		c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: names.BackupNamespace(1), Name: claim}}
		w.get(t, c)
		p := &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: w.namespace + "-" + claim, Annotations: map[string]string{}, Labels: map[string]string{velero.LabelRestore: names.Restore(1)}},
			Spec: corev1.PersistentVolumeSpec{
				Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}, AccessModes: c.Spec.AccessModes,
				PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
				PersistentVolumeSource:        corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disks.test", VolumeHandle: claim}},
				ClaimRef:                      &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: c.Namespace, Name: c.Name, UID: c.UID},
			},
		}
		if provisioned {
			p.Annotations["pv.kubernetes.io/provisioned-by"] = "disks.test"
		}
		w.create(t, p)
		to := c.DeepCopy()
		to.Spec.VolumeName = p.Name
		if err := client.IgnoreNotFound(w.client.Patch(ctx, to, client.MergeFrom(c))); err != nil {
			t.Fatal(err)
		}
		return p
	}
	ours, found := volume("web-root", true), volume("web-data", false)
	content := func(name, restore string) *snapshotv1.VolumeSnapshotContent {
		c := &snapshotv1.VolumeSnapshotContent{
			ObjectMeta: metav1.ObjectMeta{Name: w.namespace + "-" + name, Labels: map[string]string{velero.LabelRestore: restore}, Finalizers: []string{"test/watch"}},
			Spec: snapshotv1.VolumeSnapshotContentSpec{Driver: "disks.test", DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete,
				Source: snapshotv1.VolumeSnapshotContentSource{SnapshotHandle: new("handle")}, VolumeSnapshotRef: corev1.ObjectReference{Namespace: names.BackupNamespace(1), Name: name}},
		}
		w.create(t, c)
		return c
	}
	mine, other := content("mine", names.Restore(1)), content("other", "vmfr-somebody-1")
	move := &velerov2alpha1.DataDownload{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "move", Labels: map[string]string{velero.LabelRestore: names.Restore(1)}}}
	w.create(t, move)

	if err := w.client.Delete(ctx, v); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, limit, func() error { // pods first
		w.drive(t, v)
		w.get(t, move)
		if !move.Spec.Cancel {
			return fmt.Errorf("the data mover is not told to stop: %+v", progressing(&v.Status))
		}
		return nil
	})
	if v.Status.Phase != v1alpha1.FileRestoreDeleting || !strings.Contains(progressing(&v.Status).message, "data mover move") {
		t.Errorf("%s: %+v", v.Status.Phase, progressing(&v.Status))
	}
	w.get(t, move)
	move.Status.Phase = velerov2alpha1.DataDownloadPhaseCanceled
	if err := w.client.Update(ctx, move); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, limit, func() error {
		w.drive(t, v)
		w.get(t, mine)
		if mine.DeletionTimestamp == nil {
			return fmt.Errorf("%+v", progressing(&v.Status))
		}
		return nil
	})
	if mine.Spec.DeletionPolicy != snapshotv1.VolumeSnapshotContentRetain {
		t.Error("the snapshot goes with its content")
	}
	w.get(t, other)
	if other.DeletionTimestamp != nil || other.Spec.DeletionPolicy != snapshotv1.VolumeSnapshotContentDelete {
		t.Error("another restore's snapshot content was touched")
	}
	// Whatever the storage makes of it at this moment: it takes a finalizer of its own off.
	if err := w.client.Patch(ctx, mine, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))); err != nil {
		t.Fatal(err)
	}
	if err := w.client.Delete(ctx, move); err != nil { // as the garbage collector does after the Restore
		t.Fatal(err)
	}
	cluster.Await(t, limit, func() error {
		if _, there := w.drive(t, v); there {
			return fmt.Errorf("%+v", progressing(&v.Status))
		}
		return nil
	})
	if err := w.client.Get(ctx, client.ObjectKeyFromObject(ours), ours); err == nil && ours.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		t.Error("the volume that was provisioned for the restore stays for ever")
	}
	w.get(t, found)
	if found.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain {
		t.Error("a volume that somebody made by hand goes with the restore")
	}
}

// held: a namespace that does not go says what holds it, and a Restore that Velero does not let go holds up nothing
// but the end.
func (su *suite) heldUp(t *testing.T) {
	w := su.newWorld(t, 1, nil)
	v := w.restore(t, "held", nil)
	w.drive(t, v)
	w.velero(t, v, 1, velerov1.RestorePhaseInProgress, both...)
	names := w.names(v)
	r := &velerov1.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: names.Restore(1)}}
	w.get(t, r)
	r.Finalizers = []string{"restores.velero.io/external-resources-finalizer"}
	if err := w.client.Update(ctx, r); err != nil {
		t.Fatal(err)
	}
	stuck := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: names.BackupNamespace(1), Name: "stuck", Finalizers: []string{"example.com/stuck"}}}
	w.create(t, stuck)
	if err := w.client.Delete(ctx, v); err != nil {
		t.Fatal(err)
	}
	saying := func(what string) {
		t.Helper()
		cluster.Await(t, limit, func() error {
			w.drive(t, v)
			if m := progressing(&v.Status).message; !strings.Contains(m, what) {
				return fmt.Errorf("it says %q, not %q", m, what)
			}
			return nil
		})
	}
	saying(names.Restore(1) + ", which is running")
	w.velero(t, v, 1, velerov1.RestorePhaseCompleted)
	saying("example.com/stuck")
	stuck.Finalizers = nil
	w.get(t, stuck)
	stuck.Finalizers = nil
	if err := w.client.Update(ctx, stuck); err != nil {
		t.Fatal(err)
	}
	saying("until Velero takes its finalizer off")
	w.get(t, r)
	r.Finalizers = nil
	if err := w.client.Update(ctx, r); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, limit, func() error {
		if _, there := w.drive(t, v); there {
			return fmt.Errorf("%+v", progressing(&v.Status))
		}
		return nil
	})
	if left := w.inventory(t, v); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

// uninstalled: without Velero's kinds a deletion ends all the same, whether the process knew them before or not.
func (su *suite) uninstalled(t *testing.T) {
	w := su.newWorld(t, 1, nil)
	for i, missing := range []error{
		&meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: "velero.io", Kind: "Restore"}, SearchedVersions: []string{"v1"}},
		apierrors.NewNotFound(schema.GroupResource{Group: "velero.io", Resource: "restores"}, ""),
	} {
		w.restart(t, w.client, nil)
		v := w.restore(t, fmt.Sprintf("uninstalled-%d", i), nil)
		w.drive(t, v)
		names := w.names(v)
		inner, err := client.NewWithWatch(su.cp.Config, client.Options{Scheme: su.scheme, Mapper: su.client.RESTMapper()})
		if err != nil {
			t.Fatal(err)
		}
		w.restart(t, interceptor.NewClient(inner, interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
				switch list.(type) {
				case *velerov1.RestoreList, *velerov2alpha1.DataDownloadList, *snapshotv1.VolumeSnapshotContentList:
					return missing
				}
				return c.List(ctx, list, opts...)
			},
		}), nil)
		if err := w.client.Delete(ctx, v); err != nil {
			t.Fatal(err)
		}
		cluster.Await(t, limit, func() error {
			if _, err := w.r.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(v)}); err != nil {
				return err
			}
			if err := w.client.Get(ctx, client.ObjectKeyFromObject(v), v); !apierrors.IsNotFound(err) {
				return fmt.Errorf("it is there (%w): %+v", err, progressing(&v.Status))
			}
			return nil
		})
		// The Restore is there in truth, and nobody asked about it.
		if err := w.client.Delete(ctx, &velerov1.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: names.Restore(1)}}); err != nil {
			t.Error(err)
		}
		if left := w.inventory(t, v); len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
	}
}
