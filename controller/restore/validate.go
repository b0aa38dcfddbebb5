package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
	"vmfr/controller/velero"
)

// maxEntries bounds status.pvcRestores, volumes times backups: with a reason of 1,000 bytes each it is 1.3 MiB,
// and etcd takes 1.5.
const maxEntries = 1000

func countDisks(backups []*backup) (n int) {
	for _, b := range backups {
		n += len(b.disks)
	}
	return n
}

// validate finds the virtual machine and the backups: those of the status, once they are frozen
// there, or those that the discovery found.
func (r *reconciler) validate(ctx context.Context, s *scope) error {
	vm, frozen := machine(s.vmfr)
	if frozen && len(s.vmfr.Status.PVCRestores) > 0 {
		s.vm, s.names = vm, plan.NewNames(s.vmfr, vm)
		s.backups = load(&s.vmfr.Status)
		s.unknown = missing(s.vmfr.Spec.SelectedBackups, s.backups)
		return nil
	}
	var d v1alpha1.VirtualMachineBackupsDiscovery
	key := types.NamespacedName{Namespace: s.vmfr.Namespace, Name: s.vmfr.Spec.BackupsDiscoveryRef}
	err := r.client.Get(ctx, key, &d)
	switch {
	case apierrors.IsNotFound(err):
		s.stop(v1alpha1.ReasonValidationFailed, fmt.Sprintf("there is no VirtualMachineBackupsDiscovery %s in the namespace %s: create it, or a restore that names another", key.Name, key.Namespace))
		return errStop
	case err != nil:
		return err
	}
	if d.Status.ObservedGeneration != d.Generation || !discovered(d.Status.Phase) && d.Status.Phase != v1alpha1.DiscoveryFailed {
		if !s.within(s.vmfr.CreationTimestamp.Time, r.DiscoveryLimit) {
			s.stop(v1alpha1.ReasonValidationFailed, fmt.Sprintf("the discovery %s has not ended within %s: see its status, and create this restore again once it is Completed", d.Name, r.DiscoveryLimit))
			return errStop
		}
		s.say(v1alpha1.ReasonWaitingForDiscovery, fmt.Sprintf("the discovery %s is looking for backups", d.Name))
		return errStop
	}
	if !discovered(d.Status.Phase) {
		s.stop(v1alpha1.ReasonValidationFailed, fmt.Sprintf("the discovery %s failed, so there is no backup to restore: %s. Mend that, or make a restore that names another discovery", d.Name, whyFailed(&d)))
		return errStop
	}
	s.vm = session.VM{Name: d.Spec.VirtualMachineName, Namespace: d.Spec.VirtualMachineNamespace}
	s.names = plan.NewNames(s.vmfr, s.vm)
	if err := r.choose(ctx, s, &d); err != nil {
		return err
	}
	return r.freeze(ctx, s)
}

// whyFailed is what a discovery says of its failure.
func whyFailed(d *v1alpha1.VirtualMachineBackupsDiscovery) string {
	if c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ConditionReady); c != nil && c.Message != "" {
		return c.Message
	}
	return "see its conditions"
}

// discovered tells whether a discovery's result can be used.
func discovered(p v1alpha1.DiscoveryPhase) bool {
	return p == v1alpha1.DiscoveryCompleted || p == v1alpha1.DiscoveryPartiallyFailed
}

// choose takes the selected backups of the discovery, each with the virtual machine's volumes.
func (r *reconciler) choose(ctx context.Context, s *scope, d *v1alpha1.VirtualMachineBackupsDiscovery) error {
	selected := s.vmfr.Spec.SelectedBackups
	byName := map[string]*backup{}
	for _, v := range d.Status.ValidBackups {
		if len(selected) > 0 && !slices.Contains(selected, v.Name) {
			continue
		}
		b := &backup{name: v.Name, namespace: v.Namespace}
		if v.CreatedAt != nil {
			b.taken = v.CreatedAt.Time
		}
		for _, p := range v.PVCs {
			b.disks = append(b.disks, chosen(p))
		}
		byName[b.name] = b
	}
	if len(byName) > session.MaxBackups {
		s.stop(v1alpha1.ReasonValidationFailed, fmt.Sprintf("%d backups are more than the %d that one restore serves: name fewer in spec.selectedBackups of another restore", len(byName), session.MaxBackups))
		return errStop
	}
	for _, b := range byName {
		var o velerov1.Backup
		err := r.client.Get(ctx, types.NamespacedName{Namespace: b.namespace, Name: b.name}, &o)
		switch {
		case apierrors.IsNotFound(err), err == nil && velero.BackupOf(&o).Phase == string(velerov1.BackupPhaseDeleting):
			b.fail(v1alpha1.RestoreBackupDeleted, fmt.Sprintf("the backup %s was deleted after the discovery: run a new discovery", b.name))
		case err != nil:
			return err
		case b.taken.IsZero():
			b.taken = velero.BackupOf(&o).Taken
		}
	}
	r.refuse(s, d, byName)
	s.backups = numbered(byName)
	s.unknown = missing(selected, s.backups)
	if n := countDisks(s.backups); n > maxEntries {
		s.stop(v1alpha1.ReasonValidationFailed, fmt.Sprintf("%d backups with %d volumes are more than the %d that one restore keeps account of: name fewer in spec.selectedBackups of another restore", len(s.backups), n, maxEntries))
		s.backups = nil
		return errStop
	}
	if len(s.backups) == 0 {
		s.stop(v1alpha1.ReasonValidationFailed, fmt.Sprintf("none of the selected backups is among the valid ones of the discovery %s: %s", d.Name, enumerate(s.unknown)))
		return errStop
	}
	return nil
}

func chosen(p v1alpha1.DiscoveredPVC) *disk {
	d := &disk{Disk: plan.Disk{Name: p.PVCName, PVCUID: p.PVCUID}, namespace: p.PVCNamespace, state: v1alpha1.RestoreProcessing}
	if p.Size != nil {
		d.Size = *p.Size
	}
	if p.PVCUID == "" {
		d.fail(v1alpha1.RestoreUnsupportedPlugin, "the backup was made without a KubeVirt Velero plugin that labels volumes with their UID ("+v1alpha1.LabelPVCUID+"): update the plugin and make a new backup")
	}
	return d
}

// refuse adds the selected backups that the discovery does not vouch for, with the volumes that the
// virtual machine has in others, so that each has a line in the status.
func (r *reconciler) refuse(s *scope, d *v1alpha1.VirtualMachineBackupsDiscovery, byName map[string]*backup) {
	var known []v1alpha1.DiscoveredPVC
	for _, v := range d.Status.ValidBackups {
		for _, p := range v.PVCs {
			if !slices.ContainsFunc(known, func(k v1alpha1.DiscoveredPVC) bool { return k.PVCUID == p.PVCUID && k.PVCName == p.PVCName }) {
				known = append(known, p)
			}
		}
	}
	for _, name := range s.vmfr.Spec.SelectedBackups {
		if byName[name] != nil || len(byName) >= session.MaxBackups {
			continue
		}
		b := &backup{name: name, namespace: r.Plan.Namespace}
		state, reason := v1alpha1.RestoreBackupMissing, fmt.Sprintf("the discovery %s did not find the backup %s", d.Name, name)
		pvcs := known
		for _, i := range d.Status.InvalidBackups {
			if i.Name != name {
				continue
			}
			if i.CreatedAt != nil {
				b.taken = i.CreatedAt.Time
			}
			if len(i.PVCs) > 0 {
				pvcs = i.PVCs
			}
			state, reason = v1alpha1.RestoreExtractionFailed, fmt.Sprintf("the discovery %s found the backup %s invalid: %s", d.Name, name, i.Reason)
			if strings.Contains(i.Reason, "not found") {
				state = v1alpha1.RestoreBackupMissing
			}
		}
		for _, p := range pvcs {
			d := chosen(p)
			d.state, d.reason = state, clip(reason)
			b.disks = append(b.disks, d)
		}
		if len(b.disks) > 0 {
			byName[name] = b
		}
	}
}

// missing are the names that no backup has.
func missing(names []string, backups []*backup) []string {
	var out []string
	for _, n := range names {
		if !slices.ContainsFunc(backups, func(b *backup) bool { return b.name == n }) {
			out = append(out, n)
		}
	}
	return out
}

// machine is the virtual machine that a restore was begun for.
func machine(vmfr *v1alpha1.VirtualMachineFileRestore) (vm session.VM, ok bool) {
	vm = session.VM{Name: vmfr.Annotations[v1alpha1.AnnotationVM], Namespace: vmfr.Annotations[v1alpha1.AnnotationVMNS]}
	return vm, vm.Name != "" && vm.Namespace != ""
}

// enumerate lists names for a sentence, and not all of very many.
func enumerate(names []string) string {
	const most = 10
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
