package restore

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
	"vmfr/controller/velero"
	"vmfr/test/cluster"
)

// world is a Velero namespace that no Velero server looks at: the test says what it does, and when. The
// reconciler is called by the test, without caches and watches, and with a clock of its own.
type world struct {
	*suite
	namespace string
	vm        session.VM
	taken     []string // names of backups
	contents  fixedContents
	now       time.Time
	r         *reconciler
	events    *events.FakeRecorder
}

// fixedContents are what backups hold, by name.
type fixedContents map[string]struct {
	vm  velero.VM
	err error
}

func (f fixedContents) VM(_ context.Context, b velero.Backup, _ types.NamespacedName, _ metav1.OwnerReference) (velero.VM, error) {
	c, ok := f[b.Name]
	if !ok {
		return velero.VM{}, velero.ErrNoVM
	}
	return c.vm, c.err
}

// disksOf are the volumes of the machine: the second one is first in the guest.
var disksOf = []velero.PVC{
	{Name: "web-root", UID: "uid-root", Mode: corev1.PersistentVolumeBlock, Bus: "virtio"},
	{Name: "web-data", UID: "uid-data", Mode: corev1.PersistentVolumeFilesystem, Bus: "scsi"},
}

// newWorld makes a namespace with backups b1, b2, ... of one machine, and a discovery "find" of them.
func (su *suite) newWorld(t *testing.T, backups int, change func(*Options)) *world {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "w-"}}
	su.create(t, ns)
	w := &world{suite: su, namespace: ns.Name, vm: session.VM{Name: "web", Namespace: "shop"}, contents: fixedContents{}, now: time.Now()}
	var found []v1alpha1.DiscoveredBackup
	for i := range backups {
		name := fmt.Sprintf("b%d", i+1)
		w.taken = append(w.taken, name)
		su.create(t, &velerov1.Backup{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}, Status: velerov1.BackupStatus{Phase: velerov1.BackupPhaseCompleted}})
		f := v1alpha1.DiscoveredBackup{Name: name, Namespace: w.namespace, CreatedAt: &metav1.Time{Time: time.Date(2026, 4, 1+i, 1, 0, 0, 0, time.UTC)}}
		size := resource.MustParse("1Gi")
		for _, d := range disksOf {
			f.PVCs = append(f.PVCs, v1alpha1.DiscoveredPVC{PVCUID: d.UID, PVCName: d.Name, PVCNamespace: w.vm.Namespace, Size: &size})
		}
		found = append(found, f)
		c := w.contents[name]
		c.vm = velero.VM{PVCs: disksOf}
		w.contents[name] = c
	}
	su.discovery(t, w.namespace, "find", w.vm, found...)
	w.restart(t, w.client, change)
	return w
}

// restart gives the world a new reconciler, which remembers nothing.
func (w *world) restart(t *testing.T, c client.Client, change func(*Options)) {
	t.Helper()
	o := Options{Plan: planConfig(w.namespace), Contents: w.contents, Registerer: prometheus.NewRegistry(), Now: func() time.Time { return w.now }, RetryDelay: time.Millisecond}
	if change != nil {
		change(&o)
	}
	o, err := o.complete()
	if err != nil {
		t.Fatal(err)
	}
	w.events = events.NewFakeRecorder(1000)
	w.r = &reconciler{Options: o, client: c, direct: c, events: w.events}
	if w.r.metrics, err = newInstruments(o.Registerer, w.r.existing(nil)); err != nil {
		t.Fatal(err)
	}
}

// restore makes a file restore.
func (w *world) restore(t *testing.T, name string, change func(*v1alpha1.VirtualMachineFileRestoreSpec)) *v1alpha1.VirtualMachineFileRestore {
	t.Helper()
	v := &v1alpha1.VirtualMachineFileRestore{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name},
		Spec:       v1alpha1.VirtualMachineFileRestoreSpec{BackupsDiscoveryRef: "find"},
	}
	if change != nil {
		change(&v.Spec)
	}
	w.create(t, v)
	return v
}

// pass lets time pass from the present on: what the cluster makes meanwhile bears its time, not the world's.
func (w *world) pass(d time.Duration) {
	w.now = later(w.now, time.Now()).Add(d)
}

func (w *world) names(v *v1alpha1.VirtualMachineFileRestore) plan.Names {
	return plan.NewNames(v, w.vm)
}

// drive reconciles until nothing changes any more, and reads the restore again; false: it is gone.
func (w *world) drive(t *testing.T, v *v1alpha1.VirtualMachineFileRestore) (ctrl.Result, bool) {
	t.Helper()
	version := ""
	for range 20 {
		result, err := w.r.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(v)})
		if err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		err = w.client.Get(ctx, client.ObjectKeyFromObject(v), v)
		if apierrors.IsNotFound(err) {
			return result, false
		}
		if err != nil {
			t.Fatal(err)
		}
		if v.ResourceVersion == version {
			return result, true
		}
		version = v.ResourceVersion
	}
	t.Fatalf("%s changes for ever: %+v", v.Name, v.Status)
	return ctrl.Result{}, false
}

// velero does what a Velero server does with a restore's n-th Restore: claims with these names, then a phase. A claim
// is named as in the backup, "renamed=original", or left out.
func (w *world) velero(t *testing.T, v *v1alpha1.VirtualMachineFileRestore, n int, phase velerov1.RestorePhase, claims ...string) {
	t.Helper()
	names := w.names(v)
	for _, claim := range claims {
		name, original, renamed := strings.Cut(claim, "=")
		c := &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: names.BackupNamespace(n), Name: name, Labels: map[string]string{velero.LabelRestore: names.Restore(n)}},
			Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}},
		}
		if !renamed {
			original = name
		} else {
			c.Labels["oadp.openshift.io/vmfr-original-name"] = original
		}
		for _, d := range disksOf {
			if d.Name == original {
				c.Labels[v1alpha1.LabelPVCUID] = string(d.UID)
			}
		}
		if err := client.IgnoreAlreadyExists(w.client.Create(ctx, c)); err != nil {
			t.Fatal(err)
		}
	}
	o := &velerov1.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: names.Restore(n)}}
	w.get(t, o)
	o.Status.Phase = phase
	switch phase {
	case velerov1.RestorePhaseCompleted, velerov1.RestorePhasePartiallyFailed, velerov1.RestorePhaseFailed:
		o.Status.CompletionTimestamp = &metav1.Time{Time: w.now}
	case velerov1.RestorePhaseFailedValidation:
		o.Status.ValidationErrors = []string{"no such backup"}
	}
	if err := w.client.Update(ctx, o); err != nil {
		t.Fatal(err)
	}
}

// both are the claims of a backup.
var both = []string{"web-root", "web-data"}

// removed drives a deletion to its end.
func (w *world) removed(t *testing.T, v *v1alpha1.VirtualMachineFileRestore) {
	t.Helper()
	if err := w.client.Delete(ctx, v); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, limit, func() error {
		if _, there := w.drive(t, v); there {
			return fmt.Errorf("%s is still there: %+v", v.Name, progressing(&v.Status))
		}
		return nil
	})
	if left := w.inventory(t, v); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

// failure is why a volume of a backup is not served.
func failure(v *v1alpha1.VirtualMachineFileRestore, backup, volume string) (v1alpha1.RestoreState, string) {
	for _, p := range v.Status.PVCRestores {
		for _, r := range p.Restores {
			if r.VeleroBackupName == backup && p.PVCName == volume {
				return r.State, r.FailureReason
			}
		}
	}
	return "", ""
}
