package restore

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"vmfr/controller/plan"
	"vmfr/controller/velero"
)

// FieldOwner is who owns the fields that are applied.
const FieldOwner = "vmfr-controller"

// Contents reads from a backup's metadata how a virtual machine's disks are attached; *velero.Reader does. Each
// call is one attempt, and its errors are package velero's.
type Contents interface {
	VM(ctx context.Context, b velero.Backup, vm types.NamespacedName, owner metav1.OwnerReference) (velero.VM, error)
}

// Options are what Setup needs. Zero limits and numbers are replaced by their defaults.
type Options struct {
	// Plan is what an administrator sets for all sessions; Plan.Namespace is Velero's, where file
	// restores live, too.
	Plan     plan.Config
	Contents Contents

	// MaxConcurrentRestores bounds how many Velero Restores that were made here run at a time, over all file restores.
	// Default 8.
	MaxConcurrentRestores int
	// MaxConcurrentReconciles bounds how many file restores are worked at. Default 8.
	MaxConcurrentReconciles int

	// Limits of waits, from what began them.
	DiscoveryLimit time.Duration // the discovery, from the file restore's creation; default 2h
	DisksLimit     time.Duration // reading all backups' metadata; default 10m
	LocationLimit  time.Duration // a storage location that cannot be read, from the creation of the file restore or of a Restore refused for that; default 5m
	RestoreLimit   time.Duration // a Velero Restore, from its creation; default 4h, as Velero's own for its operations
	MovementLimit  time.Duration // a data mover without progress; default 1h, twice what Velero gives it to begin
	HolderLimit    time.Duration // a holder's pod that does not start, once its volumes are there; default 15m
	ReportLimit    time.Duration // the node's account of what is readable; default 30m
	CancelLimit    time.Duration // at deletion, data movers that are told to stop and Restores that make objects; default 10m

	// RetryDelay is the first pause before metadata are read again; it doubles. Default 2s.
	RetryDelay time.Duration
	// Recheck is how often what cannot be watched is read again: Secrets and namespaces of others.
	// Default 1m.
	Recheck time.Duration

	// Registerer gets the metrics. Default: controller-runtime's.
	Registerer prometheus.Registerer
	// Now and Random are the time and crypto/rand by default.
	Now    func() time.Time
	Random io.Reader
	// Name is the controller's, unique in a process. Default "filerestore".
	Name string
}

// complete fills in defaults and checks the rest.
func (o Options) complete() (Options, error) {
	o.MaxConcurrentRestores = cmp.Or(o.MaxConcurrentRestores, 8)
	o.MaxConcurrentReconciles = cmp.Or(o.MaxConcurrentReconciles, 8)
	o.DiscoveryLimit = cmp.Or(o.DiscoveryLimit, 2*time.Hour)
	o.DisksLimit = cmp.Or(o.DisksLimit, 10*time.Minute)
	o.LocationLimit = cmp.Or(o.LocationLimit, 5*time.Minute)
	o.RestoreLimit = cmp.Or(o.RestoreLimit, 4*time.Hour)
	o.MovementLimit = cmp.Or(o.MovementLimit, time.Hour)
	o.HolderLimit = cmp.Or(o.HolderLimit, 15*time.Minute)
	o.ReportLimit = cmp.Or(o.ReportLimit, 30*time.Minute)
	o.CancelLimit = cmp.Or(o.CancelLimit, 10*time.Minute)
	o.RetryDelay = cmp.Or(o.RetryDelay, 2*time.Second)
	o.Recheck = cmp.Or(o.Recheck, time.Minute)
	o.Name = cmp.Or(o.Name, "filerestore")
	if o.Registerer == nil {
		o.Registerer = metrics.Registry
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	switch {
	case o.Contents == nil:
		return o, errors.New("restore: no reader of backups' metadata is given")
	case o.Plan.Namespace == "":
		return o, errors.New("restore: Velero's namespace is not given")
	case o.MaxConcurrentRestores < 0 || o.MaxConcurrentReconciles < 0:
		return o, errors.New("restore: a number of concurrent restores is negative")
	}
	for _, limit := range []time.Duration{o.DiscoveryLimit, o.DisksLimit, o.LocationLimit, o.RestoreLimit, o.MovementLimit, o.HolderLimit, o.ReportLimit, o.CancelLimit, o.Recheck, o.RetryDelay} {
		if limit < 0 {
			return o, errors.New("restore: a limit is negative")
		}
	}
	return o, o.Plan.Validate()
}
