// Package node runs whole Kubernetes nodes with their control plane on one machine, for tests that
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
//	machine                      node1's namespaces                         client's network namespace
//	Start, Down, Open    ─────   init (PID 1, reaps)                        what is outside the cluster:
//	Join, Leave                  ├ supervisor                               the tests of Main,
//	                             │ ├ etcd, kube-apiserver, ...              nodectl enter --client
//	                             │ ├ containerd ── Pods 10.244.1.0/24
//	                             │ └ kubelet, kube-proxy                    eth0 172.30.0.2
//	                             │   client 172.30.0.1 ───────── veth ──────┘
//	                             │   node2  172.30.0.1 ───────── veth ──────┐
//	                             │   Services 10.96.0.0/16                  │
//	                             └ node2's namespaces                       │
//	                               init ─ supervisor                        │
//	                                      ├ containerd ── Pods 10.244.2.0/24│
//	                                      └ kubelet, kube-proxy             eth0 172.30.2.1
//
// The first node has the control plane. Others join it (Join) and leave it (Leave) at any time, with
// the same programs in namespaces of their own; their PID namespaces lie within the first one's, so
// that all end together. They reach each other and the client through the first one. A node that
// joins has the images that the first one has then, and the folder Shared in common with all.
//
// What namespaces do not free is freed by Down, or by the next Start after a crash: control groups
// below one of the cluster's own (/vmfr-ID/NODE), and loop devices whose files lie in its directory.
// The machine's network, its control groups, kernel settings (tunables) and the folders /run,
// /var/lib and /var/log are not touched; every node has its own. Several clusters run at once.
//
// What is not like a real cluster: the first node is control plane and worker at once. NetworkPolicies
// are accepted and not enforced. There is no cluster DNS: Pods find the API server by environment
// variables and each other by Services' addresses; to give one a name, use hostAliases. Nothing
// reaches the Internet, neither Pods nor clients. Images are loaded from archives (package image).
// etcd does not sync to disk. Loop devices and /dev are the machine's, on all nodes.
//
// Non-goals: several control planes; upgrades; a cluster that survives its processes; a node that
// comes back with what it had.
package node
