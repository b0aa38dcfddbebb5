package install_test

import (
	"os"
	"testing"

	"vmfr/test/cluster/install"
	"vmfr/test/cluster/node"
)

func TestMain(m *testing.M) { node.Main(m) }

func TestAll(t *testing.T) {
	c := node.Current(t)
	cluster := install.Cluster{Config: c.Config, Load: c.Node(t).LoadImage, Log: os.Stderr}
	if err := cluster.All(t.Context()); err != nil {
		t.Fatal(err)
	}
}
