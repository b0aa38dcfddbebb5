package e2e

import (
	"cmp"
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
	// manyLimit is for all of them together, on a busy machine.
	manyLimit = 2 * endLimit
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

	asked := func() float64 { return c.w.controllerMetrics(t).sum("rest_client_requests_total") }
	began, requests := time.Now(), asked()
	for _, p := range all {
		p.begin(t)
	}
	served := c.w.awaitCompleted(t, all, began)
	c.costs.add(what+", starting together: until half of them are Completed, and all", seconds(served[len(served)/2], served[len(served)-1]))
	c.costs.requests(what+": the controller's requests to the API server until then", asked()-requests)
	pods := c.w.awaitHolders(t, all)
	ready := time.Since(began)
	var servers []pull.Server
	for _, p := range all {
		servers = append(servers, p.server(t))
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
	requests = asked()
	c.w.removeAll(t, all)
	took := time.Since(gone)
	c.costs.requests(what+": the controller's requests to the API server to remove them", asked()-requests)
	c.w.awaitNothingLeft(t, before)
	c.costs.add(what+", deleted together: until all are gone, and nothing is left on the node", seconds(took, time.Since(gone)))
}

// awaitCompleted waits until all are served as the controller says, and returns when each one was, in order.
func (w *world) awaitCompleted(t *testing.T, all []*premade, began time.Time) (served []time.Duration) {
	t.Helper()
	done := map[string]bool{}
	cluster.Await(t, manyLimit, func() error {
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
	cluster.Await(t, manyLimit, func() error {
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
		cluster.Await(t, manyLimit, func() error {
			err := cluster.Gone(w.admin, p.VirtualMachineFileRestore)
			if err != nil && w.get(p.VirtualMachineFileRestore) == nil {
				err = fmt.Errorf("%w: %s", err, p.text())
			}
			return err
		})
	}
}

// manyCosts records what the sessions that were read have cost, and checks that nobody was refused for a limit.
func (c *chapter) manyCosts(t *testing.T, what string, idle metrics) {
	t.Helper()
	const held = manySessions * (manyDisks + 2) // two listeners
	var m metrics
	var of map[string][]memory
	cluster.Await(t, serveLimit, func() error { // a worker may just be ending whose successor serves
		m, of = c.w.agentMetrics(t), c.w.memories(t)
		if n := m.sum("vmfr_node_sessions", `state="Serving"`); n != manySessions {
			return fmt.Errorf("the agent serves %v sessions", n)
		}
		if n := m.sum("vmfr_node_held_descriptors"); n != held {
			return fmt.Errorf("the agent holds %v descriptors for holders, not %d", n, held)
		}
		if n := m.sum("vmfr_node_session_operation_seconds_count"); n < manySessions*manyDisks { // workers tell from time to time
			return fmt.Errorf("the agent knows of %v operations of clients", n)
		}
		for _, k := range manyKinds {
			if len(of[k.name]) != k.each*manySessions {
				return fmt.Errorf("%d processes of the kind %s for %d sessions", len(of[k.name]), k.name, manySessions)
			}
		}
		return nil
	})
	for _, result := range []string{"refused", "key", "token", "descriptor", "protocol"} {
		if n := m.sum("vmfr_node_hellos_total", `result="`+result+`"`) - idle.sum("vmfr_node_hellos_total", `result="`+result+`"`); n != 0 {
			t.Errorf("the agent answered %v holders with %q", n, result)
		}
	}
	// A worker that the machine gives no time is started again; one that died is a defect.
	died := func(m metrics) float64 {
		return m.sum("vmfr_node_worker_restarts_total") - m.sum("vmfr_node_workers_hung_total")
	}
	if n := died(m) - died(idle); n != 0 {
		t.Errorf("%v workers died", n)
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
	for _, k := range manyKinds {
		slices.SortFunc(of[k.name], func(a, b memory) int { return cmp.Compare(a.resident, b.resident) })
		c.costs.add(fmt.Sprintf("%s: %s: resident, its own, median", what, k.name), of[k.name][len(of[k.name])/2])
		c.costs.add(fmt.Sprintf("%s: %s: resident, its own, most", what, k.name), of[k.name][len(of[k.name])-1])
	}
}

// requests records how many there were, unless a controller was started again meanwhile.
func (c *costs) requests(what string, n float64) {
	if n > 0 {
		c.add(what, n)
	}
}

// manyKinds are the processes that sessions have, by their command lines.
var manyKinds = []struct {
	name  string
	words []string
	each  int // of a session
}{{"worker", []string{workerName, "work"}, 1}, {"starter of rsync's jail", []string{"vmfr-jail"}, 1}, {"holder", []string{"/vmfr-agent", "hold"}, 2}}

// memories is what each process of manyKinds has.
func (w *world) memories(t testing.TB) map[string][]memory {
	t.Helper()
	of := map[string][]memory{}
	for _, p := range w.processes(t) {
		for _, k := range manyKinds {
			if !p.is(k.words...) || p.probe() {
				continue
			}
			if m := memoryOf(t, p.pid); m.resident > 0 { // 0: it has ended since
				of[k.name] = append(of[k.name], m)
			}
		}
	}
	return of
}

// metrics are what pods tell Prometheus, one text after the other.
type metrics string

// agentMetrics are the agent's, controllerMetrics those of both controllers.
func (w *world) agentMetrics(t testing.TB) metrics {
	t.Helper()
	return w.metrics(t, agentNamespace, "vmfr-agent", "9808")
}

func (w *world) controllerMetrics(t testing.TB) metrics {
	t.Helper()
	return w.metrics(t, controllerNamespace, "vmfr-controller", "8080")
}

func (w *world) metrics(t testing.TB, namespace, app, port string) metrics {
	t.Helper()
	var all strings.Builder
	cluster.Await(t, serveLimit, func() error { // a busy machine's controllers may just be starting again
		all.Reset()
		pods, err := w.pods(namespace, "app.kubernetes.io/name", app)
		if err != nil {
			return err
		}
		if len(pods) == 0 {
			return fmt.Errorf("no pod of %s is there", app)
		}
		for _, p := range pods {
			r, err := http.Get("http://" + net.JoinHostPort(p.Status.PodIP, port) + "/metrics")
			if err != nil {
				return err
			}
			_, err = io.Copy(&all, r.Body)
			_ = r.Body.Close()
			if err != nil {
				return err
			}
			if r.StatusCode != http.StatusOK {
				return fmt.Errorf("the metrics of %s: %s", p.Name, r.Status)
			}
		}
		return nil
	})
	return metrics(all.String())
}

// sum adds up a metric over all series that have the given labels.
func (m metrics) sum(name string, labels ...string) (sum float64) {
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
func (m metrics) below(name string, before metrics) string {
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
