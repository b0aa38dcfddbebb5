package discovery

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"vmfr/api/v1alpha1"
)

// Sizes of a status as JSON, in bytes. etcd takes requests of 1.5 MiB; a specification of a
// thousand names has 256 KiB, and `kubectl apply` keeps it a second time in an annotation.
const (
	maxStatus  = 1_000_000
	entryBytes = 400 // of a candidate in its two lists, without its name, namespace and texts
	pvcEntry   = 100 // of a volume without its names
	maxReason  = 1024
)

// pvcBytes is about how many bytes volumes take in a status.
func pvcBytes(pvcs []v1alpha1.DiscoveredPVC) int {
	n := 0
	for _, p := range pvcs {
		n += pvcEntry + len(p.PVCName) + len(p.PVCNamespace) + len(p.PVCUID)
	}
	return n
}

// status is what the run has found so far, as it is shown. before is the status that it replaces.
func (r *run) status(before v1alpha1.VirtualMachineBackupsDiscoveryStatus) v1alpha1.VirtualMachineBackupsDiscoveryStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := v1alpha1.VirtualMachineBackupsDiscoveryStatus{
		Phase: v1alpha1.DiscoveryInProgress, ObservedGeneration: r.generation, Conditions: before.DeepCopy().Conditions,
	}
	if r.waiting && len(r.prior) > 0 {
		return before // what was found before a restart stands
	}
	if r.waiting {
		s.Phase = v1alpha1.DiscoveryNew
		describe(&s, r.subject.vm.String(), nil)
		return s
	}
	stats := &v1alpha1.DiscoveryStats{StartTime: shown(r.started)}
	s.DiscoveryStats = stats
	for _, e := range r.entries {
		stats.TotalCandidates++
		b := v1alpha1.DiscoveredBackup{Name: e.name, Namespace: r.key.Namespace, CreatedAt: shown(e.taken), PVCs: e.pvcs}
		switch e.outcome.status {
		case v1alpha1.BackupNew:
			stats.Pending++
		case v1alpha1.BackupInProgress:
			stats.InProgress++
		case v1alpha1.BackupCompleted:
			stats.Completed++
			s.ValidBackups = append(s.ValidBackups, b)
		case v1alpha1.BackupSkipped:
			stats.Skipped++
			s.InvalidBackups = append(s.InvalidBackups, v1alpha1.InvalidBackup{DiscoveredBackup: b, Reason: e.reason})
		case v1alpha1.BackupFailed:
			stats.Failed++
			s.InvalidBackups = append(s.InvalidBackups, v1alpha1.InvalidBackup{DiscoveredBackup: b, Reason: e.reason})
		}
		s.BackupDiscoveryProgress = append(s.BackupDiscoveryProgress, v1alpha1.BackupProgress{
			Name: e.name, Namespace: r.key.Namespace, CreatedAt: b.CreatedAt, Status: e.outcome.status, Message: e.reason, LastUpdated: shown(e.updated),
		})
	}
	if !r.ended.IsZero() {
		stats.CompletionTime = shown(r.ended)
		s.Phase = verdict(stats, r.failure)
	}
	describe(&s, r.subject.vm.String(), r.failure)
	fit(&s)
	return *s.DeepCopy() // volumes are the run's
}

// refused is the status of a specification that cannot be worked on.
func refused(before v1alpha1.VirtualMachineBackupsDiscoveryStatus, generation int64, vm string, why error) v1alpha1.VirtualMachineBackupsDiscoveryStatus {
	s := v1alpha1.VirtualMachineBackupsDiscoveryStatus{
		Phase: v1alpha1.DiscoveryFailed, ObservedGeneration: generation, Conditions: before.DeepCopy().Conditions,
	}
	describe(&s, vm, specError{why})
	fit(&s)
	return s
}

// specError is a specification's fault: another one is needed.
type specError struct{ error }

// verdict is the phase of a discovery whose candidates were all looked at.
func verdict(s *v1alpha1.DiscoveryStats, failure error) v1alpha1.DiscoveryPhase {
	switch {
	case failure != nil || s.Completed == 0:
		return v1alpha1.DiscoveryFailed
	case s.Failed > 0:
		return v1alpha1.DiscoveryPartiallyFailed
	}
	return v1alpha1.DiscoveryCompleted
}

// describe sets the conditions for the phase and what was counted.
func describe(s *v1alpha1.VirtualMachineBackupsDiscoveryStatus, vm string, failure error) {
	n := s.DiscoveryStats
	if n == nil {
		n = &v1alpha1.DiscoveryStats{}
	}
	set := func(kind string, is bool, reason, format string, args ...any) {
		c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: fmt.Sprintf(format, args...), ObservedGeneration: s.ObservedGeneration}
		if is {
			c.Status = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&s.Conditions, c)
	}
	looked := n.Completed + n.Skipped + n.Failed
	found := fmt.Sprintf("%d of %d backups hold the virtual machine %s", n.Completed, n.TotalCandidates, vm)
	switch s.Phase {
	case v1alpha1.DiscoveryNew:
		set(v1alpha1.ConditionProgressing, true, v1alpha1.ReasonNotStarted, "waiting for other discoveries to end")
		set(v1alpha1.ConditionAvailable, false, v1alpha1.ReasonNotReady, "no backup was looked at yet")
		set(v1alpha1.ConditionDegraded, false, v1alpha1.ReasonNoFailures, "no backup was looked at yet")
		set(v1alpha1.ConditionReady, false, v1alpha1.ReasonNotReady, "no backup was looked at yet")
	case v1alpha1.DiscoveryInProgress:
		set(v1alpha1.ConditionProgressing, true, v1alpha1.ReasonDiscoveryInProgress, "looked at %d of %d backups", looked, n.TotalCandidates)
		set(v1alpha1.ConditionAvailable, false, v1alpha1.ReasonInProgress, "%d valid backups so far", n.Completed)
		set(v1alpha1.ConditionDegraded, false, v1alpha1.ReasonNoFailures, "the discovery goes on")
		set(v1alpha1.ConditionReady, false, v1alpha1.ReasonInProgress, "%d valid backups so far", n.Completed)
	case v1alpha1.DiscoveryCompleted:
		set(v1alpha1.ConditionProgressing, false, v1alpha1.ReasonCompleted, "looked at all %d backups", n.TotalCandidates)
		set(v1alpha1.ConditionAvailable, true, v1alpha1.ReasonBackupsFound, "%s", found)
		set(v1alpha1.ConditionDegraded, false, v1alpha1.ReasonNoFailures, "every backup could be verified")
		set(v1alpha1.ConditionReady, true, v1alpha1.ReasonCompleted, "%s", found)
	case v1alpha1.DiscoveryPartiallyFailed:
		set(v1alpha1.ConditionProgressing, false, v1alpha1.ReasonPartiallyFailed, "looked at all %d backups", n.TotalCandidates)
		set(v1alpha1.ConditionAvailable, true, v1alpha1.ReasonBackupsFound, "%s", found)
		set(v1alpha1.ConditionDegraded, true, v1alpha1.ReasonPartialFailure, "%d backups could not be verified: see status.invalidBackups", n.Failed)
		set(v1alpha1.ConditionReady, true, v1alpha1.ReasonPartiallyFailed, "%s", found)
	case v1alpha1.DiscoveryFailed:
		reason, text := v1alpha1.ReasonNoValidBackupsFound, found
		switch {
		case errors.As(failure, new(specError)):
			reason, text = v1alpha1.ReasonValidationFailed, failure.Error()
		case failure != nil:
			reason, text = v1alpha1.ReasonFailed, failure.Error()
		case n.TotalCandidates == 0:
			text = "no backup is in the asked time: check spec.startTime and spec.endTime, and that the backups are in this namespace (velero backup get)"
		case n.Failed > 0:
			text += fmt.Sprintf("; %d could not be verified", n.Failed)
			fallthrough
		default:
			text += ": see status.invalidBackups, and check the name and namespace of the virtual machine"
		}
		set(v1alpha1.ConditionProgressing, false, v1alpha1.ReasonFailed, "looked at %d of %d backups", looked, n.TotalCandidates)
		set(v1alpha1.ConditionAvailable, false, reason, "%s", text)
		set(v1alpha1.ConditionDegraded, true, v1alpha1.ReasonCriticalFailure, "%s", text)
		set(v1alpha1.ConditionReady, false, reason, "%s", text)
	}
}

// fit cuts texts to what their fields take, and further where the whole would be larger than an
// object may be.
func fit(s *v1alpha1.VirtualMachineBackupsDiscoveryStatus) {
	for i := range s.Conditions {
		s.Conditions[i].Message = cut(s.Conditions[i].Message, maxReason)
	}
	for most := maxReason; ; most /= 2 {
		for i := range s.InvalidBackups {
			s.InvalidBackups[i].Reason = cut(s.InvalidBackups[i].Reason, most)
		}
		for i := range s.BackupDiscoveryProgress {
			s.BackupDiscoveryProgress[i].Message = cut(s.BackupDiscoveryProgress[i].Message, most)
		}
		if b, err := json.Marshal(s); err != nil || len(b) <= maxStatus || most == 0 {
			return
		}
	}
}

// cut shortens a text to most bytes of whole characters.
func cut(s string, most int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= most {
		return s
	}
	const dots = "..."
	if most < len(dots) {
		return ""
	}
	end := most - len(dots)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + dots
}

// shown is a time as the API keeps it: whole seconds, none for zero.
func shown(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return &metav1.Time{Time: t.UTC().Truncate(time.Second)}
}

// priorEntries is what a status says about backups that were decided, for a run that goes on where
// another controller stopped.
func priorEntries(s *v1alpha1.VirtualMachineBackupsDiscoveryStatus) map[string]entry {
	valid := make(map[string]v1alpha1.DiscoveredBackup, len(s.ValidBackups))
	for _, b := range s.ValidBackups {
		valid[b.Name] = b
	}
	prior := map[string]entry{}
	for _, p := range s.BackupDiscoveryProgress {
		e := entry{name: p.Name, outcome: outcome{status: p.Status, reason: p.Message, pvcs: valid[p.Name].PVCs}}
		if p.CreatedAt != nil {
			e.taken = p.CreatedAt.Time
		}
		if p.LastUpdated != nil {
			e.updated = p.LastUpdated.Time
		}
		_, isValid := valid[p.Name]
		switch p.Status {
		case v1alpha1.BackupSkipped, v1alpha1.BackupFailed:
			prior[p.Name] = e
		case v1alpha1.BackupCompleted:
			if isValid {
				prior[p.Name] = e
			}
		}
	}
	return prior
}
