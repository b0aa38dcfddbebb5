package files

import (
	"net/http"
	"sync"
	"time"

	"vmfr/agent/tree"
	"vmfr/api/files/walk"
)

// resolve is tree.Resolve for a request: where that waits for a boot, which can take minutes, it
// ends with the client.
func (h *handler) resolve(w *response, r *http.Request, path string, follow bool) (tree.Node, error) {
	h.cfg.Counters.Count(tree.OpLookup)
	defer w.waiting()()
	return h.tree.ResolveContext(r.Context(), path, follow)
}

// await waits, for a request, until a folder is as it will stay.
func (h *handler) await(w *response, r *http.Request) walk.Await {
	return func(dir tree.Node) error {
		if !h.tree.Volatile(dir) {
			return nil
		}
		defer w.waiting()()
		return h.tree.Await(r.Context(), dir)
	}
}

// waiting keeps the client's deadline away while we, and not the client, are what is waited for,
// until the function that it returns is called.
func (w *response) waiting() (over func()) {
	var mu sync.Mutex // so that the deadline is not set once more after over
	var timer *time.Timer
	ended := false
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(w.stall/4, func() {
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			w.extend(time.Now())
			timer.Reset(w.stall / 4)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		ended = true
		timer.Stop()
	}
}
