package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/discovery"
	ctrl "sigs.k8s.io/controller-runtime"

	"vmfr/controller/plan"
)

const (
	// recheck is how often the API server is asked for resources that are missing: nothing can be
	// watched before its kind is installed.
	recheck = 5 * time.Second
	// syncLimit bounds how long an answer of /readyz waits for caches.
	syncLimit = 500 * time.Millisecond
)

// readiness is why the controller is not ready; nil: it is.
type readiness struct {
	mu     sync.Mutex
	why    error
	synced func(context.Context) bool // nil: the controllers do not run yet
}

// check answers /readyz. Its error is logged by the manager, which tells clients no more than
// that it failed.
func (r *readiness) check(req *http.Request) error {
	r.mu.Lock()
	why, synced := r.why, r.synced
	r.mu.Unlock()
	switch {
	case why != nil:
		return why
	case synced == nil:
		return errors.New("the controllers are being started")
	}
	ctx, cancel := context.WithTimeout(req.Context(), syncLimit)
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

// starter adds the controllers once all that they watch is installed. It runs in every replica,
// so that one that stands by has full caches and is ready.
type starter struct {
	manager   ctrl.Manager
	discovery discovery.DiscoveryInterface
	flags     *flags
	plan      plan.Config
	ready     *readiness
	log       logr.Logger
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (*starter) NeedLeaderElection() bool { return false }

// Start implements manager.Runnable.
func (s *starter) Start(ctx context.Context) error {
	if err := s.await(ctx); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	if err := s.flags.setup(s.manager, s.plan); err != nil {
		return fmt.Errorf("starting the controllers: %w", err)
	}
	s.ready.running(s.manager.GetCache().WaitForCacheSync)
	return nil
}

// await returns when every required resource is served, or ctx ends.
func (s *starter) await(ctx context.Context) error {
	said := ""
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		err := checkResources(s.discovery)
		if err == nil {
			return nil
		}
		s.ready.set(err)
		if err.Error() != said {
			said = err.Error()
			s.log.Error(err, "waiting until it is there")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
