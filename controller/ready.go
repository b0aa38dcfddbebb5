package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/discovery"
)

const (
	// recheck is how often the API server is asked for resources that are missing: nothing can be
	// watched before its kind is installed.
	recheck = 5 * time.Second
	// syncLimit bounds how long an answer of /readyz waits for caches.
	syncLimit = 500 * time.Millisecond
	// headerLimit is how long a probe may take to ask.
	headerLimit = 5 * time.Second
)

// readiness answers probes: /healthz as long as the process lives, /readyz with why it is not
// ready.
type readiness struct {
	log logr.Logger

	mu     sync.Mutex
	why    error
	synced func(context.Context) bool // nil: the controllers do not run yet
}

// serve answers probes at an address until stop is called; "0" or "": not at all.
func (r *readiness) serve(address string) (stop func(), err error) {
	if address == "" || address == "0" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--health-probe-bind-address: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, req *http.Request) {
		if err := r.check(req.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: headerLimit}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			r.log.Error(err, "answering probes")
		}
	}()
	return func() {
		_ = server.Close()
		<-done
	}, nil
}

// check is nil if the controllers run and their caches are filled.
func (r *readiness) check(ctx context.Context) error {
	r.mu.Lock()
	why, synced := r.why, r.synced
	r.mu.Unlock()
	switch {
	case why != nil:
		return why
	case synced == nil:
		return errors.New("the controllers are being started")
	}
	ctx, cancel := context.WithTimeout(ctx, syncLimit)
	defer cancel()
	if !synced(ctx) {
		return errors.New("the caches are being filled; if this stays so, compare the controller's roles with deploy/base")
	}
	return nil
}

// set says why it is not ready.
func (r *readiness) set(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.why = why
}

// running says that the controllers are there; from now on the caches decide.
func (r *readiness) running(synced func(context.Context) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.why, r.synced = nil, synced
}

// await returns true when every required resource is served, and false when ctx ends before.
func (r *readiness) await(ctx context.Context, d discovery.DiscoveryInterface) bool {
	said := ""
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		err := checkResources(d)
		if err == nil {
			return true
		}
		r.set(err)
		if err.Error() != said {
			said = err.Error()
			r.log.Error(err, "waiting until it is there")
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}
