package worker

import (
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"vmfr/agent/tree"
	"vmfr/api/files"
)

// frontEnd names what serves the tree, in metrics and errors.
type frontEnd string

const (
	frontSFTP  frontEnd = "sftp"
	frontHTTPS frontEnd = "https"
	frontFUSE  frontEnd = "fuse"
	frontRsync frontEnd = "rsync"
)

// openBuckets are for the time until a disk's files can be read, in seconds: from a local
// image in the page cache to a large dirty journal on slow storage.
var openBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// metrics collects what the tree, the images and the front ends count on their own, at the
// time it is asked: nothing is counted twice and a read costs no more than its own counter.
type metrics struct {
	disks    *Disks
	counters map[frontEnd]*tree.Counters
	panics   func() uint64 // of the front ends
	logins   files.Logins  // by HTTPS
	process  *os.File      // see Config
}

var _ prometheus.Collector = (*metrics)(nil)

var (
	front    = []string{"frontend"}
	perImage = []string{"backup", "disk", "cache"}

	descDisks   = desc("disks", "Disks by state: readable, partial, unreadable.", "state")
	descOps     = desc("operations_total", "Operations by front end.", "frontend", "operation")
	descBytes   = desc("read_bytes_total", "Bytes of file content read, by front end.", front...)
	descFiles   = desc("open_files", "Files and directories that are open now, by front end.", front...)
	descConns   = desc("connections", "Connections that are open now, by front end.", front...)
	descErrors  = desc("errors_total", "Failed operations of the tree, by kind of error.", "kind")
	descPanics  = desc("panics_total", "Internal errors that were caught. Each is a defect: please report it.")
	descLatency = desc("operation_seconds", "Time of opening a file, listing a part of a folder, or reading a piece of a file, storage included.")
	descOpens   = desc("file_opens_total", "Files opened in the tree.")
	descHits    = desc("cache_hits_total", "Lookups in an image's caches that found something.", perImage...)
	descMisses  = desc("cache_misses_total", "Lookups in an image's caches that had to read or inflate.", perImage...)
	descCached  = desc("cache_bytes", "Inflated clusters kept in memory.", "backup", "disk")
	descMeta    = desc("metadata_cache_lookups_total", "Lookups in the file systems' metadata caches, by result: hit, miss.", "result")
	descMetaUse = desc("metadata_cache_bytes", "File system metadata kept in memory.")
	descAhead   = desc("read_ahead_clusters_total", "Clusters inflated ahead of a sequential reader.", "backup", "disk")
	descPending = desc("storage_reads", "Reads of a disk's image that its storage has not answered.", "backup", "disk")
	descWait    = desc("storage_wait_seconds", "How long the oldest of them has waited, to the second.", "backup", "disk")
	descLogins  = desc("logins_total", "Tries to log in by HTTPS, by result: granted (sessions), wrong, limited.", "result")
	descriptors = []*prometheus.Desc{descPending, descWait, descLogins, descLatency, descDisks, descOps, descBytes, descFiles, descConns, descErrors, descPanics, descOpens,
		descHits, descMisses, descCached, descAhead, descMeta, descMetaUse}
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("vmfr", "", name), help, labels, nil)
}

// handler returns the HTTP handler of /metrics, from a registry of its own.
func (m *metrics) handler(version string) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(m, collectors.NewGoCollector())
	if m.process != nil {
		reg.MustRegister(processStat{m.process})
	} else {
		reg.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "vmfr", Name: "build_info", Help: "The running program; always 1.",
		ConstLabels: prometheus.Labels{"version": version}})
	info.Set(1)
	latency := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "vmfr", Name: "disk_open_seconds", Buckets: openBuckets,
		Help: "Time from opening a disk's image until its file systems could be read, journals replayed."})
	reg.MustRegister(info, latency)
	took := map[[2]string]float64{}
	for _, o := range m.disks.images {
		took[[2]string{o.backup, o.disk}] = o.took.Seconds()
	}
	for _, b := range m.disks.Tree.Backups() {
		for _, d := range b.Disks {
			s := took[[2]string{b.Name, d.Name}]
			for _, v := range d.Volumes {
				s += v.OpenTime.Seconds()
			}
			latency.Observe(s)
		}
	}
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg, MaxRequestsInFlight: 2})
}

// Describe sends the descriptions of all series.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descriptors {
		ch <- d
	}
}

// Collect sends the present values.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	readable, partial, unreadable := tree.Summary(m.disks.Tree.Backups())
	gauge(descDisks, int64(readable), string(tree.StateReadable))
	gauge(descDisks, int64(partial), string(tree.StatePartial))
	gauge(descDisks, int64(unreadable), string(tree.StateUnreadable))
	st := m.disks.Tree.Stats()
	for kind, n := range st.Errors {
		counter(descErrors, n, kind)
	}
	counter(descPanics, st.Panics+m.panics())
	counter(descOpens, st.Opens)
	n, sum, buckets := st.Latency.Cumulative()
	ch <- prometheus.MustNewConstHistogram(descLatency, n, sum, buckets)
	granted, wrong, limited := m.logins.Snapshot()
	counter(descLogins, granted, "granted")
	counter(descLogins, wrong, "wrong")
	counter(descLogins, limited, "limited")
	counter(descMeta, st.Metadata.Hits, "hit")
	counter(descMeta, st.Metadata.Misses, "miss")
	gauge(descMetaUse, st.Metadata.Bytes)
	for name, c := range m.counters {
		s := c.Snapshot()
		for op, n := range s.Ops {
			counter(descOps, n, string(name), op)
		}
		counter(descBytes, s.Bytes, string(name))
		gauge(descFiles, s.OpenFiles, string(name))
		gauge(descConns, s.Connections, string(name))
	}
	for _, d := range m.disks.reads.snapshot() {
		wait := 0.0
		if !d.since.IsZero() {
			wait = time.Since(d.since).Truncate(time.Second).Seconds()
		}
		gauge(descPending, int64(d.n), d.backup, d.disk)
		ch <- prometheus.MustNewConstMetric(descWait, prometheus.GaugeValue, wait, d.backup, d.disk)
	}
	for _, o := range m.disks.images {
		if o.image == nil {
			continue
		}
		s := o.image.Stats()
		counter(descHits, s.InflatedHits, o.backup, o.disk, "clusters")
		counter(descMisses, s.Inflated, o.backup, o.disk, "clusters")
		counter(descHits, s.TableHits, o.backup, o.disk, "tables")
		counter(descMisses, s.TableReads, o.backup, o.disk, "tables")
		counter(descAhead, s.Ahead, o.backup, o.disk)
		gauge(descCached, s.CacheBytes, o.backup, o.disk)
	}
}
