package csi

import (
	"context"
	"fmt"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// A claim or volume that could not be served is tried again after firstRetry, twice that, and so on.
const (
	firstRetry = 250 * time.Millisecond
	lastRetry  = 10 * time.Second
)

// Provision makes a PersistentVolume for each claim of a StorageClass whose provisioner is Name,
// and deletes them with their claims, until the context ends. First it thaws what a driver that was
// killed here while it took a snapshot has left frozen. It is of the driver that answers the
// controller's calls, and needs the rights of
// external-provisioner: claims, PersistentVolumes, StorageClasses, events, VolumeSnapshots and
// their contents.
func (d *Driver) Provision(ctx context.Context, config *rest.Config) error {
	if err := d.volumes.thawAll(); err != nil {
		return err
	}
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, snapshotv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	reader, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	controller.NewProvisionController(ctx, clients, Name, provisioner{d, reader},
		controller.LeaderElection(false), // there is one such driver
		controller.RateLimiter(workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry)),
	).Run(ctx)
	return nil
}

// provisioner is the driver as the library for provisioners calls it.
type provisioner struct {
	driver *Driver
	reader client.Reader
}

var (
	_ controller.BlockProvisioner = provisioner{}
	_ controller.Qualifier        = provisioner{}
)

// SupportsBlock says that volumes can be block devices.
func (provisioner) SupportsBlock(context.Context) bool { return true }

// ShouldProvision is false for a claim with a selector, which wants a volume that somebody else makes:
// Velero holds claims with one until their data has been brought back.
func (provisioner) ShouldProvision(_ context.Context, claim *corev1.PersistentVolumeClaim) bool {
	return claim.Spec.Selector == nil
}

// Provision makes the volume of a claim.
func (p provisioner) Provision(ctx context.Context, o controller.ProvisionOptions) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	source, err := p.source(ctx, o.PVC)
	if err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	mode := corev1.PersistentVolumeFilesystem
	if o.PVC.Spec.VolumeMode != nil {
		mode = *o.PVC.Spec.VolumeMode
	}
	request := o.PVC.Spec.Resources.Requests[corev1.ResourceStorage]
	r := &csi.CreateVolumeRequest{Name: o.PVName, CapacityRange: &csi.CapacityRange{RequiredBytes: request.Value()}, VolumeContentSource: source}
	if limit, ok := o.PVC.Spec.Resources.Limits[corev1.ResourceStorage]; ok {
		r.CapacityRange.LimitBytes = limit.Value()
	}
	for _, a := range o.PVC.Spec.AccessModes {
		r.VolumeCapabilities = append(r.VolumeCapabilities, capability(mode, a, o.StorageClass.MountOptions))
	}
	made, err := p.driver.CreateVolume(ctx, r)
	if err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	policy := corev1.PersistentVolumeReclaimDelete
	if o.StorageClass.ReclaimPolicy != nil {
		policy = *o.StorageClass.ReclaimPolicy
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: o.PVName},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: policy,
			AccessModes:                   o.PVC.Spec.AccessModes,
			VolumeMode:                    &mode,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(made.Volume.CapacityBytes, resource.BinarySI)},
			PersistentVolumeSource:        corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: Name, VolumeHandle: made.Volume.VolumeId}},
		},
	}, controller.ProvisioningFinished, nil
}

// Delete deletes a volume's bytes.
func (p provisioner) Delete(ctx context.Context, v *corev1.PersistentVolume) error {
	if v.Spec.CSI == nil || v.Spec.CSI.Driver != Name {
		return &controller.IgnoredError{Reason: "the volume is another driver's"}
	}
	_, err := p.driver.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.Spec.CSI.VolumeHandle})
	return err
}

// source is what a claim is to be a copy of, nil for nothing.
func (p provisioner) source(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*csi.VolumeContentSource, error) {
	group, kind, name := "", "", ""
	from := func(g *string, k, n string) {
		if kind, name = k, n; g != nil {
			group = *g
		}
	}
	// The API server fills in the one from the other, but for a source in another namespace.
	switch ref := claim.Spec.DataSourceRef; {
	case ref != nil && ref.Namespace != nil && *ref.Namespace != claim.Namespace:
		return nil, fmt.Errorf("the source is in another namespace, %s", *ref.Namespace)
	case ref != nil:
		from(ref.APIGroup, ref.Kind, ref.Name)
	case claim.Spec.DataSource != nil:
		from(claim.Spec.DataSource.APIGroup, claim.Spec.DataSource.Kind, claim.Spec.DataSource.Name)
	default:
		return nil, nil
	}
	key := client.ObjectKey{Namespace: claim.Namespace, Name: name}
	switch {
	case group == snapshotv1.GroupName && kind == "VolumeSnapshot":
		id, err := p.snapshot(ctx, key)
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}, err
	case group == "" && kind == "PersistentVolumeClaim":
		id, err := p.volume(ctx, key)
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}, err
	}
	return nil, fmt.Errorf("a volume cannot be made from %s %s: only from a VolumeSnapshot or a claim", kind, name)
}

// snapshot is the ID of the snapshot behind a VolumeSnapshot.
func (p provisioner) snapshot(ctx context.Context, key client.ObjectKey) (string, error) {
	var s snapshotv1.VolumeSnapshot
	if err := p.reader.Get(ctx, key, &s); err != nil {
		return "", err
	}
	if s.Status == nil || s.Status.ReadyToUse == nil || !*s.Status.ReadyToUse || s.Status.BoundVolumeSnapshotContentName == nil {
		return "", fmt.Errorf("VolumeSnapshot %s is not ready", key)
	}
	var content snapshotv1.VolumeSnapshotContent
	if err := p.reader.Get(ctx, client.ObjectKey{Name: *s.Status.BoundVolumeSnapshotContentName}, &content); err != nil {
		return "", err
	}
	// Both name each other, or somebody reads a snapshot that is not theirs.
	if ref := content.Spec.VolumeSnapshotRef; ref.Namespace != s.Namespace || ref.Name != s.Name || ref.UID != s.UID {
		return "", fmt.Errorf("VolumeSnapshotContent %s is of another snapshot than %s", content.Name, key)
	}
	if content.Spec.Driver != Name || content.Status == nil || content.Status.SnapshotHandle == nil {
		return "", fmt.Errorf("VolumeSnapshotContent %s of driver %s has no snapshot here", content.Name, content.Spec.Driver)
	}
	return *content.Status.SnapshotHandle, nil
}

// volume is the ID of the volume behind a claim.
func (p provisioner) volume(ctx context.Context, key client.ObjectKey) (string, error) {
	var claim corev1.PersistentVolumeClaim
	if err := p.reader.Get(ctx, key, &claim); err != nil {
		return "", err
	}
	if claim.Status.Phase != corev1.ClaimBound {
		return "", fmt.Errorf("claim %s is not bound", key)
	}
	var v corev1.PersistentVolume
	if err := p.reader.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, &v); err != nil {
		return "", err
	}
	if v.Spec.CSI == nil || v.Spec.CSI.Driver != Name {
		return "", fmt.Errorf("claim %s is on another driver's volume", key)
	}
	return v.Spec.CSI.VolumeHandle, nil
}

// capability is CSI's word for a claim's access mode.
func capability(mode corev1.PersistentVolumeMode, access corev1.PersistentVolumeAccessMode, options []string) *csi.VolumeCapability {
	m := &csi.VolumeCapability_AccessMode{}
	switch access {
	case corev1.ReadWriteOnce:
		m.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	case corev1.ReadWriteOncePod:
		m.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	case corev1.ReadOnlyMany:
		m.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case corev1.ReadWriteMany:
		m.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	}
	c := &csi.VolumeCapability{AccessMode: m}
	if mode == corev1.PersistentVolumeBlock {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		c.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{MountFlags: options}}
	}
	return c
}
