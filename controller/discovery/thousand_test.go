package discovery

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
)

// BenchmarkThousand measures the discovery of a thousand backups by a real Velero, all of which
// hold the virtual machine: the dearest case, two objects to be read of each. The heap is that
// of the controller, whose process is the test's. docs/discovery.md has the command and what came of it.
func BenchmarkThousand(bm *testing.B) {
	count := 1000
	if n, err := strconv.Atoi(os.Getenv("VMFR_BENCH_BACKUPS")); err == nil {
		count = n
	}
	b := newBench(bm)
	b.cp.CreateVM(bm, cluster.VM{Namespace: "shop", Name: "db", Disks: []cluster.Disk{{Name: "root"}, {Name: "log"}}})
	one := b.velero.BackupOf(bm, "b", "shop")
	first := day("2026-01-01")
	for i := range count - 1 {
		b.velero.CopyBackup(bm, one, fmt.Sprintf("b-%04d", i), first.Add(time.Duration(i)*time.Hour))
	}
	stop, _ := b.controller(bm, Options{StatusInterval: time.Second, LocationGrace: 90 * time.Second})
	defer stop()
	for n := 0; bm.Loop(); n++ {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		before, peak := m.HeapAlloc, m.HeapAlloc
		d := discovery(fmt.Sprint("thousand-", n), nil)
		began := time.Now()
		b.create(bm, d)
		for writes, last := 0, ""; ; time.Sleep(100 * time.Millisecond) {
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
			if err := b.client.Get(ctx, client.ObjectKeyFromObject(d), d); err != nil {
				bm.Fatal(err)
			}
			if d.ResourceVersion != last {
				last, writes = d.ResourceVersion, writes+1
			}
			if err := consistent(&d.Status); err != nil {
				bm.Fatal(err)
			}
			if over(d) {
				bm.ReportMetric(float64(writes), "writes")
				break
			}
		}
		took := time.Since(began)
		if d.Status.Phase != v1alpha1.DiscoveryCompleted || len(d.Status.ValidBackups) != count {
			bm.Fatalf("%s: %+v", d.Status.Phase, d.Status.DiscoveryStats)
		}
		bm.ReportMetric(took.Seconds(), "s")
		bm.ReportMetric(float64(count)/took.Seconds(), "backups/s")
		bm.ReportMetric(float64(peak-before)/(1<<20), "heapMiB")
		bm.ReportMetric(float64(highWater(bm))/(1<<10), "rssMiB")
	}
}

// highWater is the most memory that this process has had, in KiB.
func highWater(t testing.TB) int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
