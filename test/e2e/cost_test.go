package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// memory is what a process has in memory, in bytes, and how much of that is its own: the rest is
// the program's file, of which a node has one copy.
type memory struct{ resident, own int64 }

func (m memory) String() string { return fmt.Sprintf("%d MiB, %d MiB", m.resident>>20, m.own>>20) }

// memoryOf reads a process's memory (proc_pid_status(5)); it has none when it has ended.
func memoryOf(t testing.TB, pid int) (m memory) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return m
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			m.resident = kib << 10
		case "RssAnon:":
			m.own = kib << 10
		}
	}
	return m
}

// probe tells whether it is a holder's readiness probe, which is there for a moment.
func (p process) probe() bool { return slices.Contains(p.args, "--check") }

// costs are what one run measured.
type costs struct {
	rows []string // of the table, in order
}

func (c *costs) add(format string, value any) {
	c.rows = append(c.rows, fmt.Sprintf("| %s | %v |", format, value))
}

// memory records the largest process of each kind.
func (c *costs) memory(t testing.TB, w *world, when string) {
	t.Helper()
	if w.node == nil {
		return
	}
	kinds := []struct {
		name string
		args []string
	}{{"controller", []string{"/vmfr-controller"}}, {"agent", []string{"/vmfr-agent", "node"}}, {"worker", []string{workerName, "work"}}, {"holder", []string{"/vmfr-agent", "hold"}}}
	most := map[string]memory{}
	for _, p := range w.processes(t) {
		for _, k := range kinds {
			if p.is(k.args...) && !p.probe() {
				if m := memoryOf(t, p.pid); m.resident > most[k.name].resident {
					most[k.name] = m
				}
			}
		}
	}
	for _, k := range kinds {
		if m, ok := most[k.name]; ok {
			c.add(fmt.Sprintf("%s, %s: resident, its own", k.name, when), m)
		}
	}
}

// restore records where the time of a file restore went.
func (c *costs) restore(what string, p parts) {
	for _, x := range []struct {
		name string
		took time.Duration
	}{
		{"created until the first folder is listed", p.All}, {"of that Velero's restores", p.Velero}, {"scheduler, storage and kubelet, until the holders run", p.Attach},
		{"controller, until Velero was asked", p.Controller}, {"controller, until the last holder was asked for", p.Pods},
		{"holders, agent and worker, until all disks are open", p.Handover}, {"controller, until the status says so", p.Status},
		{"a client's login and listing", p.List}, {"vmfr's own share, the last five", p.Own()},
	} {
		c.add(what+": "+x.name, fmt.Sprintf("%.2f s", x.took.Seconds()))
	}
}

const costTitle = "## Time and cost of a file restore"

// write puts the numbers into the section of that title of a page, in place of the former ones.
func (c *costs) write(t testing.TB, page string) {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var s bytes.Buffer
	_, _ = fmt.Fprintf(&s, "%s\n\n`make e2e E2E_FLAGS=\"-record $PWD/docs/benchmarks.md\"` wrote this on %s (when it was written the machine had %s): one node with control plane, Velero, S3 and storage beside vmfr on the same\n"+
		"processors, a machine of two disks (qcow2 of 8 MiB on a Filesystem volume, raw of 400 MiB on a Block volume). Times are seen from outside, by watching the cluster's objects.\n\n| | |\n| --- | ---: |\n%s\n",
		costTitle, time.Now().UTC().Format(time.DateOnly), load(t), strings.Join(c.rows, "\n"))
	before, rest, found := strings.Cut(string(b), costTitle)
	if found {
		if i := strings.Index(rest, "\n## "); i >= 0 {
			_, _ = s.WriteString(rest[i:])
		}
	} else {
		before = strings.TrimRight(before, "\n") + "\n\n"
	}
	if err := os.WriteFile(page, []byte(before+s.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// load is how busy the machine is.
func load(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	return "a load of " + strings.Fields(string(b))[0]
}
