package velero

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// LabelRequest is on every DownloadRequest of ours.
const LabelRequest = "app.kubernetes.io/managed-by"

// managedBy is the label's value.
const managedBy = "vmfr-controller"

// deleteLimit is for the deletion of a DownloadRequest, which happens even where the work around it was
// cancelled.
const deleteLimit = 10 * time.Second

// stillGood is how long an address that was signed for an earlier attempt must be valid to be
// used: longer than it takes to begin a download.
const stillGood = time.Minute

// requestName computes a name, so that a controller that was killed finds what it asked for. Two
// owners, or two backups of the same name in the course of time, never share one.
func requestName(b Backup, kind velerov1.DownloadTargetKind, owner metav1.OwnerReference) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{string(owner.UID), b.Namespace, b.Name, string(b.UID), string(kind)}, "\x00")))
	return "vmfr-" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:15])) // 120 bits are 24 characters
}

// signedURL asks Velero for an address from which an object of the backup can be read for some
// minutes. The DownloadRequest is gone when it returns; one that a killed controller leaves
// goes with its owner, or ten minutes later by Velero.
func (r *Reader) signedURL(ctx context.Context, b Backup, kind velerov1.DownloadTargetKind, owner metav1.OwnerReference) (string, error) {
	req := &velerov1.DownloadRequest{
		ObjectMeta: metav1.ObjectMeta{
			Name: requestName(b, kind, owner), Namespace: b.Namespace,
			Labels: map[string]string{LabelRequest: managedBy}, OwnerReferences: []metav1.OwnerReference{owner},
		},
		Spec: velerov1.DownloadRequestSpec{Target: velerov1.DownloadTarget{Kind: kind, Name: b.Name}},
	}
	if err := r.place(ctx, req); err != nil {
		return "", fmt.Errorf("a DownloadRequest: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteLimit)
		defer cancel()
		// Exactly this one: its name may be in use again. Velero deletes it later where this cannot.
		_ = r.client.Delete(ctx, req, client.Preconditions{UID: &req.UID})
	}()
	if req.Status.DownloadURL != "" {
		return req.Status.DownloadURL, nil
	}
	wait, cancel := context.WithTimeout(ctx, r.o.URLTimeout)
	defer cancel()
	url, err := r.awaitURL(wait, req)
	switch {
	case err == nil:
		return url, nil
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case wait.Err() != nil:
		return "", fmt.Errorf("%w within %s to the DownloadRequest for %s of the backup %s: look at the log of the Velero server", ErrNotAnswered, r.o.URLTimeout, kind, b.Name)
	}
	return "", fmt.Errorf("%w: %w", ErrNotAnswered, err)
}

// place creates the request. One of the same name is an earlier attempt's: it is used if it was
// answered a moment ago, and replaced otherwise.
func (r *Reader) place(ctx context.Context, req *velerov1.DownloadRequest) error {
	fresh := req.DeepCopy()
	for attempt := 0; ; attempt++ {
		err := r.client.Create(ctx, req)
		if !apierrors.IsAlreadyExists(err) || attempt == 3 {
			return err
		}
		if err := r.client.Get(ctx, client.ObjectKeyFromObject(req), req); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		s := req.Status
		if s.DownloadURL != "" && s.Expiration != nil && time.Until(s.Expiration.Time) > stillGood {
			return nil
		}
		if err := r.client.Delete(ctx, req, client.Preconditions{UID: &req.UID}); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
			return err
		}
		*req = *fresh.DeepCopy()
	}
}

// awaitURL watches the request until Velero has written an address into it.
func (r *Reader) awaitURL(ctx context.Context, req *velerov1.DownloadRequest) (string, error) {
	one := fields.OneTermEqualSelector("metadata.name", req.Name)
	w := &cache.ListWatch{WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		return r.client.Watch(ctx, &velerov1.DownloadRequestList{}, client.InNamespace(req.Namespace),
			&client.ListOptions{FieldSelector: one, Raw: &o})
	}}
	event, err := watchtools.Until(ctx, req.ResourceVersion, w, func(e watch.Event) (bool, error) {
		switch o := e.Object.(type) {
		case *velerov1.DownloadRequest:
			if e.Type == watch.Deleted {
				return false, fmt.Errorf("somebody deleted the DownloadRequest %s", o.Name)
			}
			return o.Status.DownloadURL != "", nil
		case *metav1.Status:
			return false, apierrors.FromObject(o)
		}
		return false, nil
	})
	if err != nil {
		return "", err
	}
	return event.Object.(*velerov1.DownloadRequest).Status.DownloadURL, nil
}
