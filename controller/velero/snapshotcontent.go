package velero

import (
	"context"
	"fmt"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// ReleaseSnapshots deletes the VolumeSnapshotContents that Restores made whose names match, and never a
// snapshot: those belong to the backup. A Restore makes one for each snapshot of the backup, whatever was selected.
//
// The policy of each is made Retain first, and only then may anybody delete the VolumeSnapshots that are
// bound to them: under the policy Delete either deletion takes the snapshot along. It returns the names of
// those that are still there; call it again until none is, and before the target namespace is deleted.
func ReleaseSnapshots(ctx context.Context, r client.Reader, w client.Writer, match func(restore string) bool) (left []string, err error) {
	var list snapshotv1.VolumeSnapshotContentList
	err = r.List(ctx, &list, client.HasLabels{LabelRestore})
	if NotInstalled(err) {
		return nil, nil // a cluster without CSI snapshots
	}
	if err != nil {
		return nil, fmt.Errorf("VolumeSnapshotContents of Restores: %w", err)
	}
	for i := range list.Items {
		content := &list.Items[i]
		if !match(content.Labels[LabelRestore]) {
			continue
		}
		left = append(left, content.Name)
		if content.Spec.DeletionPolicy != snapshotv1.VolumeSnapshotContentRetain {
			to := content.DeepCopy()
			to.Spec.DeletionPolicy = snapshotv1.VolumeSnapshotContentRetain
			// The version is part of the patch: what was changed meanwhile is looked at again.
			if err := w.Patch(ctx, to, client.MergeFromWithOptions(content, client.MergeFromWithOptimisticLock{})); client.IgnoreNotFound(err) != nil {
				return left, fmt.Errorf("making %s keep its snapshot: %w", content.Name, err)
			}
			content = to
		}
		if content.DeletionTimestamp != nil {
			continue
		}
		version := content.ResourceVersion
		if err := w.Delete(ctx, content, client.Preconditions{ResourceVersion: &version}); client.IgnoreNotFound(err) != nil {
			return left, fmt.Errorf("deleting the VolumeSnapshotContent %s: %w", content.Name, err)
		}
	}
	return left, nil
}
