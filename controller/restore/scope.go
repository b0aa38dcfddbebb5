package restore

import (
	"cmp"
	"slices"
	"strings"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
)

// scope is one reconciliation: what was read so far, and the status that will be written.
type scope struct {
	vmfr   *v1alpha1.VirtualMachineFileRestore // its status is what is to be written
	before *v1alpha1.VirtualMachineFileRestore // as the API server has it
	now    time.Time

	vm      session.VM
	names   plan.Names
	backups []*backup // by number
	unknown []string  // selected backups of which nothing is known, not even their volumes

	plan     plan.Plan
	material plan.Material
	expose   string // why the session is not reachable from outside, although it should be
	serves   bool   // the node says that clients are answered
	broken   string // why nothing is served, although volumes are there

	progress progress
	verdict  verdict
	wakeAt   time.Time // zero: events alone
}

// progress is what a file restore is waiting for, or doing.
type progress struct{ reason, message string }

// verdict ends a reconciliation early: nothing can be served as long as this is so.
type verdict struct{ reason, message string }

// backup is one selected backup.
type backup struct {
	number          int
	name, namespace string
	taken           time.Time
	disks           []*disk

	restoreName  string            // of the Velero Restore; empty: none was made
	restorePhase string            // the Restore's, as Velero calls it
	created      *metav1.Time      // the Restore
	completed    *metav1.Time      // the Restore
	restore      *velerov1.Restore // nil: not there (any more)
	ended        bool              // Velero is done with it, and so are the data movers
	endedAt      time.Time         // when that was, as far as somebody wrote it down
	target       *corev1.Namespace // nil: not there yet
	gaveUp       string            // why; it stays so
	waiting      string            // what for
	away         error             // why its metadata could not be read now; nil: nothing, or they were
}

// disk is one volume in one backup.
type disk struct {
	plan.Disk
	namespace   string // the PVC's when it was backed up
	state       v1alpha1.RestoreState
	reason      string
	done, total int64
	known       bool // mode, bus and place were read
}

// fail gives the disk its failure; the first one stays.
func (d *disk) fail(state v1alpha1.RestoreState, reason string) {
	if d.failed() {
		return
	}
	d.state, d.reason, d.Claim = state, clip(reason), ""
}

func (d *disk) failed() bool {
	return d.state != v1alpha1.RestoreProcessing && d.state != v1alpha1.RestoreAvailable
}

// settled tells whether a state that was written stays, whatever the cluster looks like now. Failures
// that are none of these are found again.
func settled(state v1alpha1.RestoreState) bool {
	switch state {
	case v1alpha1.RestoreBackupDeleted, v1alpha1.RestoreBackupMissing, v1alpha1.RestoreUnsupportedPlugin, v1alpha1.RestoreExtractionFailed:
		return true
	}
	return false
}

// fail fails all disks of the backup that have not failed yet.
func (b *backup) fail(state v1alpha1.RestoreState, reason string) {
	for _, d := range b.disks {
		d.fail(state, reason)
	}
}

// usable tells whether any of its disks may still be served.
func (b *backup) usable() bool {
	return slices.ContainsFunc(b.disks, func(d *disk) bool { return !d.failed() })
}

// wake has the reconciliation repeated at t at the latest.
func (s *scope) wake(t time.Time) {
	if s.wakeAt.IsZero() || t.Before(s.wakeAt) {
		s.wakeAt = t
	}
}

// within tells whether a wait that began at since may go on; it has the reconciliation repeated
// when it may no more.
func (s *scope) within(since time.Time, limit time.Duration) bool {
	end := since.Add(limit)
	if !s.now.Before(end) {
		return false
	}
	s.wake(end)
	return true
}

// say sets what is being waited for. The first one stays: it is what holds the others up.
func (s *scope) say(reason, message string) {
	if s.progress.reason == "" {
		s.progress = progress{reason, message}
	}
}

// stop says that nothing can be served as long as message is true.
func (s *scope) stop(reason, message string) { s.verdict = verdict{reason, clip(message)} }

// input is what the plan is made of: all backups whose disks are known.
func (s *scope) input() plan.Input {
	in := plan.Input{Restore: s.vmfr, VM: s.vm, Numbers: len(s.backups)}
	for _, b := range s.backups {
		p := plan.Backup{Number: b.number, Name: b.name, Timestamp: b.taken}
		for _, d := range b.disks {
			if d.known {
				p.Disks = append(p.Disks, d.Disk)
			}
		}
		if len(p.Disks) > 0 {
			p.Attach = b.attach()
			in.Backups = append(in.Backups, p)
		}
	}
	return in
}

// attach tells whether the backup's disk holder is to be there: as soon as all volumes that are to come
// have come, since storage that binds late waits for the holder.
func (b *backup) attach() bool {
	any := false
	for _, d := range b.disks {
		if d.failed() {
			continue
		}
		if d.Claim == "" {
			return false
		}
		any = true
	}
	return any
}

// load takes the backups and volumes from the status, where they are frozen.
func load(status *v1alpha1.VirtualMachineFileRestoreStatus) []*backup {
	byName := map[string]*backup{}
	for _, p := range status.PVCRestores {
		for _, r := range p.Restores {
			b := byName[r.VeleroBackupName]
			if b == nil {
				b = &backup{name: r.VeleroBackupName, namespace: r.VeleroBackupNamespace}
				byName[b.name] = b
			}
			if r.Timestamp != nil {
				b.taken = r.Timestamp.Time
			}
			if r.VeleroRestoreName != "" {
				b.restoreName, b.restorePhase, b.created, b.completed = r.VeleroRestoreName, r.Phase, r.CreatedAt, r.CompletedAt
			}
			d := &disk{Disk: plan.Disk{Name: p.PVCName, PVCUID: p.PVCUID}, namespace: p.PVCNamespace, state: v1alpha1.RestoreProcessing}
			if p.Size != nil {
				d.Size = *p.Size
			}
			if settled(r.State) {
				d.state, d.reason = r.State, r.FailureReason
			}
			b.disks = append(b.disks, d)
		}
	}
	return numbered(byName)
}

// numbered sorts backups by time and name, as plan.Number does, and numbers them from 1.
func numbered(byName map[string]*backup) []*backup {
	order := make([]plan.Backup, 0, len(byName))
	for _, b := range byName {
		order = append(order, plan.Backup{Name: b.name, Timestamp: b.taken})
	}
	backups := make([]*backup, 0, len(byName))
	for _, p := range plan.Number(order) {
		b := byName[p.Name]
		b.number = p.Number
		backups = append(backups, b)
	}
	return backups
}

// volumes is the inverse of load: the status of every volume in every backup, by name and UID.
func volumes(backups []*backup, veleroNamespace string) []v1alpha1.PVCRestore {
	type key struct {
		uid             types.UID
		namespace, name string
	}
	byKey := map[key]*v1alpha1.PVCRestore{}
	for _, b := range backups {
		for _, d := range b.disks {
			k := key{d.PVCUID, d.namespace, d.Name}
			p := byKey[k]
			if p == nil {
				p = &v1alpha1.PVCRestore{PVCUID: d.PVCUID, PVCName: d.Name, PVCNamespace: d.namespace}
				byKey[k] = p
			}
			if p.Size == nil || d.Size.Cmp(*p.Size) > 0 { // it may have grown from backup to backup
				p.Size = quantity(d.Size)
			}
			r := v1alpha1.BackupRestore{
				VeleroBackupName: b.name, VeleroBackupNamespace: b.namespace, State: d.state, FailureReason: d.reason,
				BytesDone: d.done, TotalBytes: d.total,
			}
			if !b.taken.IsZero() {
				r.Timestamp = &metav1.Time{Time: b.taken}
			}
			if b.restoreName != "" && !settled(d.state) {
				r.VeleroRestoreName, r.VeleroRestoreNamespace = b.restoreName, veleroNamespace
				r.Phase, r.CreatedAt, r.CompletedAt = b.restorePhase, b.created, b.completed
			}
			p.Restores = append(p.Restores, r)
		}
	}
	list := make([]v1alpha1.PVCRestore, 0, len(byKey))
	for _, p := range byKey {
		list = append(list, *p)
	}
	slices.SortFunc(list, func(a, b v1alpha1.PVCRestore) int {
		return cmp.Or(strings.Compare(a.PVCName, b.PVCName), strings.Compare(string(a.PVCUID), string(b.PVCUID)))
	})
	return list
}

func quantity(q resource.Quantity) *resource.Quantity {
	if q.IsZero() {
		return nil
	}
	c := q.DeepCopy()
	return &c
}

// clip keeps a text within what the CRD allows (1024 characters) without cutting a character.
func clip(s string) string {
	const limit = 1000
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + " ..."
}
