package restore

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"vmfr/api/v1alpha1"
)

// instruments are the metrics of file restores. They are told each change of a status that was written.
type instruments struct {
	restores *prometheus.GaugeVec     // by phase
	seconds  *prometheus.HistogramVec // by what the restore was doing, a reason of Progressing
	failures *prometheus.CounterVec   // by reason

	mu    sync.Mutex
	known map[types.NamespacedName]stage
}

// stage is where a file restore is, and since when; the zero time: since before this process.
type stage struct {
	phase  v1alpha1.FileRestorePhase
	reason string
	since  time.Time
}

func newInstruments(registry prometheus.Registerer) (*instruments, error) {
	m := &instruments{
		restores: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "vmfr_file_restores", Help: "File restores by phase."}, []string{"phase"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "vmfr_file_restore_phase_seconds",
			Help:    "Seconds that file restores spent in each step, by the reason of the condition Progressing.",
			Buckets: prometheus.ExponentialBuckets(0.5, 2.5, 12)}, []string{"step"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vmfr_file_restore_failures_total",
			Help: "Failed file restores by reason, and failed volumes of backups by state."}, []string{"reason"}),
		known: map[types.NamespacedName]stage{},
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.restores, m.seconds, m.failures} {
		errs = append(errs, registry.Register(c))
	}
	return m, errors.Join(errs...)
}

// changed counts a status that was written.
func (m *instruments) changed(key types.NamespacedName, before, after *v1alpha1.VirtualMachineFileRestoreStatus, now time.Time) {
	step := progressing(after).reason
	m.mu.Lock()
	last, seen := m.known[key]
	next := stage{after.Phase, step, now}
	if seen && last.reason == step {
		next.since = last.since
	}
	m.known[key] = next
	m.mu.Unlock()
	m.count(last.phase, after.Phase)
	if seen && last.reason != step && last.reason != "" && !last.since.IsZero() {
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

// meet counts a restore that was there when the controller started.
func (m *instruments) meet(key types.NamespacedName, status *v1alpha1.VirtualMachineFileRestoreStatus) {
	m.mu.Lock()
	_, seen := m.known[key]
	if !seen {
		m.known[key] = stage{phase: status.Phase, reason: progressing(status).reason}
	}
	m.mu.Unlock()
	if !seen {
		m.count("", status.Phase)
	}
}

// forget is for a restore that is gone.
func (m *instruments) forget(key types.NamespacedName) {
	m.mu.Lock()
	last := m.known[key]
	delete(m.known, key)
	m.mu.Unlock()
	m.count(last.phase, "")
}

func (m *instruments) count(from, to v1alpha1.FileRestorePhase) {
	if from == to {
		return
	}
	if from != "" {
		m.restores.WithLabelValues(string(from)).Dec()
	}
	if to != "" {
		m.restores.WithLabelValues(string(to)).Inc()
	}
}
