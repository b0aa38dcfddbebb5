package e2e

import (
	"context"
	"fmt"
	"testing"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"vmfr/test/cluster"
)

// backup has Velero back a machine's namespace up: with its data moved to the object storage, or
// with snapshots that stay in the volumes' storage.
func (m *machine) backup(t *testing.T, name string, move bool) *velerov1.Backup {
	t.Helper()
	b := &velerov1.Backup{
		ObjectMeta: metav1.ObjectMeta{Namespace: *veleroNamespace, Name: name},
		Spec:       velerov1.BackupSpec{IncludedNamespaces: []string{m.spec.Namespace}, StorageLocation: *location, SnapshotMoveData: &move},
	}
	if err := m.w.admin.Create(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !(*keep && t.Failed()) {
			m.w.deleteBackup(t, b)
		}
	})
	took := within(t, endLimit, func() error {
		if err := m.w.get(b); err != nil {
			return err
		}
		switch b.Status.Phase {
		case velerov1.BackupPhaseCompleted:
			return nil
		case velerov1.BackupPhaseFailed, velerov1.BackupPhasePartiallyFailed, velerov1.BackupPhaseFailedValidation:
			m.w.describe(t, "backup", name)
			t.Fatalf("the backup %s ended as %s: %v %s", name, b.Status.Phase, b.Status.ValidationErrors, b.Status.FailureReason)
		}
		return fmt.Errorf("the backup %s is %q", name, b.Status.Phase)
	})
	t.Logf("backup %s, data moved: %v: %s", name, move, took.Round(1e8))
	return b
}

// describe logs what Velero's server and node agents said of late.
func (w *world) describe(t testing.TB, kind, name string) {
	t.Helper()
	for _, of := range []string{"deployment/velero", "daemonset/node-agent"} {
		out, err := w.kubectl(context.Background(), "-n", *veleroNamespace, "logs", of, "--tail=4000")
		if err != nil {
			t.Log(err)
		}
		t.Logf("%s about %s %s:\n%s", of, kind, name, grep(out, name, "level=error"))
	}
}

// deleteBackup deletes a backup as users do, with what it has in the storages.
func (w *world) deleteBackup(t testing.TB, b *velerov1.Backup) {
	t.Helper()
	err := w.admin.Create(context.Background(), &velerov1.DeleteBackupRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: b.Name + "-", Namespace: b.Namespace,
			Labels: map[string]string{velerov1.BackupNameLabel: b.Name, velerov1.BackupUIDLabel: string(b.UID)}},
		Spec: velerov1.DeleteBackupRequestSpec{BackupName: b.Name},
	})
	if err != nil {
		t.Error(err)
		return
	}
	cluster.Await(t, endLimit, func() error { return cluster.Gone(w.admin, b) })
}
