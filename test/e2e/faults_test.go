package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
	"vmfr/test/e2e/guest"
	"vmfr/test/e2e/pull"
	"vmfr/test/fixture"
)

// againLimit is how long after an agent's or a worker's death new connections may take to work.
const againLimit = 10 * time.Second

// faults breaks everything in turns, on two sessions of two tenants: shop's, of whose two backups
// one cannot be restored, and bank's, one of whose disks is damaged.
func (c *chapter) faults(t *testing.T) {
	ledger := c.ledger(t)
	before := c.w.state(t)
	c.web.discover(t, "web-again", moved, snapshot)
	bank := c.bank(t, ledger)
	shop := c.unrestorable(t)

	s, other := shop.server(t), bank.server(t)
	big := filepath.Join(t.TempDir(), "big")
	guest.WriteBig(t, big)
	f := &fault{c: c, shop: shop, bank: bank, s: s, other: other, big: big}
	for _, test := range []struct {
		name string
		run  func(*testing.T)
		node bool // needs a look into the node
	}{
		{"tenants apart", f.apart, false},
		{"strangers refused", f.strangers, false},
		{"agent killed", f.agentKilled, true},
		{"worker killed", f.workerKilled, true},
		{"agent upgraded", f.agentUpgraded, false},
		{"state full", f.stateFull, true},
		{"S3 down", f.storageDown, true},
		{"drained", f.drained, true},
		{"controller killed", f.controllerKilled, false},
		{"ttl", f.expires, true}, // changes the CRD, and owns its fields then
		{"deleted during a pull", f.deleted, false},
	} {
		if test.node && c.w.node == nil {
			continue
		}
		t.Run(test.name, test.run)
	}
	c.w.remove(t, &v1alpha1.VirtualMachineBackupsDiscovery{ObjectMeta: shop.ref("web-again")})
	c.w.remove(t, &v1alpha1.VirtualMachineBackupsDiscovery{ObjectMeta: shop.ref("ledger")})
	t.Run("nothing left", func(t *testing.T) { c.w.awaitNothingLeft(t, before) })
}

// fault is what the faults share.
type fault struct {
	c          *chapter
	shop, bank *fileRestore
	s, other   pull.Server
	big        string // a file with guest.Big's content
}

// path is a file of the machine of shop in the served tree.
func (f *fault) path(name string) string {
	return "/backups/" + snapshot + "/" + f.c.web.disk(0) + "/" + name
}

// ledgerText is what bank's machine has.
const ledgerText = "the ledger\n"

// ledger is another tenant's machine, backed up and lost. It has a healthy disk, on storage that
// waits for its first consumer where there is one, and a damaged image.
func (c *chapter) ledger(t *testing.T) *machine {
	class := c.w.late
	m := c.w.machine(t, cluster.VM{Namespace: "bank", Name: "ledger", Disks: []cluster.Disk{
		{Name: "root", Size: "64Mi", Class: class}, {Name: "broken", Filesystem: true, Size: "64Mi"}}})
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "ledger.txt"), []byte(ledgerText), 0o600); err != nil {
		t.Fatal(err)
	}
	healthy := fixture.Ext4(t, src, 64<<20)
	broken := filepath.Join(t.TempDir(), "broken.qcow2")
	fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", broken, "32M")
	fixture.Run(t, "dd", "if=/dev/urandom", "of="+broken, "bs=64", "count=1", "seek=1", "conv=notrunc", "status=none") // the header's offsets
	m.fill(t, healthy, broken)
	m.backup(t, "ledger-1", false)
	m.lose(t)
	return m
}

// bank is the session of that machine: one disk is served, of the other it is told what is wrong.
func (c *chapter) bank(t *testing.T, m *machine) *fileRestore {
	m.discover(t, "ledger", "ledger-1")
	r := m.restore(t, "ledger", "ledger")
	r.await(t, v1alpha1.FileRestorePartiallyFailed)
	if text := r.text(); !strings.Contains(text, "ledger-broken") || !strings.Contains(text, "qcow2") {
		t.Errorf("the status does not say what is wrong with the damaged image: %s", text)
	}
	s := r.server(t)
	if got := s.File(t, "/backups/ledger-1/ledger-root/ledger.txt"); got != ledgerText {
		t.Errorf("the healthy disk: %q", got)
	}
	if got := s.File(t, "/backups/ledger-1/ledger-broken/ERROR.txt"); !strings.Contains(got, "qcow2") {
		t.Errorf("the damaged disk's ERROR.txt: %q", got)
	}
	return r
}

// unrestorable is shop's session: one backup's content was lost in the bucket after it had been
// found, the other one is served.
func (c *chapter) unrestorable(t *testing.T) *fileRestore {
	if c.w.node == nil { // the bucket is somebody else's
		r := c.web.restore(t, "web-again", "web-again", backups(snapshot))
		r.await(t, v1alpha1.FileRestoreCompleted)
		return r
	}
	restore := c.w.hideFromBucket(t, moved)
	times := c.w.watchTimes(t)
	times.began()
	r := c.web.restore(t, "web-again", "web-again")
	r.await(t, v1alpha1.FileRestorePartiallyFailed)
	times.first(told)
	restore()
	s := r.server(t)
	if _, err := s.SFTP(t.Context(), t, "ls -1 /backups/"+snapshot+"/"+c.web.disk(0)); err != nil {
		t.Error(err)
	}
	times.first(listed)
	p := times.awaitParts(t)
	t.Log(p)
	c.costs.restore("snapshot, one backup", p)
	for _, p := range r.Status.PVCRestores {
		for _, b := range p.Restores {
			want := v1alpha1.RestoreAvailable
			if b.VeleroBackupName == moved {
				want = v1alpha1.RestoreBackupMissing
			}
			if b.State != want || (want == v1alpha1.RestoreBackupMissing) != (b.FailureReason != "") {
				t.Errorf("%s of %s is %s: %q", p.PVCName, b.VeleroBackupName, b.State, b.FailureReason)
			}
		}
	}
	return r
}

// apart: what one tenant has opens nothing of the other's.
func (f *fault) apart(t *testing.T) {
	stranger := f.other
	stranger.Key = f.s.Key
	if out, err := stranger.SFTP(t.Context(), t, "ls /"); err == nil || !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("a key of another session: %v\n%s", err, out)
	}
	stranger.Password = f.s.Password
	if _, err := stranger.Curl(t.Context(), t, stranger.URL("/api/v1/backups")); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("a password of another session: %v", err)
	}
	stranger = f.other
	stranger.HostKey = f.s.HostKey
	if _, err := stranger.SFTP(t.Context(), t, "ls /"); err == nil || !strings.Contains(err.Error(), "verification failed") {
		t.Errorf("the client does not notice another session's host key: %v", err)
	}
	stranger.CA = f.s.CA
	if _, err := stranger.Curl(t.Context(), t, stranger.URL("/")); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("the client does not notice another session's certificate: %v", err)
	}
	for _, x := range []struct {
		s          pull.Server
		own, else_ string
	}{{f.s, snapshot, "ledger-1"}, {f.other, "ledger-1", snapshot}} {
		out, err := x.s.SFTP(t.Context(), t, "ls -1 /backups", "ls -1 /disks")
		if err != nil || !strings.Contains(out, x.own) || strings.Contains(out, x.else_) {
			t.Errorf("the backups of a session: %v\n%s", err, out)
		}
	}
}

// holder is what must not change of a holder while agents and workers come and go.
type holder struct {
	uid      types.UID
	restarts int32
	started  string
}

func (f *fault) holders(t testing.TB) map[string]holder {
	t.Helper()
	all := map[string]holder{}
	for _, p := range append(f.shop.holders(t), f.bank.holders(t)...) {
		h := holder{uid: p.UID}
		for _, c := range p.Status.ContainerStatuses {
			h.restarts += c.RestartCount
			if c.State.Running != nil {
				h.started = c.State.Running.StartedAt.String()
			}
		}
		all[p.Namespace+"/"+p.Name] = h
	}
	return all
}

func (f *fault) sameHolders(t testing.TB, before map[string]holder) {
	t.Helper()
	if len(before) == 0 {
		t.Fatal("there are no holders")
	}
	for name, h := range f.holders(t) {
		if before[name] != h {
			t.Errorf("the holder %s was %+v and is %+v", name, before[name], h)
		}
	}
}

// transfer is sftp's download of guest.Big while something happens.
type transfer struct {
	to   string
	done chan error
}

// pull begins a download and returns when its first bytes have arrived. mbits limits its rate; 0: not.
func (f *fault) pull(ctx context.Context, t testing.TB, mbits int) *transfer {
	t.Helper()
	tr := &transfer{to: filepath.Join(t.TempDir(), "big"), done: make(chan error, 1)}
	server := f.s
	if mbits > 0 {
		server = server.Limit(mbits)
	}
	go func() {
		_, err := server.SFTP(ctx, t, fmt.Sprintf("get %q %q", f.path(guest.Big), tr.to))
		tr.done <- err
	}()
	cluster.Await(t, serveLimit, func() error {
		select {
		case err := <-tr.done:
			t.Fatalf("the transfer ended before it could be disturbed: %v", err)
		default:
		}
		st, err := os.Stat(tr.to)
		if err == nil && st.Size() < 1<<20 {
			err = fmt.Errorf("%d bytes have arrived", st.Size())
		}
		return err
	})
	return tr
}

// resume goes on where the transfer was broken off, and fails unless the file is whole then.
func (f *fault) resume(t testing.TB, tr *transfer) {
	t.Helper()
	st, err := os.Stat(tr.to)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("broken off after %d MiB of %d", st.Size()>>20, guest.BigSize>>20)
	if _, err := f.s.SFTP(t.Context(), t, fmt.Sprintf("reget %q %q", f.path(guest.Big), tr.to)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cmp", tr.to, f.big).CombinedOutput(); err != nil {
		t.Errorf("the file is another after it was resumed: %v %s", err, out)
	}
}

// again tries until new connections work, of both sessions, and returns how long that took, and
// how long until they list files: after an agent's end a backup is there when its holder has come.
func (f *fault) again(t testing.TB, from time.Time) (connect, files time.Duration) {
	t.Helper()
	for _, stage := range []struct {
		shop, bank string
		took       *time.Duration
	}{{"/", "/", &connect}, {f.path("etc"), "/backups/ledger-1/ledger-root", &files}} {
		for s, path := range map[*pull.Server]string{&f.s: stage.shop, &f.other: stage.bank} {
			cluster.Await(t, serveLimit, func() error {
				_, err := s.SFTP(t.Context(), t, "ls "+path)
				return err
			})
		}
		*stage.took = time.Since(from)
	}
	return connect, files
}

// agentKilled: the agent is killed while a file of 1 GiB is pulled. The transfer breaks; new ones
// work within seconds, and the client goes on where it was.
func (f *fault) agentKilled(t *testing.T) {
	before := f.holders(t)
	tr := f.pull(t.Context(), t, 800)
	f.c.costs.memory(t, f.c.w, "two sessions, a file of 1 GiB pulled")
	agent, _ := f.c.w.agentProcess(t)
	killed := time.Now()
	kill(t, agent.pid)
	connect, files := f.again(t, killed)
	next, _ := f.c.w.agentProcess(t)
	kubelet := started(t, next.pid).Sub(killed) // which has to notice, and to start a container
	t.Logf("after the agent was killed the kubelet started it %s later, new connections worked after %s, all files were there after %s",
		kubelet.Round(10*time.Millisecond), connect.Round(10*time.Millisecond), files.Round(10*time.Millisecond))
	if connect-kubelet > againLimit {
		t.Errorf("new connections worked %s after the new agent's start", connect-kubelet)
	}
	if err := <-tr.done; err == nil {
		t.Error("the transfer outlived the agent: it was too fast for this test")
	}
	f.resume(t, tr)
	f.sameHolders(t, before)
	cluster.Await(t, serveLimit, f.c.w.agentReady)
}

// workerKilled: a worker dies, as by a defect that a guest's bytes found. The other session does
// not notice.
func (f *fault) workerKilled(t *testing.T) {
	before := f.holders(t)
	agent, workers := f.c.w.agentProcess(t)
	if len(workers) < 2 {
		t.Fatalf("%d workers for two sessions", len(workers))
	}
	tr := f.pull(t.Context(), t, 800)
	busiest := workers[0]
	for _, w := range workers {
		if cpuTime(t, w.pid) > cpuTime(t, busiest.pid) {
			busiest = w
		}
	}
	killed := time.Now()
	kill(t, busiest.pid)
	connect, files := f.again(t, killed)
	t.Logf("after the worker was killed new connections worked after %s, all files were there after %s", connect.Round(10*time.Millisecond), files.Round(10*time.Millisecond))
	if connect > againLimit {
		t.Errorf("it took %s until new connections worked", connect)
	}
	if err := <-tr.done; err == nil {
		t.Error("the transfer outlived its worker")
	}
	f.resume(t, tr)
	f.sameHolders(t, before)
	now, others := f.c.w.agentProcess(t)
	if now.pid != agent.pid {
		t.Error("the agent was started again")
	}
	same := 0
	for _, w := range others {
		for _, x := range workers {
			if w.pid == x.pid && x.pid != busiest.pid {
				same++
			}
		}
	}
	if same != len(workers)-1 {
		t.Errorf("of %d workers that were not killed %d are there", len(workers)-1, same)
	}
}

// agentUpgraded: the agent's pod is replaced while nobody reads. Sessions go on by themselves.
func (f *fault) agentUpgraded(t *testing.T) {
	before := f.holders(t)
	if _, err := f.c.w.kubectl(t.Context(), "-n", agentNamespace, "rollout", "restart", "daemonset/vmfr-agent"); err != nil {
		t.Fatal(err)
	}
	from := time.Now()
	cluster.Await(t, serveLimit, f.c.w.agentReady)
	ready := time.Since(from)
	connect, files := f.again(t, from)
	t.Logf("the new agent was ready after %s, new connections worked after %s, all files were there after %s",
		ready.Round(10*time.Millisecond), connect.Round(10*time.Millisecond), files.Round(10*time.Millisecond))
	f.sameHolders(t, before)
	if got := f.s.File(t, f.path(guest.Created)); got != "an idea\n" {
		t.Errorf("after the upgrade: %q", got)
	}
}

// deleted: the restore is deleted while a file is pulled. The client is told, and nobody waits for
// it.
func (f *fault) deleted(t *testing.T) {
	tr := f.pull(t.Context(), t, 80)
	took := f.shop.delete(t)
	t.Logf("deleted in %s, with a client", took.Round(10*time.Millisecond))
	select {
	case err := <-tr.done:
		if err == nil {
			t.Error("the transfer outlived the restore")
		}
	case <-time.After(serveLimit):
		t.Error("the client still waits for its file")
	}
	f.c.w.remove(t, f.bank.VirtualMachineFileRestore)
}

// controllerKilled: all controllers are killed while a restore is under way, and again while it is
// deleted. That each single step survives is tested with the controller's own package.
func (f *fault) controllerKilled(t *testing.T) {
	r := f.c.web.restore(t, "killed", "web-again", backups(snapshot))
	f.killControllers(t)
	cluster.Await(t, serveLimit, func() error {
		if pods := r.holders(t); len(pods) == 0 {
			return fmt.Errorf("no holder yet: %s", r.text())
		}
		return nil
	})
	f.killControllers(t)
	r.await(t, v1alpha1.FileRestoreCompleted)
	s := r.server(t)
	if got := s.File(t, f.path(guest.Created)); got != "an idea\n" {
		t.Errorf("%q", got)
	}
	if err := f.c.w.admin.Delete(t.Context(), r.VirtualMachineFileRestore); err != nil {
		t.Fatal(err)
	}
	f.killControllers(t)
	cluster.Await(t, endLimit, func() error { return cluster.Gone(f.c.w.admin, r.VirtualMachineFileRestore) })
}

// killControllers kills all of the controller's pods at once.
func (f *fault) killControllers(t testing.TB) {
	t.Helper()
	pods, err := f.c.w.pods(controllerNamespace, "app.kubernetes.io/name", "vmfr-controller")
	if err != nil || len(pods) == 0 {
		t.Fatalf("%d controllers: %v", len(pods), err)
	}
	if f.c.w.node != nil {
		for _, p := range f.c.w.processes(t) {
			if p.is("/vmfr-controller") {
				kill(t, p.pid)
			}
		}
		return
	}
	for _, p := range pods {
		if _, err := f.c.w.kubectl(t.Context(), "-n", controllerNamespace, "delete", "pod", p.Name, "--grace-period=0", "--force"); err != nil {
			t.Fatal(err)
		}
	}
}
