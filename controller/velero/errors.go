package velero

import (
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
)

// What can be wrong with a backup's metadata. Other errors are of the API server or of a context
// that ended.
var (
	// ErrUnreachable is of the storage location or the way to it, not of the backup.
	ErrUnreachable = errors.New("the storage location cannot be read")
	// ErrNotAnswered is Velero's server not answering a request; it may be down or busy.
	ErrNotAnswered = errors.New("no answer from Velero's server")
	// ErrNotStored is an object of the backup that the storage does not have.
	ErrNotStored = errors.New("not in the object storage")
	// ErrUnreadable is metadata that is damaged or beyond a limit.
	ErrUnreadable = errors.New("unreadable contents")
	// ErrNoVM is contents without the virtual machine.
	ErrNoVM = errors.New("the virtual machine is not in the backup")
)

// NotInstalled tells whether a list could not be read because the API server serves no such kind: Velero was
// uninstalled, before this process looked or since then.
func NotInstalled(err error) bool {
	return meta.IsNoMatchError(err) || apierrors.IsNotFound(err)
}
