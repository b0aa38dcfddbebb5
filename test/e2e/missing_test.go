package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
)

// needs is what the suite needs of a cluster, as the flags name it.
type needs struct {
	velero, location string // Velero's namespace, and one of its storage locations
	class, late      string // of storage; "": the default, none
	reach            string
}

func flagged() needs {
	return needs{velero: *veleroNamespace, location: *location, class: *storageClass, late: *lateClass, reach: *reach}
}

// missing tells everything that the cluster lacks, before anything is made on it.
func (w *world) missing(t testing.TB, n needs) error {
	t.Helper()
	var all []error
	lacks := func(format string, args ...any) { all = append(all, fmt.Errorf(format, args...)) }
	if n.reach != "direct" && n.reach != "port-forward" {
		lacks("-reach %s is neither direct nor port-forward", n.reach)
	}
	for kind, of := range map[schema.GroupKind]string{
		{Group: "velero.io", Kind: "Backup"}:                                         "install Velero",
		{Group: "snapshot.storage.k8s.io", Kind: "VolumeSnapshot"}:                   "install CSI's snapshot controller and a driver with snapshots",
		{Group: "kubevirt.io", Kind: "VirtualMachine"}:                               "install KubeVirt",
		{Group: "cdi.kubevirt.io", Kind: "DataVolume"}:                               "install KubeVirt's CDI",
		{Group: v1alpha1.GroupVersion.Group, Kind: "VirtualMachineFileRestore"}:      "install vmfr, see docs/install.md",
		{Group: v1alpha1.GroupVersion.Group, Kind: "VirtualMachineBackupsDiscovery"}: "install vmfr, see docs/install.md",
	} {
		if _, err := w.admin.RESTMapper().RESTMapping(kind); meta.IsNoMatchError(err) {
			lacks("the cluster has no kind %s: %s", kind, of)
		} else if err != nil {
			lacks("%s: %w", kind, err)
		}
	}
	if len(all) > 0 { // the rest asks for these kinds
		return errors.Join(all...)
	}
	bsl := &velerov1.BackupStorageLocation{ObjectMeta: metav1.ObjectMeta{Namespace: n.velero, Name: n.location}}
	if err := w.get(bsl); err != nil {
		lacks("%w: name Velero's namespace with -velero-namespace, and a location with -backup-location", err)
	} else if bsl.Status.Phase != velerov1.BackupStorageLocationPhaseAvailable {
		lacks("Velero's location %s is %q: %s", n.location, bsl.Status.Phase, bsl.Status.Message)
	}
	all = append(all, w.missingStorage(n)...)
	for _, o := range []client.Object{
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: controllerNamespace, Name: "vmfr-controller"}},
		&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: agentNamespace, Name: "vmfr-agent"}},
	} {
		if err := w.get(o); err != nil {
			lacks("%w: install vmfr, see docs/install.md", err)
		}
	}
	for _, name := range []string{"shop", "bank", "mallory"} {
		if err := w.get(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err == nil {
			lacks("the namespace %s is there already, and the suite makes and deletes it: delete it if a run of the suite left it", name)
		} else if !apierrors.IsNotFound(err) {
			lacks("%w", err)
		}
	}
	for _, name := range []string{moved, snapshot, "ledger-1"} {
		if w.get(&velerov1.Backup{ObjectMeta: metav1.ObjectMeta{Namespace: n.velero, Name: name}}) == nil {
			lacks("the backup %s is there already, and the suite makes and deletes it: delete it if a run of the suite left it", name)
		}
	}
	return errors.Join(all...)
}

// missingStorage tells what the storage lacks.
func (w *world) missingStorage(n needs) (all []error) {
	lacks := func(format string, args ...any) { all = append(all, fmt.Errorf(format, args...)) }
	var classes storagev1.StorageClassList
	var snapshots snapshotv1.VolumeSnapshotClassList
	if err := errors.Join(w.admin.List(context.Background(), &classes), w.admin.List(context.Background(), &snapshots)); err != nil {
		return []error{err}
	}
	find := func(flag, name string) (found *storagev1.StorageClass) {
		var names []string
		for i, c := range classes.Items {
			names = append(names, c.Name)
			if c.Name == name || name == "" && c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
				found = &classes.Items[i]
			}
		}
		switch {
		case found == nil && name == "":
			lacks("no StorageClass is the default: name one of %q with %s", names, flag)
		case found == nil:
			lacks("there is no StorageClass %s: %s can be one of %q", name, flag, names)
		}
		return found
	}
	used := []*storagev1.StorageClass{find("-storage-class", n.class)}
	if n.late != "" {
		late := find("-late-storage-class", n.late)
		if late != nil && (late.VolumeBindingMode == nil || *late.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer) {
			lacks("the StorageClass %s of -late-storage-class does not wait for its first consumer", n.late)
		}
		used = append(used, late)
	}
	for _, c := range used {
		if c == nil {
			continue
		}
		found := false
		for _, s := range snapshots.Items {
			found = found || s.Driver == c.Provisioner && s.Labels["velero.io/csi-volumesnapshot-class"] == "true"
		}
		if !found {
			lacks("no VolumeSnapshotClass with the label velero.io/csi-volumesnapshot-class=true is of %s, which the StorageClass %s is of: Velero needs one", c.Provisioner, c.Name)
		}
	}
	return all
}

// told: what a cluster lacks is told at once, by name, with what to do.
func (c *chapter) told(t *testing.T) {
	good := flagged()
	if c.w.late != "" {
		good.late = c.w.late
	}
	// The story's own backups are there by now.
	if err := c.w.missing(t, good); err == nil || !strings.Contains(err.Error(), moved) || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("of a good cluster with the story's two backups: %v", err)
	}
	for want, change := range map[string]func(*needs){
		"-velero-namespace": func(n *needs) { n.velero = "nowhere" },
		"-backup-location":  func(n *needs) { n.location = "none" },
		`no StorageClass slow: -storage-class can be one of ["`: func(n *needs) { n.class = "slow" },
		"does not wait for its first consumer":                  func(n *needs) { n.late = c.w.class(t) },
		"neither direct nor port-forward":                       func(n *needs) { n.reach = "by air" },
	} {
		bad := good
		change(&bad)
		if err := c.w.missing(t, bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// ours are the objects of file restores, where others use the cluster, too.
func (w *world) ours(all cluster.Inventory) cluster.Inventory {
	if w.node != nil || *loader != "" {
		return all
	}
	ours := cluster.Inventory{}
	for name, o := range all {
		if _, ok := o.GetLabels()[v1alpha1.LabelOriginUUID]; ok {
			ours[name] = o
		}
	}
	return ours
}
