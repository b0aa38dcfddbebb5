package install

import (
	"context"
	"fmt"
	"slices"

	storagev1 "k8s.io/api/storage/v1"

	"vmfr/test/cluster"
	"vmfr/test/cluster/csi"
)

// The classes of the storage.
const (
	StorageClass        = "vmfr-test"      // a claim gets its volume at once
	StorageClassWait    = "vmfr-test-wait" // a claim waits for its first consumer
	VolumeSnapshotClass = "vmfr-test"      // the one that Velero chooses
)

// shared is the folder that all nodes have to have in common, as package node's do.
const shared = "/var/lib/vmfr-shared"

// StorageDir is the folder of the nodes that holds volumes and snapshots.
const StorageDir = shared + "/storage"

// Storage installs the CSI driver with its sidecar, the controller of snapshots, and the classes.
// It needs CRDs.
func (c Cluster) Storage(ctx context.Context) error {
	driver, err := c.loadDriver(ctx)
	if err != nil {
		return err
	}
	snapshotter, err := c.loadPrograms(ctx, "snapshotter", cluster.Snapshotter, "csi-snapshotter", "snapshot-controller")
	if err != nil {
		return err
	}
	if err := c.apply(ctx, "storage.yaml", map[string]string{
		"Namespace": Namespace, "Driver": csi.Name, "DriverImage": driver, "SnapshotterImage": snapshotter, "Kubelet": c.kubelet(),
		"State": StorageDir, "Class": StorageClass, "ClassWait": StorageClassWait, "SnapshotClass": VolumeSnapshotClass,
	}); err != nil {
		return err
	}
	k, err := c.client()
	if err != nil {
		return err
	}
	if err := c.rolledOut(ctx, daemonSet(Namespace, "storage")); err != nil {
		return err
	}
	for _, name := range []string{"storage-controller", "snapshot-controller"} {
		if err := c.rolledOut(ctx, deployment(Namespace, name)); err != nil {
			return err
		}
	}
	return await(ctx, func() error { // the kubelet registers it a little later
		var nodes storagev1.CSINodeList
		if err := k.List(ctx, &nodes); err != nil {
			return err
		}
		for _, n := range nodes.Items {
			if !slices.ContainsFunc(n.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == csi.Name }) {
				return fmt.Errorf("the kubelet of node %s does not know %s", n.Name, csi.Name)
			}
		}
		return nil
	})
}
