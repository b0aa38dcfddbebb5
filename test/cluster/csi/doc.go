// Package csi is a CSI driver for tests: volumes as sparse files in a folder that all nodes share,
// with snapshots and clones. A Block volume is a loop device, a Filesystem volume an ext4 in one.
//
//	d, err := csi.New(csi.Config{Node: "node1", State: "/var/lib/vmfr-csi"})
//	err = d.Serve(ctx, csi.Sockets{Endpoint: ".../plugins/loop.vmfr.test/csi.sock", ...})
//	err = d.Provision(ctx, config)
//
// Serve answers the kubelet and the sidecars; Provision makes PersistentVolumes of claims, since
// the driver is its own external-provisioner. csi-snapshotter and snapshot-controller do the rest.
// One driver, on any node, provisions and has the sidecars, and there is one for the kubelet of each node.
//
// Nodes have one kernel in common, as package node's have. A volume is attached on one node at a
// time, which the kernel knows of each loop device (loop.go): another one waits, and then refuses.
//
// A snapshot is the volume at one instant, or it is not made: as after a power failure for a Block
// volume, clean for a file system, which is frozen meanwhile (instant.go). The state directory
// should be on a file system that clones files, XFS or btrfs; elsewhere a volume that is written
// without a pause has no snapshots.
//
// Non-goals: nodes with kernels or folders of their own, snapshots of what is in use on another node
// than the provisioning driver's, expansion, quotas, surviving a power failure of the node (nothing is
// synced to the state directory's disk). Invariants: every call may be repeated, and the driver may
// be killed at any time, since the kernel knows what is attached and a record is written when its
// bytes are complete; no loop device stays behind a volume that no pod uses.
package csi
