package discovery

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/util/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"vmfr/api/v1alpha1"
	"vmfr/controller/velero"
)

// Name is the controller's, in logs and metrics.
const Name = "discovery"

// Options are the controller's limits; zero values mean the defaults.
type Options struct {
	// MaxConcurrentBackups is how many backups are looked at at a time, by all discoveries
	// together. Default 10.
	MaxConcurrentBackups int
	// MaxConcurrentDiscoveries is how many discoveries are worked on at a time; others wait in
	// phase New. Default 4.
	MaxConcurrentDiscoveries int
	// BackupTimeout is how long one backup may take, with its retries. Default 5 minutes.
	BackupTimeout time.Duration
	// RequestTimeout is how long Velero may take to answer a DownloadRequest. Default 2 minutes.
	RequestTimeout time.Duration
	// Retries is how often what failed for a passing reason is tried again. Default 4; negative:
	// never.
	Retries int
	// RetryPause is the pause before the first retry; it doubles. Default 1 second.
	RetryPause time.Duration
	// LocationGrace is how long a discovery waits, once, for a location that Velero calls
	// unavailable: longer than Velero takes to look again. Default 90 seconds.
	LocationGrace time.Duration
	// StatusInterval is the shortest time between two writes of a discovery's status while it is
	// worked on. Default 1 second.
	StatusInterval time.Duration
	// CachedAnswers is how many answers about a backup and a virtual machine are remembered.
	// Default 10,000.
	CachedAnswers int
	// VeleroNamespaces are where discoveries may be; empty: in every namespace.
	VeleroNamespaces []string
	// Registerer gets the metrics. Default: controller-runtime's.
	Registerer prometheus.Registerer

	// observe puts a test between the discovery and what it reads.
	observe func(metadata) metadata
}

func (o *Options) defaults() {
	for _, x := range []struct {
		value *int
		byDef int
	}{{&o.MaxConcurrentBackups, 10}, {&o.MaxConcurrentDiscoveries, 4}, {&o.CachedAnswers, 10_000}} {
		if *x.value <= 0 {
			*x.value = x.byDef
		}
	}
	for _, x := range []struct {
		value *time.Duration
		byDef time.Duration
	}{{&o.BackupTimeout, 5 * time.Minute}, {&o.RequestTimeout, 2 * time.Minute}, {&o.RetryPause, time.Second}, {&o.StatusInterval, time.Second}, {&o.LocationGrace, 90 * time.Second}} {
		if *x.value <= 0 {
			*x.value = x.byDef
		}
	}
	switch {
	case o.Retries == 0:
		o.Retries = 4
	case o.Retries < 0:
		o.Retries = 0
	}
	if o.Registerer == nil {
		o.Registerer = metrics.Registry
	}
	if o.observe == nil {
		o.observe = func(m metadata) metadata { return m }
	}
}

// Setup adds the controller to a manager whose scheme has api/v1alpha1 and Velero's kinds.
func Setup(mgr ctrl.Manager, o Options) error {
	o.defaults()
	m, err := newCollectors(o.Registerer)
	if err != nil {
		return err
	}
	reader, err := velero.ReaderFor(mgr, velero.ReaderOptions{URLTimeout: o.RequestTimeout, OnBytes: func(n int) { m.bytes.Add(float64(n)) }})
	if err != nil {
		return err
	}
	p := newPool(o, m, reader.Close)
	if err := mgr.Add(p); err != nil {
		return err
	}
	r := &reconciler{
		client: mgr.GetClient(), recorder: mgr.GetEventRecorder("vmfr-controller"), pool: p, metrics: m, namespaces: o.VeleroNamespaces,
		examiner: &examiner{
			metadata: o.observe(reader), answers: answers{cache.NewLRUExpireCache(o.CachedAnswers)},
			timeout: o.BackupTimeout, retries: o.Retries, pause: o.RetryPause, grace: o.LocationGrace,
		},
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named(Name).
		// What Reconcile writes itself is no reason to look again.
		For(&v1alpha1.VirtualMachineBackupsDiscovery{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(source.Channel(p.events, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: 2}).
		Complete(r)
}
