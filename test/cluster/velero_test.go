package cluster_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/test/cluster"
)

// backupAndRestore: a backup holds a VM's claims and snapshots of them, a restore of some makes
// exactly those in another namespace, which can be deleted, and the snapshots go with the backup.
func backupAndRestore(t *testing.T, cp cluster.ControlPlane, v *cluster.Velero) {
	claims := cp.CreateVM(t, cluster.VM{Namespace: "vms", Name: "fedora", Disks: []cluster.Disk{
		{Name: "root", DataVolume: true}, {Name: "data", Bus: "scsi", Filesystem: true, Size: "2Gi", Late: true}}})
	cp.CreateVM(t, cluster.VM{Namespace: "vms", Name: "other", Disks: []cluster.Disk{{Name: "root"}, {Name: "old", Unlabelled: true}}})

	began := time.Now()
	b := v.BackupOf(t, "b1", "vms")
	t.Logf("a backup in %s", time.Since(began).Round(10*time.Millisecond))
	if b.Status.Phase != velerov1.BackupPhaseCompleted {
		t.Fatalf("the backup is %s: %+v", b.Status.Phase, b.Status)
	}
	if n := len(v.Storage.Snapshots()); n != 4 {
		t.Errorf("%d snapshots", n)
	}
	var list map[string][]string
	if err := json.Unmarshal(gunzip(t, v.Default.File("b1", "-resource-list.json.gz")), &list); err != nil {
		t.Fatal(err)
	}
	if got := list["kubevirt.io/v1/VirtualMachine"]; !slices.Contains(got, "vms/fedora") {
		t.Errorf("the resource list has the VMs %q", got)
	}
	files := untar(t, gunzip(t, v.Default.File("b1", ".tar.gz")))
	for _, claim := range claims {
		var have corev1.PersistentVolumeClaim
		if err := json.Unmarshal(files["resources/persistentvolumeclaims/namespaces/vms/"+claim.Name+".json"], &have); err != nil {
			t.Fatalf("%s in the tarball: %v", claim.Name, err)
		}
		if have.UID != claim.UID || have.Labels[cluster.PVCUIDLabel] != string(claim.UID) {
			t.Errorf("%s in the tarball: UID %s, labels %v", claim.Name, have.UID, have.Labels)
		}
	}

	selectors := []*metav1.LabelSelector{
		{MatchLabels: map[string]string{cluster.PVCUIDLabel: string(claims[0].UID)}},
		{MatchLabels: map[string]string{cluster.PVCUIDLabel: string(claims[1].UID)}},
	}
	restore := func(backup, namespace string, selectors []*metav1.LabelSelector) {
		t.Helper()
		began := time.Now()
		r := v.Restore(t, namespace, velerov1.RestoreSpec{
			BackupName: backup, IncludedNamespaces: []string{"vms"}, NamespaceMapping: map[string]string{"vms": namespace},
			IncludedResources: []string{"persistentvolumeclaims", "volumesnapshots"}, OrLabelSelectors: selectors,
		})
		t.Logf("a restore in %s", time.Since(began).Round(10*time.Millisecond))
		if r.Status.Phase != velerov1.RestorePhaseCompleted {
			t.Errorf("the restore is %s: %+v", r.Status.Phase, r.Status)
		}
	}
	restore("b1", "session-1", selectors)
	v.CopyBackup(t, b, "b0", time.Now().AddDate(0, -1, 0))
	restore("b0", "session-2", selectors[:1])
	cluster.Await(t, limit, func() error {
		return restored(v, "session-2", map[string]corev1.PersistentVolumeClaimPhase{"fedora-root": corev1.ClaimBound})
	})
	want := map[string]corev1.PersistentVolumeClaimPhase{"fedora-root": corev1.ClaimBound, "fedora-data": corev1.ClaimPending}
	cluster.Await(t, limit, func() error { return restored(v, "session-1", want) })
	consumer := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "holder", Namespace: "session-1"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}},
		Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "fedora-data"}}}},
	}}
	cluster.Await(t, limit, func() error { return v.Client.Create(ctx, consumer) }) // once its account is there
	want["fedora-data"] = corev1.ClaimBound
	cluster.Await(t, limit, func() error { return restored(v, "session-1", want) })

	began = time.Now()
	session := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "session-1"}}
	if err := v.Client.Delete(ctx, session); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, limit, func() error { return cluster.Gone(v.Client, session) })
	t.Logf("a namespace deleted in %s", time.Since(began).Round(10*time.Millisecond))
	contents(t, v, "session-1")
	if n := len(v.Storage.Snapshots()); n != 4 {
		t.Errorf("%d snapshots after the restore", n)
	}
	v.DeleteBackup(t, b)
	cluster.Await(t, limit, func() error {
		if left := v.Storage.Snapshots(); len(left) > 0 {
			return fmt.Errorf("snapshots without a backup: %v", left)
		}
		return nil
	})
	if _, err := os.Stat(v.Default.File("b1", ".tar.gz")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the tarball of a deleted backup: %v", err)
	}
}

// restored is nil if the namespace has exactly these claims in these phases.
func restored(v *cluster.Velero, namespace string, want map[string]corev1.PersistentVolumeClaimPhase) error {
	var list corev1.PersistentVolumeClaimList
	if err := v.Client.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return err
	}
	for _, claim := range list.Items {
		if want[claim.Name] != claim.Status.Phase {
			return fmt.Errorf("claim %s is %q, want %q", claim.Name, claim.Status.Phase, want[claim.Name])
		}
	}
	if len(list.Items) != len(want) {
		return fmt.Errorf("%d claims, want %d", len(list.Items), len(want))
	}
	return nil
}

// contents: what a Restore leaves of its snapshots has the policy Retain.
func contents(t *testing.T, v *cluster.Velero, namespace string) {
	t.Helper()
	var list snapshotv1.VolumeSnapshotContentList
	if err := v.Client.List(ctx, &list); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range list.Items {
		if c.Spec.VolumeSnapshotRef.Namespace == namespace {
			n++
			if c.Spec.DeletionPolicy != snapshotv1.VolumeSnapshotContentRetain {
				t.Errorf("%s has the policy %s", c.Name, c.Spec.DeletionPolicy)
			}
		}
	}
	if n != 2 {
		t.Errorf("%d contents for %s", n, namespace)
	}
}

// locations: one with a certificate of its own holds a backup, and one can be down for a while.
func locations(t *testing.T, cp cluster.ControlPlane, v *cluster.Velero) {
	l := v.AddTLSLocation(t, "tls")
	cp.CreateNamespace(t, "empty")
	b := v.Backup(t, "over-tls", velerov1.BackupSpec{IncludedNamespaces: []string{"empty"}, StorageLocation: l.Name})
	if b.Status.Phase != velerov1.BackupPhaseCompleted {
		t.Errorf("the backup is %s: %+v", b.Status.Phase, b.Status)
	}
	gunzip(t, l.File("over-tls", ".tar.gz"))
	l.Truncate(t, "over-tls", ".tar.gz")
	if _, err := decompress(l.File("over-tls", ".tar.gz")); err == nil {
		t.Error("half a tarball is read")
	}
	l.Down()
	l.AwaitPhase(t, velerov1.BackupStorageLocationPhaseUnavailable)
	l.Up(t)
	l.AwaitPhase(t, velerov1.BackupStorageLocationPhaseAvailable)
}

// phases: a backup stays in the phase that it was made with.
func phases(t *testing.T, _ cluster.ControlPlane, v *cluster.Velero) {
	backups := map[velerov1.BackupPhase]*velerov1.Backup{}
	for _, phase := range []velerov1.BackupPhase{
		velerov1.BackupPhaseFailedValidation, velerov1.BackupPhaseInProgress, velerov1.BackupPhaseWaitingForPluginOperations,
		velerov1.BackupPhaseWaitingForPluginOperationsPartiallyFailed, velerov1.BackupPhaseFinalizing, velerov1.BackupPhaseFinalizingPartiallyFailed,
		velerov1.BackupPhasePartiallyFailed, velerov1.BackupPhaseFailed, velerov1.BackupPhaseDeleting,
	} {
		backups[phase] = v.BackupInPhase(t, fmt.Sprintf("phase-%d", len(backups)), "phases", phase)
	}
	// A backup that Velero ends meanwhile shows that it had the time to change others.
	spec := velerov1.BackupSpec{IncludedNamespaces: []string{"default"}, StorageLocation: "missing"}
	if b := v.Backup(t, "invalid", spec); b.Status.Phase != velerov1.BackupPhaseFailedValidation {
		t.Errorf("a backup to nowhere is %s", b.Status.Phase)
	}
	if b := v.BackupOf(t, "of-nothing", "default"); b.Status.Phase != velerov1.BackupPhaseCompleted {
		t.Errorf("a backup of the namespace default is %s: %+v", b.Status.Phase, b.Status)
	}
	for phase, b := range backups {
		if err := v.Client.Get(ctx, client.ObjectKeyFromObject(b), b); err != nil || b.Status.Phase != phase {
			t.Errorf("%s became %s: %v", phase, b.Status.Phase, err)
		}
	}
}

func decompress(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

func gunzip(t *testing.T, path string) []byte {
	t.Helper()
	b, err := decompress(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func untar(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err == nil {
			files[h.Name], err = io.ReadAll(r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
