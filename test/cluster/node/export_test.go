package node

// For tests of this package alone.
var (
	Arguments  = arguments
	Claim      = claim
	RemoveDead = removeDead
)

// ClusterID names the node's cluster among all, and ID the node.
func (n *Node) ClusterID() string { return n.settings.Cluster }
func (n *Node) ID() string        { return n.settings.id() }
