// Command loopcsi is the CSI driver of test/cluster/csi as a program: the node's plugin, its
// controller and its provisioner in one.
package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/client-go/tools/clientcmd"

	"vmfr/test/cluster/csi"
)

func main() {
	var (
		c          csi.Config
		s          csi.Sockets
		kubeconfig string
		verbose    bool
	)
	flag.StringVar(&c.Node, "node", os.Getenv("NODE_NAME"), "name of this node")
	flag.StringVar(&c.State, "state", "", "directory of the volumes")
	flag.StringVar(&s.Endpoint, "endpoint", "", "path of the socket of CSI's services")
	flag.StringVar(&s.Registration, "registration", "", "path of the socket below the kubelet's plugins_registry; empty: the kubelet is not told")
	flag.StringVar(&kubeconfig, "kubeconfig", "", "of the cluster whose claims get volumes; empty: the one this runs in")
	flag.BoolVar(&verbose, "v", false, "log every call")
	flag.Parse()
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	c.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c, s, kubeconfig); err != nil {
		c.Log.Error("loopcsi", "error", err)
		os.Exit(1)
	}
}

// run serves the driver and provisions volumes until the context or one of the two ends.
func run(ctx context.Context, c csi.Config, s csi.Sockets, kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	d, err := csi.New(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		defer cancel()
		served <- d.Serve(ctx, s)
	}()
	err = d.Provision(ctx, config)
	cancel()
	return errors.Join(err, <-served)
}
