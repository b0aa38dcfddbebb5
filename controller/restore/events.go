package restore

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"vmfr/api/v1alpha1"
)

// event is what a user reads in `kubectl describe`. Events of the same reason and action are one series, of which
// the first message is kept: so the action names what it is about.
type event struct{ kind, reason, action, message string }

// actionSession is of events that are about no single backup.
const actionSession = "Session"

// action is of events about a backup, or a volume in it.
func action(parts ...string) string {
	const most = 128 // characters, the API's limit
	s := "Restore " + strings.Join(parts, "/")
	return s[:min(len(s), most)]
}

// changes are the events that tell one status from the next. They are told after the status was written, so
// that each step has one event, also across restarts.
func changes(before, after *v1alpha1.VirtualMachineFileRestoreStatus) []event {
	var out []event
	normal := func(reason, format string, args ...any) {
		out = append(out, event{corev1.EventTypeNormal, reason, actionSession, fmt.Sprintf(format, args...)})
	}
	warning := func(reason, format string, args ...any) {
		out = append(out, event{corev1.EventTypeWarning, reason, actionSession, fmt.Sprintf(format, args...)})
	}
	if before.CreatedNamespace == "" && after.CreatedNamespace != "" {
		normal(v1alpha1.ReasonNamespaceReady, "serving from the namespace %s", after.CreatedNamespace)
	}
	if before.FileServingInfo == nil && after.FileServingInfo != nil {
		normal(v1alpha1.ReasonCredentialsReady, "credentials, host key and certificate are there: see status.fileServingInfo")
	}
	out = append(out, ofBackups(restoreChanges(before, after))...)
	was, is := progressing(before), progressing(after)
	if before.Phase != after.Phase {
		switch after.Phase {
		case v1alpha1.FileRestoreFailed:
			warning(is.reason, "%s", is.message)
			return out
		case v1alpha1.FileRestorePartiallyFailed:
			warning(is.reason, "%s", is.message)
			return out
		case v1alpha1.FileRestoreCompleted:
			normal(is.reason, "%s", is.message)
			return out
		}
	}
	if was.reason != is.reason && is.reason != "" && is.reason != v1alpha1.ReasonInProgress {
		if after.Phase == v1alpha1.FileRestoreFailed {
			warning(is.reason, "%s", is.message)
		} else {
			normal(is.reason, "%s", is.message)
		}
	}
	if after.Phase == v1alpha1.FileRestoreDeleting && before.Phase != after.Phase {
		normal("Deleting", "removing what was made for this restore")
	}
	return out
}

// ofBackups are the events of volumes' steps: one for each failure, and one for what all volumes of a backup
// have in common.
func ofBackups(steps []restoreChange) (out []event) {
	told := map[event]bool{}
	for _, c := range steps {
		e := event{corev1.EventTypeNormal, c.reason, action(c.backup), fmt.Sprintf("backup %s: %s", c.backup, c.text)}
		if c.failed {
			e = event{corev1.EventTypeWarning, v1alpha1.ReasonSomeRestoresFailed, action(c.backup, c.volume), fmt.Sprintf("backup %s, volume %s: %s: %s", c.backup, c.volume, c.state, c.text)}
		}
		if !told[e] {
			told[e] = true
			out = append(out, e)
		}
	}
	return out
}

// progressing is what the condition Progressing says.
func progressing(s *v1alpha1.VirtualMachineFileRestoreStatus) progress {
	if c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionProgressing); c != nil {
		return progress{c.Reason, c.Message}
	}
	return progress{}
}

// restoreChange is a step of one volume in one backup.
type restoreChange struct {
	backup, volume string
	state          v1alpha1.RestoreState
	failed         bool
	reason, text   string
}

func restoreChanges(before, after *v1alpha1.VirtualMachineFileRestoreStatus) []restoreChange {
	type key struct{ uid, name, backup string }
	was := map[key]v1alpha1.BackupRestore{}
	for _, p := range before.PVCRestores {
		for _, r := range p.Restores {
			was[key{string(p.PVCUID), p.PVCName, r.VeleroBackupName}] = r
		}
	}
	var out []restoreChange
	for _, p := range after.PVCRestores {
		for _, r := range p.Restores {
			old := was[key{string(p.PVCUID), p.PVCName, r.VeleroBackupName}]
			c := restoreChange{backup: r.VeleroBackupName, volume: p.PVCName, state: r.State}
			switch {
			case old.State != r.State && r.State == v1alpha1.RestoreAvailable:
				c.reason, c.text = v1alpha1.ReasonFileServerAvailable, "its volumes are served"
			case old.State != r.State && r.State != v1alpha1.RestoreProcessing:
				c.failed, c.text = true, r.FailureReason
			case old.VeleroRestoreName == "" && r.VeleroRestoreName != "":
				c.reason, c.text = v1alpha1.ReasonWaitingForRestores, "Velero's restore "+r.VeleroRestoreName+" was created"
			case old.CompletedAt == nil && r.CompletedAt != nil:
				c.reason, c.text = v1alpha1.ReasonRestoresCompleted, "Velero's restore "+r.VeleroRestoreName+" ended as "+r.Phase
			default:
				continue
			}
			out = append(out, c)
		}
	}
	return out
}
