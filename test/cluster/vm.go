package cluster

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// PVCUIDLabel is what newer KubeVirt plugins put on a claim in a backup: the claim's UID.
const PVCUIDLabel = "velero.kubevirt.io/pvc-uid"

// VM describes a VirtualMachine with its disks.
type VM struct {
	Namespace, Name string
	Disks           []Disk
	Unbound         bool // do not wait for the claims' volumes
}

// Disk is a disk of a VM on a PersistentVolumeClaim.
type Disk struct {
	Name       string // of the disk and its volume; the claim is <VM>-<Name>
	Bus        string // default virtio
	DataVolume bool   // the volume names a DataVolume of the claim's name, not the claim
	Filesystem bool   // the claim's volume mode is Filesystem, not Block
	Size       string // default 1Gi
	Late       bool   // of StorageClassLate: a restored claim waits for a Pod
	Class      string // the StorageClass of another storage
	// Unlabelled: the claim lacks PVCUIDLabel in backups, as with plugins up to v0.8.
	Unlabelled bool
}

// CreateNamespace creates a namespace with labels given as pairs.
func (cp ControlPlane) CreateNamespace(t testing.TB, name string, labels ...string) *corev1.Namespace {
	t.Helper()
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
	for i := 0; i+1 < len(labels); i += 2 {
		n.Labels[labels[i]] = labels[i+1]
	}
	create(t, cp.Client(t), n)
	return n
}

// CreateVM creates a VirtualMachine, with its namespace where that is missing, and returns the
// claims of its disks in their order, bound. It needs StartStorage or StartVelero, or classes of
// another storage.
//
// The newest KubeVirt plugin that can be built here, v0.8.0, does not label claims by their UID.
// So the claims themselves carry the label; the backup is then the same as by a newer plugin.
func (cp ControlPlane) CreateVM(t testing.TB, vm VM) []corev1.PersistentVolumeClaim {
	t.Helper()
	c := cp.Client(t)
	ensure(t, c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: vm.Namespace}})
	var (
		claims         []corev1.PersistentVolumeClaim
		disks, volumes []any
	)
	for _, d := range vm.Disks {
		claim := createClaim(t, c, vm, d)
		claims = append(claims, *claim)
		bus := d.Bus
		if bus == "" {
			bus = "virtio"
		}
		disks = append(disks, map[string]any{"name": d.Name, "disk": map[string]any{"bus": bus}})
		source := map[string]any{"persistentVolumeClaim": map[string]any{"claimName": claim.Name}}
		if d.DataVolume {
			source = map[string]any{"dataVolume": map[string]any{"name": claim.Name}}
		}
		source["name"] = d.Name
		volumes = append(volumes, source)
	}
	machine := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
		"metadata": map[string]any{"namespace": vm.Namespace, "name": vm.Name},
		"spec": map[string]any{
			"runStrategy": "Halted",
			"template": map[string]any{"spec": map[string]any{
				"domain":  map[string]any{"devices": map[string]any{"disks": disks}},
				"volumes": volumes,
			}},
		},
		"status": map[string]any{"printableStatus": "Stopped"},
	}}
	create(t, c, machine)
	for i := range claims {
		if vm.Unbound {
			break
		}
		Await(t, endLimit, func() error {
			if err := c.Get(context.Background(), client.ObjectKeyFromObject(&claims[i]), &claims[i]); err != nil {
				return err
			}
			if phase := claims[i].Status.Phase; phase != corev1.ClaimBound {
				return fmt.Errorf("claim %s is %s", claims[i].Name, phase)
			}
			return nil
		})
	}
	return claims
}

// createClaim creates a disk's claim, and its DataVolume.
func createClaim(t testing.TB, c client.Client, vm VM, d Disk) *corev1.PersistentVolumeClaim {
	t.Helper()
	ctx, name := context.Background(), vm.Name+"-"+d.Name
	size, mode, class := d.Size, corev1.PersistentVolumeBlock, StorageClass
	if size == "" {
		size = "1Gi"
	}
	if d.Filesystem {
		mode = corev1.PersistentVolumeFilesystem
	}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: vm.Namespace, Name: name}}
	if d.Late {
		class = StorageClassLate
		claim.Annotations = map[string]string{selectedNode: "node"}
	}
	if d.Class != "" {
		class = d.Class
	}
	claim.Spec = corev1.PersistentVolumeClaimSpec{
		StorageClassName: &class, VolumeMode: &mode, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
	}
	if d.DataVolume {
		dv := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume",
			"metadata": map[string]any{"namespace": vm.Namespace, "name": name},
			"spec": map[string]any{"source": map[string]any{"blank": map[string]any{}},
				"storage": map[string]any{"resources": map[string]any{"requests": map[string]any{"storage": size}}}},
			"status": map[string]any{"phase": "Succeeded"},
		}}
		create(t, c, dv)
		claim.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(dv, dv.GroupVersionKind())}
	}
	create(t, c, claim)
	if !d.Unlabelled {
		before := claim.DeepCopy()
		metav1.SetMetaDataLabel(&claim.ObjectMeta, PVCUIDLabel, string(claim.UID))
		if err := c.Patch(ctx, claim, client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
	}
	return claim
}

// ensure creates an object unless it exists.
func ensure(t testing.TB, c client.Client, o client.Object) {
	t.Helper()
	if err := ignoreExists(c.Create(context.Background(), o)); err != nil {
		t.Fatalf("%T %s: %v", o, o.GetName(), err)
	}
}
