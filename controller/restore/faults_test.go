package restore

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	velerov2alpha1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v2alpha1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/controller/velero"
	"vmfr/test/cluster"
)

// want is how a volume of a backup has ended.
type want struct {
	state  v1alpha1.RestoreState
	reason string // part of failureReason
}

func checkVolume(t *testing.T, v *v1alpha1.VirtualMachineFileRestore, backup, volume string, w want) {
	t.Helper()
	state, reason := failure(v, backup, volume)
	if state != w.state || !strings.Contains(reason, w.reason) {
		t.Errorf("%s/%s is %q: %q, want %q: %q", backup, volume, state, reason, w.state, w.reason)
	}
}

// served has the node say that everything that can be read is readable.
func (w *world) served(t *testing.T, v *v1alpha1.VirtualMachineFileRestore) {
	t.Helper()
	w.say(t, w.names(v), w.readable(t, v, w.names(v)))
	w.drive(t, v)
}

// ends: however a Restore ends, the wait ends, each volume says why it is not served, and the other backup is.
func (su *suite) ends(t *testing.T) {
	w := su.newWorld(t, 2, nil)
	failed := v1alpha1.RestoreFailed
	for i, x := range []struct {
		phase      velerov1.RestorePhase
		claims     []string
		root, data want
	}{
		{velerov1.RestorePhaseFinalizing, both, want{state: v1alpha1.RestoreAvailable}, want{state: v1alpha1.RestoreAvailable}},
		{velerov1.RestorePhaseFinalizingPartiallyFailed, both[:1], want{state: v1alpha1.RestoreAvailable}, want{failed, "restored no volume for web-data"}},
		{velerov1.RestorePhasePartiallyFailed, both[:1], want{state: v1alpha1.RestoreAvailable}, want{failed, "velero restore describe"}},
		{velerov1.RestorePhaseFailed, both, want{failed, "failed"}, want{failed, "failed"}},
		{velerov1.RestorePhaseFailedValidation, nil, want{failed, "no such backup"}, want{failed, "was refused"}},
		{velerov1.RestorePhaseCompleted, nil, want{failed, "restored no volume for web-root"}, want{failed, "restored no volume"}},
		{velerov1.RestorePhaseCompleted, []string{"b2-web-root-abcde=web-root", "b2-web-data-fghij=web-data"}, want{state: v1alpha1.RestoreAvailable}, want{state: v1alpha1.RestoreAvailable}},
	} {
		v := w.restore(t, fmt.Sprintf("ends-%d", i), nil)
		w.drive(t, v)
		w.velero(t, v, 1, velerov1.RestorePhaseCompleted, both...)
		w.velero(t, v, 2, x.phase, x.claims...)
		w.drive(t, v)
		w.served(t, v)
		phase := v1alpha1.FileRestorePartiallyFailed
		if x.root.state != failed && x.data.state != failed {
			phase = v1alpha1.FileRestoreCompleted
		}
		if v.Status.Phase != phase {
			t.Errorf("%s, claims %q: the restore is %s: %+v", x.phase, x.claims, v.Status.Phase, progressing(&v.Status))
		}
		checkVolume(t, v, "b1", "web-data", want{state: v1alpha1.RestoreAvailable})
		checkVolume(t, v, "b2", "web-root", x.root)
		checkVolume(t, v, "b2", "web-data", x.data)
	}
}

// moves: a data mover's progress is shown, its failure and its standstill fail the volume and no other.
func (su *suite) moves(t *testing.T) {
	w := su.newWorld(t, 2, nil)
	v := w.restore(t, "moves", nil)
	w.drive(t, v)
	names := w.names(v)
	w.velero(t, v, 1, velerov1.RestorePhaseWaitingForPluginOperations, both...)
	w.velero(t, v, 2, velerov1.RestorePhaseWaitingForPluginOperations, both...)
	download := func(n int, pvc string) *velerov2alpha1.DataDownload {
		d := &velerov2alpha1.DataDownload{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, GenerateName: names.Restore(n) + "-", Labels: map[string]string{velero.LabelRestore: names.Restore(n)}},
			Spec:       velerov2alpha1.DataDownloadSpec{TargetVolume: velerov2alpha1.TargetVolumeSpec{PVC: pvc, Namespace: names.BackupNamespace(n)}, SnapshotSize: 100},
		}
		w.create(t, d)
		return d
	}
	set := func(d *velerov2alpha1.DataDownload, phase velerov2alpha1.DataDownloadPhase, done int64, message string) {
		t.Helper()
		w.get(t, d)
		d.Status.Phase, d.Status.Progress.BytesDone, d.Status.Progress.TotalBytes, d.Status.Message = phase, done, 100, message
		if err := w.client.Update(ctx, d); err != nil {
			t.Fatal(err)
		}
	}
	one, two := download(1, "web-root"), download(2, "web-root")
	three := download(2, "web-data")
	set(one, velerov2alpha1.DataDownloadPhaseInProgress, 40, "")
	result, _ := w.drive(t, v)
	checkCondition(t, v, v1alpha1.ConditionProgressing, metav1.ConditionTrue, v1alpha1.ReasonWaitingForRestores)
	for _, p := range v.Status.PVCRestores {
		for _, r := range p.Restores {
			if r.VeleroBackupName == "b1" && p.PVCName == "web-root" && (r.BytesDone != 40 || r.TotalBytes != 100) {
				t.Errorf("progress is %d of %d bytes", r.BytesDone, r.TotalBytes)
			}
		}
	}
	if result.RequeueAfter <= 0 || result.RequeueAfter > w.r.MovementLimit {
		t.Errorf("it looks again after %s", result.RequeueAfter)
	}
	// A holder is there before the data: storage that binds late waits for it.
	w.checkHolder(t, names.BackupNamespace(1), names.Object(), 1, 1)
	set(one, velerov2alpha1.DataDownloadPhaseCompleted, 100, "")
	set(two, velerov2alpha1.DataDownloadPhaseFailed, 10, "the repository is locked")
	w.drive(t, v)
	checkVolume(t, v, "b2", "web-root", want{v1alpha1.RestoreFailed, "the repository is locked"})
	checkVolume(t, v, "b2", "web-data", want{state: v1alpha1.RestoreProcessing})
	// The holder of what is left of the backup does without the volume that never comes.
	cluster.Await(t, limit, func() error {
		w.drive(t, v)
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: names.BackupNamespace(2), Name: names.Object()}}
		w.get(t, d)
		if n := len(d.Spec.Template.Spec.Containers[0].VolumeDevices); n != 0 {
			return fmt.Errorf("the holder has %d devices", n)
		}
		return nil
	})
	w.velero(t, v, 1, velerov1.RestorePhaseCompleted)
	w.drive(t, v)
	w.served(t, v)
	checkVolume(t, v, "b1", "web-root", want{state: v1alpha1.RestoreAvailable})
	checkVolume(t, v, "b2", "web-data", want{state: v1alpha1.RestoreProcessing}) // whatever the node says
	w.now = w.now.Add(w.r.MovementLimit - time.Second)
	w.drive(t, v)
	checkVolume(t, v, "b2", "web-data", want{state: v1alpha1.RestoreProcessing})
	w.now = w.now.Add(2 * time.Second)
	w.drive(t, v)
	checkVolume(t, v, "b2", "web-data", want{v1alpha1.RestoreFailed, "has written nothing for 1h0m0s"})
	w.get(t, three)
	if !three.Spec.Cancel {
		t.Error("the data mover that stands still is not told to stop")
	}
	w.served(t, v)
	if v.Status.Phase != v1alpha1.FileRestorePartiallyFailed {
		t.Errorf("the restore is %s: %+v", v.Status.Phase, progressing(&v.Status))
	}
	// A restarted controller judges as the first one did.
	w.restart(t, w.client, nil)
	w.drive(t, v)
	checkVolume(t, v, "b2", "web-root", want{v1alpha1.RestoreFailed, "the repository is locked"})
}

// limits: what takes too long ends with a reason, and what is served by then goes on being served.
func (su *suite) limits(t *testing.T) {
	w := su.newWorld(t, 2, nil)
	v := w.restore(t, "limits", nil)
	w.drive(t, v)
	names := w.names(v)
	w.velero(t, v, 1, velerov1.RestorePhaseCompleted, both...)
	w.velero(t, v, 2, velerov1.RestorePhaseCompleted, both...)
	w.drive(t, v)
	// The pod of the second backup cannot be scheduled.
	pod := w.pod(t, names.BackupNamespace(2))
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/3 nodes are available: 3 node(s) had volume node affinity conflict."})
	if err := w.client.Status().Update(ctx, pod); err != nil {
		t.Fatal(err)
	}
	said := w.readable(t, v, names)
	said.Backups = said.Backups[:1]
	w.say(t, names, said)
	w.drive(t, v)
	if v.Status.Phase != v1alpha1.FileRestoreInProgress {
		t.Errorf("the restore is %s", v.Status.Phase)
	}
	checkCondition(t, v, v1alpha1.ConditionAvailable, metav1.ConditionTrue, v1alpha1.ReasonFileServerAvailable)
	checkCondition(t, v, v1alpha1.ConditionProgressing, metav1.ConditionTrue, v1alpha1.ReasonFileServerPending)
	if m := progressing(&v.Status).message; !strings.Contains(m, "volume node affinity conflict") {
		t.Errorf("it says %q", m)
	}
	w.pass(w.r.HolderLimit)
	w.drive(t, v)
	scheduler := want{v1alpha1.RestoreFailed, "volume node affinity conflict"}
	checkVolume(t, v, "b2", "web-root", scheduler)
	checkVolume(t, v, "b1", "web-root", want{state: v1alpha1.RestoreAvailable})
	if v.Status.Phase != v1alpha1.FileRestorePartiallyFailed {
		t.Errorf("the restore is %s: %+v", v.Status.Phase, progressing(&v.Status))
	}
	holder := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: names.BackupNamespace(2), Name: names.Object()}}
	cluster.Await(t, limit, func() error { return cluster.Gone(w.client, holder) })
	w.restart(t, w.client, nil)
	w.drive(t, v)
	checkVolume(t, v, "b2", "web-root", scheduler)
	if err := cluster.Gone(w.client, holder); err != nil {
		t.Errorf("a restarted controller tries again: %v", err)
	}

	// Velero never begins; the node never says a word.
	late := w.restore(t, "late", func(s *v1alpha1.VirtualMachineFileRestoreSpec) { s.SelectedBackups = []string{"b1"} })
	w.drive(t, late)
	w.pass(w.r.RestoreLimit)
	w.drive(t, late)
	checkVolume(t, late, "b1", "web-root", want{v1alpha1.RestoreFailed, "has not ended within 4h0m0s"})
	checkCondition(t, late, v1alpha1.ConditionProgressing, metav1.ConditionFalse, v1alpha1.ReasonAllRestoresFailed)
	w.now = time.Now()
	silent := w.restore(t, "silent", func(s *v1alpha1.VirtualMachineFileRestoreSpec) { s.SelectedBackups = []string{"b1"} })
	w.drive(t, silent)
	w.velero(t, silent, 1, velerov1.RestorePhaseCompleted, both...)
	w.drive(t, silent)
	w.run(t, w.names(silent).BackupNamespace(1))
	w.run(t, w.names(silent).Session)
	w.drive(t, silent)
	checkCondition(t, silent, v1alpha1.ConditionProgressing, metav1.ConditionTrue, v1alpha1.ReasonFileServerCreated)
	w.pass(w.r.ReportLimit)
	w.drive(t, silent)
	checkVolume(t, silent, "b1", "web-data", want{v1alpha1.RestoreFailed, "vmfr-agent"})
	w.served(t, silent) // better late than never
	if silent.Status.Phase != v1alpha1.FileRestoreCompleted {
		t.Errorf("the restore is %s: %+v", silent.Status.Phase, progressing(&silent.Status))
	}
}

// hostile: what the node wrote cannot harm; only the front holder can write it, and nothing else.
func (su *suite) hostile(t *testing.T) {
	w := su.newWorld(t, 1, nil)
	v := w.restore(t, "hostile", nil)
	w.drive(t, v)
	w.velero(t, v, 1, velerov1.RestorePhaseCompleted, both...)
	w.drive(t, v)
	names := w.names(v)
	good := w.readable(t, v, names)
	other := *good
	other.ID = session.ID([]byte("another"))
	big := strings.Repeat("x", session.MaxReportBytes+1)
	for _, text := range []string{"{", big, `{"version":1}`, `{"version":2}`, `[]`, `{"version":1,"unknown":true}`} {
		if err := su.report(t, names, text); err != nil {
			t.Fatal(err)
		}
		w.drive(t, v)
		if v.Status.Phase != v1alpha1.FileRestoreInProgress || !strings.Contains(progressing(&v.Status).message, "is refused") {
			t.Errorf("%.40q: %s: %+v", text, v.Status.Phase, progressing(&v.Status))
		}
	}
	w.say(t, names, &other)
	w.drive(t, v)
	if m := progressing(&v.Status).message; !strings.Contains(m, "another session") {
		t.Errorf("another session's report: %s", m)
	}
	// Backups and disks that are not of this restore change nothing.
	good.Backups = append(good.Backups, session.BackupReport{Name: "b9", State: session.Readable, Disks: []session.DiskReport{{Name: "x", State: session.Failed, Message: "x"}}})
	good.Backups[0].Disks = append(good.Backups[0].Disks, session.DiskReport{Name: "y", State: session.Readable})
	w.say(t, names, good)
	w.drive(t, v)
	if v.Status.Phase != v1alpha1.FileRestoreCompleted || len(states(v)) != 2 {
		t.Errorf("%s: %v", v.Status.Phase, states(v))
	}
	// The front holder moves, as when its node is drained: what the node said last counts for nothing until it runs.
	moved := w.pod(t, names.Session).Name
	if err := w.client.Delete(ctx, w.pod(t, names.Session), client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, limit, func() error {
		if p := w.pod(t, names.Session); p.Name == moved {
			return fmt.Errorf("%s is there", p.Name)
		}
		return nil
	})
	w.drive(t, v)
	checkCondition(t, v, v1alpha1.ConditionAvailable, metav1.ConditionFalse, v1alpha1.ReasonNotReady)
	if m := progressing(&v.Status).message; v.Status.Phase != v1alpha1.FileRestoreInProgress || !strings.Contains(m, "the file server's pod does not run") {
		t.Errorf("its pod does not run, and it is %s: %s", v.Status.Phase, m)
	}
	w.run(t, names.Session)
	w.drive(t, v)
	checkCondition(t, v, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonCompleted)
	// The agent's end is told.
	w.say(t, names, &session.Report{Version: session.Version, ID: good.ID, State: session.Failed, Message: "the worker was killed five times"})
	w.drive(t, v)
	if v.Status.Phase != v1alpha1.FileRestoreFailed || !strings.Contains(progressing(&v.Status).message, "killed five times") {
		t.Errorf("%s: %+v", v.Status.Phase, progressing(&v.Status))
	}
}

// locationAway: a storage location that is away is waited for; one that stays away costs its backups.
func (su *suite) locationAway(t *testing.T) {
	w := su.newWorld(t, 2, nil)
	there := w.contents["b2"]
	away := there
	away.err = fmt.Errorf("%w: connection refused", velero.ErrUnreachable)
	w.contents["b2"] = away
	back, gone := w.restore(t, "back", nil), w.restore(t, "gone", nil)
	for _, v := range []*v1alpha1.VirtualMachineFileRestore{back, gone} {
		result, _ := w.drive(t, v)
		checkCondition(t, v, v1alpha1.ConditionProgressing, metav1.ConditionTrue, v1alpha1.ReasonDiscoveringPVCs)
		if m := progressing(&v.Status).message; !strings.Contains(m, "b2") || !strings.Contains(m, "connection refused") || !strings.Contains(m, "tried again") {
			t.Errorf("it says %q", m)
		}
		if result.RequeueAfter <= 0 || result.RequeueAfter >= w.r.LocationLimit {
			t.Errorf("it looks again after %s", result.RequeueAfter)
		}
		checkVolume(t, v, "b2", "web-root", want{state: v1alpha1.RestoreProcessing})
	}
	w.contents["b2"] = there
	w.drive(t, back)
	w.velero(t, back, 1, velerov1.RestorePhaseCompleted, both...)
	w.velero(t, back, 2, velerov1.RestorePhaseCompleted, both...)
	w.drive(t, back)
	w.served(t, back)
	checkVolume(t, back, "b2", "web-root", want{state: v1alpha1.RestoreAvailable})
	w.contents["b2"] = away
	w.pass(w.r.LocationLimit)
	w.drive(t, gone)
	checkVolume(t, gone, "b2", "web-root", want{v1alpha1.RestoreExtractionFailed, "connection refused"})
	checkVolume(t, gone, "b1", "web-root", want{state: v1alpha1.RestoreProcessing})
}

// contentsFail: what is wrong with a backup's metadata is told apart, and the rest is served.
func (su *suite) contentsFail(t *testing.T) {
	w := su.newWorld(t, 4, nil)
	w.contents["b1"] = struct {
		vm  velero.VM
		err error
	}{err: fmt.Errorf("%w: the archive: unexpected EOF", velero.ErrUnreadable)}
	w.contents["b2"] = struct {
		vm  velero.VM
		err error
	}{err: fmt.Errorf("%w: b2.tar.gz", velero.ErrNotStored)}
	if err := w.client.Delete(ctx, &velerov1.Backup{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "b3"}}); err != nil {
		t.Fatal(err)
	}
	v := w.restore(t, "contents", nil)
	w.drive(t, v)
	names := w.names(v)
	w.velero(t, v, 4, velerov1.RestorePhaseCompleted, both...)
	w.drive(t, v)
	w.served(t, v)
	checkVolume(t, v, "b1", "web-root", want{v1alpha1.RestoreExtractionFailed, "unexpected EOF"})
	checkVolume(t, v, "b2", "web-root", want{v1alpha1.RestoreBackupMissing, "b2.tar.gz"})
	checkVolume(t, v, "b3", "web-root", want{v1alpha1.RestoreBackupDeleted, "run a new discovery"})
	checkVolume(t, v, "b4", "web-root", want{state: v1alpha1.RestoreAvailable})
	if v.Status.Phase != v1alpha1.FileRestorePartiallyFailed {
		t.Errorf("%s: %+v", v.Status.Phase, progressing(&v.Status))
	}
	for n := 1; n <= 3; n++ {
		if err := cluster.Gone(w.client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: names.BackupNamespace(n)}}); err != nil {
			t.Errorf("a backup that cannot be restored has a namespace: %v", err)
		}
	}
	// Nothing that happens to backup or discovery afterwards changes what is served.
	for _, o := range []client.Object{
		&velerov1.Backup{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "b4"}},
		&velerov1.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: names.Restore(4)}},
		&v1alpha1.VirtualMachineBackupsDiscovery{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "find"}},
	} {
		if err := w.client.Delete(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	w.contents["b4"] = w.contents["b1"]
	w.restart(t, w.client, nil)
	w.drive(t, v)
	checkVolume(t, v, "b4", "web-root", want{state: v1alpha1.RestoreAvailable})
	if err := cluster.Gone(w.client, &velerov1.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: names.Restore(4)}}); err != nil {
		t.Errorf("a Restore that ended long ago is made again: %v", err)
	}
	w.removed(t, v)
}

// slotsBound: no more Restores run at a time than are allowed, over all file restores.
func (su *suite) slotsBound(t *testing.T) {
	w := su.newWorld(t, 3, func(o *Options) { o.MaxConcurrentRestores = 2 })
	v, other := w.restore(t, "first", nil), w.restore(t, "second", func(s *v1alpha1.VirtualMachineFileRestoreSpec) { s.SelectedBackups = []string{"b1"} })
	w.drive(t, v)
	w.drive(t, other)
	running := func() int {
		var list velerov1.RestoreList
		if err := w.client.List(ctx, &list, client.InNamespace(w.namespace)); err != nil {
			t.Fatal(err)
		}
		return len(slices.DeleteFunc(list.Items, func(r velerov1.Restore) bool { return velero.FinalRestore(&r) }))
	}
	if n := running(); n != 2 || len(w.r.slots.who()) != 2 {
		t.Errorf("%d run, %v wait", n, w.r.slots.who())
	}
	w.velero(t, v, 1, velerov1.RestorePhaseCompleted, both...)
	w.velero(t, v, 2, velerov1.RestorePhaseFailed)
	w.drive(t, other)
	w.drive(t, v)
	if n := running(); n != 2 || len(w.r.slots.who()) != 0 {
		t.Errorf("%d run, %v wait", n, w.r.slots.who())
	}
}

// condition returns the message of a condition.
func condition(v *v1alpha1.VirtualMachineFileRestore, kind string) string {
	if c := meta.FindStatusCondition(v.Status.Conditions, kind); c != nil {
		return c.Message
	}
	return ""
}
