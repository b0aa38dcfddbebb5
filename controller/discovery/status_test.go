package discovery

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"vmfr/api/v1alpha1"
	"vmfr/controller/velero"
)

var shopDB = types.NamespacedName{Namespace: "shop", Name: "db"}

// runOf is a run with entries in the given states.
func runOf(states ...v1alpha1.BackupStatus) *run {
	r := &run{key: types.NamespacedName{Namespace: "velero", Name: "d"}, generation: 3, changed: make(chan struct{}, 1), subject: subject{vm: shopDB}, free: maxStatus}
	for i, s := range states {
		r.entries = append(r.entries, &entry{name: fmt.Sprint("b", i), taken: time.Unix(int64(i+1)*1000, 5), outcome: outcome{status: s, reason: "why"}})
	}
	return r
}

// TestStatus is each phase with its conditions.
func TestStatus(t *testing.T) {
	t.Parallel()
	const n, w, c, s, f = v1alpha1.BackupNew, v1alpha1.BackupInProgress, v1alpha1.BackupCompleted, v1alpha1.BackupSkipped, v1alpha1.BackupFailed
	type states = []v1alpha1.BackupStatus
	for name, x := range map[string]struct {
		states  states
		failure error
		ended   bool
		want    string // the phase, then Progressing, Available, Degraded and Ready
		message string // a part of Ready's
	}{
		"nothing yet":     {states{}, nil, false, "InProgress True/DiscoveryInProgress False/InProgress False/NoFailures False/InProgress", "0 valid backups so far"},
		"at work":         {states{n, w, c, s, f}, nil, false, "InProgress True/DiscoveryInProgress False/InProgress False/NoFailures False/InProgress", "1 valid backups so far"},
		"all valid":       {states{c, c}, nil, true, "Completed False/Completed True/BackupsFound False/NoFailures True/Completed", "2 of 2 backups hold the virtual machine shop/db"},
		"some without":    {states{c, s}, nil, true, "Completed False/Completed True/BackupsFound False/NoFailures True/Completed", "1 of 2"},
		"some unverified": {states{c, s, f}, nil, true, "PartiallyFailed False/PartiallyFailed True/BackupsFound True/PartialFailure True/PartiallyFailed", "1 of 3"},
		"none with it":    {states{s, s}, nil, true, "Failed False/Failed False/NoValidBackupsFound True/CriticalFailure False/NoValidBackupsFound", "see status.invalidBackups"},
		"none verified":   {states{s, f}, nil, true, "Failed False/Failed False/NoValidBackupsFound True/CriticalFailure False/NoValidBackupsFound", "1 could not be verified"},
		"no candidate":    {states{}, nil, true, "Failed False/Failed False/NoValidBackupsFound True/CriticalFailure False/NoValidBackupsFound", "check spec.startTime"},
		"no list":         {states{}, errors.New("boom"), true, "Failed False/Failed False/Failed True/CriticalFailure False/Failed", "boom"},
		"a wrong spec":    {states{}, specError{errors.New("boom")}, true, "Failed False/Failed False/ValidationFailed True/CriticalFailure False/ValidationFailed", "boom"},
		"broken off":      {states{c}, errors.New("boom"), true, "Failed False/Failed False/Failed True/CriticalFailure False/Failed", "boom"},
	} {
		r := runOf(x.states...)
		r.failure = x.failure
		if x.ended {
			r.ended = time.Now()
		}
		st := r.status(v1alpha1.VirtualMachineBackupsDiscoveryStatus{})
		got := string(st.Phase)
		for _, kind := range []string{v1alpha1.ConditionProgressing, v1alpha1.ConditionAvailable, v1alpha1.ConditionDegraded, v1alpha1.ConditionReady} {
			c := meta.FindStatusCondition(st.Conditions, kind)
			got += " " + string(c.Status) + "/" + c.Reason
		}
		if got != x.want || !strings.Contains(meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionReady).Message, x.message) || len(st.Conditions) != 4 {
			t.Errorf("%s: %s\nwant %s\n%+v", name, got, x.want, st.Conditions)
		}
		if err := consistent(&st); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if (st.DiscoveryStats.CompletionTime != nil) != x.ended {
			t.Errorf("%s: %+v", name, st.DiscoveryStats)
		}
	}
	waiting := runOf()
	waiting.waiting = true
	if st := waiting.status(v1alpha1.VirtualMachineBackupsDiscoveryStatus{}); st.Phase != v1alpha1.DiscoveryNew || st.DiscoveryStats != nil {
		t.Errorf("%+v", st)
	}
}

// A thousand backups with the longest names and reasons fit into an object, and so does what is
// found where every backup is valid.
func TestFit(t *testing.T) {
	t.Parallel()
	var all []velero.Backup
	for i := range 1000 {
		all = append(all, velero.Backup{Name: fmt.Sprintf("%0*d", 253, i), Taken: time.Unix(int64(i), 0)})
	}
	for name, result := range map[string]outcome{
		"long reasons": failed("%s", strings.Repeat("\"\u00fc", 4000)),
		"many volumes": {status: v1alpha1.BackupCompleted, pvcs: func() (p []v1alpha1.DiscoveredPVC) {
			for i := range 30 {
				p = append(p, v1alpha1.DiscoveredPVC{PVCName: fmt.Sprintf("%0*d", 200, i), PVCNamespace: "shop", PVCUID: types.UID(strings.Repeat("u", 36)), Size: new(resource.MustParse("10Gi"))})
			}
			return p
		}()},
	} {
		r := runOf()
		if err := r.enter(all, nil); err != nil {
			t.Fatal(err)
		}
		for _, e := range r.entries {
			r.decided(e, result)
		}
		r.ended = time.Now()
		s := r.status(v1alpha1.VirtualMachineBackupsDiscoveryStatus{})
		b, err := json.Marshal(s)
		if err != nil || len(b) > maxStatus+maxStatus/20 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
		if err := consistent(&s); err != nil || len(s.BackupDiscoveryProgress) != 1000 {
			t.Errorf("%s: %v", name, err)
		}
		for _, x := range s.InvalidBackups {
			if len(x.Reason) > maxReason || !utf8.ValidString(x.Reason) || x.Reason == "" && name == "many volumes" {
				t.Fatalf("%s: a reason of %d bytes", name, len(x.Reason))
			}
		}
		t.Logf("%s: %d bytes, %d valid", name, len(b), len(s.ValidBackups))
	}
	for range 20 {
		all = append(all, all...)
		if len(all) > 5000 {
			break
		}
	}
	if err := runOf().enter(all, nil); err == nil || !strings.Contains(err.Error(), "narrow the time range") {
		t.Errorf("%d candidates: %v", len(all), err)
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		most int
		want string
	}{
		{"short", 10, "short"}, {"exactly ten", 11, "exactly ten"}, {"rather long", 10, "rather ..."},
		{"üüüü", 7, "üü..."}, {"üüüü", 6, "ü..."}, {"a\xffb", 10, "a?b"}, {"long", 2, ""}, {"long", 0, ""},
	} {
		if got := cut(c.in, c.most); got != c.want {
			t.Errorf("cut(%q, %d) is %q, want %q", c.in, c.most, got, c.want)
		}
	}
}

// What a status says is what a run goes on with.
func TestPrior(t *testing.T) {
	t.Parallel()
	r := runOf(v1alpha1.BackupNew, v1alpha1.BackupInProgress, v1alpha1.BackupCompleted, v1alpha1.BackupSkipped, v1alpha1.BackupFailed)
	r.entries[2].pvcs = []v1alpha1.DiscoveredPVC{{PVCName: "root"}}
	s := r.status(v1alpha1.VirtualMachineBackupsDiscoveryStatus{})
	prior := priorEntries(&s)
	if len(prior) != 3 || prior["b2"].pvcs[0].PVCName != "root" || prior["b3"].reason != "why" {
		t.Errorf("%+v", prior)
	}
	next := runOf()
	next.prior = prior
	for i, want := range []v1alpha1.BackupStatus{"New", "New", "Completed", "Skipped", "Failed"} {
		if e := next.entryOf(velero.Backup{Name: fmt.Sprint("b", i), Taken: time.Unix(int64(i+1)*1000, 5)}); e.status != want {
			t.Errorf("b%d is %s, want %s", i, e.status, want)
		}
	}
	// A backup of the same name that was taken at another time is another one.
	if e := next.entryOf(velero.Backup{Name: "b2", Taken: time.Unix(1, 0)}); e.status != v1alpha1.BackupNew {
		t.Errorf("%+v", e)
	}
	// Until the backups are listed again, what was found stands.
	next.waiting = true
	if again := next.status(s); len(again.ValidBackups) != 1 {
		t.Errorf("%+v", again)
	}
}
