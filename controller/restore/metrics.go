package restore

import (
	"cmp"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"vmfr/api/v1alpha1"
)

// instruments are the metrics of file restores. They are told each change of a status that was written.
type instruments struct {
	seconds  *prometheus.HistogramVec // by what the restore was doing, a reason of Progressing
	failures *prometheus.CounterVec   // by reason

	mu    sync.Mutex
	known map[types.NamespacedName]stage
}

// stage is what a file restore is doing, and since when.
type stage struct {
	reason string
	since  time.Time
}

// newInstruments registers the metrics. list returns the file restores that exist, and false where it is not for
// this process to tell.
func newInstruments(registry prometheus.Registerer, list func() ([]v1alpha1.VirtualMachineFileRestore, bool)) (*instruments, error) {
	m := &instruments{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "vmfr_file_restore_phase_seconds",
			Help:    "Seconds that file restores spent in each step, by the reason of the condition Progressing.",
			Buckets: prometheus.ExponentialBuckets(0.5, 2.5, 12)}, []string{"step"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vmfr_file_restore_failures_total",
			Help: "Failed file restores by reason, and failed volumes of backups by state."}, []string{"reason"}),
		known: map[types.NamespacedName]stage{},
	}
	// A counter that is not there before it counts hides its first count from increase().
	for _, reason := range []string{
		v1alpha1.ReasonValidationFailed, v1alpha1.ReasonNoValidBackupsFound, v1alpha1.ReasonAllRestoresFailed, v1alpha1.ReasonCriticalFailure, v1alpha1.ReasonFailed,
		string(v1alpha1.RestoreFailed), string(v1alpha1.RestoreBackupDeleted), string(v1alpha1.RestoreBackupMissing),
		string(v1alpha1.RestoreUnsupportedPlugin), string(v1alpha1.RestoreExtractionFailed),
	} {
		m.failures.WithLabelValues(reason)
	}
	var errs []error
	for _, c := range []prometheus.Collector{census(list), m.seconds, m.failures} {
		errs = append(errs, registry.Register(c))
	}
	return m, errors.Join(errs...)
}

// changed counts a status that was written.
func (m *instruments) changed(key types.NamespacedName, before, after *v1alpha1.VirtualMachineFileRestoreStatus, now time.Time) {
	step := progressing(after).reason
	m.mu.Lock()
	last, seen := m.known[key]
	next := stage{step, now}
	if seen && last.reason == step {
		next.since = last.since
	}
	m.known[key] = next
	m.mu.Unlock()
	// The step in which a process finds a restore at its start is not measured: nobody knows its begin.
	if seen && last.reason != step && last.reason != "" {
		m.seconds.WithLabelValues(last.reason).Observe(now.Sub(last.since).Seconds())
	}
	if before.Phase != after.Phase && after.Phase == v1alpha1.FileRestoreFailed {
		m.failures.WithLabelValues(step).Inc()
	}
	for _, c := range restoreChanges(before, after) {
		if c.failed {
			m.failures.WithLabelValues(string(c.state)).Inc()
		}
	}
}

// forget is for a restore that is gone.
func (m *instruments) forget(key types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, key)
}

// census counts the file restores that exist at each scrape. What is counted from events instead would stay as it
// was in a controller that stands by, which sees them and works at none.
type census func() ([]v1alpha1.VirtualMachineFileRestore, bool)

var restoresByPhase = prometheus.NewDesc("vmfr_file_restores", "File restores by phase, told by the controller that leads.", []string{"phase"}, nil)

// phasesOfRestores are always there, so that an alert sees a phase become empty.
var phasesOfRestores = []v1alpha1.FileRestorePhase{
	v1alpha1.FileRestoreNew, v1alpha1.FileRestoreInProgress, v1alpha1.FileRestoreCompleted,
	v1alpha1.FileRestorePartiallyFailed, v1alpha1.FileRestoreFailed, v1alpha1.FileRestoreDeleting,
}

func (c census) Describe(out chan<- *prometheus.Desc) { out <- restoresByPhase }

func (c census) Collect(out chan<- prometheus.Metric) {
	list, ok := c()
	if !ok {
		return
	}
	count := map[v1alpha1.FileRestorePhase]int{}
	for i := range list {
		count[cmp.Or(list[i].Status.Phase, v1alpha1.FileRestoreNew)]++
	}
	for _, p := range phasesOfRestores {
		out <- prometheus.MustNewConstMetric(restoresByPhase, prometheus.GaugeValue, float64(count[p]), string(p))
	}
}
