package restore

import (
	"fmt"
	"strings"
	"testing"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"vmfr/api/v1alpha1"
	"vmfr/controller/velero"
	"vmfr/test/cluster"
)

// restoreRefused: a Restore that Velero refuses because its storage location is away at that moment is made again when
// the location is back; one that stays away costs its backup, and so does whatever else Velero refuses for.
func (su *suite) restoreRefused(t *testing.T) {
	w := su.newWorld(t, 1, nil)
	location := &velerov1.BackupStorageLocation{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "store"},
		Spec: velerov1.BackupStorageLocationSpec{Provider: "aws", StorageType: velerov1.StorageType{ObjectStorage: &velerov1.ObjectStorageLocation{Bucket: "b"}}}}
	su.create(t, location)
	isIt := func(phase velerov1.BackupStorageLocationPhase) {
		location.Status.Phase = phase
		if err := w.client.Update(ctx, location); err != nil {
			t.Fatal(err)
		}
	}
	backup := &velerov1.Backup{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "b1"}}
	w.get(t, backup)
	backup.Spec.StorageLocation = location.Name
	if err := w.client.Update(ctx, backup); err != nil {
		t.Fatal(err)
	}
	refuse := func(v *v1alpha1.VirtualMachineFileRestore, why string, finalizers ...string) *velerov1.Restore {
		t.Helper()
		o := &velerov1.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: w.names(v).Restore(1)}}
		w.get(t, o)
		o.Finalizers, o.Status.Phase, o.Status.ValidationErrors = finalizers, velerov1.RestorePhaseFailedValidation, []string{why}
		if err := w.client.Update(ctx, o); err != nil {
			t.Fatal(err)
		}
		return o
	}
	const away = "The BSL store is unavailable, cannot retrieve the backup"

	isIt(velerov1.BackupStorageLocationPhaseUnavailable)
	v := w.restore(t, "back", nil)
	w.drive(t, v)
	first := refuse(v, away, "restores.velero.io/external-resources-finalizer")
	result, _ := w.drive(t, v)
	checkVolume(t, v, "b1", "web-root", want{state: v1alpha1.RestoreProcessing})
	if m := progressing(&v.Status).message; !strings.Contains(m, "b1 waits") || !strings.Contains(m, "location store was not available") {
		t.Errorf("it says %q", m)
	}
	if result.RequeueAfter <= 0 || result.RequeueAfter >= w.r.LocationLimit {
		t.Errorf("it looks again after %s", result.RequeueAfter)
	}
	if w.get(t, first); first.DeletionTimestamp != nil {
		t.Error("the Restore is deleted while the location is away: the next one would be refused, too")
	}
	isIt(velerov1.BackupStorageLocationPhaseAvailable)
	w.drive(t, v)
	if w.get(t, first); first.DeletionTimestamp == nil {
		t.Fatal("the Restore that was refused stays")
	}
	w.drive(t, v) // while Velero cleans up
	checkVolume(t, v, "b1", "web-root", want{state: v1alpha1.RestoreProcessing})
	first.Finalizers = nil
	if err := w.client.Update(ctx, first); err != nil {
		t.Fatal(err)
	}
	w.drive(t, v)
	w.velero(t, v, 1, velerov1.RestorePhaseCompleted, both...)
	w.drive(t, v)
	w.served(t, v)
	checkVolume(t, v, "b1", "web-root", want{state: v1alpha1.RestoreAvailable})

	for why, say := range map[string]string{away: away, "An existing resource policy is invalid": "resource policy"} {
		isIt(velerov1.BackupStorageLocationPhaseUnavailable)
		v := w.restore(t, "gone"+fmt.Sprint(len(say)), nil)
		w.drive(t, v)
		refuse(v, why)
		if why == away {
			w.drive(t, v)
			w.pass(w.r.LocationLimit)
		}
		w.drive(t, v)
		checkVolume(t, v, "b1", "web-root", want{v1alpha1.RestoreFailed, say})
	}
}

// refusal: these are the words of a Velero whose storage location is away when it looks at a Restore.
func (su *suite) refusal(t *testing.T) {
	store := su.velero.AddLocation(t, "leaves")
	su.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "little"}})
	b := su.velero.Backup(t, "little", velerov1.BackupSpec{IncludedNamespaces: []string{"little"}, StorageLocation: "leaves"})
	store.Down()
	store.AwaitPhase(t, velerov1.BackupStorageLocationPhaseUnavailable)
	r := &velerov1.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: b.Namespace, Name: "refused"}, Spec: velerov1.RestoreSpec{BackupName: b.Name}}
	su.create(t, r)
	cluster.Await(t, limit, func() error {
		if su.get(t, r); r.Status.Phase != velerov1.RestorePhaseFailedValidation {
			return fmt.Errorf("the Restore is %q", r.Status.Phase)
		}
		return nil
	})
	if !velero.RefusedForLocation(r) {
		t.Errorf("not known as refused for its location: %+v", r.Status)
	}
	store.Up(t)
	store.AwaitPhase(t, velerov1.BackupStorageLocationPhaseAvailable)
	if err := su.client.Delete(ctx, r); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, limit, func() error { return cluster.Gone(su.client, r) })
}
