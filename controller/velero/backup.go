package velero

import (
	"context"
	"strings"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Backup is what is to be known of a Velero Backup before its contents are read.
type Backup struct {
	Name, Namespace string
	UID             types.UID
	// Taken is when the backup was taken: its completion, else its start, else the creation of
	// the object (which for a backup that was synchronised from storage is the time of that).
	Taken    time.Time
	Location string    // the name of its BackupStorageLocation
	Expires  time.Time // when Velero deletes it; zero: never
	Phase    string
	// Failure is what Velero says about a backup that failed; it may be empty.
	Failure string
	// OpenOperations is how many asynchronous operations, such as uploads of volumes, have not
	// ended.
	OpenOperations int

	filters filters
}

// Completed tells whether the backup ran to its end without an error.
func (b Backup) Completed() bool { return b.Phase == string(velerov1.BackupPhaseCompleted) }

// BackupOf extracts a Backup from Velero's object.
func BackupOf(o *velerov1.Backup) Backup {
	s := &o.Status
	b := Backup{
		Name: o.Name, Namespace: o.Namespace, UID: o.UID,
		Taken:    o.CreationTimestamp.Time,
		Location: o.Spec.StorageLocation,
		Phase:    string(s.Phase),
		filters:  filtersOf(&o.Spec),
	}
	for _, t := range []*metav1.Time{s.StartTimestamp, s.CompletionTimestamp} {
		if !t.IsZero() {
			b.Taken = t.Time
		}
	}
	if !s.Expiration.IsZero() {
		b.Expires = s.Expiration.Time
	}
	if b.Phase == "" {
		b.Phase = string(velerov1.BackupPhaseNew)
	}
	if o.DeletionTimestamp != nil {
		b.Phase = string(velerov1.BackupPhaseDeleting)
	}
	b.OpenOperations = max(0, s.BackupItemOperationsAttempted-s.BackupItemOperationsCompleted-s.BackupItemOperationsFailed)
	b.Failure = s.FailureReason
	if b.Failure == "" {
		b.Failure = strings.Join(s.ValidationErrors, "; ")
	}
	return b
}

// listPage is how many Backups are asked for at once, so that a list of thousands needs the
// memory of a few hundred.
const listPage = 250

// Backups returns all backups of a Velero namespace, in no order.
func (r *Reader) Backups(ctx context.Context, namespace string) ([]Backup, error) {
	var all []Backup
	for next := ""; ; {
		var page velerov1.BackupList
		if err := r.client.List(ctx, &page, client.InNamespace(namespace), client.Limit(listPage), client.Continue(next)); err != nil {
			return nil, err
		}
		for i := range page.Items {
			all = append(all, BackupOf(&page.Items[i]))
		}
		if next = page.Continue; next == "" {
			return all, nil
		}
	}
}

// Backup returns one backup; the error of a missing one is the API server's.
func (r *Reader) Backup(ctx context.Context, key types.NamespacedName) (Backup, error) {
	var o velerov1.Backup
	if err := r.client.Get(ctx, key, &o); err != nil {
		return Backup{}, err
	}
	return BackupOf(&o), nil
}
