package plan

import (
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
)

// Input is one file restore: what is to be served.
type Input struct {
	Restore *v1alpha1.VirtualMachineFileRestore // UID, name, namespace and spec are used
	VM      session.VM
	Backups []Backup // all that were selected, as Number returns them; also those that failed since
	// Numbers is how many backups the session has, also those of which too little is known for
	// Backups. It must stay the same as long as the session lives. 0: the largest number in Backups.
	Numbers int
}

// Backup is one selected backup.
type Backup struct {
	// Number is the backup's part of names, from 1, unique in an Input. It must stay the same as
	// long as the session lives.
	Number    int
	Name      string
	Timestamp time.Time // when it was taken
	Disks     []Disk    // in the order in which the guest sees them, never empty
	// Attach says that the disk holder is to be made, with the disks that have a Claim. A disk that
	// gets its claim later restarts the holder.
	Attach bool
}

// Disk is one volume of the virtual machine in one backup.
type Disk struct {
	Name   string // the PVC's at backup time
	PVCUID types.UID
	Size   resource.Quantity // what the PVC asked for
	Mode   session.Mode
	Bus    string // virtio, scsi, sata, usb; empty: unknown
	// Claim is the name of the restored PVC in the backup's namespace; empty: there is none (yet).
	Claim string
}

// Number sorts backups by time, then by name, and numbers them from 1. The result shares nothing
// with backups but their disks.
func Number(backups []Backup) []Backup {
	out := slices.Clone(backups)
	slices.SortFunc(out, func(a, b Backup) int {
		if c := a.Timestamp.Compare(b.Timestamp); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	for i := range out {
		out[i].Number = i + 1
	}
	return out
}

// Names are the names of this restore's objects.
func (in Input) Names() Names { return NewNames(in.Restore, in.VM) }

// SSH is how files are served by SSH; nil: they are not.
func (in Input) SSH() *v1alpha1.SSHAccess {
	if in.Restore.Spec.FileAccess == nil {
		return nil
	}
	return in.Restore.Spec.FileAccess.SSH
}

// Browser is how files are served by HTTPS; nil: they are not. A restore that says nothing is
// served by HTTPS alone.
func (in Input) Browser() *v1alpha1.FileBrowserAccess {
	if in.Restore.Spec.FileAccess == nil {
		return new(v1alpha1.FileBrowserAccess)
	}
	return in.Restore.Spec.FileAccess.FileBrowser
}

// External tells whether the file browser is to be reachable from outside the cluster.
func (in Input) External() bool { b := in.Browser(); return b != nil && b.ExposeExternally }
