// Package install makes a bare cluster one with backups, as a cluster of virtual machines has them:
// storage with snapshots, an S3 gateway, and Velero with its data mover and KubeVirt's plugin.
// Everything runs as Pods from images that are made here, from programs that test/cluster builds.
//
//	c := install.Cluster{Config: config, Load: node.LoadImage}
//	err := c.All(ctx)
//
//	namespace vmfr-test   DaemonSet storage: driver of test/cluster/csi
//	                      Deployment storage-controller: the same as provisioner, csi-snapshotter
//	                      Deployment snapshot-controller
//	                      Deployment s3: versitygw on a folder of the nodes; Service s3
//	namespace velero      what `velero install` says, for the bucket of that gateway
//	cluster               StorageClasses, VolumeSnapshotClass; CRDs, of which KubeVirt's and CDI's
//	                      are stand-ins: the kinds alone
//
// Every function may be repeated: what is there is brought to what it should be. Each returns when
// its part is ready, or says what is not and why when the context ends.
//
// KubeVirt's plugin v0.8.0, the newest that can be built, does not label claims in a backup with their UID; see
// cluster.VM for what tests do instead. There are no names of Services in the cluster, so the
// location's URL has the gateway's address; clients outside the cluster use the same.
//
// Several nodes are to have /var/lib/vmfr-shared in common, and one kernel, as package node's have.
//
// Non-goals: least privilege of what is a test's fixture itself.
package install
