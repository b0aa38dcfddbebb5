package csi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"vmfr/test/cluster"
)

const (
	provisionLimit = time.Minute
	selectedNode   = "volume.kubernetes.io/selected-node" // by which a scheduler asks for a volume
)

// provisioning is a control plane whose claims a driver answers.
type provisioning struct {
	*tester
	client.Client
}

// TestProvision lets a real control plane ask for volumes: no kubelet is needed for that.
func TestProvision(t *testing.T) {
	x := newTester(t, "", asBlock)
	cp := cluster.Start(t)
	cp.StartControllers(t)
	crds, err := cluster.CRDs()
	x.ok(err)
	_, err = envtest.InstallCRDs(cp.Config, crds)
	x.ok(err)
	p := provisioning{x, cp.Client(t)}
	for name, mode := range map[string]storagev1.VolumeBindingMode{"now": storagev1.VolumeBindingImmediate, "wait": storagev1.VolumeBindingWaitForFirstConsumer} {
		p.create(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: Name, VolumeBindingMode: &mode})
	}
	for _, node := range []string{"node1", "node2"} {
		p.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- x.Provision(ctx, cp.Config) }()
	defer func() {
		cancel()
		x.ok(<-ended)
	}()

	waits := p.claim("waits", "wait", nil)
	plain := p.claim("plain", "now", nil)
	pv := p.bound(plain)
	if size := pv.Spec.Capacity.Storage().Value(); size != testSize || pv.Spec.CSI.Driver != Name || *pv.Spec.VolumeMode != corev1.PersistentVolumeBlock {
		t.Errorf("the volume has %d bytes, %v", size, pv.Spec)
	}
	if pv.Spec.NodeAffinity != nil {
		t.Errorf("the volume is for %v", pv.Spec.NodeAffinity)
	}
	image := x.volumes.image(pv.Spec.CSI.VolumeHandle)
	x.write(image, "content")

	t.Run("waits for its consumer", func(t *testing.T) {
		x.ok(p.Get(ctx, client.ObjectKeyFromObject(waits), waits))
		if waits.Spec.VolumeName != "" {
			t.Fatal("a claim got a volume without a Pod")
		}
		p.annotate(waits, "node2") // any will do
		p.bound(waits)
	})
	t.Run("of a claim", func(t *testing.T) {
		clone := p.bound(p.claim("clone", "now", &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: plain.Name}))
		if got := x.read(x.volumes.image(clone.Spec.CSI.VolumeHandle), 7); got != "content" {
			t.Errorf("the clone holds %q", got)
		}
	})
	t.Run("of a snapshot", func(t *testing.T) {
		group := snapshotv1.GroupName
		source := func(name string) *corev1.TypedLocalObjectReference {
			return &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: name}
		}
		s := must[*csi.CreateSnapshotResponse](t)(x.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "s1", SourceVolumeId: pv.Spec.CSI.VolumeHandle})).Snapshot
		early := p.claim("from-snapshot", "now", source("mine")) // before there is one
		mine := p.snapshot("mine", s.SnapshotId, nil)
		restored := p.bound(early)
		if got := x.read(x.volumes.image(restored.Spec.CSI.VolumeHandle), 7); got != "content" {
			t.Errorf("the volume holds %q", got)
		}
		// Somebody who points at the content of another's snapshot gets nothing.
		p.snapshot("thief", "", mine)
		stolen := p.claim("stolen", "now", source("thief"))
		p.event(stolen, "another snapshot")
	})
	t.Run("held by a selector", func(t *testing.T) {
		held := plain.DeepCopy()
		held.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		if (provisioner{}).ShouldProvision(ctx, held) || !(provisioner{}).ShouldProvision(ctx, plain) {
			t.Error("a claim that Velero holds gets a volume, or another does not")
		}
	})
	t.Run("deleted", func(t *testing.T) {
		plain.Finalizers = nil
		x.ok(p.Delete(ctx, plain))
		cluster.Await(t, provisionLimit, func() error {
			if err := cluster.Gone(p, &pv); err != nil {
				return err
			}
			if _, err := os.Stat(image); !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("its bytes are still there: %w", err)
			}
			return nil
		})
	})
}

func (p provisioning) create(o client.Object) {
	p.t.Helper()
	p.ok(p.Create(context.Background(), o))
}

func (p provisioning) claim(name, class string, source *corev1.TypedLocalObjectReference) *corev1.PersistentVolumeClaim {
	p.t.Helper()
	mode := corev1.PersistentVolumeBlock
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, VolumeMode: &mode, DataSource: source, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(testSize, resource.BinarySI)}}}}
	p.create(c)
	return c
}

func (p provisioning) annotate(c *corev1.PersistentVolumeClaim, node string) {
	p.t.Helper()
	before := c.DeepCopy()
	metav1.SetMetaDataAnnotation(&c.ObjectMeta, selectedNode, node)
	p.ok(p.Patch(context.Background(), c, client.MergeFrom(before)))
}

// bound waits until the claim has a volume, and returns that.
func (p provisioning) bound(c *corev1.PersistentVolumeClaim) (v corev1.PersistentVolume) {
	p.t.Helper()
	cluster.Await(p.t, provisionLimit, func() error {
		if err := p.Get(context.Background(), client.ObjectKeyFromObject(c), c); err != nil {
			return err
		}
		if c.Status.Phase != corev1.ClaimBound {
			return fmt.Errorf("claim %s is %s", c.Name, c.Status.Phase)
		}
		return p.Get(context.Background(), client.ObjectKey{Name: c.Spec.VolumeName}, &v)
	})
	return v
}

// snapshot makes a VolumeSnapshot that is ready, as csi-snapshotter does: with a content of its own
// for the handle, or bound to another's.
func (p provisioning) snapshot(name, handle string, others *snapshotv1.VolumeSnapshotContent) *snapshotv1.VolumeSnapshotContent {
	p.t.Helper()
	ctx, ready, contentName := context.Background(), true, "content-"+name
	if others != nil {
		contentName = others.Name
	}
	s := &snapshotv1.VolumeSnapshot{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: snapshotv1.VolumeSnapshotSpec{Source: snapshotv1.VolumeSnapshotSource{VolumeSnapshotContentName: &contentName}}}
	p.create(s)
	if others == nil {
		others = &snapshotv1.VolumeSnapshotContent{ObjectMeta: metav1.ObjectMeta{Name: contentName},
			Spec: snapshotv1.VolumeSnapshotContentSpec{Driver: Name, DeletionPolicy: snapshotv1.VolumeSnapshotContentRetain,
				Source:            snapshotv1.VolumeSnapshotContentSource{SnapshotHandle: &handle},
				VolumeSnapshotRef: corev1.ObjectReference{Namespace: s.Namespace, Name: s.Name, UID: s.UID}}}
		p.create(others)
		others.Status = &snapshotv1.VolumeSnapshotContentStatus{SnapshotHandle: &handle, ReadyToUse: &ready}
		p.ok(p.Status().Update(ctx, others))
	}
	s.Status = &snapshotv1.VolumeSnapshotStatus{BoundVolumeSnapshotContentName: &contentName, ReadyToUse: &ready}
	p.ok(p.Status().Update(ctx, s))
	return others
}

// event waits until the claim has an event that says what.
func (p provisioning) event(c *corev1.PersistentVolumeClaim, what string) {
	p.t.Helper()
	cluster.Await(p.t, provisionLimit, func() error {
		var events corev1.EventList
		if err := p.List(context.Background(), &events, client.InNamespace(c.Namespace)); err != nil {
			return err
		}
		var all []string
		for _, e := range events.Items {
			if e.InvolvedObject.UID == c.UID {
				all = append(all, e.Message)
			}
		}
		if slices.ContainsFunc(all, func(m string) bool { return strings.Contains(m, what) }) {
			return nil
		}
		return fmt.Errorf("its events are %q", all)
	})
}
