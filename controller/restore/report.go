package restore

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
)

// report takes over what the node says: which disks are readable. What it wrote is hostile, so it decides
// about nothing but the disks of this restore, and only once their volumes are there.
func (r *reconciler) report(ctx context.Context, s *scope) error {
	said, problem, err := r.readReport(ctx, s)
	if err != nil {
		return err
	}
	if problem != "" {
		s.say(v1alpha1.ReasonFileServerPending, problem) // it is why all others wait
	}
	var first time.Time // since when there is something to serve
	for _, b := range s.backups {
		if !b.ended || !b.attach() {
			continue
		}
		since, err := r.judgeBackup(ctx, s, b, said)
		if err != nil {
			return err
		}
		if !since.IsZero() && (first.IsZero() || since.Before(first)) {
			first = since
		}
	}
	front, err := r.lookAt(ctx, s, s.names.Session, plan.PartFront)
	if err != nil {
		return err
	}
	// What was said outlives the pod that brought it: the next one may be far from serving.
	s.serves = said != nil && said.State == session.Serving && front != nil && front.running
	if front != nil && s.vmfr.Status.FileServingInfo != nil {
		s.vmfr.Status.FileServingInfo.PodName = front.pod
	}
	switch {
	case said != nil && said.State == session.Failed:
		s.broken = "the file server failed: " + said.Message
	case s.serves || first.IsZero():
	case problem != "":
		s.overdue(first, r.ReportLimit, v1alpha1.ReasonFileServerPending, problem)
	case front == nil || !front.running:
		s.overdue(startOf(front, first), r.HolderLimit, v1alpha1.ReasonFileServerPending, "the file server's pod does not run: "+problemOf(front))
	default:
		s.overdue(startOf(front, first), r.ReportLimit, v1alpha1.ReasonFileServerCreated, "the file server's pod runs, but the node's agent says nothing: see whether vmfr-agent runs on its node, and its log")
	}
	return nil
}

// overdue says what is waited for, and calls the session broken once that has taken too long.
func (s *scope) overdue(since time.Time, limit time.Duration, reason, what string) {
	if s.within(since, limit) {
		s.say(reason, what)
		return
	}
	s.broken = fmt.Sprintf("for more than %s: %s", limit, what)
}

func startOf(h *holder, first time.Time) time.Time {
	if h == nil {
		return first
	}
	return later(first, h.since)
}

func problemOf(h *holder) string {
	if h == nil {
		return "there is no Deployment for it yet"
	}
	return h.problem
}

// judgeBackup gives the disks of a backup their states; it returns since when the backup could be served.
func (r *reconciler) judgeBackup(ctx context.Context, s *scope, b *backup, said *session.Report) (time.Time, error) {
	var of *session.BackupReport
	if said != nil {
		if i := slices.IndexFunc(said.Backups, func(x session.BackupReport) bool { return x.Name == b.name }); i >= 0 {
			of = &said.Backups[i]
		}
	}
	h, err := r.lookAt(ctx, s, s.names.BackupNamespace(b.number), plan.PartDisks)
	if err != nil {
		return time.Time{}, err
	}
	since := b.endedAt
	if since.IsZero() && b.created != nil {
		since = b.created.Time
	}
	since = startOf(h, since)
	if b.adopt(of) == 0 {
		return since, nil
	}
	if of != nil && of.State == session.Readable || h != nil && h.running {
		what := "the node has not said yet what is readable in " + b.name
		if of != nil && of.Message != "" {
			what += ": " + of.Message
		}
		if !s.within(since, r.ReportLimit) {
			b.fail(v1alpha1.RestoreFailed, fmt.Sprintf("%s, for %s: see whether vmfr-agent runs on the holder's node, and its log", what, r.ReportLimit))
			return since, nil
		}
		s.say(v1alpha1.ReasonFileServerCreated, what)
		return since, nil
	}
	what := fmt.Sprintf("the pod that holds the disks of %s does not run: %s", b.name, problemOf(h))
	if s.within(since, r.HolderLimit) {
		s.say(v1alpha1.ReasonFileServerPending, what)
		return since, nil
	}
	if err := r.giveUp(ctx, s, b, fmt.Sprintf("for more than %s: %s", r.HolderLimit, what)); err != nil {
		return since, err
	}
	return since, r.unhold(ctx, s, s.names.BackupNamespace(b.number))
}

// adopt takes over what the report says about a backup's disks, and returns how many are undecided.
func (b *backup) adopt(of *session.BackupReport) (undecided int) {
	for _, d := range b.disks {
		if d.failed() {
			continue
		}
		state, message := session.Waiting, ""
		if of != nil {
			if i := slices.IndexFunc(of.Disks, func(x session.DiskReport) bool { return x.Name == d.Name }); i >= 0 {
				state, message = of.Disks[i].State, of.Disks[i].Message
			} else if of.State == session.Failed {
				state, message = session.Failed, of.Message
			}
		}
		switch state {
		case session.Readable:
			d.state = v1alpha1.RestoreAvailable
		case session.Failed:
			if message == "" {
				message = "no reason is given"
			}
			d.fail(v1alpha1.RestoreFailed, "it was restored, but cannot be read: "+message)
		default:
			undecided++
		}
	}
	return undecided
}

// readReport reads what the node says; problem is why it cannot be understood.
func (r *reconciler) readReport(ctx context.Context, s *scope) (said *session.Report, problem string, err error) {
	var cm corev1.ConfigMap
	key := types.NamespacedName{Namespace: s.names.Session, Name: s.names.Report()}
	if err := r.client.Get(ctx, key, &cm); err != nil {
		return nil, "", client.IgnoreNotFound(err) // the cache is late: its event comes
	}
	text := cm.Data[session.KeyReport]
	if text == "" {
		return nil, "", nil
	}
	said, err = session.DecodeReport([]byte(text), s.material.Identity.SessionID())
	if err != nil {
		return nil, clip(fmt.Sprintf("the node's account in the ConfigMap %s is refused (%v): see whether the agent is of the controller's version", key, err)), nil
	}
	return said, "", nil
}
