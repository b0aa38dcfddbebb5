package velero

import (
	"context"
	"fmt"
	"strconv"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// insecureKey is the key of a BackupStorageLocation's config with which Velero's plugins skip the
// check of certificates; its value is a Go boolean.
const insecureKey = "insecureSkipTLSVerify"

// Location is a BackupStorageLocation: how its object store is spoken to.
type Location struct {
	Name string
	// Unavailable is why Velero cannot reach the store; empty: it can, or has not tried yet.
	Unavailable string
	ReadOnly    bool // Velero deletes nothing there, not even expired backups

	ca       []byte // PEM, in addition to the system's roots
	insecure bool
}

// Location reads a backup's storage location. A missing one, or one whose settings cannot be used,
// is ErrUnreachable.
func (r *Reader) Location(ctx context.Context, b Backup) (Location, error) {
	var o velerov1.BackupStorageLocation
	err := r.client.Get(ctx, types.NamespacedName{Namespace: b.Namespace, Name: b.Location}, &o)
	if apierrors.IsNotFound(err) {
		return Location{}, fmt.Errorf("%w: the BackupStorageLocation %q does not exist: create it again, with its old bucket and prefix", ErrUnreachable, b.Location)
	}
	if err != nil {
		return Location{}, fmt.Errorf("the BackupStorageLocation %q: %w", b.Location, err)
	}
	l := Location{Name: o.Name, ReadOnly: o.Spec.AccessMode == velerov1.BackupStorageLocationAccessModeReadOnly}
	if o.Status.Phase == velerov1.BackupStorageLocationPhaseUnavailable {
		l.Unavailable = o.Status.Message
		if l.Unavailable == "" {
			l.Unavailable = "Velero gives no reason"
		}
	}
	if v, ok := o.Spec.Config[insecureKey]; ok {
		if l.insecure, err = strconv.ParseBool(v); err != nil {
			return Location{}, fmt.Errorf("%w: the BackupStorageLocation %q has config %s: %q, which is no boolean: write \"true\" or \"false\"", ErrUnreachable, b.Location, insecureKey, v)
		}
	}
	if s := o.Spec.ObjectStorage; s != nil {
		l.ca = s.CACert
		if ref := s.CACertRef; ref != nil {
			var secret corev1.Secret
			if err := r.client.Get(ctx, types.NamespacedName{Namespace: o.Namespace, Name: ref.Name}, &secret); err != nil {
				return Location{}, fmt.Errorf("%w: the caCertRef of the BackupStorageLocation %q: %w", ErrUnreachable, b.Location, err)
			}
			l.ca = secret.Data[ref.Key]
			if len(l.ca) == 0 {
				return Location{}, fmt.Errorf("%w: the BackupStorageLocation %q: its caCertRef names the Secret %s, which has no key %q", ErrUnreachable, b.Location, ref.Name, ref.Key)
			}
		}
	}
	return l, nil
}
