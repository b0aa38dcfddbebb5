package plan

// PublicHost is the host that a session will be reachable at from outside the cluster; empty where
// it is not exposed or where OpenShift's router chooses it. The error is an ExposeError.
func PublicHost(cfg Config, in Input) (string, error) { return "", nil }

// ClusterHost is the name of a session's Service within the cluster:
// <service>.<namespace>.svc.cluster.local.
func ClusterHost(n Names) string { return n.Object() + "." + n.Session + ".svc.cluster.local" }
