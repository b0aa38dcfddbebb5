// Command nodectl starts, enters and ends a Kubernetes node on this machine for people to look at.
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
	root := &cobra.Command{Use: "nodectl", Short: "A Kubernetes node on this machine"}
	cli.SetUp(root)
	dir := root.PersistentFlags().String("dir", node.DefaultDir(), "the node's `directory`, which down removes; it is to be on a disk")
	root.AddCommand(up(dir), down(dir), enter(dir), status(dir), installAll(dir))
	return root
}

func up(dir *string) *cobra.Command {
	var foreground, bare bool
	c := &cobra.Command{
		Use:   "up",
		Short: "Start a node with its control plane, storage and Velero, and tell how to use it",
		Args:  cli.NoArguments,
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
			fmt.Printf("export KUBECONFIG=%s\n", n.Kubeconfig())
			fmt.Printf("# Its server is reached from the node's network and a client's:\n")
			fmt.Printf("#   go run ./test/cluster/node/nodectl enter            a shell in the node's namespaces\n")
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
	c.Flags().BoolVar(&foreground, "foreground", false, "stay; the node ends with an interrupt, or with this process")
	return c
}

func down(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the node and remove all that is left of it",
		Args:  cli.NoArguments,
		RunE:  func(c *cobra.Command, _ []string) error { return node.Down(c.Context(), *dir) },
	}
}

func enter(dir *string) *cobra.Command {
	var client bool
	c := &cobra.Command{
		Use:   "enter [command [argument...]]",
		Short: "Run a command, or a shell, in the node's namespaces",
		RunE: func(c *cobra.Command, args []string) error {
			n, err := node.Open(*dir)
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
	c.Flags().BoolVar(&client, "client", false, "outside the cluster instead: the machine's files, the client's network")
	c.Flags().SetInterspersed(false)
	return c
}

func status(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Tell whether a node runs, and what on it",
		Args:  cli.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			n, err := node.Open(*dir)
			if err != nil {
				return err
			}
			fmt.Printf("a node runs, process %d, in %s\n", n.Pid(), n.Dir())
			cmd := n.Command(c.Context(), "kubectl", "get", "nodes,pods", "--all-namespaces")
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			return cmd.Run()
		},
	}
}
