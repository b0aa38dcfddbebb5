package discovery

import (
	"errors"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"vmfr/api/v1alpha1"
)

// collectors are what a discovery counts.
type collectors struct {
	discoveries *prometheus.CounterVec
	backups     *prometheus.CounterVec
	bytes       prometheus.Counter
	seconds     prometheus.Histogram
	running     prometheus.Gauge
}

func newCollectors(reg prometheus.Registerer) (*collectors, error) {
	c := &collectors{
		discoveries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vmfr_discoveries_total", Help: "Discoveries that ended, by phase."}, []string{"phase"}),
		backups: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vmfr_discovery_backups_total",
			Help: "Backups of discoveries that ended, by result: completed is valid, skipped does not hold the virtual machine, failed could not be verified."}, []string{"result"}),
		bytes:   prometheus.NewCounter(prometheus.CounterOpts{Name: "vmfr_discovery_downloaded_bytes_total", Help: "Bytes of backups' metadata that were downloaded, as they are stored."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "vmfr_discovery_seconds", Help: "How long discoveries took, those resumed after a restart from their first start.", Buckets: prometheus.ExponentialBuckets(1, 2, 13)}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{Name: "vmfr_discoveries_running", Help: "Discoveries that are worked on."}),
	}
	// A counter that is not there before it counts hides its first count from increase().
	for _, p := range []v1alpha1.DiscoveryPhase{v1alpha1.DiscoveryCompleted, v1alpha1.DiscoveryPartiallyFailed, v1alpha1.DiscoveryFailed} {
		c.discoveries.WithLabelValues(strings.ToLower(string(p)))
	}
	for _, result := range []string{"completed", "skipped", "failed"} {
		c.backups.WithLabelValues(result)
	}
	var errs []error
	for _, x := range []prometheus.Collector{c.discoveries, c.backups, c.bytes, c.seconds, c.running} {
		errs = append(errs, reg.Register(x))
	}
	return c, errors.Join(errs...)
}

// ended counts a discovery whose last status was written.
func (c *collectors) ended(s *v1alpha1.VirtualMachineBackupsDiscoveryStatus) {
	c.discoveries.WithLabelValues(strings.ToLower(string(s.Phase))).Inc()
	n := s.DiscoveryStats
	if n == nil {
		return
	}
	c.backups.WithLabelValues("completed").Add(float64(n.Completed))
	c.backups.WithLabelValues("skipped").Add(float64(n.Skipped))
	c.backups.WithLabelValues("failed").Add(float64(n.Failed))
	if n.StartTime != nil && n.CompletionTime != nil {
		c.seconds.Observe(max(0, n.CompletionTime.Sub(n.StartTime.Time).Seconds()))
	}
}
