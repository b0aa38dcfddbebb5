package velero

import (
	"strings"
	"testing"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	velerov2alpha1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v2alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"vmfr/api/v1alpha1"
)

func TestJudgeRestore(t *testing.T) {
	for _, x := range []struct {
		status velerov1.RestoreStatus
		state  RestoreState
		why    []string
		final  bool
	}{
		{velerov1.RestoreStatus{}, RestoreRunning, nil, false},
		{velerov1.RestoreStatus{Phase: velerov1.RestorePhaseNew}, RestoreRunning, nil, false},
		{velerov1.RestoreStatus{Phase: velerov1.RestorePhaseInProgress}, RestoreRunning, nil, false},
		{velerov1.RestoreStatus{Phase: velerov1.RestorePhaseWaitingForPluginOperations}, RestoreRunning, nil, false},
		{velerov1.RestoreStatus{Phase: velerov1.RestorePhaseWaitingForPluginOperationsPartiallyFailed, Errors: 1}, RestoreRunning, nil, false},
		{velerov1.RestoreStatus{Phase: "Queued"}, RestoreRunning, []string{"Queued", "not known"}, false},
		{velerov1.RestoreStatus{Phase: velerov1.RestorePhaseFinalizing}, RestoreSucceeded, nil, false},
		{velerov1.RestoreStatus{Phase: velerov1.RestorePhaseCompleted}, RestoreSucceeded, nil, true},
		{velerov1.RestoreStatus{Phase: velerov1.RestorePhaseFinalizingPartiallyFailed, Errors: 2}, RestorePartial, []string{"2 errors", "describe r1"}, false},
		{velerov1.RestoreStatus{Phase: velerov1.RestorePhasePartiallyFailed, Errors: 3}, RestorePartial, []string{"3 errors"}, true},
		{velerov1.RestoreStatus{Phase: velerov1.RestorePhaseFailed, FailureReason: "disk full"}, RestoreFailed, []string{"disk full"}, true},
		{velerov1.RestoreStatus{Phase: velerov1.RestorePhaseFailedValidation, ValidationErrors: []string{"no backup", "no location"}}, RestoreFailed, []string{"no backup", "no location"}, true},
	} {
		r := &velerov1.Restore{ObjectMeta: metav1.ObjectMeta{Name: "r1"}, Status: x.status}
		state, why := JudgeRestore(r)
		if state != x.state || FinalRestore(r) != x.final || (why == "") != (len(x.why) == 0) {
			t.Errorf("%q: %s (%q), final %v", x.status.Phase, state, why, FinalRestore(r))
		}
		for _, w := range x.why {
			if !strings.Contains(why, w) {
				t.Errorf("%q: %q does not say %q", x.status.Phase, why, w)
			}
		}
	}
}

func TestFindPVC(t *testing.T) {
	claim := func(name, restore, uid, original string) corev1.PersistentVolumeClaim {
		c := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{LabelRestore: restore}, Annotations: map[string]string{}}}
		if uid != "" {
			c.Labels[v1alpha1.LabelPVCUID] = uid
		}
		if original != "" {
			c.Annotations[originalName] = original
		}
		return c
	}
	claims := []corev1.PersistentVolumeClaim{
		claim("root", "another", "u1", ""), claim("root", "ours", "u2", ""), claim("b-data-x1y2z", "ours", "u3", "data"),
		claim("b-log-x1y2z", "ours", "", "log"), claim("plain", "ours", "", ""),
	}
	for _, x := range []struct{ uid, name, want string }{
		{"u2", "whatever", "root"},     // the UID decides, whatever the name
		{"u3", "data", "b-data-x1y2z"}, // renamed
		{"", "log", "b-log-x1y2z"},     // renamed, without a UID
		{"u9", "plain", "plain"},       // without a UID on the claim
		{"u1", "", ""},                 // another Restore's
		{"u9", "root", ""},             // the claim of that name has another UID
		{"", "b-log-x1y2z", ""},        // that is not what it was called
		{"", "data", ""},               // has a UID, so the name does not count
	} {
		c := FindPVC(claims, "ours", types.UID(x.uid), x.name)
		if (c == nil) != (x.want == "") || c != nil && c.Name != x.want {
			t.Errorf("%q %q: %v, want %q", x.uid, x.name, c, x.want)
		}
	}
}

func TestDownload(t *testing.T) {
	for _, x := range []struct {
		phase         velerov2alpha1.DataDownloadPhase
		ended, failed bool
	}{
		{"", false, false}, {velerov2alpha1.DataDownloadPhaseNew, false, false}, {velerov2alpha1.DataDownloadPhaseAccepted, false, false},
		{velerov2alpha1.DataDownloadPhasePrepared, false, false}, {velerov2alpha1.DataDownloadPhaseInProgress, false, false},
		{velerov2alpha1.DataDownloadPhaseCanceling, false, false}, {velerov2alpha1.DataDownloadPhaseCanceled, true, true},
		{velerov2alpha1.DataDownloadPhaseFailed, true, true}, {velerov2alpha1.DataDownloadPhaseCompleted, true, false},
	} {
		d := &velerov2alpha1.DataDownload{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: velerov2alpha1.DataDownloadSpec{SnapshotSize: 7}}
		d.Status.Phase, d.Status.Progress.BytesDone = x.phase, -1
		got := download(d)
		if got.Ended != x.ended || got.Failed != x.failed || got.BytesDone != 0 || got.TotalBytes != 7 || x.failed && !strings.Contains(got.Message, string(x.phase)) {
			t.Errorf("%q: %+v", x.phase, got)
		}
	}
}
