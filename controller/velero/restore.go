package velero

import (
	"fmt"
	"slices"
	"strings"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"vmfr/api/v1alpha1"
)

// LabelRestore is on everything that a Velero Restore made: its name.
const LabelRestore = velerov1.RestoreNameLabel

// originalName is on a PVC that OpenShift's Velero plugin renamed: what it was called in the
// backup.
const originalName = "oadp.openshift.io/vmfr-original-name"

// RestoreRequest is what a Velero Restore is made of.
type RestoreRequest struct {
	Name      string
	Namespace string // Velero's
	Backup    string
	// Source is the virtual machine's namespace in the backup; its volumes are restored to Target.
	Source, Target string
	// PVCUIDs are the UIDs that the KubeVirt plugin recorded, one for each volume.
	PVCUIDs             []types.UID
	Labels, Annotations map[string]string
}

// Object is the Restore: exactly the volumes asked for and nothing else of the backup. Neither
// storage class nor volume names are touched, since the data is where the backup left it.
func (r RestoreRequest) Object() *velerov1.Restore {
	selectors := make([]*metav1.LabelSelector, 0, len(r.PVCUIDs))
	for _, uid := range r.PVCUIDs {
		selectors = append(selectors, &metav1.LabelSelector{MatchLabels: map[string]string{v1alpha1.LabelPVCUID: string(uid)}})
	}
	return &velerov1.Restore{
		TypeMeta:   metav1.TypeMeta{APIVersion: velerov1.SchemeGroupVersion.String(), Kind: "Restore"},
		ObjectMeta: metav1.ObjectMeta{Name: r.Name, Namespace: r.Namespace, Labels: r.Labels, Annotations: r.Annotations},
		Spec: velerov1.RestoreSpec{
			BackupName:         r.Backup,
			IncludedNamespaces: []string{r.Source},
			NamespaceMapping:   map[string]string{r.Source: r.Target},
			IncludedResources:  []string{"persistentvolumeclaims", "volumesnapshots"},
			OrLabelSelectors:   selectors,
		},
	}
}

// RestoreState is what a Restore has come to.
type RestoreState string

// The states of a Restore.
const (
	RestoreRunning   RestoreState = "Running"   // Velero still makes objects or moves data
	RestoreSucceeded RestoreState = "Succeeded" // all that was asked for is there
	RestorePartial   RestoreState = "Partial"   // some of it is: look at each volume
	RestoreFailed    RestoreState = "Failed"    // nothing can be relied on
)

// JudgeRestore tells what a Restore has come to, and why where it is no success.
//
// The two finalizing phases count as ended: objects are made and data is moved by then, what is
// left to Velero (settings of volumes, results for its command line) is of no use here, and a
// Restore whose storage location goes away stays in them for ever. One part of it waits until the volumes are bound, for which
// storage that binds late needs the very pod that comes after this.
func JudgeRestore(r *velerov1.Restore) (RestoreState, string) {
	s := r.Status
	why := func(what string) string {
		parts := []string{fmt.Sprintf("Velero's restore %s %s", r.Name, what)}
		if s.FailureReason != "" {
			parts = append(parts, s.FailureReason)
		}
		parts = append(parts, s.ValidationErrors...)
		return fmt.Sprintf("%s; see `velero restore describe %s --details`", strings.Join(parts, ": "), r.Name)
	}
	switch s.Phase {
	case velerov1.RestorePhaseCompleted, velerov1.RestorePhaseFinalizing:
		return RestoreSucceeded, ""
	case velerov1.RestorePhasePartiallyFailed, velerov1.RestorePhaseFinalizingPartiallyFailed:
		return RestorePartial, why(fmt.Sprintf("met %d errors", s.Errors))
	case velerov1.RestorePhaseFailed:
		return RestoreFailed, why("failed")
	case velerov1.RestorePhaseFailedValidation:
		return RestoreFailed, why("was refused")
	case "", velerov1.RestorePhaseNew, velerov1.RestorePhaseInProgress, velerov1.RestorePhaseWaitingForPluginOperations,
		velerov1.RestorePhaseWaitingForPluginOperationsPartiallyFailed:
		return RestoreRunning, ""
	default:
		// A phase of a later Velero: waiting is bounded, a wrong guess is not.
		return RestoreRunning, fmt.Sprintf("Velero's restore %s is in the phase %s, which is not known here", r.Name, s.Phase)
	}
}

// RefusedForLocation tells whether Velero refused a Restore only because its backup's storage location was not
// available at that moment. It has made nothing then, and never tries again. Velero says so in words alone.
func RefusedForLocation(r *velerov1.Restore) bool {
	why := r.Status.ValidationErrors
	return r.Status.Phase == velerov1.RestorePhaseFailedValidation && len(why) == 1 &&
		strings.HasPrefix(why[0], "The BSL ") && strings.Contains(why[0], " is unavailable")
}

// FinalRestore tells whether Velero itself will do nothing more for a Restore.
func FinalRestore(r *velerov1.Restore) bool {
	switch r.Status.Phase {
	case velerov1.RestorePhaseCompleted, velerov1.RestorePhasePartiallyFailed, velerov1.RestorePhaseFailed, velerov1.RestorePhaseFailedValidation:
		return true
	}
	return false
}

// CreatingObjects tells whether Velero may still make objects for a Restore, and with them the namespace
// that they belong to.
func CreatingObjects(r *velerov1.Restore) bool {
	return r.Status.Phase == velerov1.RestorePhaseInProgress
}

// FindPVC returns which of the claims is the restored volume: by the UID that the KubeVirt plugin
// recorded, or by its name in the backup where there is no such label. claims are those of one namespace;
// those of other Restores are passed over. Nil: it is not there (yet).
func FindPVC(claims []corev1.PersistentVolumeClaim, restore string, uid types.UID, name string) *corev1.PersistentVolumeClaim {
	ours := func(match func(*corev1.PersistentVolumeClaim) bool) *corev1.PersistentVolumeClaim {
		i := slices.IndexFunc(claims, func(c corev1.PersistentVolumeClaim) bool {
			return c.Labels[LabelRestore] == restore && match(&c)
		})
		if i < 0 {
			return nil
		}
		return &claims[i]
	}
	if uid != "" {
		if c := ours(func(c *corev1.PersistentVolumeClaim) bool { return c.Labels[v1alpha1.LabelPVCUID] == string(uid) }); c != nil {
			return c
		}
	}
	return ours(func(c *corev1.PersistentVolumeClaim) bool {
		return c.Labels[v1alpha1.LabelPVCUID] == "" && OriginalName(c) == name
	})
}

// OriginalName is what a restored PVC was called in the backup.
func OriginalName(c *corev1.PersistentVolumeClaim) string {
	for _, from := range []map[string]string{c.Labels, c.Annotations} {
		if n := from[originalName]; n != "" {
			return n
		}
	}
	return c.Name
}
