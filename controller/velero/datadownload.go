package velero

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	velerov2alpha1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v2alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Download is the movement of one volume's data from the backup repository, a DataDownload.
type Download struct {
	Name   string
	UID    string
	PVC    string // the target, by its name before any plugin renamed it
	Target string // the target's namespace
	Phase  string // as Velero calls it; empty until a node agent has seen it

	// BytesDone of TotalBytes are written; both are 0 until it has begun.
	BytesDone, TotalBytes int64

	Ended   bool
	Failed  bool   // it ended without the data
	Message string // why it failed, or what Velero says of its state
	Node    string
	Since   time.Time // when it ended; zero: it has not, or nobody knows

	object *velerov2alpha1.DataDownload
}

// Downloads returns the DataDownloads of a Restore, sorted by name.
func Downloads(ctx context.Context, c client.Reader, veleroNamespace, restore string) ([]Download, error) {
	var list velerov2alpha1.DataDownloadList
	if err := c.List(ctx, &list, client.InNamespace(veleroNamespace), client.MatchingLabels{LabelRestore: restore}); err != nil {
		return nil, fmt.Errorf("DataDownloads of %s: %w", restore, err)
	}
	downloads := make([]Download, 0, len(list.Items))
	for i := range list.Items {
		downloads = append(downloads, download(&list.Items[i]))
	}
	slices.SortFunc(downloads, func(a, b Download) int { return cmp.Compare(a.Name, b.Name) })
	return downloads, nil
}

func download(d *velerov2alpha1.DataDownload) Download {
	s := d.Status
	result := Download{
		Name: d.Name, UID: string(d.UID), PVC: d.Spec.TargetVolume.PVC, Target: d.Spec.TargetVolume.Namespace, Phase: string(s.Phase),
		BytesDone: max(0, s.Progress.BytesDone), TotalBytes: max(0, s.Progress.TotalBytes), Message: s.Message, Node: s.Node, object: d,
	}
	if s.CompletionTimestamp != nil {
		result.Since = s.CompletionTimestamp.Time
	}
	if result.TotalBytes == 0 {
		result.TotalBytes = max(0, d.Spec.SnapshotSize)
	}
	switch s.Phase {
	case velerov2alpha1.DataDownloadPhaseCompleted:
		result.Ended = true
	case velerov2alpha1.DataDownloadPhaseFailed, velerov2alpha1.DataDownloadPhaseCanceled:
		result.Ended, result.Failed = true, true
		if result.Message == "" {
			result.Message = "no reason is given"
		}
		result.Message = fmt.Sprintf("Velero's data mover ended %s as %s: %s; see the node agent's log on %s",
			d.Name, s.Phase, result.Message, cmp.Or(s.Node, "the node that ran it"))
	}
	return result
}

// Cancel asks Velero to stop a download, which it does wherever the download is. It does nothing to one that
// has ended, is being cancelled or is gone.
func (d Download) Cancel(ctx context.Context, c client.Writer) error {
	if d.Ended || d.object.Spec.Cancel {
		return nil
	}
	to := d.object.DeepCopy()
	to.Spec.Cancel = true
	if err := client.IgnoreNotFound(c.Patch(ctx, to, client.MergeFrom(d.object))); err != nil {
		return fmt.Errorf("cancelling the DataDownload %s: %w", d.Name, err)
	}
	return nil
}
