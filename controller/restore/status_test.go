package restore

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
)

func someBackups() []*backup {
	day := func(n int) time.Time { return time.Date(2026, 4, n, 0, 0, 0, 0, time.UTC) }
	root := func(state v1alpha1.RestoreState, reason string) *disk {
		return &disk{Disk: plan.Disk{Name: "root", PVCUID: "u1", Size: resource.MustParse("10Gi")}, namespace: "shop", state: state, reason: reason}
	}
	data := &disk{Disk: plan.Disk{Name: "data", PVCUID: "u2"}, namespace: "shop", state: v1alpha1.RestoreProcessing}
	return []*backup{
		{number: 1, name: "old", namespace: "velero", taken: day(1), disks: []*disk{root(v1alpha1.RestoreBackupDeleted, "gone")}},
		{number: 2, name: "a", namespace: "velero", taken: day(2), restoreName: "vmfr-x-2", restorePhase: "Completed", created: &metav1.Time{Time: day(3)}, completed: &metav1.Time{Time: day(4)},
			disks: []*disk{data, root(v1alpha1.RestoreProcessing, "")}},
		{number: 3, name: "b", namespace: "velero", taken: day(2), disks: []*disk{root(v1alpha1.RestoreProcessing, "")}},
	}
}

// What is written into the status is what the next reconciliation reads from it.
func TestVolumes(t *testing.T) {
	want := someBackups()
	status := &v1alpha1.VirtualMachineFileRestoreStatus{PVCRestores: volumes(want, "velero")}
	if got := load(status); !reflect.DeepEqual(got, want) {
		for i := range got {
			t.Errorf("%+v %+v\nwant %+v %+v", got[i], got[i].disks[0], want[i], want[i].disks[0])
		}
	}
	if len(status.PVCRestores) != 2 || len(status.PVCRestores[1].Restores) != 3 {
		t.Errorf("%+v", status.PVCRestores)
	}
	// Failures that can be found again are not taken over, so that a report or a Secret can mend them.
	status.PVCRestores[0].Restores[0].State = v1alpha1.RestoreFailed
	if d := load(status)[1].disks[0]; d.state != v1alpha1.RestoreProcessing {
		t.Errorf("%+v", d)
	}
}

func TestArrange(t *testing.T) {
	b := &backup{name: "b"}
	for _, n := range []string{"a", "b", "c", "d"} {
		b.disks = append(b.disks, &disk{Disk: plan.Disk{Name: n, PVCUID: types.UID("u" + n)}, state: v1alpha1.RestoreProcessing})
	}
	b.disks[3].PVCUID, b.disks[3].state = "", v1alpha1.RestoreUnsupportedPlugin
	b.arrange([]plan.Disk{{Name: "c", PVCUID: "uc", Mode: session.Block, Bus: "virtio"}, {Name: "d", Mode: session.Block}, {Name: "a", PVCUID: "ua"}, {Name: "b", PVCUID: "another"}})
	var got []string
	for _, d := range b.disks {
		got = append(got, d.Name+" "+string(d.state)+" "+string(d.Mode))
	}
	want := "c processing Block, d unsupported-plugin Block, a processing Filesystem, b extraction-failed "
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("%q\nwant %q", s, want)
	}
	if !b.disks[0].known || b.disks[1].known || b.disks[3].known {
		t.Error("a volume without a UID, or that the backup does not hold, is taken for one that can be served")
	}
}

// Each step is told once, and a failure with its volume.
func TestChanges(t *testing.T) {
	at := func(phase v1alpha1.FileRestorePhase, reason string, backups []*backup) *v1alpha1.VirtualMachineFileRestoreStatus {
		return &v1alpha1.VirtualMachineFileRestoreStatus{Phase: phase, PVCRestores: volumes(backups, "velero"),
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionProgressing, Reason: reason, Message: "m"}}}
	}
	before := at(v1alpha1.FileRestoreInProgress, v1alpha1.ReasonWaitingForRestores, someBackups())
	if e := changes(before, before); len(e) != 0 {
		t.Errorf("nothing happened, and %v is told", e)
	}
	next := someBackups()
	next[1].disks[0].fail(v1alpha1.RestoreFailed, "lost")
	next[1].disks[1].state = v1alpha1.RestoreAvailable
	next[2].restoreName = "vmfr-x-3"
	after := at(v1alpha1.FileRestorePartiallyFailed, v1alpha1.ReasonPartiallyFailed, next)
	var got []string
	for _, e := range changes(before, after) {
		got = append(got, e.kind+" "+e.reason+" "+e.action)
	}
	want := "Warning SomeRestoresFailed Restore a/data, Normal FileServerAvailable Restore a, Normal WaitingForRestores Restore b, Warning PartiallyFailed Session"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("%q\nwant %q", s, want)
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	var list []v1alpha1.VirtualMachineFileRestore
	leads := false
	m, err := newInstruments(registry, func() ([]v1alpha1.VirtualMachineFileRestore, bool) { return list, leads })
	if err != nil {
		t.Fatal(err)
	}
	key := types.NamespacedName{Namespace: "velero", Name: "v"}
	status := func(phase v1alpha1.FileRestorePhase, reason string) *v1alpha1.VirtualMachineFileRestoreStatus {
		return &v1alpha1.VirtualMachineFileRestoreStatus{Phase: phase, Conditions: []metav1.Condition{{Type: v1alpha1.ConditionProgressing, Reason: reason}}}
	}
	now := time.Now()
	empty := &v1alpha1.VirtualMachineFileRestoreStatus{}
	one, two := status(v1alpha1.FileRestoreInProgress, v1alpha1.ReasonWaitingForRestores), status(v1alpha1.FileRestoreFailed, v1alpha1.ReasonAllRestoresFailed)
	m.changed(key, empty, one, now)
	m.changed(key, one, two, now.Add(8*time.Second))
	// value is that of the series with this label: a gauge's, a counter's, or a histogram's count.
	value := func(name, label string) float64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, x := range f.Metric {
				if f.GetName() == name && len(x.Label) == 1 && x.Label[0].GetValue() == label {
					if f.GetType() == dto.MetricType_HISTOGRAM {
						return float64(x.Histogram.GetSampleCount())
					}
					return x.Gauge.GetValue() + x.Counter.GetValue()
				}
			}
		}
		return -1
	}
	check := func(name, label string, want float64) {
		t.Helper()
		if got := value(name, label); got != want {
			t.Errorf("%s of %s is %v, want %v", name, label, got, want)
		}
	}
	check("vmfr_file_restore_failures_total", v1alpha1.ReasonAllRestoresFailed, 1)
	check("vmfr_file_restore_phase_seconds", v1alpha1.ReasonWaitingForRestores, 1)
	m.forget(key)
	if len(m.known) > 0 {
		t.Error("a restore that is gone is remembered")
	}
	list = []v1alpha1.VirtualMachineFileRestore{{Status: *two}, {Status: *two}, {}}
	check("vmfr_file_restores", "Failed", -1) // told by the leader alone
	leads = true
	check("vmfr_file_restores", "Failed", 2)
	check("vmfr_file_restores", "New", 1)
	list = nil
	check("vmfr_file_restores", "Failed", 0)
}

func TestOptions(t *testing.T) {
	good := Options{Plan: planConfig("velero"), Contents: fixedContents{}}
	if _, err := good.complete(); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Options){
		"metadata":        func(o *Options) { o.Contents = nil },
		"namespace":       func(o *Options) { o.Plan.Namespace = "" },
		"is negative":     func(o *Options) { o.HolderLimit = -1 },
		"number":          func(o *Options) { o.MaxConcurrentRestores = -1 },
		"--holder-image:": func(o *Options) { o.Plan.Image = "" },
	} {
		o := good
		change(&o)
		if _, err := o.complete(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// An error of the API server changes no volume's state.
func TestConcludeFailure(t *testing.T) {
	v := &v1alpha1.VirtualMachineFileRestore{Status: v1alpha1.VirtualMachineFileRestoreStatus{Phase: v1alpha1.FileRestoreCompleted, PVCRestores: volumes(someBackups(), "velero")}}
	s := &scope{vmfr: v.DeepCopy(), before: v, now: time.Now()}
	(&reconciler{}).conclude(s, errors.New("the server is busy"))
	if s.vmfr.Status.Phase != v1alpha1.FileRestoreCompleted || !reflect.DeepEqual(s.vmfr.Status.PVCRestores, v.Status.PVCRestores) || !strings.Contains(progressing(&s.vmfr.Status).message, "busy") {
		t.Errorf("%+v", s.vmfr.Status)
	}
}
