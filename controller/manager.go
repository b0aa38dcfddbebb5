package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	routev1 "github.com/openshift/api/route/v1"
	"github.com/spf13/cobra"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	velerov2alpha1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v2alpha1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/discovery"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
	"vmfr/controller/velero"
)

const (
	// leaseName is the Lease that controllers of one Velero namespace compete for.
	leaseName = "vmfr-controller"
	// requestRate and requestBurst bound requests a second to the API server: a session is some 30
	// objects, and several begin at once.
	requestRate, requestBurst = 50, 100
	// stopLimit is how long reconciliations may take to end; a pod has 30 s.
	stopLimit = 20 * time.Second
	// askLimit bounds what is asked of the API server before anything else.
	askLimit = 30 * time.Second
	// podNamespaceFile tells the pod's own namespace.
	podNamespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
)

func (f *flags) run(c *cobra.Command) error {
	handler, err := f.log.handler(c.ErrOrStderr())
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
	log := install(handler)
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
		return usageError{err}
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
	return config, nil
}

// serve runs the manager until ctx ends.
func (f *flags) serve(ctx context.Context, log logr.Logger, kube *rest.Config, d discovery.DiscoveryInterface, cfg plan.Config) error {
	election := f.leader.namespace
	if election == "" {
		election = cfg.Namespace
		if b, err := os.ReadFile(podNamespaceFile); err == nil {
			election = strings.TrimSpace(string(b))
		}
	}
	limit := stopLimit
	mgr, err := ctrl.NewManager(kube, ctrl.Options{
		Scheme: newScheme(), Logger: log,
		Cache:                         cacheOptions(cfg.Namespace),
		Client:                        client.Options{Cache: &client.CacheOptions{DisableFor: uncached}},
		Controller:                    config.Controller{EnableWarmup: &f.leader.elect},
		Metrics:                       metricsserver.Options{BindAddress: f.metricsAddress},
		HealthProbeBindAddress:        f.probeAddress,
		LeaderElection:                f.leader.elect,
		LeaderElectionID:              leaseName + "-" + cfg.Namespace,
		LeaderElectionNamespace:       election,
		LeaderElectionReleaseOnCancel: true, // the process ends right after
		LeaseDuration:                 &f.leader.lease, RenewDeadline: &f.leader.renew, RetryPeriod: &f.leader.retry,
		GracefulShutdownTimeout: &limit,
	})
	if err != nil {
		return err
	}
	if err := registerBuild(); err != nil {
		return err
	}
	ready := &readiness{}
	if err := mgr.AddHealthzCheck("process", func(*http.Request) error { return nil }); err != nil {
		return err
	}
	if err := mgr.AddReadyzCheck("controllers", ready.check); err != nil {
		return err
	}
	if err := mgr.Add(&starter{manager: mgr, discovery: d, flags: f, plan: cfg, ready: ready, log: log}); err != nil {
		return err
	}
	if err := mgr.Start(ctx); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

// newScheme knows every kind that the controllers use.
func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, v1alpha1.AddToScheme, velero.AddToScheme, routev1.AddToScheme,
	} {
		utilruntime.Must(add(s)) // it depends on nothing that can vary
	}
	return s
}

// uncached are kinds that are read from the API server each time: a cache would hold the Secrets of
// all namespaces and need the right to list them.
var uncached = []client.Object{&corev1.Secret{}}

// cacheOptions keep in memory only what belongs to us: of Velero its own namespace.
func cacheOptions(veleroNamespace string) cache.Options {
	there := cache.ByObject{Namespaces: map[string]cache.Config{veleroNamespace: {}}}
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.VirtualMachineBackupsDiscovery{}: there,
			&v1alpha1.VirtualMachineFileRestore{}:      there,
			&velerov1.Backup{}:                         there,
			&velerov1.BackupStorageLocation{}:          there,
			&velerov1.DownloadRequest{}:                there,
			&velerov1.Restore{}:                        there,
			&velerov2alpha1.DataDownload{}:             there,
			// Secrets are read uncached, but those of Velero's namespace may be watched.
			&corev1.Secret{}: there,
		},
	}
}
