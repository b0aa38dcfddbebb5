package restore

import (
	"context"
	"fmt"
	"slices"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
	"vmfr/controller/velero"
)

// follow looks at what Velero has made: volumes, and the data movers that fill them.
func (r *reconciler) follow(ctx context.Context, s *scope) error {
	running := 0
	for _, b := range s.backups {
		if b.restoreName != "" && b.gaveUp == "" {
			if err := r.followBackup(ctx, s, b); err != nil {
				return err
			}
		}
		if !b.ended && b.usable() {
			running++
		}
	}
	if running > 0 {
		s.say(v1alpha1.ReasonWaitingForRestores, waitingForRestores(s.backups, running))
	}
	return nil
}

// followBackup updates the disks of one backup from its Restore.
func (r *reconciler) followBackup(ctx context.Context, s *scope, b *backup) error {
	namespace := s.names.BackupNamespace(b.number)
	downloads, err := velero.Downloads(ctx, r.client, r.Plan.Namespace, b.restoreName)
	if err != nil {
		return err
	}
	state, why := b.restoreState()
	if state == velero.RestoreFailed {
		return r.restoreFailed(ctx, b, why)
	}
	if state == velero.RestoreRunning {
		b.waiting = why
	}
	claims, err := r.claims(ctx, b, namespace, state != velero.RestoreRunning)
	if err != nil {
		return err
	}
	if state == velero.RestoreRunning && !s.within(b.created.Time, r.RestoreLimit) {
		return r.stopRestore(ctx, s, b, downloads, fmt.Sprintf("the Velero Restore %s has not ended within %s (phase %q): see Velero's log", b.restoreName, r.RestoreLimit, b.restorePhase))
	}
	moving := false
	for _, d := range b.disks {
		if d.failed() || !d.known {
			continue
		}
		claim := velero.FindPVC(claims, b.restoreName, d.PVCUID, d.Name)
		switch {
		case claim == nil && state != velero.RestoreRunning:
			d.fail(v1alpha1.RestoreFailed, clip(fmt.Sprintf("Velero restored no volume for %s. %s", d.Name, why)))
			continue
		case claim == nil:
			moving = true
			continue
		case claim.Status.Phase == corev1.ClaimLost:
			d.fail(v1alpha1.RestoreFailed, fmt.Sprintf("the restored PersistentVolumeClaim %s/%s has lost its volume", namespace, claim.Name))
			continue
		}
		d.Claim = claim.Name
		if m := downloadOf(downloads, namespace, d.Name, claim.Name); m != nil {
			goesOn, err := r.followMove(ctx, s, d, *m)
			if err != nil {
				return err
			}
			moving = moving || goesOn
			b.endedAt = later(b.endedAt, m.Since)
		}
	}
	b.ended = state != velero.RestoreRunning && !moving
	if b.completed != nil {
		b.endedAt = later(b.endedAt, b.completed.Time)
	}
	return nil
}

// claims are the volumes that a backup's Restore made. Where it has ended and the cache does not show all
// of them, the API server is asked: nothing is called lost because a watch is late.
func (r *reconciler) claims(ctx context.Context, b *backup, namespace string, ended bool) ([]corev1.PersistentVolumeClaim, error) {
	for _, from := range []client.Reader{r.client, r.direct} {
		var list corev1.PersistentVolumeClaimList
		if err := from.List(ctx, &list, client.InNamespace(namespace), client.MatchingLabels{velero.LabelRestore: b.restoreName}); err != nil {
			return nil, err
		}
		lost := slices.ContainsFunc(b.disks, func(d *disk) bool {
			return !d.failed() && d.known && velero.FindPVC(list.Items, b.restoreName, d.PVCUID, d.Name) == nil
		})
		if !ended || !lost || from == r.direct {
			return list.Items, nil
		}
	}
	return nil, nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// followMove takes over a data mover's progress; moving tells that it goes on. One that has written nothing
// for too long is stopped.
func (r *reconciler) followMove(ctx context.Context, s *scope, d *disk, m velero.Download) (moving bool, err error) {
	d.done, d.total = m.BytesDone, m.TotalBytes
	idle := r.moves.idle(s.vmfr.UID, m, s.now)
	switch {
	case m.Failed:
		d.fail(v1alpha1.RestoreFailed, m.Message)
		return false, nil
	case m.Ended:
		return false, nil
	case s.within(idle, r.MovementLimit):
		return true, nil
	}
	d.fail(v1alpha1.RestoreFailed, fmt.Sprintf("the data mover %s has written nothing for %s (phase %q, %d of %d bytes): see whether Velero's node agents run, and their logs", m.Name, r.MovementLimit, m.Phase, m.BytesDone, m.TotalBytes))
	return false, m.Cancel(ctx, r.client)
}

// restoreFailed fails a backup whose Restore failed; a backup that is gone has its own state.
func (r *reconciler) restoreFailed(ctx context.Context, b *backup, why string) error {
	var o velerov1.Backup
	err := r.client.Get(ctx, types.NamespacedName{Namespace: b.namespace, Name: b.name}, &o)
	switch {
	case apierrors.IsNotFound(err):
		b.fail(v1alpha1.RestoreBackupDeleted, fmt.Sprintf("the backup %s was deleted while it was being restored: %s", b.name, why))
	case err != nil:
		return err
	default:
		b.fail(v1alpha1.RestoreFailed, why)
	}
	b.ended = true
	return nil
}

// stopRestore gives up a Restore that takes too long. Velero cannot be told to stop, but its data movers can.
func (r *reconciler) stopRestore(ctx context.Context, s *scope, b *backup, downloads []velero.Download, why string) error {
	if err := r.giveUp(ctx, s, b, why); err != nil {
		return err
	}
	for _, m := range downloads {
		if err := m.Cancel(ctx, r.client); err != nil {
			return err
		}
	}
	return nil
}

// downloadOf finds the DataDownload of a volume: by the name in the backup, which it keeps where a plugin renames
// the volume, or by the restored name.
func downloadOf(downloads []velero.Download, namespace, original, restored string) *velero.Download {
	for _, name := range []string{restored, original} {
		for i := range downloads {
			if downloads[i].PVC == name && downloads[i].Target == namespace {
				return &downloads[i]
			}
		}
	}
	return nil
}

// waitingForRestores says how far the Restores are, as one sentence.
func waitingForRestores(backups []*backup, running int) string {
	var done, total int64
	for _, b := range backups {
		for _, d := range b.disks {
			done, total = done+d.done, total+d.total
		}
	}
	text := fmt.Sprintf("%d of %d backups are being restored by Velero", running, len(backups))
	for _, b := range backups {
		if b.waiting != "" && b.usable() {
			text += "; " + b.name + " waits: " + b.waiting
			break
		}
	}
	if total > 0 {
		// In steps, so that the status is not written for each block; the volumes have the bytes.
		text += fmt.Sprintf("; %d%% of their data is moved", done*10/total*10)
	}
	return text
}
