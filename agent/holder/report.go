package holder

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"vmfr/agent/incluster"
	api "vmfr/api/session"
)

const (
	// reportPeriod is the least time between two writes of a report: more often, the controller
	// would only have to read more.
	reportPeriod = time.Second
	// reportRetry is the wait after a write that failed.
	reportRetry = 5 * time.Second
	// reportLimit bounds one write.
	reportLimit = 10 * time.Second
)

// relay keeps the newest report and writes it, one at a time.
type relay struct {
	to     Reporter
	log    *slog.Logger
	mu     sync.Mutex
	uid    string
	newest []byte
	wake   chan struct{}
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func newRelay(to Reporter, log *slog.Logger) *relay {
	ctx, cancel := context.WithCancel(context.Background())
	r := &relay{to: to, log: log, wake: make(chan struct{}, 1), cancel: cancel}
	r.done.Go(func() { r.run(ctx) })
	return r
}

// put hands a report over; an older one that was not written yet is dropped.
func (r *relay) put(uid string, report []byte) {
	r.mu.Lock()
	r.uid, r.newest = uid, report
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *relay) close() { r.cancel(); r.done.Wait() }

func (r *relay) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		r.mu.Lock()
		uid, report := r.uid, r.newest
		r.mu.Unlock()
		limited, cancel := context.WithTimeout(ctx, reportLimit)
		err := r.to.Put(limited, uid, report)
		cancel()
		pause := reportPeriod
		if err != nil && ctx.Err() == nil {
			r.log.Warn("the report could not be written and is tried again", "err", err)
			pause = reportRetry
			select {
			case r.wake <- struct{}{}:
			default:
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// configMap keeps reports in the ConfigMap that the controller made.
type configMap struct {
	client    *rest.RESTClient
	namespace string
}

// NewReporter returns the reporter of a pod: it updates the session's report ConfigMap in the
// pod's namespace by the pod's service account. root is as in Config.
func NewReporter(root string) (Reporter, error) {
	c, namespace, err := incluster.Client(root, corev1.SchemeGroupVersion, corev1.AddToScheme)
	if err != nil {
		return nil, err
	}
	return &configMap{c, namespace}, nil
}

// Put patches one key, so that no read is needed and no right to read.
func (c *configMap) Put(ctx context.Context, uid string, report []byte) error {
	patch, err := json.Marshal(map[string]any{"data": map[string]string{api.KeyReport: string(report)}})
	if err != nil {
		return err
	}
	name := api.ReportName(uid)
	err = c.client.Patch(types.MergePatchType).Namespace(c.namespace).Resource("configmaps").Name(name).Body(patch).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("ConfigMap %s/%s: %w", c.namespace, name, err)
	}
	return nil
}
