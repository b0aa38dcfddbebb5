package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"vmfr/controller/plan"
	"vmfr/controller/restore"
	"vmfr/internal/cli"
)

const (
	// leaseName is the Lease that controllers of one Velero namespace compete for.
	leaseName = "vmfr-controller"
	// requestRate and requestBurst bound requests a second to the API server. A session is some 30
	// objects, and until it serves each of some 15 events has eight things looked at again, which are
	// not cached: 20 sessions that begin at once are 3,000 requests. The API server shares itself out
	// among its clients, so this is only for a controller that runs wild.
	requestRate, requestBurst = 200, 400
	// stopLimit is how long reconciliations may take to end; a pod has 30 s.
	stopLimit = 20 * time.Second
	// askLimit bounds what is asked of the API server before anything else.
	askLimit = 30 * time.Second
	// podNamespaceFile tells the pod's own namespace.
	podNamespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
)

func (f *flags) run(c *cobra.Command) error {
	logger, err := f.log.Logger(c.ErrOrStderr())
	if err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	cfg, err := f.config()
	if err != nil {
		return err
	}
	log := install(logger.Handler())
	kube, err := f.restConfig()
	if err != nil {
		return err
	}
	d, err := discovery.NewDiscoveryClientForConfig(kube)
	if err != nil {
		return err
	}
	s, err := f.look(c.Context(), kube, d)
	if err != nil {
		return err
	}
	cfg.Namespace, cfg.ControllerUser, cfg.APIServers, cfg.OpenShift = s.velero, s.user, s.apiServers, s.openShift
	if !s.openShift {
		cfg.SCCRole = "" // a default that means nothing here
	}
	if err := cfg.Validate(); err != nil {
		return cli.UsageError{Err: err}
	}
	log.Info("starting", "version", version, "veleroNamespace", s.velero, "user", s.user, "openShift", s.openShift, "apiServers", s.apiServers, "holderImage", cfg.Image)
	return f.serve(c.Context(), log, kube, d, cfg)
}

// restConfig says how to reach the cluster: --kubeconfig, $KUBECONFIG or the pod's service account.
func (f *flags) restConfig() (*rest.Config, error) {
	path := f.kubeconfig
	if path == "" {
		path = os.Getenv(clientcmd.RecommendedConfigPathEnvVar)
	}
	// With an empty path these are the pod's.
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("how to reach the cluster is not known; give --kubeconfig outside a pod: %w", err)
	}
	config.QPS, config.Burst = requestRate, requestBurst
	config.UserAgent = "vmfr-controller/" + version
	// Each holder that is applied brings Pod Security's warning about its hostPath again.
	config.WarningHandlerWithContext = ctrllog.NewKubeAPIWarningLogger(ctrllog.KubeAPIWarningLoggerOptions{Deduplicate: true})
	return config, nil
}

// serve waits for what is needed, then runs the manager until ctx ends. It answers probes from the
// beginning, since the manager cannot be made before all kinds are there.
func (f *flags) serve(ctx context.Context, log logr.Logger, kube *rest.Config, d discovery.DiscoveryInterface, cfg plan.Config) (err error) {
	ready := &readiness{log: log}
	stop, err := ready.serve(f.probeAddress)
	if err != nil {
		return err
	}
	defer stop()
	if !ready.await(ctx, d) {
		return nil
	}
	if err := registerBuild(); err != nil {
		return err
	}
	limit := stopLimit
	mgr, err := ctrl.NewManager(kube, ctrl.Options{
		Scheme: newScheme(), Logger: log,
		Cache:                         cacheOptions(cfg.Namespace),
		Client:                        client.Options{Cache: &client.CacheOptions{DisableFor: uncached}},
		Controller:                    config.Controller{EnableWarmup: &f.leader.elect}, // who stands by has full caches
		Metrics:                       metricsserver.Options{BindAddress: f.metricsAddress},
		HealthProbeBindAddress:        "0", // see readiness
		LeaderElection:                f.leader.elect,
		LeaderElectionID:              leaseName + "-" + cfg.Namespace,
		LeaderElectionNamespace:       f.electionNamespace(cfg.Namespace),
		LeaderElectionReleaseOnCancel: true, // the process ends right after
		LeaseDuration:                 &f.leader.lease, RenewDeadline: &f.leader.renew, RetryPeriod: &f.leader.retry,
		GracefulShutdownTimeout: &limit,
	})
	if err != nil {
		return err
	}
	if err := f.setup(mgr, cfg); err != nil {
		return err
	}
	ready.running(mgr.GetCache().WaitForCacheSync)
	if err := mgr.Start(ctx); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

// electionNamespace is where the Lease is.
func (f *flags) electionNamespace(velero string) string {
	if f.leader.namespace != "" {
		return f.leader.namespace
	}
	if b, err := os.ReadFile(podNamespaceFile); err == nil {
		return strings.TrimSpace(string(b))
	}
	return velero
}

// newScheme knows every kind that the controllers use.
func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(restore.AddToScheme(s)) // it depends on nothing that can vary
	return s
}

// uncached are kinds that are read from the API server each time: a cache would hold the Secrets of
// all namespaces and need the right to list them.
var uncached = []client.Object{&corev1.Secret{}}

// cacheOptions keep in memory only what belongs to us.
func cacheOptions(veleroNamespace string) cache.Options {
	return cache.Options{DefaultTransform: cache.TransformStripManagedFields(), ByObject: restore.CacheByObject(veleroNamespace)}
}
