// Command nodectl starts, enters and ends a Kubernetes cluster of one or several nodes on this machine for people to look at.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"vmfr/internal/cli"
	"vmfr/test/cluster/node"
)

func main() {
	node.Init()
	ctx, stop := cli.Interruptible()
	defer stop()
	err := command().ExecuteContext(ctx)
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended): // of the program that was asked for, which has said why
		os.Exit(ended.ExitCode())
	case err != nil:
		cli.Report("nodectl", err)
	}
	os.Exit(cli.ExitCode(err))
}

func command() *cobra.Command {
	root := &cobra.Command{Use: "nodectl", Short: "A Kubernetes cluster on this machine"}
	cli.SetUp(root)
	dir := root.PersistentFlags().String("dir", node.DefaultDir(), "the cluster's `directory`, which down removes; it is to be on a disk")
	root.AddCommand(up(dir), join(dir), leave(dir), down(dir), enter(dir), status(dir), installAll(dir))
	return root
}

func up(dir *string) *cobra.Command {
	var (
		foreground, bare bool
		workers          int
	)
	c := &cobra.Command{
		Use:   "up",
		Short: "Start a node with its control plane, storage and Velero, and tell how to use it",
		Example: "  nodectl up\n" +
			"  nodectl up --workers 1   # node1 has the control plane, node2 joins it",
		Args: cli.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			n, err := node.Start(c.Context(), node.Options{Dir: *dir, Detached: !foreground, Log: os.Stderr})
			if err != nil {
				return err
			}
			if !bare {
				if err := installFromOutside(c.Context(), n); err != nil {
					return err
				}
			}
			for range workers { // which get the images that are there by now
				if err := joinOne(c.Context(), n); err != nil {
					return err
				}
			}
			fmt.Printf("export KUBECONFIG=%s\n", n.Kubeconfig())
			fmt.Printf("# Its server is reached from the nodes' networks and a client's:\n")
			fmt.Printf("#   go run ./test/cluster/node/nodectl enter            a shell in the first node's namespaces\n")
			fmt.Printf("#   go run ./test/cluster/node/nodectl enter --client   a shell outside the cluster\n")
			fmt.Printf("#   go run ./test/cluster/node/nodectl enter kubectl get pods --all-namespaces\n")
			fmt.Printf("# Logs: %s\n", n.LogPath("*"))
			if !foreground {
				fmt.Printf("# End it: go run ./test/cluster/node/nodectl down, or make cluster-down\n")
				return nil
			}
			fmt.Printf("# End it with ^C.\n")
			<-c.Context().Done()
			return node.Down(context.WithoutCancel(c.Context()), n.Dir())
		},
	}
	c.Flags().BoolVar(&bare, "bare", false, "nothing but Kubernetes: neither storage nor Velero")
	c.Flags().IntVar(&workers, "workers", 0, "`number` of further nodes that join")
	c.Flags().BoolVar(&foreground, "foreground", false, "stay; the node ends with an interrupt, or with this process")
	return c
}

// joinOne lets a node join and tells its name.
func joinOne(ctx context.Context, first *node.Node) error {
	n, err := first.Join(ctx, os.Stderr)
	if err != nil {
		return err
	}
	fmt.Printf("# %s has joined\n", n.Name())
	return nil
}

func join(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "join",
		Short: "Let a further node join, with the images that the first one has",
		Args:  cli.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			n, err := node.Open(*dir)
			if err != nil {
				return err
			}
			return joinOne(c.Context(), n)
		},
	}
}

func leave(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:     "leave node",
		Short:   "End a node that has joined, and take it out of the cluster; drain it before",
		Example: "  nodectl enter kubectl drain node2 --ignore-daemonsets --delete-emptydir-data && nodectl leave node2",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			n, err := find(*dir, args[0])
			if err != nil {
				return err
			}
			return n.Leave(c.Context())
		},
	}
}

// find returns the running node of a name, or the first one.
func find(dir, name string) (*node.Node, error) {
	n, err := node.Open(dir)
	if err != nil || name == "" {
		return n, err
	}
	return n.Find(name)
}

func down(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End all nodes and remove all that is left of them",
		Args:  cli.NoArguments,
		RunE:  func(c *cobra.Command, _ []string) error { return node.Down(c.Context(), *dir) },
	}
}

func enter(dir *string) *cobra.Command {
	var (
		client bool
		name   string
	)
	c := &cobra.Command{
		Use:   "enter [command [argument...]]",
		Short: "Run a command, or a shell, in a node's namespaces",
		Example: "  nodectl enter kubectl get pods --all-namespaces\n" +
			"  nodectl enter --node node2 losetup -a\n" +
			"  nodectl enter --client curl http://10.96.0.10/",
		RunE: func(c *cobra.Command, args []string) error {
			n, err := find(*dir, name)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				args = []string{"bash"}
			}
			run := n.Command
			if client {
				run = n.ClientCommand
			}
			cmd := run(c.Context(), args[0], args[1:]...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
			return cmd.Run()
		},
	}
	c.Flags().StringVar(&name, "node", "", "`name` of the node; the first one's is node1")

	c.Flags().BoolVar(&client, "client", false, "outside the cluster instead: the machine's files, the client's network")
	c.MarkFlagsMutuallyExclusive("node", "client")
	c.Flags().SetInterspersed(false)
	return c
}

func status(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Tell which nodes run, and what on them",
		Args:  cli.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			n, err := node.Open(*dir)
			if err != nil {
				return err
			}
			nodes, err := n.Nodes()
			if err != nil {
				return err
			}
			for _, n := range nodes {
				fmt.Printf("%s runs, process %d, in %s\n", n.Name(), n.Pid(), n.Dir())
			}
			cmd := n.Command(c.Context(), "kubectl", "get", "nodes,pods", "--all-namespaces", "--output", "wide")
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			return cmd.Run()
		},
	}
}
