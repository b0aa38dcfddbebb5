package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
	"vmfr/controller/restore"
	"vmfr/controller/velero"
	"vmfr/test/cluster"
	"vmfr/test/cluster/install"
	"vmfr/test/fixture"
)

// premade is a file restore whose volumes are there before the controller sees to it. The state
// that it finds is the one after Velero has brought back one backup, and Velero's Restore has
// expired since: the backup's volumes, the disks' order in the session's document, and both written
// down in the status. All the rest is made by the controller.
type premade struct {
	*fileRestore
	disks  []plan.Disk
	claims []*corev1.PersistentVolumeClaim
}

// premadeBackup is the name of the backup that each of them is of.
const premadeBackup = "nightly"

// Sizes in bytes: of a disk, and of a file system that has room for its image.
const premadeDisk, premadeVolume = 4 << 20, 16 << 20

// premake makes a file restore of so many disks, of which each third one is an image on a file system. It is
// removed by whoever called.
func (w *world) premake(t *testing.T, name string, disks int) *premade {
	t.Helper()
	vm := session.VM{Name: name, Namespace: "crowd"}
	p := &premade{fileRestore: &fileRestore{w: w, VirtualMachineFileRestore: &v1alpha1.VirtualMachineFileRestore{
		ObjectMeta: metav1.ObjectMeta{Namespace: *veleroNamespace, Name: name,
			Annotations: map[string]string{v1alpha1.AnnotationVM: vm.Name, v1alpha1.AnnotationVMNS: vm.Namespace}},
		Spec: v1alpha1.VirtualMachineFileRestoreSpec{BackupsDiscoveryRef: name, // which is not looked at any more
			FileAccess: &v1alpha1.FileAccess{SSH: &v1alpha1.SSHAccess{}, FileBrowser: &v1alpha1.FileBrowserAccess{}}},
	}}}
	for i := range disks {
		d := plan.Disk{Name: fmt.Sprintf("disk%d", i), PVCUID: types.UID(fmt.Sprintf("%s-%d", name, i)), Mode: session.Block, Size: *resource.NewQuantity(premadeDisk, resource.BinarySI)}
		if i%3 == 2 {
			d.Mode, d.Size = session.Filesystem, *resource.NewQuantity(premadeVolume, resource.BinarySI)
		}
		p.disks = append(p.disks, d)
	}
	create := func(o client.Object) {
		t.Helper()
		if err := w.admin.Create(t.Context(), o); err != nil {
			t.Fatalf("%T %s: %v", o, o.GetName(), err)
		}
	}
	create(p.VirtualMachineFileRestore)
	p.names = plan.NewNames(p.VirtualMachineFileRestore, vm)
	p.document(t, vm)
	namespace := p.names.BackupNamespace(1)
	for _, d := range p.disks {
		claim := &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: d.Name,
				Labels: map[string]string{velero.LabelRestore: p.names.Restore(1), v1alpha1.LabelPVCUID: string(d.PVCUID)}},
			Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: new(w.class(t)), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				VolumeMode: new(corev1.PersistentVolumeMode(d.Mode)), Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: d.Size}}},
		}
		create(claim)
		p.claims = append(p.claims, claim)
	}
	return p
}

// document makes the session's namespaces and its document, as the controller does before it asks Velero.
func (p *premade) document(t *testing.T, vm session.VM) {
	t.Helper()
	in := plan.Input{Restore: p.VirtualMachineFileRestore, VM: vm, Backups: []plan.Backup{{Number: 1, Name: premadeBackup, Timestamp: p.CreationTimestamp.Time, Disks: p.disks}}}
	var cfg plan.Config
	material, err := plan.NewMaterial(cfg, in, plan.Found{}, time.Now(), nonce{})
	if err != nil {
		t.Fatal(err)
	}
	built, err := plan.Build(cfg, in, material)
	if err != nil {
		t.Fatal(err)
	}
	objects := built.Step(plan.StepNamespaces)
	for _, o := range built.Step(plan.StepDocuments) {
		if o.GetName() == p.names.SessionConfig() && o.GetNamespace() == p.names.Session {
			objects = append(objects, o)
		}
	}
	for _, o := range objects {
		u, err := plan.ForApply(o)
		if err == nil {
			err = p.w.admin.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(restore.FieldOwner))
		}
		if err != nil {
			t.Fatalf("%T %s: %v", o, o.GetName(), err)
		}
	}
}

// nonce stands for randomness where what is made of it is thrown away.
type nonce struct{}

func (nonce) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(i)
	}
	return len(b), nil
}

// marker is what a file at the root of a disk holds, so that it can be told from all others.
func (p *premade) marker(disk int) string {
	return fmt.Sprintf("disk %d of %s, %s\n", disk, p.Name, p.UID)
}

const premadeMarker = "marker.txt"

// fill waits until all volumes are there, and puts a file system with a marker on each: into the
// driver's own files, before anything is attached.
func (w *world) fill(t *testing.T, all []*premade) {
	t.Helper()
	volumes := filepath.Join("/proc", pidText(w.node.Pid()), "root", install.StorageDir, "volumes")
	handles := map[types.UID]string{} // by claim
	cluster.Await(t, endLimit, func() error {
		var list corev1.PersistentVolumeList
		if err := w.admin.List(t.Context(), &list); err != nil {
			return err
		}
		for _, v := range list.Items {
			if v.Status.Phase == corev1.VolumeBound && v.Spec.ClaimRef != nil && v.Spec.CSI != nil {
				handles[v.Spec.ClaimRef.UID] = v.Spec.CSI.VolumeHandle
			}
		}
		for _, p := range all {
			for _, c := range p.claims {
				if handles[c.UID] == "" {
					return fmt.Errorf("the claim %s/%s has no volume", c.Namespace, c.Name)
				}
			}
		}
		return nil
	})
	for _, p := range all {
		for i, c := range p.claims {
			image := filepath.Join(volumes, handles[c.UID]+".img")
			src := t.TempDir()
			if err := os.WriteFile(filepath.Join(src, premadeMarker), []byte(p.marker(i)), 0o644); err != nil {
				t.Fatal(err)
			}
			if p.disks[i].Mode == session.Block {
				fixture.Ext4At(t, image, 0, premadeDisk, src)
				continue
			}
			disk, dir := fixture.Ext4(t, src, premadeDisk), t.TempDir()
			to := filepath.Join(dir, "disk.img")
			for _, err := range []error{os.Rename(disk, to), os.Chmod(to, 0o660), os.Chown(to, 107, 107)} { // as KubeVirt's
				if err != nil {
					t.Fatal(err)
				}
			}
			fixture.Ext4At(t, image, 0, premadeVolume, dir)
		}
	}
}

// begin has the controller see to it: the status says what Velero did, and the spec changes.
func (p *premade) begin(t *testing.T) {
	t.Helper()
	before := p.DeepCopy()
	now := metav1.Now()
	for _, d := range p.disks {
		p.Status.PVCRestores = append(p.Status.PVCRestores, v1alpha1.PVCRestore{
			PVCUID: d.PVCUID, PVCName: d.Name, PVCNamespace: p.Annotations[v1alpha1.AnnotationVMNS], Size: &d.Size,
			Restores: []v1alpha1.BackupRestore{{
				VeleroBackupName: premadeBackup, VeleroBackupNamespace: p.Namespace, Timestamp: &p.CreationTimestamp, State: v1alpha1.RestoreProcessing,
				VeleroRestoreName: p.names.Restore(1), VeleroRestoreNamespace: p.Namespace, Phase: string(velerov1.RestorePhaseCompleted), CreatedAt: &now, CompletedAt: &now,
			}},
		})
	}
	// A patch answers with the object as it is, so what the controller wrote since is not undone.
	if err := p.w.admin.Status().Patch(t.Context(), p.VirtualMachineFileRestore, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	before = p.DeepCopy()
	p.Spec.TTL = &metav1.Duration{Duration: time.Hour}
	if err := p.w.admin.Patch(t.Context(), p.VirtualMachineFileRestore, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}
