package main

import (
	"context"
	"fmt"
	"os"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"vmfr/internal/cli"
	"vmfr/test/cluster/install"
	"vmfr/test/cluster/node"
)

// insideEnv is set for the process that is in the client's network, where the API server can be reached.
const insideEnv = "VMFR_NODECTL_INSIDE"

func installAll(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "install",
		Short: "Install storage with snapshots, an S3 gateway and Velero on the cluster; up does so, too",
		Args:  cli.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			n, err := node.Open(*dir)
			if err != nil {
				return err
			}
			if os.Getenv(insideEnv) == "" {
				return installFromOutside(c.Context(), n)
			}
			log.SetLogger(logr.Discard()) // controller-runtime complains without one
			config, err := clientcmd.BuildConfigFromFlags("", n.Kubeconfig())
			if err != nil {
				return err
			}
			config.QPS = -1
			nodes, err := n.Nodes()
			if err != nil {
				return err
			}
			load := func(ctx context.Context, archive string) error {
				for _, n := range nodes {
					if err := n.LoadImage(ctx, archive); err != nil {
						return fmt.Errorf("%s: %w", n.Name(), err)
					}
				}
				return nil
			}
			return install.Cluster{Config: config, Load: load, Log: os.Stderr}.All(c.Context())
		},
	}
}

// installFromOutside runs the command install again where the API server can be reached.
func installFromOutside(ctx context.Context, n *node.Node) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := n.ClientCommand(ctx, self, "--dir", n.Dir(), "install")
	cmd.Env = append(cmd.Env, insideEnv+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	return nil
}
