// Command loopcsi is the CSI driver of test/cluster/csi as a program: a node's plugin, or with
// -provision the controller's, which is the provisioner, too.
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
		provision  bool
		verbose    bool
	)
	flag.StringVar(&c.Node, "node", os.Getenv("NODE_NAME"), "name of this node")
	flag.StringVar(&c.State, "state", "", "directory of the volumes")
	flag.StringVar(&s.Endpoint, "endpoint", "", "path of the socket of CSI's services")
	flag.StringVar(&s.Registration, "registration", "", "path of the socket below the kubelet's plugins_registry; empty: the kubelet is not told")
	flag.BoolVar(&provision, "provision", false, "make volumes of claims, on one node only")
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
	d, err := csi.New(c)
	switch {
	case err != nil:
	case provision:
		err = run(ctx, d, s, kubeconfig)
	default:
		err = d.Serve(ctx, s)
	}
	if err != nil {
		c.Log.Error("loopcsi", "error", err)
		os.Exit(1)
	}
}

// run serves the driver and provisions volumes until the context or one of the two ends.
func run(ctx context.Context, d *csi.Driver, s csi.Sockets, kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1 // 60 claims at once would wait 15 s for client-go's own limit
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
