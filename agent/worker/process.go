package worker

import (
	"bytes"
	"os"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// processStat collects what client_golang's process collector does, from an open /proc/PID/stat
// (proc_pid_stat(5)) instead of a path. What stands in other files of /proc is missing.
type processStat struct{ file *os.File }

var _ prometheus.Collector = processStat{}

var (
	descCPU      = processDesc("cpu_seconds_total", "Total user and system CPU time spent in seconds.")
	descResident = processDesc("resident_memory_bytes", "Resident memory size in bytes.")
	descVirtual  = processDesc("virtual_memory_bytes", "Virtual memory size in bytes.")
)

func processDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("process_"+name, help, nil, nil)
}

// userHZ is the unit of times in /proc on all of Go's architectures, in Hz.
const userHZ = 100

// Describe sends the descriptions.
func (p processStat) Describe(ch chan<- *prometheus.Desc) {
	ch <- descCPU
	ch <- descResident
	ch <- descVirtual
}

// Collect sends what the file says now.
func (p processStat) Collect(ch chan<- prometheus.Metric) {
	b := make([]byte, 4096)
	n, _ := p.file.ReadAt(b, 0)
	// The second field is a name in parentheses, in which anything may stand.
	b = b[:n]
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	value := func(number int) float64 { // as the manual counts, from 1
		if number-3 >= len(fields) {
			return 0
		}
		v, _ := strconv.ParseFloat(string(fields[number-3]), 64)
		return v
	}
	ch <- prometheus.MustNewConstMetric(descCPU, prometheus.CounterValue, (value(14)+value(15))/userHZ)
	ch <- prometheus.MustNewConstMetric(descResident, prometheus.GaugeValue, value(24)*float64(os.Getpagesize()))
	ch <- prometheus.MustNewConstMetric(descVirtual, prometheus.GaugeValue, value(23))
}
