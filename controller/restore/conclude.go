package restore

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"vmfr/api/v1alpha1"
)

// tally counts the volumes of all backups by state.
type tally struct {
	available, failed, processing int
	failedBackups                 []string // names of backups with a failed volume
	reason                        string   // of the first failure
}

func (s *scope) tally() tally {
	var t tally
	for _, b := range s.backups {
		bad := false
		for _, d := range b.disks {
			switch {
			case d.failed():
				t.failed++
				bad = true
				if t.reason == "" {
					t.reason = d.reason
				}
			case d.state == v1alpha1.RestoreAvailable:
				t.available++
			default:
				t.processing++
			}
		}
		if bad {
			t.failedBackups = append(t.failedBackups, b.name)
		}
	}
	t.failedBackups = append(t.failedBackups, s.unknown...)
	return t
}

// conclude computes the status from what was found. failure is an error of the API server that ended the phases
// early: what was not reached keeps its state.
func (r *reconciler) conclude(s *scope, failure error) {
	status := &s.vmfr.Status
	status.ObservedGeneration = s.vmfr.Generation
	if failure != nil {
		if status.Phase == "" {
			status.Phase = v1alpha1.FileRestoreNew
		}
		status.PVCRestores = s.before.Status.PVCRestores
		setCondition(s, v1alpha1.ConditionProgressing, true, v1alpha1.ReasonInProgress, clip("it is tried again: "+failure.Error()))
		return
	}
	if s.verdict.reason != "" && wasServed(&s.before.Status) {
		// What was made goes on serving, with the credentials that it has.
		status.PVCRestores = s.before.Status.PVCRestores
		setCondition(s, v1alpha1.ConditionDegraded, true, v1alpha1.ReasonPartialFailure, "the files are served as before, but a change is not taken over: "+s.verdict.message)
		return
	}
	if len(s.backups) > 0 {
		status.PVCRestores = volumes(s.backups, r.Plan.Namespace)
	}
	t := s.tally()
	switch {
	case s.verdict.reason != "":
		concludeFailed(s, s.verdict.reason, s.verdict.message)
	case len(s.backups) == 0:
		concludeWaiting(s, t)
	case t.available+t.processing == 0:
		concludeFailed(s, v1alpha1.ReasonAllRestoresFailed, "no volume of any backup can be served: status.pvcRestores says why for each. The first: "+t.reason)
	case s.broken != "":
		concludeFailed(s, v1alpha1.ReasonCriticalFailure, s.broken)
	case t.processing > 0 || !s.serves || s.progress.reason != "":
		concludeWaiting(s, t)
	default:
		concludeServed(s, t)
	}
}

func wasServed(s *v1alpha1.VirtualMachineFileRestoreStatus) bool {
	return s.Phase == v1alpha1.FileRestoreCompleted || s.Phase == v1alpha1.FileRestorePartiallyFailed
}

// concludeWaiting: something is still to come; what is there already is served.
func concludeWaiting(s *scope, t tally) {
	status := &s.vmfr.Status
	s.say(v1alpha1.ReasonFileServerPending, "the node has not said yet that it serves the files")
	status.Phase = v1alpha1.FileRestoreInProgress
	setCondition(s, v1alpha1.ConditionProgressing, true, s.progress.reason, s.progress.message)
	if s.serves && t.available > 0 {
		setCondition(s, v1alpha1.ConditionAvailable, true, v1alpha1.ReasonFileServerAvailable, s.served(t))
	} else {
		setCondition(s, v1alpha1.ConditionAvailable, false, v1alpha1.ReasonNotReady, "no files are served yet")
	}
	s.degraded(t)
	setCondition(s, v1alpha1.ConditionReady, false, v1alpha1.ReasonInProgress, s.progress.message)
}

// concludeServed: every volume is served, or has failed for good.
func concludeServed(s *scope, t tally) {
	status, text := &s.vmfr.Status, s.served(t)
	phase, reason := v1alpha1.FileRestoreCompleted, v1alpha1.ReasonCompleted
	if len(t.failedBackups) > 0 {
		phase, reason = v1alpha1.FileRestorePartiallyFailed, v1alpha1.ReasonPartiallyFailed
	}
	status.Phase = phase
	setCondition(s, v1alpha1.ConditionProgressing, false, reason, text)
	setCondition(s, v1alpha1.ConditionAvailable, true, v1alpha1.ReasonFileServerAvailable, text)
	s.degraded(t)
	setCondition(s, v1alpha1.ConditionReady, true, reason, text)
}

// concludeFailed: nothing is served.
func concludeFailed(s *scope, reason, message string) {
	status := &s.vmfr.Status
	status.Phase = v1alpha1.FileRestoreFailed
	setCondition(s, v1alpha1.ConditionProgressing, false, reason, message)
	setCondition(s, v1alpha1.ConditionAvailable, false, v1alpha1.ReasonNotReady, message)
	setCondition(s, v1alpha1.ConditionDegraded, true, v1alpha1.ReasonCriticalFailure, message)
	setCondition(s, v1alpha1.ConditionReady, false, v1alpha1.ReasonFailed, message)
}

// degraded says what is missing from what was asked for.
func (s *scope) degraded(t tally) {
	var parts []string
	if len(t.failedBackups) > 0 {
		parts = append(parts, fmt.Sprintf("volumes of %s failed: status.pvcRestores says why", enumerate(t.failedBackups)))
	}
	if s.expose != "" {
		parts = append(parts, "not reachable from outside the cluster: "+s.expose)
	}
	if len(parts) == 0 {
		setCondition(s, v1alpha1.ConditionDegraded, false, v1alpha1.ReasonNoFailures, "")
		return
	}
	setCondition(s, v1alpha1.ConditionDegraded, true, v1alpha1.ReasonPartialFailure, strings.Join(parts, "; "))
}

func (s *scope) served(t tally) string {
	text := fmt.Sprintf("%d volumes are served", t.available)
	if t.available == 1 {
		text = "1 volume is served"
	}
	if t.failed > 0 {
		text += fmt.Sprintf(", %d failed", t.failed)
	}
	if t.processing > 0 {
		text += fmt.Sprintf(", %d are still to come", t.processing)
	}
	return text
}

// setCondition sets one condition of the status that will be written.
func setCondition(s *scope, kind string, is bool, reason, message string) {
	status := metav1.ConditionFalse
	if is {
		status = metav1.ConditionTrue
	}
	meta.SetStatusCondition(&s.vmfr.Status.Conditions, metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: s.vmfr.Generation, LastTransitionTime: metav1.NewTime(s.now),
	})
}
