package velero

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// Bounds of what is decompressed: one object that grows for ever ends somewhere.
const (
	maxList     = 1 << 30  // a list of ten million objects
	maxContents = 64 << 30 // the largest backups of metadata have some gigabytes
)

// ReaderOptions are the limits of a Reader; zero values mean the defaults.
type ReaderOptions struct {
	// URLTimeout is how long Velero may take to answer a request; its server answers one at a
	// time. Default 2 minutes.
	URLTimeout time.Duration
	// StallTimeout is how long a download may stand still. Default 1 minute.
	StallTimeout time.Duration
	// OnBytes is called with each piece that was downloaded, from many goroutines.
	OnBytes func(n int)
}

// Reader reads backups and what they hold. It is safe for concurrent use; each method is one
// attempt, to be repeated by the caller as it sees fit.
type Reader struct {
	client client.WithWatch
	o      ReaderOptions

	mu      sync.Mutex
	clients map[[32]byte]*http.Client // by what is peculiar to a location
}

// NewReader makes a Reader. The client must not read from a cache, which would keep all backups in
// memory and could miss one that was just made.
func NewReader(c client.WithWatch, o ReaderOptions) *Reader {
	if o.URLTimeout <= 0 {
		o.URLTimeout = 2 * time.Minute
	}
	if o.StallTimeout <= 0 {
		o.StallTimeout = time.Minute
	}
	return &Reader{client: c, o: o, clients: map[[32]byte]*http.Client{}}
}

// ReaderFor makes a Reader that speaks with a manager's API server.
func ReaderFor(mgr manager.Manager, o ReaderOptions) (*Reader, error) {
	c, err := client.NewWithWatch(mgr.GetConfig(), client.Options{HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
	if err != nil {
		return nil, err
	}
	return NewReader(c, o), nil
}

// Close closes the connections that are kept for reuse.
func (r *Reader) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, c := range r.clients {
		c.CloseIdleConnections()
		delete(r.clients, k)
	}
}

// HasVM tells whether a backup's list of resources names the virtual machine. The owner, an object
// in the backup's namespace, takes requests with it when it is deleted.
func (r *Reader) HasVM(ctx context.Context, b Backup, vm types.NamespacedName, owner metav1.OwnerReference) (has bool, err error) {
	err = r.read(ctx, b, velerov1.DownloadTargetKindBackupResourceList, owner, maxList, func(in io.Reader) error {
		has, err = listHasVM(in, vm)
		return err
	})
	return has && err == nil, err
}

// VM reads the virtual machine and its claims from a backup's contents; ErrNoVM where it is not
// among them.
func (r *Reader) VM(ctx context.Context, b Backup, vm types.NamespacedName, owner metav1.OwnerReference) (found VM, err error) {
	err = r.read(ctx, b, velerov1.DownloadTargetKindBackupContents, owner, maxContents, func(in io.Reader) error {
		found, err = contentsVM(in, vm)
		return err
	})
	return found, err
}

// read gives one of a backup's objects, decompressed up to limit bytes, to a function. An address
// that expired on the way is replaced once.
func (r *Reader) read(ctx context.Context, b Backup, kind velerov1.DownloadTargetKind, owner metav1.OwnerReference, limit int64, use func(io.Reader) error) error {
	l, err := r.Location(ctx, b)
	if err != nil {
		return err
	}
	var in io.ReadCloser
	for attempt := 0; ; attempt++ {
		address, err := r.signedURL(ctx, b, kind, owner)
		if err != nil {
			return err
		}
		in, err = r.get(ctx, l, address)
		if err == nil {
			break
		}
		if !errors.Is(err, errRefused) {
			return err
		}
		if attempt == 1 {
			return fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err == nil {
		defer z.Close()
		err = use(&bounded{r: z, left: limit})
	} else {
		err = fmt.Errorf("%w: %w", ErrUnreadable, unexpected(err))
	}
	// Where the download broke off, the contents are not to blame.
	if broken := in.(*body).err; broken != nil && err != nil {
		return broken
	}
	return err
}

// bounded fails after a number of bytes.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("%w: it decompresses to more than is sensible", ErrUnreadable)
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
