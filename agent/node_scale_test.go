package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	api "vmfr/api/session"
	"vmfr/test/fixture"
)

// Many sessions on one node.
const (
	scaleSessions, scaleDisks = 20, 3
	scaleBusy, scaleBig       = 4, 32 << 20
)

// TestNodeManySessions serves many sessions from one agent: every client finds its own disks and
// no others. It logs what the processes use and how long opening takes; docs/benchmarks.md has
// these numbers.
func TestNodeManySessions(t *testing.T) {
	if testing.Short() {
		t.Skip("many processes")
	}
	c := newCell(t)
	c.agent.kill(15)
	c.args = append(c.args, "--max-sessions", strconv.Itoa(scaleSessions+1), "--audit-log", filepath.Join(t.TempDir(), "audit"))
	c.start()
	idle := rss(c.agent.cmd.Process.Pid)
	prepared := time.Now()
	var all []*restore
	for i := range scaleSessions + 1 {
		r := c.newRestore(fmt.Sprintf("s%d", i), map[string][]api.Mode{"nightly": slices.Repeat([]api.Mode{api.Filesystem}, scaleDisks)})
		for d := range scaleDisks {
			r.attach("nightly", d, markedDisk(t, marker(i, d), i < scaleBusy && d == 0))
		}
		all = append(all, r)
	}
	one := all[scaleSessions]
	all = all[:scaleSessions]
	began := time.Now()
	t.Logf("objects and images took %s", began.Sub(prepared).Round(time.Millisecond))
	for _, r := range all {
		r.hold("nightly")
		r.hold("")
	}
	eventually(t, func() error {
		if m := c.get("/metrics"); !strings.Contains(m, fmt.Sprintf("vmfr_node_sessions{state=\"Serving\"} %d\n", scaleSessions)) {
			return fmt.Errorf("not all sessions serve:\n%s", c.agent.log)
		}
		return nil
	})
	t.Logf("%d sessions with %d disks each serve after %s", scaleSessions, scaleDisks, time.Since(began).Round(time.Millisecond))
	for _, r := range all { // a front whose backup came later had a worker of its own
		r.ready()
	}
	var workers []int
	eventually(t, func() error {
		if workers = c.workers(); len(workers) != scaleSessions {
			return fmt.Errorf("%d workers", len(workers))
		}
		return nil
	})
	t.Logf("idle: agent %s, before %s; workers %s", mib(rss(c.agent.cmd.Process.Pid)), mib(idle), spread(workers, rss))
	t.Logf("idle: workers' own memory (RssAnon) %s", spread(workers, rssAnon))

	var reads sync.WaitGroup
	places := make(chan struct{}, 4) // each is an ssh client of its own
	for i, r := range all {
		places <- struct{}{}
		reads.Go(func() {
			defer func() { <-places }()
			r.readMarkers(i)
		})
	}
	reads.Wait()
	t.Logf("after every disk was read: agent %s, workers %s", mib(rss(c.agent.cmd.Process.Pid)), spread(workers, rss))
	t.Logf("after every disk was read: workers' own memory %s", spread(workers, rssAnon))
	for _, r := range all[:scaleBusy] {
		reads.Go(func() {
			to := filepath.Join(t.TempDir(), "big")
			if out, err := r.sftp(r.identity, "get /backups/nightly/disk0/big "+to); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	reads.Wait()
	var busy []int
	for _, r := range all[:scaleBusy] {
		busy = append(busy, r.worker())
	}
	t.Logf("busy: %d workers that each sent a file of %d MiB by SFTP, at most: %s; the agent %s", scaleBusy, scaleBig>>20, spread(busy, peak), mib(peak(c.agent.cmd.Process.Pid)))
	if now := c.workers(); !slices.Equal(slices.Sorted(slices.Values(now)), slices.Sorted(slices.Values(workers))) {
		t.Errorf("workers were started again: %v, before %v", now, workers)
	}
	before := openSeconds(c)
	began = time.Now()
	one.hold("nightly")
	one.hold("")
	one.ready()
	t.Logf("one more session: its holders are ready after %s, its worker served after %.0f ms", time.Since(began).Round(time.Millisecond), 1000*(openSeconds(c)-before))
	one.readMarkers(scaleSessions)
	var jails, holders []int
	for _, pid := range descendants(c.agent.cmd.Process.Pid) {
		if cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.HasPrefix(string(cmd), "vmfr-jail") {
			jails = append(jails, pid)
		}
	}
	for _, r := range all {
		for _, h := range r.holders {
			holders = append(holders, h.cmd.Process.Pid)
		}
	}
	t.Logf("%d starters of rsync's jails: %s, their own %s", len(jails), spread(jails, rss), spread(jails, rssAnon))
	t.Logf("%d holders: %s, their own %s", len(holders), spread(holders, rss), spread(holders, rssAnon))
}

// openSeconds is how long all workers together took until they served.
func openSeconds(c *cell) float64 {
	for line := range strings.Lines(c.get("/metrics")) {
		if n, ok := strings.CutPrefix(line, "vmfr_node_open_seconds_sum "); ok {
			sum, _ := strconv.ParseFloat(strings.TrimSpace(n), 64)
			return sum
		}
	}
	return 0
}

func marker(session, disk int) string { return fmt.Sprintf("session %d disk %d", session, disk) }

// markedDisk is a disk with a file that tells it from others, and a big one if asked.
func markedDisk(t testing.TB, text string, big bool) string {
	src, size := t.TempDir(), int64(4<<20)
	if err := os.WriteFile(filepath.Join(src, "marker"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if big {
		size += 2 * scaleBig
		if err := os.WriteFile(filepath.Join(src, "big"), bytes.Repeat([]byte("big "), scaleBig/4), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return fixture.Ext4(t, src, size)
}

// readMarkers fetches the marker of every disk over SFTP.
func (r *restore) readMarkers(session int) {
	t := r.c.t
	dir := t.TempDir()
	batch := ""
	for d := range scaleDisks {
		batch += fmt.Sprintf("get /backups/nightly/disk%d/marker %s/%d\n", d, dir, d)
	}
	if out, err := r.sftp(r.identity, batch); err != nil {
		t.Errorf("session %d: %v\n%s", session, err, out)
		return
	}
	for d := range scaleDisks {
		if got, err := os.ReadFile(filepath.Join(dir, strconv.Itoa(d))); err != nil || string(got) != marker(session, d) {
			t.Errorf("session %d, disk %d: %q, %v", session, d, got, err)
		}
	}
}

// peak is the most that was resident of a process.
func peak(pid int) int { return statusField(pid, "VmHWM:") }

// rss is the resident memory of a process, rssAnon what of it is no file's, in bytes.
func rss(pid int) int     { return statusField(pid, "VmRSS:") }
func rssAnon(pid int) int { return statusField(pid, "RssAnon:") }

func statusField(pid int, name string) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			kib, _ := strconv.Atoi(f[1])
			return kib << 10
		}
	}
	return 0
}

func mib(n int) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// spread is the median and the greatest of what processes use.
func spread(pids []int, of func(int) int) string {
	var all []int
	sum := 0
	for _, p := range pids {
		all = append(all, of(p))
		sum += all[len(all)-1]
	}
	slices.Sort(all)
	return fmt.Sprintf("%s (most %s, all %s)", mib(all[len(all)/2]), mib(all[len(all)-1]), mib(sum))
}
