// Package node runs a whole Kubernetes node with its control plane on one machine, for tests that
// need real Pods: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, containerd with
// runc and CNI, kubelet and kube-proxy.
//
//	func TestMain(m *testing.M) { node.Main(m) }
//
//	func TestPod(t *testing.T) {
//		cluster := node.Current(t) // cluster.Config, cluster.Kubeconfig
//		cluster.Node(t).LoadImage(t.Context(), "image.tar")
//	}
//
// Everything lives in mount, PID, network, IPC and UTS namespaces of its own, below one process
// that is their init: when it ends, however it ends, the kernel ends all the others and undoes
// their mounts and interfaces.
//
//	machine                      node's namespaces                          client's network namespace
//	Start, Down, Open    ─────   init (PID 1, reaps)                        what is outside the cluster:
//	                             └ supervisor                                the tests of Main,
//	                               ├ etcd, kube-apiserver, ...               nodectl enter --client
//	                               ├ containerd ── Pods 10.244.0.0/16
//	                               └ kubelet, kube-proxy                     eth0 172.30.0.2
//	                                 node0 172.30.0.1 ─────────── veth ──────┘
//	                                 Services 10.96.0.0/16
//
// What namespaces do not free is freed by Down, or by the next Start after a crash: control groups
// below one of the node's own (/vmfr-ID), and loop devices whose files lie in the node's directory.
// The machine's network, its control groups, kernel settings (tunables) and the folders /run,
// /var/lib and /var/log are not touched; the node has its own. Several nodes run at once.
//
// What is not like a real cluster: one node is control plane and worker at once. NetworkPolicies
// are accepted and not enforced. There is no cluster DNS: Pods find the API server by environment
// variables and each other by Services' addresses; to give one a name, use hostAliases. Nothing
// reaches the Internet, neither Pods nor clients. Images are loaded from archives (package image).
// etcd does not sync to disk.
//
// Non-goals: several nodes; upgrades; a cluster that survives its processes.
package node
