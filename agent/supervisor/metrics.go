package supervisor

import (
	"bytes"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"vmfr/agent/latency"
	"vmfr/agent/session"
	api "vmfr/api/session"
)

// metrics are the supervisor's own and, for each session, what its workers say. These are numbers
// of processes that may be hostile: they are shown and mean nothing to the supervisor.
type metrics struct {
	sup      *Supervisor
	registry *prometheus.Registry
	hellos   *prometheus.CounterVec
	restarts prometheus.Counter
	hung     prometheus.Counter
	opened   prometheus.Histogram
}

var (
	perSession   = []string{"session", "namespace", "name"}
	descSessions = desc("sessions", "Sessions by state: Waiting, Serving, Failed.", "state")
	descFiles    = desc("held_descriptors", "Descriptors held for holders.")
	descParts    = desc("session_parts", "Parts of a session whose holders are connected.", perSession...)
	descWorkers  = desc("session_workers", "Processes that serve a session, those that end included.", perSession...)
	descRestarts = desc("session_worker_restarts_total", "Unexpected ends of a session's worker.", perSession...)
	descMemory   = desc("session_worker_memory_bytes", "Resident memory of a session's workers.", perSession...)
	descRead     = desc("session_read_bytes_total", "Bytes of file content that a session's clients have read.", perSession...)
	descOps      = desc("session_operations_total", "Operations of a session's clients.", perSession...)
	descErrors   = desc("session_errors_total", "Failed operations of a session.", perSession...)
	descConns    = desc("session_connections", "Connections of clients that are open now.", perSession...)
	descLatency  = desc("session_operation_seconds", "Time of opening a file, listing a part of a folder, or reading a piece of a file, storage included.", perSession...)
	descAudit    = desc("audit_lines_total", "Lines of the audit log by result: written; lost because the file could not be written; refused because they were no records.", "result")
	descWait     = desc("session_storage_wait_seconds", "How long the oldest read of a session's disks has waited that storage has not answered.", perSession...)
	descStalled  = desc("session_stalled_disks", "Disks of a session whose storage does not answer.", perSession...)
	descOpen     = desc("session_open_files", "Files that clients have open now.", perSession...)
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("vmfr", "node", name), help, labels, nil)
}

func newMetrics(s *Supervisor) *metrics {
	m := &metrics{
		sup: s, registry: prometheus.NewRegistry(),
		hellos: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "vmfr", Subsystem: "node", Name: "hellos_total",
			Help: "Holders that asked to take part, by result: accepted, protocol, key, token, descriptor, refused, error."}, []string{"result"}),
		restarts: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "vmfr", Subsystem: "node", Name: "worker_restarts_total",
			Help: "Workers that were started again because one ended unexpectedly or was broken."}),
		hung: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "vmfr", Subsystem: "node", Name: "workers_hung_total",
			Help: "Workers that were killed because they did not answer."}),
		opened: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "vmfr", Subsystem: "node", Name: "open_seconds",
			Help: "Time from the start of a worker until it serves.", Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}}),
	}
	m.registry.MustRegister(m, m.hellos, m.restarts, m.hung, m.opened, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Describe sends the descriptions of what Collect makes.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descSessions, descFiles, descParts, descWorkers, descRestarts, descMemory, descRead, descOps,
		descErrors, descConns, descOpen, descWait, descStalled, descLatency, descAudit} {
		ch <- d
	}
}

// Collect sends the present values.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.sup.mu.Lock()
	files := m.sup.files
	all := make([]*sess, 0, len(m.sup.sessions))
	for _, x := range m.sup.sessions {
		all = append(all, x)
	}
	m.sup.mu.Unlock()
	states := map[api.State]int{api.Waiting: 0, api.Serving: 0, api.Failed: 0}
	for _, x := range all {
		states[x.collect(ch)]++
	}
	for s, n := range states {
		ch <- prometheus.MustNewConstMetric(descSessions, prometheus.GaugeValue, float64(n), string(s))
	}
	if a := m.sup.cfg.Audit; a != nil {
		for result, n := range map[string]*atomic.Uint64{"written": &a.written, "lost": &a.lost, "refused": &a.refused} {
			ch <- prometheus.MustNewConstMetric(descAudit, prometheus.CounterValue, float64(n.Load()), result)
		}
	}
	ch <- prometheus.MustNewConstMetric(descFiles, prometheus.GaugeValue, float64(files))
}

func (x *sess) collect(ch chan<- prometheus.Metric) api.State {
	x.mu.Lock()
	doc := x.doc
	state := x.compose().State
	sum, parts, restarts := x.past, 0, x.restarts
	var pids []int
	var wait time.Duration
	stalled := 0
	for _, p := range x.parts {
		if p.peer != nil {
			parts++
		}
	}
	for w := range x.workers {
		conns, open := sum.Connections, sum.OpenFiles
		sum = addStats(sum, w.stats)
		sum.Connections, sum.OpenFiles = conns+w.stats.Connections, open+w.stats.OpenFiles
		wait, stalled = max(wait, w.stats.StorageWait), max(stalled, w.stats.Stalled)
		w.mu.Lock()
		pids = append(pids, w.pid)
		w.mu.Unlock()
	}
	x.mu.Unlock()
	memory := 0.0
	for _, pid := range pids {
		memory += float64(resident(pid))
	}
	for _, v := range []struct {
		d *prometheus.Desc
		t prometheus.ValueType
		n float64
	}{
		{descParts, prometheus.GaugeValue, float64(parts)}, {descWorkers, prometheus.GaugeValue, float64(len(pids))},
		{descRestarts, prometheus.CounterValue, float64(restarts)}, {descMemory, prometheus.GaugeValue, memory},
		{descRead, prometheus.CounterValue, float64(sum.ReadBytes)}, {descOps, prometheus.CounterValue, float64(sum.Operations)},
		{descErrors, prometheus.CounterValue, float64(sum.Errors)}, {descConns, prometheus.GaugeValue, float64(sum.Connections)},
		{descOpen, prometheus.GaugeValue, float64(sum.OpenFiles)},
		{descWait, prometheus.GaugeValue, wait.Seconds()}, {descStalled, prometheus.GaugeValue, float64(stalled)},
	} {
		ch <- prometheus.MustNewConstMetric(v.d, v.t, v.n, x.id[:12], doc.Namespace, doc.Name)
	}
	count, seconds, buckets := latency.Of(sum.Latency, sum.LatencyNanos).Cumulative()
	ch <- prometheus.MustNewConstHistogram(descLatency, count, seconds, buckets, x.id[:12], doc.Namespace, doc.Name)
	return state
}

// addStats adds the counters of b, which only grow, to a's.
func addStats(a, b session.Stats) session.Stats {
	a.ReadBytes += b.ReadBytes
	a.Operations += b.Operations
	a.Errors += b.Errors
	l := latency.Of(a.Latency, a.LatencyNanos).Plus(latency.Of(b.Latency, b.LatencyNanos))
	a.Latency, a.LatencyNanos = l.Slice(), l.Nanos
	return a
}

// resident is a process's resident memory in bytes; 0: it has ended.
func resident(pid int) int64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	fields := bytes.Fields(b)
	if err != nil || pid == 0 || len(fields) < 2 {
		return 0
	}
	n, _ := strconv.ParseInt(string(fields[1]), 10, 64)
	return n * int64(os.Getpagesize())
}

// beatPeriod is how often the supervisor proves that its locks are free, and deadAfter how long
// it may fail to before it is not healthy.
const beatPeriod, deadAfter = 2 * time.Second, 30 * time.Second

// Handler serves /metrics, /healthz (the process is of use) and /readyz (holders are answered).
// The latter two ask nobody and take no lock.
func (s *Supervisor) Handler() http.Handler {
	var beat atomic.Int64
	beat.Store(time.Now().UnixNano())
	go func() {
		for range time.Tick(beatPeriod) {
			s.mu.Lock()
			all := make([]*sess, 0, len(s.sessions))
			for _, x := range s.sessions {
				all = append(all, x)
			}
			s.mu.Unlock()
			for _, x := range all {
				x.mu.Lock()
				_ = x.ended
				x.mu.Unlock()
			}
			beat.Store(time.Now().UnixNano())
		}
	}()
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 2}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if silent := time.Since(time.Unix(0, beat.Load())); silent > deadAfter {
			http.Error(w, "the supervisor has been stuck for "+silent.Round(time.Second).String(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.serving.Load() {
			http.Error(w, "not listening", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	return mux
}
