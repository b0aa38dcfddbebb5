package node

import (
	"fmt"
	"path/filepath"
)

// A cluster's networks. Every cluster has all of them for itself.
const (
	ClientAddress = "172.30.0.2" // outside the cluster
	nodeCIDR      = "172.30.0.0/16"
	PodCIDR       = "10.244.0.0/16"
	ServiceCIDR   = "10.96.0.0/16"
	serviceAPI    = "10.96.0.1" // the Service "kubernetes"
	apiPort       = 6443
)

// A cluster's nodes are numbered. The first one has the control plane; the last one's number is what
// an address has room for.
const (
	firstNumber = 1
	lastNumber  = 250
)

// place is what tells a node of a cluster from its others.
type place struct {
	Cluster string `json:"cluster"` // 16 hexadecimal digits, which name the cluster's control group
	Number  int    `json:"number"`
}

// Name is the node's name in its cluster.
func (p place) Name() string { return fmt.Sprintf("node%d", p.Number) }

// Address is the node's, by which its cluster and clients reach it.
func (p place) Address() string {
	if p.first() {
		return "172.30.0.1" // in one network with the client's
	}
	return fmt.Sprintf("172.30.%d.1", p.Number)
}

func (p place) first() bool { return p.Number == firstNumber }

// control is the place of the node that has the control plane.
func (p place) control() place { return place{p.Cluster, firstNumber} }

// podCIDR is the part of PodCIDR that the node's Pods have.
func (p place) podCIDR() string { return fmt.Sprintf("10.244.%d.0/24", p.Number) }

// id names the node among all that a machine ever has; its control group, too.
func (p place) id() string { return p.Cluster + "/" + p.Name() }

// dir is the node's directory, of its cluster's, which is the first node's.
func (p place) dir(cluster string) string {
	if p.first() {
		return cluster
	}
	return filepath.Join(nodesDir(cluster), p.Name())
}

// nodesDir has the directories of a cluster's nodes but the first one's.
func nodesDir(cluster string) string { return filepath.Join(cluster, "nodes") }

// clusterDir is the cluster's directory, of the node's.
func (p place) clusterDir(dir string) string {
	if p.first() {
		return dir
	}
	return filepath.Dir(filepath.Dir(dir))
}

// logPath is the file of the log of a program of the node. All of a cluster's are in the folder of
// the first one's, so that they outlive a node that leaves.
func (p place) logPath(dir, program string) string {
	if p.first() {
		return filepath.Join(dir, "log", program+".log")
	}
	return filepath.Join(p.clusterDir(dir), "log", p.Name(), program+".log")
}
