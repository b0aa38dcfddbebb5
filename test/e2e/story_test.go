package e2e

import (
	"flag"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
	"vmfr/test/e2e/guest"
	"vmfr/test/e2e/pull"
	"vmfr/test/fixture"
)

// The machine of the story, and its backups.
const (
	moved    = "nightly-1" // its data is in the object storage
	snapshot = "nightly-2" // its data is in the volumes' storage
)

// TestCluster is one cluster's life with file restores. The backups are made once; what follows uses
// them in turns.
func TestCluster(t *testing.T) {
	fixture.NeedRoot(t)
	fixture.Need(t, "kubectl", "sftp", "scp", "rsync", "curl", "unzip", "tar", "chromium")
	w := enter(t)
	c := &chapter{w: w, costs: &costs{}}
	if w.size > 0 {
		c.costs.add("image, uncompressed", fmt.Sprintf("%d MiB", w.size>>20))
	}
	if chosen("story") || chosen("faults") {
		c.prologue(t)
	}
	c.costs.memory(t, w, "without a session")
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"what is missing is told", c.told}, {"story", c.story}, {"many", c.many}, {"faults", c.faults},
	} {
		if !t.Run(test.name, test.run) && *keep {
			t.FailNow()
		}
	}
	if *record != "" && !t.Failed() {
		c.costs.write(t, *record)
	}
}

// chosen tells whether -run, as package testing reads it, leaves a chapter in.
func chosen(chapter string) bool {
	_, below, _ := strings.Cut(flag.Lookup("test.run").Value.String(), "/")
	pattern, _, _ := strings.Cut(below, "/")
	ok, err := regexp.MatchString(pattern, chapter)
	return ok || err != nil
}

// prologue makes the machine and its backups, and loses it.
func (c *chapter) prologue(t *testing.T) {
	c.began = time.Now()
	web := c.w.machine(t, cluster.VM{Namespace: "shop", Name: "web", Disks: []cluster.Disk{
		{Name: "root", DataVolume: true, Filesystem: true, Size: "512Mi"}, {Name: "data", Bus: "scsi", Size: "400Mi"}}})

	g := guest.New(t)
	earlier := g.State(t)
	web.fill(t, earlier.Root, earlier.Data)
	web.backup(t, moved, true)
	g.Change(t, g.Work)
	later := g.State(t)
	web.fill(t, later.Root, later.Data)
	web.backup(t, snapshot, false)
	web.lose(t)

	c.web, c.earlier, c.later = web, earlier, later
}

// chapter is what the subtests share.
type chapter struct {
	w              *world
	began          time.Time // before the first backup
	web            *machine
	earlier, later guest.State
	costs          *costs
}

// story: the files of both backups reach people by every client, as the kernel showed them, and
// nothing is left when the restore is deleted.
func (c *chapter) story(t *testing.T) {
	before := c.w.state(t)
	c.web.discover(t, "web", moved, snapshot)
	times := c.w.watchTimes(t)
	times.began()
	r := c.web.restore(t, "recover", "web")
	r.await(t, v1alpha1.FileRestoreCompleted)
	times.first(told)
	s := r.server(t)
	root := c.web.disk(0)
	if out, err := s.SFTP(t.Context(), t, "ls -1 /backups/"+moved+"/"+root); err != nil || !strings.Contains(out, "etc") {
		t.Fatalf("%v\n%s", err, out)
	}
	times.first(listed)
	p := times.awaitParts(t)
	t.Log(p)
	c.costs.restore("data mover and snapshot, two backups", p)
	c.costs.memory(t, c.w, "one session, idle")
	if got, _ := s.Fingerprint(t); got != r.Status.FileServingInfo.FileBrowser.Fingerprint {
		t.Errorf("the certificate's fingerprint is %s, the status says %s", got, r.Status.FileServingInfo.FileBrowser.Fingerprint)
	}
	for backup, files := range map[string]guest.State{moved: c.earlier, snapshot: c.later} {
		t.Run(backup, func(t *testing.T) { pull.Clients(t, s, "/backups/"+backup+"/"+root, files.Files) })
	}
	t.Run("between the backups", func(t *testing.T) { c.between(t, s) })

	took := r.delete(t)
	t.Logf("deleted in %s", took.Round(10*time.Millisecond))
	c.w.remove(t, &v1alpha1.VirtualMachineBackupsDiscovery{ObjectMeta: r.ref(r.Spec.BackupsDiscoveryRef)})
	c.w.awaitNothingLeft(t, before)
}

// between: what was changed, deleted and made is told by the server as it was.
func (c *chapter) between(t *testing.T, s pull.Server) {
	root := c.web.disk(0)
	for name, in := range map[string][2]bool{guest.Deleted: {true, false}, guest.Created: {false, true}, guest.Report: {true, true}} {
		for i, backup := range []string{moved, snapshot} {
			_, err := s.Curl(t.Context(), t, s.URL("/files/backups/"+backup+"/"+root+"/"+name), "-o", "/dev/null")
			if (err == nil) != in[i] {
				t.Errorf("%s in %s: %v, want there: %v", name, backup, err, in[i])
			}
		}
	}
	out, err := s.Curl(t.Context(), t, s.URL("/api/v1/diff"), "-G", "--data-urlencode", "from=/backups/"+moved+"/"+root+"/srv/share",
		"--data-urlencode", "to=/backups/"+snapshot+"/"+root+"/srv/share", "--data", "content=1")
	if err != nil || !strings.Contains(out, "report.odt") {
		t.Errorf("the difference: %v\n%s", err, out)
	}
	dates, err := s.SFTP(t.Context(), t, "ls -1 /restores")
	month := func(at time.Time) bool { return strings.Contains(dates, at.UTC().Format("2006-01-")) }
	if err != nil || !month(c.began) && !month(time.Now()) { // the backups were made between these, and a month may have ended
		t.Errorf("/restores has no folder of this month: %v\n%s", err, dates)
	}
}
