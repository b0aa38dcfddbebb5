package node

// For tests of this package alone.
var (
	Arguments  = arguments
	RemoveDead = removeDead
)

// ID names the node among all.
func (n *Node) ID() string { return n.settings.ID }
