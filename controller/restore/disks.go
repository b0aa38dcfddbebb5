package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
	"vmfr/controller/velero"
)

// concurrentReads is how many backups' metadata are read at a time for one file restore.
const concurrentReads = 4

// readAttempts is how often a backup's metadata are read where the way to them fails.
const readAttempts = 4

// freeze writes down what the discovery said, before anything is made of it: all names depend on it, and the
// discovery may change or go.
func (r *reconciler) freeze(ctx context.Context, s *scope) error {
	s.vmfr.Status.PVCRestores = volumes(s.backups, r.Plan.Namespace)
	if vm, ok := machine(s.vmfr); !ok || vm != s.vm {
		to := s.before.DeepCopy()
		if to.Annotations == nil {
			to.Annotations = map[string]string{}
		}
		to.Annotations[v1alpha1.AnnotationVM], to.Annotations[v1alpha1.AnnotationVMNS] = s.vm.Name, s.vm.Namespace
		if err := r.client.Patch(ctx, to, client.MergeFromWithOptions(s.before, client.MergeFromWithOptimisticLock{})); err != nil {
			return err
		}
		s.vmfr.ObjectMeta = *to.ObjectMeta.DeepCopy()
		s.before = to
	}
	s.vmfr.Status.Phase = v1alpha1.FileRestoreInProgress
	s.vmfr.Status.ObservedGeneration = s.vmfr.Generation
	setCondition(s, v1alpha1.ConditionProgressing, true, v1alpha1.ReasonDiscoveringPVCs, fmt.Sprintf("reading from the metadata of %d backups how the disks are attached", len(s.backups)))
	return r.patch(ctx, s)
}

// readDisks learns the order of the disks, their bus and their mode: from the session's document if
// it is written already, or from the backups' metadata.
func (r *reconciler) readDisks(ctx context.Context, s *scope) error {
	doc, err := r.document(ctx, s)
	if err != nil {
		return err
	}
	var unread []*backup
	for _, b := range s.backups {
		if i := slices.IndexFunc(doc.Backups, func(d session.Backup) bool { return d.Name == b.name }); i >= 0 {
			b.arrange(fromDocument(doc.Backups[i]))
		} else if b.usable() {
			unread = append(unread, b)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, r.DisksLimit)
	defer cancel()
	var readers sync.WaitGroup
	slot := make(chan struct{}, concurrentReads)
	errs := make([]error, len(unread))
	for i, b := range unread {
		readers.Add(1)
		slot <- struct{}{}
		go func() {
			defer func() { <-slot; readers.Done() }()
			errs[i] = r.readBackup(ctx, s, b)
		}()
	}
	readers.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if r.away(s, unread) {
		return errStop
	}
	if !slices.ContainsFunc(s.backups, func(b *backup) bool { return slices.ContainsFunc(b.disks, func(d *disk) bool { return d.known }) }) {
		s.stop(v1alpha1.ReasonNoValidBackupsFound, "none of the backups can be restored: status.pvcRestores says why for each volume. The first: "+s.tally().reason)
		return errStop
	}
	return nil
}

// readBackup reads one backup's metadata. Only an error of the API server or the end of the controller is returned:
// others are the backup's.
func (r *reconciler) readBackup(ctx context.Context, s *scope, b *backup) error {
	var o velerov1.Backup
	err := r.client.Get(ctx, types.NamespacedName{Namespace: b.namespace, Name: b.name}, &o)
	if apierrors.IsNotFound(err) {
		b.fail(v1alpha1.RestoreBackupDeleted, fmt.Sprintf("the backup %s was deleted after the discovery: run a new discovery", b.name))
		return nil
	}
	if err != nil {
		return err
	}
	vm, err := r.readVM(ctx, s, &o)
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, velero.ErrUnreachable), errors.Is(err, velero.ErrNotAnswered):
		b.away = err
	case errors.Is(err, velero.ErrNotStored):
		b.fail(v1alpha1.RestoreBackupMissing, fmt.Sprintf("the contents of the backup %s: %v: they were removed behind Velero's back, or never written", b.name, err))
	case errors.Is(err, context.DeadlineExceeded):
		b.fail(v1alpha1.RestoreExtractionFailed, fmt.Sprintf("the contents of the backup %s were not read within %s: see whether its storage location is available and Velero's server answers, then create this restore again", b.name, r.DisksLimit))
	case err != nil:
		b.unread(err)
	default:
		disks := make([]plan.Disk, 0, len(vm.PVCs))
		for _, p := range vm.PVCs {
			disks = append(disks, plan.Disk{Name: p.Name, PVCUID: p.UID, Mode: session.Mode(p.Mode), Bus: p.Bus})
		}
		b.arrange(disks)
	}
	return nil
}

// away waits for storage locations, and for Velero, that did not answer: what is away for a moment must not
// cost a file restore its backups. Those that stay away fail.
func (r *reconciler) away(s *scope, unread []*backup) (wait bool) {
	for _, b := range unread {
		switch {
		case b.away == nil:
		case s.within(s.vmfr.CreationTimestamp.Time, r.LocationLimit):
			s.say(v1alpha1.ReasonDiscoveringPVCs, fmt.Sprintf("the contents of the backup %s: %v: it is tried again", b.name, b.away))
			s.wake(s.now.Add(r.LocationLimit / 20))
			wait = true
		default:
			b.unread(b.away)
		}
	}
	return wait
}

// unread fails a backup whose metadata could not be read.
func (b *backup) unread(err error) {
	b.fail(v1alpha1.RestoreExtractionFailed, fmt.Sprintf("the contents of the backup %s: %v: mend that and create this restore again", b.name, err))
}

// readVM tries to read a backup's metadata, again where it is not the backup that is to blame.
func (r *reconciler) readVM(ctx context.Context, s *scope, o *velerov1.Backup) (velero.VM, error) {
	owner := metav1.OwnerReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "VirtualMachineFileRestore", Name: s.vmfr.Name, UID: s.vmfr.UID}
	key := types.NamespacedName{Namespace: s.vm.Namespace, Name: s.vm.Name}
	delay := wait.Backoff{Duration: r.RetryDelay, Factor: 2, Jitter: 0.2, Steps: readAttempts}
	for {
		vm, err := r.Contents.VM(ctx, velero.BackupOf(o), key, owner)
		final := err == nil || errors.Is(err, velero.ErrNotStored) || errors.Is(err, velero.ErrUnreadable) || errors.Is(err, velero.ErrNoVM)
		pause := delay.Step()
		if final || delay.Steps == 0 || ctx.Err() != nil {
			return vm, err
		}
		select {
		case <-ctx.Done():
			return vm, fmt.Errorf("%w (%w)", err, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// arrange puts the disks into the guest's order and takes over what is known of each. Disks that the
// metadata does not have keep their state and come last.
func (b *backup) arrange(order []plan.Disk) {
	place := func(d *disk) int {
		return slices.IndexFunc(order, func(o plan.Disk) bool { return o.Name == d.Name && (o.PVCUID == d.PVCUID || o.PVCUID == "") })
	}
	for _, d := range b.disks {
		i := place(d)
		switch {
		case i >= 0:
			d.Mode, d.Bus, d.known = order[i].Mode, order[i].Bus, true
			if d.Mode == "" {
				d.Mode = session.Filesystem // as in a PVC
			}
		case !settled(d.state):
			d.fail(v1alpha1.RestoreExtractionFailed, fmt.Sprintf("the backup %s holds no PersistentVolumeClaim %s", b.name, d.Name))
		}
		if d.PVCUID == "" {
			d.known = false // it cannot be selected, so it is never served
		}
	}
	slices.SortStableFunc(b.disks, func(x, y *disk) int {
		i, j := place(x), place(y)
		switch {
		case i == j:
			return 0
		case i < 0 || j >= 0 && j < i:
			return 1
		}
		return -1
	})
}

// document is the session's document as it was written; an empty one where there is none that can be relied on.
func (r *reconciler) document(ctx context.Context, s *scope) (*session.Session, error) {
	var cm corev1.ConfigMap
	err := r.direct.Get(ctx, types.NamespacedName{Namespace: s.names.Session, Name: s.names.SessionConfig()}, &cm)
	if err != nil || cm.Labels[v1alpha1.LabelOriginUUID] != string(s.vmfr.UID) {
		return new(session.Session), client.IgnoreNotFound(err)
	}
	doc, err := session.Decode([]byte(cm.Data[session.KeySession]))
	if err != nil || doc.UID != string(s.vmfr.UID) {
		return new(session.Session), nil // it is written anew
	}
	return doc, nil
}

func fromDocument(b session.Backup) []plan.Disk {
	disks := make([]plan.Disk, 0, len(b.Disks))
	for _, d := range b.Disks {
		disks = append(disks, plan.Disk{Name: d.Name, PVCUID: types.UID(d.PVCUID), Mode: d.Mode, Bus: d.Bus})
	}
	return disks
}
