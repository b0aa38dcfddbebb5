// Package e2e plays the documentation's story on a real cluster: a virtual machine is backed up by
// Velero, its files change, its namespace is lost, and a VirtualMachineFileRestore brings files back
// to people with sftp, scp, rsync, curl and a browser. Then everything that can break is broken.
//
// Without flags the cluster is a node of its own (test/cluster/node) with test storage, Velero and
// S3, on which controller, agent and holders run from images built of this tree and from the
// manifests in deploy/. With VMFR_E2E_KUBECONFIG it is any cluster that has Velero with a storage
// location, a CSI driver with snapshots, KubeVirt's and CDI's kinds, and vmfr:
//
//	VMFR_E2E_KUBECONFIG=~/.kube/config go test ./test/e2e -args -storage-class fast -reach port-forward
//
// What looks into the node itself (mounts, processes, loop devices, a kill -9) is skipped there.
//
// Every test leaves the cluster as it found it; package guest makes the machine's disks, package
// pull has the clients. docs/development.md tells which demand is proven by which test.
package e2e
