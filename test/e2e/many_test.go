package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
	"vmfr/test/e2e/pull"
)

// Many sessions on one node.
const (
	manySessions, manyDisks = 20, 3
	// manyPods is how many pods a kubelet takes, unless it is told otherwise.
	manyPods = 110
)

// many: one agent serves many sessions that begin at once. Every client finds the disks of its own session and no
// others; what they need is recorded; when they are deleted together nothing is left.
func (c *chapter) many(t *testing.T) {
	if c.w.node == nil {
		t.Skip("it fills volumes, and measures processes, on the node itself")
	}
	before, idle := c.w.state(t), c.w.agentMetrics(t)
	what := fmt.Sprintf("%d sessions of %d disks", manySessions, manyDisks)

	var all []*premade
	t.Cleanup(func() {
		if !(*keep && t.Failed()) {
			c.w.removeAll(t, all)
		}
	})
	prepared := time.Now()
	for i := range manySessions {
		all = append(all, c.w.premake(t, fmt.Sprintf("many%02d", i), manyDisks))
	}
	c.w.fill(t, all)
	t.Logf("objects and volumes were made in %s", time.Since(prepared).Round(10*time.Millisecond))

	began := time.Now()
	for _, p := range all {
		p.begin(t)
	}
	served := c.w.awaitCompleted(t, all, began)
	c.costs.add(what+", starting together: until half of them are Completed, and all", seconds(served[len(served)/2], served[len(served)-1]))
	pods := c.w.awaitHolders(t, all)
	ready := time.Since(began)
	var servers []pull.Server
	for _, p := range all {
		s := p.server(t)
		awaitOpen(t, s.SSH)
		awaitOpen(t, s.HTTPS)
		servers = append(servers, s)
	}
	reached := time.Since(began)
	t.Run("read", func(t *testing.T) {
		for i, p := range all {
			t.Run(p.Name, func(t *testing.T) {
				t.Parallel()
				p.readMarkers(t, servers[i])
				stranger := servers[(i+1)%len(all)]
				stranger.Key = servers[i].Key
				if out, err := stranger.SFTP(t.Context(), t, "ls /"); err == nil || !strings.Contains(err.Error(), "Permission denied") {
					t.Errorf("the key of %s at another session: %v\n%s", p.Name, err, out)
				}
			})
		}
	})
	c.costs.add(what+": until all holders are ready, all can be reached, and all disks were read", seconds(ready, reached, time.Since(began)))
	if pods > manyPods {
		t.Errorf("%d pods are on the node: more than a kubelet takes by default", pods)
	}
	c.costs.add(what+": pods on the node", pods)
	c.manyCosts(t, what, idle)

	gone := time.Now()
	c.w.removeAll(t, all)
	took := time.Since(gone)
	c.w.awaitNothingLeft(t, before)
	c.costs.add(what+", deleted together: until all are gone, and nothing is left on the node", seconds(took, time.Since(gone)))
}

// awaitCompleted waits until all are served as the controller says, and returns when each one was, in order.
func (w *world) awaitCompleted(t *testing.T, all []*premade, began time.Time) (served []time.Duration) {
	t.Helper()
	done := map[string]bool{}
	cluster.Await(t, endLimit, func() error {
		var list v1alpha1.VirtualMachineFileRestoreList
		if err := w.admin.List(t.Context(), &list, client.InNamespace(*veleroNamespace)); err != nil {
			return err
		}
		for i := range list.Items {
			if r := &list.Items[i]; r.Status.Phase == v1alpha1.FileRestoreCompleted && !done[r.Name] {
				done[r.Name] = true
				served = append(served, time.Since(began))
			}
		}
		for _, p := range all {
			if !done[p.Name] {
				if err := w.get(p.VirtualMachineFileRestore); err != nil {
					return err
				}
				return fmt.Errorf("%d of %d are served; %s is %q: %s", len(done), len(all), p.Name, p.Status.Phase, p.text())
			}
		}
		return nil
	})
	return served
}

// awaitHolders waits until all holders are ready, and returns how many pods the node has then.
func (w *world) awaitHolders(t *testing.T, all []*premade) (pods int) {
	t.Helper()
	cluster.Await(t, serveLimit, func() error {
		var list corev1.PodList
		if err := w.admin.List(t.Context(), &list); err != nil {
			return err
		}
		pods = len(list.Items)
		holders := 0
		for i := range list.Items {
			p := &list.Items[i]
			if !slices.ContainsFunc(all, func(r *premade) bool { return p.Labels[v1alpha1.LabelOriginUUID] == string(r.UID) }) {
				continue
			}
			if err := ready(p); err != nil {
				return err
			}
			holders++
		}
		if holders != 2*len(all) { // a front, and one for the only backup
			return fmt.Errorf("%d holders of %d sessions", holders, len(all))
		}
		return nil
	})
	return pods
}

// awaitOpen waits until an address answers: a Service's some time after its pod is ready.
func awaitOpen(t testing.TB, address string) {
	t.Helper()
	cluster.Await(t, serveLimit, func() error {
		c, err := net.DialTimeout("tcp", address, serveLimit)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// readMarkers reads the marker of each disk by SFTP, and of one by HTTPS.
func (p *premade) readMarkers(t *testing.T, s pull.Server) {
	t.Helper()
	dir := t.TempDir()
	commands := []string{"ls -1 /disks/" + premadeBackup}
	path := func(d int) string { return "/backups/" + premadeBackup + "/" + p.disks[d].Name + "/" + premadeMarker }
	for d := range p.disks {
		commands = append(commands, fmt.Sprintf("get %s %s", path(d), filepath.Join(dir, strconv.Itoa(d))))
	}
	out, err := s.SFTP(t.Context(), t, commands...)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out, ".raw"); n != len(p.disks) {
		t.Errorf("the session has %d disks, not %d:\n%s", n, len(p.disks), out)
	}
	for d := range p.disks {
		if got, err := os.ReadFile(filepath.Join(dir, strconv.Itoa(d))); err != nil || string(got) != p.marker(d) {
			t.Errorf("disk %d by SFTP: %q, %v; want %q", d, got, err, p.marker(d))
		}
	}
	d := int(p.names.Suffix[0]) % len(p.disks) // any
	if got := s.File(t, path(d)); got != p.marker(d) {
		t.Errorf("disk %d by HTTPS: %q, want %q", d, got, p.marker(d))
	}
}

// removeAll deletes file restores at once, and waits until they are gone.
func (w *world) removeAll(t testing.TB, all []*premade) {
	t.Helper()
	for _, p := range all {
		if err := client.IgnoreNotFound(w.admin.Delete(context.Background(), p.VirtualMachineFileRestore)); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
	for _, p := range all {
		cluster.Await(t, endLimit, func() error {
			err := cluster.Gone(w.admin, p.VirtualMachineFileRestore)
			if err != nil && w.get(p.VirtualMachineFileRestore) == nil {
				err = fmt.Errorf("%w: %s", err, p.text())
			}
			return err
		})
	}
}

// manyCosts records what the sessions that were read have cost, and checks that nobody was refused for a limit.
func (c *chapter) manyCosts(t *testing.T, what string, idle agentMetrics) {
	t.Helper()
	m := c.w.agentMetrics(t)
	for _, result := range []string{"refused", "key", "token", "descriptor", "protocol"} {
		if n := m.sum("vmfr_node_hellos_total", `result="`+result+`"`) - idle.sum("vmfr_node_hellos_total", `result="`+result+`"`); n != 0 {
			t.Errorf("the agent answered %v holders with %q", n, result)
		}
	}
	if n := m.sum("vmfr_node_worker_restarts_total") - idle.sum("vmfr_node_worker_restarts_total"); n != 0 {
		t.Errorf("%v workers were started again", n)
	}
	if n := m.sum("vmfr_node_sessions", `state="Serving"`); n != manySessions {
		t.Errorf("the agent serves %v sessions", n)
	}
	const held = manySessions * (manyDisks + 2) // two listeners
	if n := m.sum("vmfr_node_held_descriptors"); n != held {
		t.Errorf("the agent holds %v descriptors for holders, not %d", n, held)
	}

	opened := m.sum("vmfr_node_open_seconds_count") - idle.sum("vmfr_node_open_seconds_count")
	mean := (m.sum("vmfr_node_open_seconds_sum") - idle.sum("vmfr_node_open_seconds_sum")) / opened
	c.costs.add(what+": a worker's start until it has opened all disks and serves, mean, all below", fmt.Sprintf("%.2f s, %s s", mean, m.below("vmfr_node_open_seconds", idle)))
	took := m.sum("vmfr_node_session_operation_seconds_sum") / m.sum("vmfr_node_session_operation_seconds_count")
	c.costs.add(what+": a client's first listing, opening or reading, mean", fmt.Sprintf("%.2f ms", 1000*took))

	agent, _ := c.w.agentProcess(t)
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", agent.pid))
	if err != nil {
		t.Fatal(err)
	}
	c.costs.add(what+": descriptors of the agent, of these holders'", fmt.Sprintf("%d, %d", len(files), held))
	c.costs.add(what+": agent: resident, its own", memoryOf(t, agent.pid))
	for _, kind := range []struct {
		name  string
		words []string
		each  int
	}{{"worker", []string{workerName, "work"}, 1}, {"starter of rsync's jail", []string{"vmfr-jail"}, 1}, {"holder", []string{"/vmfr-agent", "hold"}, 2}} {
		var resident, own []int64
		for _, p := range c.w.processes(t) {
			if p.is(kind.words...) {
				m := memoryOf(t, p.pid)
				resident, own = append(resident, m.resident), append(own, m.own)
			}
		}
		if len(resident) != kind.each*manySessions {
			t.Errorf("%d processes of the kind %s for %d sessions", len(resident), kind.name, manySessions)
			continue
		}
		slices.Sort(resident)
		slices.Sort(own)
		c.costs.add(fmt.Sprintf("%s: %s: resident, its own, median", what, kind.name), memory{resident[len(resident)/2], own[len(own)/2]})
		c.costs.add(fmt.Sprintf("%s: %s: resident, its own, most", what, kind.name), memory{resident[len(resident)-1], own[len(own)-1]})
	}
}

// agentMetrics is what the agent tells Prometheus.
type agentMetrics string

// agentMetrics asks the agent of the suite's own node.
func (w *world) agentMetrics(t testing.TB) agentMetrics {
	t.Helper()
	pods, err := w.pods(agentNamespace, "app.kubernetes.io/name", "vmfr-agent")
	if err != nil || len(pods) != 1 {
		t.Fatalf("%d agents: %v", len(pods), err)
	}
	r, err := http.Get("http://" + net.JoinHostPort(pods[0].Status.PodIP, "9808") + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("the agent's metrics: %s: %v", r.Status, err)
	}
	return agentMetrics(b)
}

// sum adds up a metric over all series that have the given labels.
func (m agentMetrics) sum(name string, labels ...string) (sum float64) {
	for line := range strings.Lines(string(m)) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if base, _, _ := strings.Cut(series, "{"); !ok || base != name || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(series, l) }) {
			continue
		}
		n, _ := strconv.ParseFloat(value, 64)
		sum += n
	}
	return sum
}

// below is the least bound of a histogram's classes that all observations since before are below.
func (m agentMetrics) below(name string, before agentMetrics) string {
	all := m.sum(name+"_count") - before.sum(name+"_count")
	for line := range strings.Lines(string(m)) {
		series, _, _ := strings.Cut(line, " ")
		label, ok := strings.CutPrefix(series, name+"_bucket{")
		if label = strings.TrimSuffix(label, "}"); ok && m.sum(name+"_bucket", label)-before.sum(name+"_bucket", label) == all {
			return strings.Trim(strings.TrimPrefix(label, "le="), `"`)
		}
	}
	return "+Inf"
}

// seconds are times as the table has them.
func seconds(all ...time.Duration) string {
	var out []string
	for _, d := range all {
		out = append(out, fmt.Sprintf("%.1f s", d.Seconds()))
	}
	return strings.Join(out, ", ")
}
