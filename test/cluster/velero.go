package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// VeleroNamespace is where Velero and its objects live.
const VeleroNamespace = "velero"

// endLimit is how long a Backup, a Restore or a deletion may take.
const endLimit = 5 * time.Minute

// Velero is a running Velero server with its plugins for S3 and KubeVirt.
//
// It is a process beside the cluster and there is no node, so what needs one does not work: the
// data mover, file system backups, hooks. CSI snapshots are of a Storage.
type Velero struct {
	Default *Location // the backup storage location "default"
	Storage *Storage
	Client  client.Client // an administrator's

	cp      ControlPlane
	process *process
}

// StartVelero starts Velero with an S3 gateway for its default location on the control plane,
// until the test ends, and the controllers and the storage that it needs. Its CRDs, those of
// VolumeSnapshots, and stand-ins for KubeVirt's are installed, and the location is Available
// when it returns.
func StartVelero(t testing.TB, cp ControlPlane) *Velero {
	t.Helper()
	programs, kubevirt := VeleroPrograms.Need(t), KubeVirtPlugin.Need(t)
	cp.InstallCRDs(t, veleroCRDs()...)
	cp.InstallCRDs(t, kubevirtCRDs()...)

	v := &Velero{Client: cp.Client(t), Storage: StartStorage(t, cp), cp: cp}
	create(t, v.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: VeleroNamespace}})
	create(t, v.Client, serverDeployment())
	v.Default = v.newLocation(t, "default", false)

	// The path of a plugin's socket, below TMPDIR, must be shorter than 108 bytes.
	tmp, err := os.MkdirTemp("", "velero")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(tmp) })
	plugins := t.TempDir()
	for name, dir := range map[string]string{"velero-plugin-for-aws": programs, "kubevirt-velero-plugin": kubevirt} {
		if err := os.Symlink(filepath.Join(dir, name), filepath.Join(plugins, name)); err != nil {
			t.Fatal(err)
		}
	}
	// Not a location's own Secret: Velero would write it to a file again before each use, and a plugin
	// that reads it at that moment finds it empty.
	credentials := filepath.Join(tmp, "credentials.ini")
	if err := os.WriteFile(credentials, fmt.Appendf(nil, "[default]\naws_access_key_id=%s\naws_secret_access_key=%s\n", accessKey, secretKey), 0o600); err != nil {
		t.Fatal(err)
	}
	server := exec.Command(filepath.Join(programs, "velero"), "server", "--namespace", VeleroNamespace, "--kubeconfig", cp.Kubeconfig,
		"--client-qps", "1000", "--client-burst", "1000", "--plugin-dir", plugins, "--metrics-address", cp.address+":8085", "--profiler-address", cp.address+":6060",
		"--features", "EnableCSI", "--store-validation-frequency", "2s", "--backup-sync-period", "5s", "--item-operation-sync-frequency", "500ms",
		"--concurrent-backups", "4", "--item-block-worker-count", "4")
	server.Dir = tmp
	server.Env = append(os.Environ(), "KUBECONFIG="+cp.Kubeconfig, "TMPDIR="+tmp, "HOME="+tmp, "AWS_SHARED_CREDENTIALS_FILE="+credentials,
		"CSI_SNAPSHOT_EARLY_FREQUENT_POLLING=true", // each second, not every five
		"AWS_MAX_ATTEMPTS=1")                       // a gateway that is down shows at once
	v.process = start(t, server)
	v.Default.AwaitPhase(t, velerov1.BackupStorageLocationPhaseAvailable)
	return v
}

// serverDeployment is the Deployment that a Velero server believes to be running in: each Restore
// looks at it.
func serverDeployment() *appsv1.Deployment {
	labels := map[string]string{"deploy": "velero"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "velero", Namespace: VeleroNamespace},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "velero", Image: "velero/velero", Command: []string{"/velero"}, Args: []string{"server"}}}},
			},
		},
	}
}

// Backup makes a Backup and returns it when it has ended, in whichever phase. It waits until its
// location can be used: on a busy machine one is away for a moment now and then.
func (v *Velero) Backup(t testing.TB, name string, spec velerov1.BackupSpec) *velerov1.Backup {
	t.Helper()
	if spec.StorageLocation == "" {
		spec.StorageLocation = v.Default.Name
	}
	fresh := func() *velerov1.Backup {
		return &velerov1.Backup{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: VeleroNamespace}, Spec: spec}
	}
	b := fresh()
	create(t, v.Client, b)
	v.process.await(t, endLimit, func() error {
		ctx := context.Background()
		err := v.Client.Get(ctx, client.ObjectKeyFromObject(b), b)
		if apierrors.IsNotFound(err) { // we removed it
			b = fresh()
			err = errors.Join(err, v.Client.Create(ctx, b))
		}
		if err != nil {
			return err
		}
		if why := strings.Join(b.Status.ValidationErrors, "; "); b.Status.Phase == velerov1.BackupPhaseFailedValidation && strings.Contains(why, "Unavailable") {
			return errors.Join(errors.New(why), v.Client.Delete(ctx, b))
		}
		return ended("backup", name, b.Status.Phase, velerov1.BackupPhaseCompleted, velerov1.BackupPhasePartiallyFailed,
			velerov1.BackupPhaseFailed, velerov1.BackupPhaseFailedValidation)
	})
	return b
}

// BackupOf is a Backup of one namespace.
func (v *Velero) BackupOf(t testing.TB, name, namespace string) *velerov1.Backup {
	t.Helper()
	return v.Backup(t, name, velerov1.BackupSpec{IncludedNamespaces: []string{namespace}})
}

// CopyBackup makes another Backup of a completed one of the default location: the same content
// under a new name, completed at another time. It takes milliseconds.
//
// Each minute Velero compares its location with the cluster, and deletes Backups with the location's
// label whose files were not there when it began. So this one has no such label.
func (v *Velero) CopyBackup(t testing.TB, b *velerov1.Backup, name string, completed time.Time) *velerov1.Backup {
	t.Helper()
	at := metav1.NewTime(completed)
	c := &velerov1.Backup{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: b.Namespace, Labels: maps.Clone(b.Labels), Annotations: b.Annotations}, Spec: b.Spec}
	delete(c.Labels, velerov1.StorageLocationLabel)
	b.Status.DeepCopyInto(&c.Status)
	c.Status.StartTimestamp, c.Status.CompletionTimestamp = &at, &at
	v.Default.copy(t, b.Name, c)
	create(t, v.Client, c)
	return c
}

// BackupInPhase makes a Backup of which there is nothing but the object, in a phase that Velero
// leaves as it is: any but New, Queued and ReadyToStart, with which work begins. No plugin serves
// its storage location "broken". While one is InProgress, Velero makes no other of its namespace.
func (v *Velero) BackupInPhase(t testing.TB, name, namespace string, phase velerov1.BackupPhase) *velerov1.Backup {
	t.Helper()
	switch phase {
	case "", velerov1.BackupPhaseNew, velerov1.BackupPhaseQueued, velerov1.BackupPhaseReadyToStart:
		t.Fatalf("a backup does not stay %q", phase)
	}
	ensure(t, v.Client, &velerov1.BackupStorageLocation{
		ObjectMeta: metav1.ObjectMeta{Name: "broken", Namespace: VeleroNamespace},
		Spec: velerov1.BackupStorageLocationSpec{Provider: "none",
			StorageType: velerov1.StorageType{ObjectStorage: &velerov1.ObjectStorageLocation{Bucket: "none"}}},
	})
	now := metav1.Now()
	b := &velerov1.Backup{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: VeleroNamespace},
		Spec:       velerov1.BackupSpec{IncludedNamespaces: []string{namespace}, StorageLocation: "broken"},
		Status:     velerov1.BackupStatus{Phase: phase, StartTimestamp: &now},
	}
	create(t, v.Client, b)
	return b
}

// DeleteBackup deletes a Backup as users do, with what it has in its location, and returns when
// it is gone. Like Backup it waits until the location can be used.
func (v *Velero) DeleteBackup(t testing.TB, b *velerov1.Backup) {
	t.Helper()
	fresh := func() *velerov1.DeleteBackupRequest {
		return &velerov1.DeleteBackupRequest{
			ObjectMeta: metav1.ObjectMeta{GenerateName: b.Name + "-", Namespace: b.Namespace,
				Labels: map[string]string{velerov1.BackupNameLabel: b.Name, velerov1.BackupUIDLabel: string(b.UID)}},
			Spec: velerov1.DeleteBackupRequestSpec{BackupName: b.Name},
		}
	}
	r := fresh()
	create(t, v.Client, r)
	v.process.await(t, endLimit, func() error {
		ctx := context.Background()
		there := Gone(v.Client, b)
		if there == nil {
			return nil
		}
		if err := v.Client.Get(ctx, client.ObjectKeyFromObject(r), r); err != nil {
			return errors.Join(there, client.IgnoreNotFound(err)) // it goes with the backup
		}
		if why := strings.Join(r.Status.Errors, "; "); strings.Contains(why, "Unavailable state") {
			r = fresh()
			return errors.Join(there, errors.New(why), v.Client.Create(ctx, r))
		}
		return there
	})
}

// Restore makes a Restore and returns it when it has ended, in whichever phase. Like Backup it waits
// until the location can be used.
func (v *Velero) Restore(t testing.TB, name string, spec velerov1.RestoreSpec) *velerov1.Restore {
	t.Helper()
	fresh := func() *velerov1.Restore {
		return &velerov1.Restore{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: VeleroNamespace}, Spec: *spec.DeepCopy()}
	}
	r := fresh()
	create(t, v.Client, r)
	v.process.await(t, endLimit, func() error {
		ctx := context.Background()
		err := v.Client.Get(ctx, client.ObjectKeyFromObject(r), r)
		if apierrors.IsNotFound(err) { // we removed it
			r = fresh()
			err = errors.Join(err, v.Client.Create(ctx, r))
		}
		if err != nil {
			return err
		}
		if why := strings.Join(r.Status.ValidationErrors, "; "); r.Status.Phase == velerov1.RestorePhaseFailedValidation && strings.Contains(why, "is unavailable") {
			return errors.Join(errors.New(why), v.Client.Delete(ctx, r))
		}
		return ended("restore", name, r.Status.Phase, velerov1.RestorePhaseCompleted, velerov1.RestorePhasePartiallyFailed,
			velerov1.RestorePhaseFailed, velerov1.RestorePhaseFailedValidation)
	})
	return r
}

// ended is nil if the phase is one of the ends.
func ended[P ~string](kind, name string, phase P, ends ...P) error {
	if slices.Contains(ends, phase) {
		return nil
	}
	return fmt.Errorf("%s %s is %q", kind, name, phase)
}
