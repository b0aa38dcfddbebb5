package discovery

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
)

// TestVelero examines real backups of a real Velero.
func TestVelero(t *testing.T) {
	b := newBench(t)
	claims := b.cp.CreateVM(t, cluster.VM{Namespace: "shop", Name: "db", Disks: []cluster.Disk{
		{Name: "root", DataVolume: true}, {Name: "log", Bus: "scsi", Filesystem: true, Size: "2Gi"}, {Name: "old", Unlabelled: true}}})
	b.cp.CreateVM(t, cluster.VM{Namespace: "shop", Name: "web", Disks: []cluster.Disk{{Name: "root"}}})
	b.cp.CreateVM(t, cluster.VM{Namespace: "bank", Name: "db", Disks: []cluster.Disk{{Name: "root"}}})

	real := func(name, namespace string) *velerov1.Backup {
		o := b.velero.BackupOf(t, name, namespace)
		if o.Status.Phase != velerov1.BackupPhaseCompleted {
			t.Fatalf("%s is %s: %+v", name, o.Status.Phase, o.Status)
		}
		return o
	}
	// The newest first: the order of names and of creation is not that of time.
	b.march = real("a-march", "shop")
	b.age(t, b.march, "2026-03-10")
	b.age(t, real("c-bank", "bank"), "2026-01-11")
	b.velero.CopyBackup(t, b.march, "b-january", day("2026-01-10"))
	b.velero.CopyBackup(t, b.march, "d-february", day("2026-02-10"))

	stop, _ := b.controller(t, Options{})
	defer stop()
	t.Run("all", func(t *testing.T) { b.testAll(t, claims[0].Name) })
	t.Run("selection", b.testSelection)
	t.Run("unusable", b.testUnusable)
	t.Run("locations", b.testLocations)
	t.Run("changes", b.testChanges)
	t.Run("requests", b.testRequests)
	stop()
	if left := working(); len(left) > 0 {
		t.Errorf("%d goroutines survive the manager:\n%s", len(left), strings.Join(left, "\n\n"))
	}
	t.Run("restart", b.testRestart)
	t.Run("concurrency", b.testConcurrency)
}

// testAll looks at every field of one status.
func (b *bench) testAll(t *testing.T, root string) {
	d := discovery("all", nil)
	b.create(t, d)
	s := b.over(t, d)
	if got, want := brief(s), "Completed: b-january d-february a-march; c-bank the virtual machine is not in the backup: the backup does not include the namespace shop (spec.includedNamespaces)"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	var pvcs []string
	for _, p := range s.ValidBackups[0].PVCs {
		pvcs = append(pvcs, fmt.Sprintf("%s/%s %s %t", p.PVCNamespace, p.PVCName, p.Size, p.PVCUID != ""))
	}
	if want := []string{"shop/db-root 1Gi true", "shop/db-log 2Gi true", "shop/db-old 1Gi false"}; !slices.Equal(pvcs, want) || root != "db-root" {
		t.Errorf("volumes %q, want %q", pvcs, want)
	}
	if at := s.ValidBackups[0].CreatedAt.UTC().Format(time.RFC3339); at != "2026-01-10T12:00:00Z" {
		t.Errorf("taken at %s", at)
	}
	for kind, want := range map[string]string{
		v1alpha1.ConditionProgressing: "False Completed", v1alpha1.ConditionAvailable: "True BackupsFound",
		v1alpha1.ConditionDegraded: "False NoFailures", v1alpha1.ConditionReady: "True Completed"} {
		c := meta.FindStatusCondition(s.Conditions, kind)
		if c == nil || string(c.Status)+" "+c.Reason != want || c.ObservedGeneration != d.Generation {
			t.Errorf("%s is %+v, want %s", kind, c, want)
		}
	}
	if n := s.DiscoveryStats; n.StartTime == nil || n.CompletionTime == nil || n.TotalCandidates != 4 || n.Skipped != 1 {
		t.Errorf("%+v", n)
	}
	out, err := b.cp.Kubectl("", "-n", d.Namespace, "get", "vmbd", "all")
	if fields := strings.Fields(out); err != nil || !slices.Equal(fields[7:13], []string{"all", "db", "shop", "Completed", "3", "1"}) {
		t.Errorf("kubectl: %v\n%s", err, out)
	}
	cluster.Await(t, limit, func() error {
		var l eventsv1.EventList
		if err := b.client.List(ctx, &l, client.InNamespace(d.Namespace)); err != nil {
			return err
		}
		for _, e := range l.Items {
			if e.Regarding.Name == "all" && e.Reason == v1alpha1.ReasonCompleted && e.Note == "3 of 4 backups hold the virtual machine shop/db" {
				return nil
			}
		}
		return fmt.Errorf("no event among %d", len(l.Items))
	})
	var left velerov1.DownloadRequestList
	if err := b.client.List(ctx, &left); err != nil || len(left.Items) > 0 {
		t.Errorf("%d DownloadRequests are left, %v", len(left.Items), err)
	}
}

func (b *bench) testSelection(t *testing.T) {
	at := func(s string) *v1alpha1.Time { return new(v1alpha1.Time(s)) }
	type spec = v1alpha1.VirtualMachineBackupsDiscoverySpec
	for name, c := range map[string]struct {
		edit func(*spec)
		want string
	}{
		"requested": {requested("a-march"), "Completed: a-march"},
		"range":     {func(s *spec) { s.StartTime, s.EndTime = at("2026-02-10"), at("2026-03-10") }, "Completed: d-february a-march"},
		"both":      {func(s *spec) { s.RequestedBackups, s.EndTime = []string{"a-march"}, at("2026-01-10") }, "Completed: b-january a-march"},
		"ranges": {func(s *spec) {
			s.TimeRanges = []v1alpha1.TimeRange{{EndTime: at("2026-01-10")}, {StartTime: at("2026-03-01")}}
		}, "Completed: b-january a-march"},
		"first":          {func(s *spec) { s.StartTime, s.IncludeFirst = at("2026-03-01"), true }, "Completed: b-january a-march"},
		"none":           {func(s *spec) { s.EndTime = at("2025-01-01") }, "Failed:"},
		"missing":        {requested("a-march", "never"), "PartiallyFailed: a-march; never not found in the cluster: there is no backup never in the namespace velero"},
		"only-missing":   {requested("never"), "Failed:; never not found in the cluster: there is no backup never in the namespace velero"},
		"no-such-vm":     {func(s *spec) { s.VirtualMachineName, s.RequestedBackups = "dbx", []string{"a-march"} }, "Failed:; a-march the virtual machine shop/dbx is not in the backup"},
		"wrong-namesake": {func(s *spec) { s.VirtualMachineNamespace, s.RequestedBackups = "bank", []string{"c-bank"} }, "Completed: c-bank"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := discovery("select-"+name, c.edit)
			b.create(t, d)
			s := b.over(t, d)
			if got := brief(s); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
			ready, degraded := s.Phase != v1alpha1.DiscoveryFailed, s.Phase != v1alpha1.DiscoveryCompleted
			if meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionReady) != ready || meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionAvailable) != ready ||
				meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionDegraded) != degraded {
				t.Errorf("%+v", s.Conditions)
			}
			if c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady); !ready && c.Reason != v1alpha1.ReasonNoValidBackupsFound {
				t.Errorf("%+v", c)
			}
		})
	}
}

// testUnusable has a backup in each state in which it cannot be restored from.
func (b *bench) testUnusable(t *testing.T) {
	names := []string{"u-failed", "u-open", "u-expired", "u-garbled", "u-cut", "u-lost", "u-list", "u-nolist"}
	for _, n := range names {
		o := b.velero.CopyBackup(t, b.march, n, time.Now())
		switch n {
		case "u-failed":
			b.edit(t, o, func(o *velerov1.Backup) {
				o.Status.Phase, o.Status.FailureReason = velerov1.BackupPhaseFailed, "no space"
			})
		case "u-open":
			b.edit(t, o, func(o *velerov1.Backup) { o.Status.BackupItemOperationsAttempted += 2 })
		case "u-expired":
			b.edit(t, o, func(o *velerov1.Backup) { o.Status.Expiration = &metav1.Time{Time: time.Now().Add(-time.Minute)} })
		case "u-garbled":
			b.velero.Default.Garble(t, n, ".tar.gz")
		case "u-cut":
			b.velero.Default.Truncate(t, n, ".tar.gz")
		case "u-lost":
			b.velero.Default.Remove(t, n, ".tar.gz")
		case "u-list":
			b.velero.Default.Garble(t, n, "-resource-list.json.gz")
		case "u-nolist":
			b.velero.Default.Remove(t, n, "-resource-list.json.gz")
		}
	}
	b.velero.BackupInPhase(t, "u-running", "shop", velerov1.BackupPhaseWaitingForPluginOperations)
	b.velero.DeleteBackup(t, b.velero.CopyBackup(t, b.march, "u-deleted", time.Now()))

	d := discovery("unusable", requested(append(names, "u-running", "u-deleted")...))
	b.create(t, d)
	s := b.over(t, d)
	if s.Phase != v1alpha1.DiscoveryPartiallyFailed || len(s.ValidBackups) != 1 || s.ValidBackups[0].Name != "u-nolist" {
		t.Errorf("%s", brief(s))
	}
	progress := map[string]v1alpha1.BackupProgress{}
	for _, p := range s.BackupDiscoveryProgress {
		progress[p.Name] = p
	}
	for name, want := range map[string]struct {
		status v1alpha1.BackupStatus
		reason string
	}{
		"u-failed":  {v1alpha1.BackupSkipped, "the backup is Failed, not Completed: no space"},
		"u-open":    {v1alpha1.BackupSkipped, "incomplete asynchronous operations: 2 of the backup have not ended"},
		"u-expired": {v1alpha1.BackupSkipped, "the backup expired at "},
		"u-running": {v1alpha1.BackupSkipped, "the backup is WaitingForPluginOperations, not Completed"},
		"u-deleted": {v1alpha1.BackupFailed, "not found in the cluster"},
		"u-garbled": {v1alpha1.BackupFailed, "unreadable contents"},
		"u-cut":     {v1alpha1.BackupFailed, "unreadable contents"},
		"u-lost":    {v1alpha1.BackupFailed, "404 Not Found (NoSuchKey)"},
		"u-list":    {v1alpha1.BackupFailed, "unreadable contents"},
	} {
		p := progress[name]
		if p.Status != want.status || !strings.Contains(p.Message, want.reason) {
			var o velerov1.Backup
			err := b.client.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: name}, &o)
			t.Errorf("%s is %s: %s, want %s: %s\n%+v, %v", name, p.Status, p.Message, want.status, want.reason, o.Status, err)
		}
	}
}

// testLocations: a location whose certificate only its caCert knows, and one that goes away.
func (b *bench) testLocations(t *testing.T) {
	tls := b.velero.AddTLSLocation(t, "tls")
	down := b.velero.AddLocation(t, "down")
	for name, l := range map[string]*cluster.Location{"l-tls": tls, "l-down": down} {
		b.velero.Backup(t, name, velerov1.BackupSpec{IncludedNamespaces: []string{"shop"}, StorageLocation: l.Name})
	}
	if tls.CA == nil || !strings.HasPrefix(tls.URL, "https://") {
		t.Fatalf("%+v", tls)
	}
	down.Down()
	down.AwaitPhase(t, velerov1.BackupStorageLocationPhaseUnavailable)
	d := discovery("locations", requested("l-tls", "l-down", "b-january"))
	b.create(t, d)
	s := b.over(t, d)
	if len(s.ValidBackups) != 2 || s.DiscoveryStats.Failed != 1 || !strings.Contains(brief(s), "l-down the backup could not be verified: the storage location cannot be read: Velero says that down is unavailable: ") {
		t.Errorf("%s", brief(s))
	}

	// Velero's word comes late: until then connections fail. The word is forged here, and Velero is
	// told not to look again.
	var l velerov1.BackupStorageLocation
	claim := func(frequency *metav1.Duration, phase velerov1.BackupStorageLocationPhase) {
		t.Helper()
		if err := b.client.Get(ctx, client.ObjectKey{Namespace: cluster.VeleroNamespace, Name: "down"}, &l); err != nil {
			t.Fatal(err)
		}
		before := l.DeepCopy()
		l.Spec.ValidationFrequency, l.Status.Phase = frequency, phase
		if err := b.client.Patch(ctx, &l, client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
	}
	claim(&metav1.Duration{}, velerov1.BackupStorageLocationPhaseUnavailable)
	cluster.Await(t, limit, func() error {
		claim(&metav1.Duration{}, velerov1.BackupStorageLocationPhaseAvailable)
		d = discovery(fmt.Sprint("unreachable-", l.ResourceVersion), requested("l-tls", "l-down", "b-january"))
		b.create(t, d)
		s = b.over(t, d)
		if strings.Contains(brief(s), "says that down is unavailable") {
			return fmt.Errorf("a validation was under way: %s", brief(s))
		}
		return nil
	})
	if len(s.ValidBackups) != 2 || !strings.Contains(brief(s), "connection refused") || strings.Contains(brief(s), "X-Amz") {
		t.Errorf("%s", brief(s))
	}
	down.Up(t)
	claim(nil, velerov1.BackupStorageLocationPhaseUnavailable)
	down.AwaitPhase(t, velerov1.BackupStorageLocationPhaseAvailable)
	d = discovery("reachable", requested("l-down"))
	b.create(t, d)
	if s = b.over(t, d); len(s.ValidBackups) != 1 {
		t.Errorf("%s", brief(s))
	}
	if err := b.client.Delete(ctx, &l); err != nil {
		t.Fatal(err)
	}
	d = discovery("no-location", requested("l-down"))
	b.create(t, d)
	if s = b.over(t, d); !strings.Contains(brief(s), `the BackupStorageLocation "down" does not exist`) {
		t.Errorf("%s", brief(s))
	}
}

// testChanges: another specification starts over; a deleted discovery leaves nothing.
func (b *bench) testChanges(t *testing.T) {
	d := discovery("changes", requested("a-march"))
	b.create(t, d)
	b.over(t, d)
	for _, names := range [][]string{{"b-january"}, {"b-january", "d-february"}, {"never"}} {
		before := d.DeepCopy()
		d.Spec.RequestedBackups = names
		if err := b.client.Patch(ctx, d, client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
		s := b.over(t, d)
		var got []string
		for _, p := range s.BackupDiscoveryProgress {
			got = append(got, p.Name)
		}
		if !slices.Equal(got, names) || s.ObservedGeneration != d.Generation {
			t.Errorf("%v: %s", names, brief(s))
		}
	}
}

// testRestart kills a controller between two backups: the next one goes on, and does not look again
// at what was decided.
func (b *bench) testRestart(t *testing.T) {
	first := &watched{gate: make(chan struct{}, 1)}
	first.gate <- struct{}{} // one look
	stop, _ := b.controller(t, Options{observe: first.of, MaxConcurrentBackups: 2})
	d := discovery("restart", requested("a-march", "b-january", "d-february"))
	b.create(t, d)
	cluster.Await(t, limit, func() error {
		if err := b.client.Get(ctx, client.ObjectKeyFromObject(d), d); err != nil {
			return err
		}
		if len(d.Status.ValidBackups) != 1 || d.Status.DiscoveryStats.InProgress != 2 {
			return fmt.Errorf("%+v", d.Status.DiscoveryStats)
		}
		return consistent(&d.Status)
	})
	stop()
	if left := working(); len(left) > 0 {
		t.Fatalf("%d goroutines survive the manager:\n%s", len(left), strings.Join(left, "\n\n"))
	}
	done, began := d.Status.ValidBackups[0].Name, d.Status.DiscoveryStats.StartTime

	second := &watched{}
	stop, reg := b.controller(t, Options{observe: second.of})
	s := b.over(t, d)
	if brief(s) != "Completed: b-january d-february a-march" || !s.DiscoveryStats.StartTime.Equal(began) {
		t.Errorf("%s", brief(s))
	}
	if second.looks[done] != 0 || len(second.looks) != 2 {
		t.Errorf("after %s the second controller looked at %v", done, second.looks)
	}
	stop()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	if got["vmfr_discoveries_total completed"] != 1 || got["vmfr_discovery_backups_total completed"] != 3 || got["vmfr_discovery_downloaded_bytes_total"] < 1000 || got["vmfr_discovery_seconds"] != 1 {
		t.Errorf("metrics %v", got)
	}
}

// testConcurrency: no more looks at a time than allowed, over all discoveries; waiting discoveries say
// so; a deleted one stops.
func (b *bench) testConcurrency(t *testing.T) {
	w := &watched{gate: make(chan struct{})}
	stop, _ := b.controller(t, Options{observe: w.of, MaxConcurrentBackups: 3, MaxConcurrentDiscoveries: 2})
	defer stop()
	var all []*v1alpha1.VirtualMachineBackupsDiscovery
	for i := range 3 {
		d := discovery(fmt.Sprint("many-", i), nil)
		b.create(t, d)
		all = append(all, d)
	}
	phases := func() (p []v1alpha1.DiscoveryPhase) {
		for _, d := range all {
			if err := b.client.Get(ctx, client.ObjectKeyFromObject(d), d); err == nil {
				p = append(p, d.Status.Phase)
			}
		}
		slices.Sort(p)
		return p
	}
	cluster.Await(t, limit, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if p := phases(); w.now != 3 || !slices.Equal(p, []v1alpha1.DiscoveryPhase{"InProgress", "InProgress", "New"}) {
			return fmt.Errorf("%d looks, phases %q", w.now, p)
		}
		return nil
	})
	// The deleted one's looks end, and the waiting one gets its place.
	for i, d := range all {
		if d.Status.Phase == v1alpha1.DiscoveryInProgress {
			if err := b.client.Delete(ctx, d); err != nil {
				t.Fatal(err)
			}
			all = slices.Delete(all, i, i+1)
			break
		}
	}
	cluster.Await(t, limit, func() error {
		if p := phases(); !slices.Equal(p, []v1alpha1.DiscoveryPhase{"InProgress", "InProgress"}) {
			return fmt.Errorf("phases %q", p)
		}
		return nil
	})
	close(w.gate)
	for _, d := range all {
		if s := b.over(t, d); s.DiscoveryStats.Completed < 4 {
			t.Errorf("%s", brief(s))
		}
	}
	if w.most != 3 {
		t.Errorf("%d looks at a time, want 3", w.most)
	}
}
