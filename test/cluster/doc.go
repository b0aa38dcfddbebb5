// Package cluster runs the real programs of a Kubernetes cluster for tests: etcd, kube-apiserver,
// kube-controller-manager, Velero with its plugins for S3 and KubeVirt, and S3 gateways. They are
// built once from pinned sources into a cache directory, run as processes on loopback addresses of
// their own, and end with the test that started them, or with its process.
//
//	cp := cluster.Start(t, "../deploy/crds")
//	v := cluster.StartVelero(t, cp)
//	claims := cp.CreateVM(t, cluster.VM{Namespace: "vms", Name: "fedora", Disks: []cluster.Disk{{Name: "root"}}})
//	b := v.BackupOf(t, "b1", "vms")
//
// A control plane takes seconds: a package starts one, in a test whose subtests share it.
//
// What is not real: there is no node, so Pods stay Pending and Velero's data mover and hooks do not
// work. KubeVirt and CDI are their kinds alone (crds.go). Storage answers for a CSI driver and its
// snapshotter, without bytes (storage.go). Claims carry the label that the KubeVirt plugin newer
// than v0.8.0 would put on them in a backup (vm.go).
//
// Non-goals: no containers; nothing here is part of a product. Invariants: a test ends what it
// started and frees what it took, also when it is killed, but for its temporary directory; the
// cache may vanish at any time; any number of tests run at once.
package cluster
