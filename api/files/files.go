// Package files serves a tree over HTTPS: files by GET and HEAD with ranges, folders as pages
// of JSON or plain HTML, and the report of what was found on each disk.
//
//	/                      -> /files/
//	/files/<path>          a file's bytes; a folder's listing; ?stat=1 the attributes
//	/api/v1/backups        backups, disks, volumes, states, warnings
//	/healthz /readyz       for probes, no password
//	/metrics               for Prometheus, no password: it must not hold names of guest files
//
// Non-goals: no writing, no sessions or cookies, no archives, no CORS: other origins may not
// read. Invariants: no path leads out of the tree; guest bytes are never interpreted, neither
// as markup nor as a type; a body that could not be read to its end breaks the connection and
// never ends as if it were whole; memory does not grow with the size of a file or folder.
package files

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"vmfr/agent/tree"
)

// Config is how a tree is served.
type Config struct {
	// User and Password are the one account. The user name has no colon (RFC 7617).
	User, Password string
	// Certificate is the server's; GetCertificate wins where it is set, so that a renewed
	// certificate needs no restart. NewHandler needs neither.
	Certificate    tls.Certificate
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	Counters *tree.Counters // nil: nothing is counted
	Metrics  http.Handler   // served at /metrics; nil: 404
	Ready    func() error   // for /readyz; nil: always ready
	Log      *slog.Logger   // nil: slog.Default()
	Version  string         // of the program
	Limits   Limits

	now  func() time.Time                     // nil: time.Now
	wait func(context.Context, time.Duration) // nil: a timer
}

// Limits bound what clients can use. Zero fields mean the defaults.
type Limits struct {
	Connections        int           // open at once; more wait in the listen backlog
	ConnectionsPerAddr int           // of one address; more are closed at once
	Requests           int           // under way at once; more get 503
	Stall              time.Duration // a client that takes no piece of a body for so long is cut off
	Grace              time.Duration // how long requests under way may go on when Serve's ctx ends
}

// Default limits. A connection costs about 50 KiB (TLS records and HTTP buffers), a request
// with a body one buffer of copySize or smallCopy bytes: 256 connections, 32 large and 224
// small buffers are 12.5 + 8 + 7 MiB, which fits the 80 MB of a worker.
const (
	defaultConnections        = 256
	defaultConnectionsPerAddr = 128
	defaultRequests           = 256
	defaultStall              = 2 * time.Minute
	defaultGrace              = 8 * time.Second
)

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&l.Connections, defaultConnections)
	def(&l.ConnectionsPerAddr, defaultConnectionsPerAddr)
	def(&l.Requests, defaultRequests)
	if l.Stall == 0 {
		l.Stall = defaultStall
	}
	if l.Grace == 0 {
		l.Grace = defaultGrace
	}
	return l
}

// handler answers the requests of one session.
type handler struct {
	tree     *tree.Tree
	cfg      Config
	log      *slog.Logger
	gate     *gate
	slots    chan struct{} // one for each request under way
	buffers  *buffers
	backups  []byte   // the answer of /api/v1/backups, which never changes
	identity [32]byte // digest of what the tree's own files are made of
	key      [32]byte // authenticates cursors

	// running is held shared by each request; Serve takes it to know that all have ended.
	running sync.RWMutex
	closed  bool
}

var _ http.Handler = (*handler)(nil)

// NewHandler returns the API over t without TLS, timeouts and connection limits, which are
// Serve's. Errors are about cfg.
func NewHandler(t *tree.Tree, cfg Config) (http.Handler, error) { return newHandler(t, cfg) }

func newHandler(t *tree.Tree, cfg Config) (*handler, error) {
	switch {
	case t == nil:
		return nil, errors.New("files: no tree")
	case cfg.User == "" || strings.Contains(cfg.User, ":"):
		return nil, fmt.Errorf("files: user name %q: it must not be empty or contain a colon", cfg.User)
	case cfg.Password == "":
		return nil, errors.New("files: an empty password protects nothing")
	}
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	if cfg.wait == nil {
		cfg.wait = wait
	}
	readable, partial, unreadable := tree.Summary(t.Backups())
	backups, err := json.MarshalIndent(map[string]any{
		"version": 1,
		"program": "vmfr " + cfg.Version,
		"disks":   map[string]int{"readable": readable, "partial": partial, "unreadable": unreadable},
		"backups": t.Backups(),
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("files: report: %w", err)
	}
	h := &handler{
		tree: t, cfg: cfg, log: cfg.Log,
		gate:     newGate(cfg.User, cfg.Password, cfg.now),
		slots:    make(chan struct{}, cfg.Limits.Requests),
		buffers:  newBuffers(),
		backups:  append(backups, '\n'),
		identity: sha256.Sum256(backups),
	}
	// A cursor survives a restart of the worker, so its key comes from what stays the same.
	h.key = sha256.Sum256(append([]byte("cursor of a listing\x00"), h.gate.want[:]...))
	return h, nil
}

// ServeHTTP sets what all answers have in common, keeps the limits, logs and routes.
func (h *handler) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	h.running.RLock()
	defer h.running.RUnlock()
	if h.closed {
		panic(http.ErrAbortHandler)
	}
	w := &response{ResponseWriter: rw, rc: http.NewResponseController(rw), stall: h.cfg.Limits.Stall}
	start := time.Now()
	defer func() { h.access(w, r, time.Since(start)) }()
	securityHeaders(w.Header(), r.Host)

	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		w.Header().Set("Retry-After", "5")
		h.refuse(w, r, http.StatusServiceUnavailable, "busy", "Too many requests are under way.", "Try again in a few seconds.")
		return
	}
	w.extend(start)

	switch r.Method {
	case http.MethodGet, http.MethodHead:
		h.route(w, r)
	case http.MethodOptions:
		w.Header().Set("Allow", "GET, HEAD, OPTIONS")
		w.WriteHeader(http.StatusNoContent)
	default:
		h.cfg.Counters.Count(tree.OpRefused)
		w.Header().Set("Allow", "GET, HEAD, OPTIONS")
		h.refuse(w, r, http.StatusMethodNotAllowed, "method_not_allowed",
			fmt.Sprintf("The method %.20q is not allowed: backups are read-only.", r.Method), "Use GET or HEAD.")
	}
}

// route knows the few paths. http.ServeMux is of no use: it cleans paths, and names are bytes.
func (h *handler) route(w *response, r *http.Request) {
	path := r.URL.EscapedPath()
	switch path {
	case "/healthz":
		plain(w, "ok\n")
		return
	case "/readyz":
		h.ready(w, r)
		return
	case "/metrics":
		if h.cfg.Metrics == nil {
			h.refuse(w, r, http.StatusNotFound, "not_found", "No metrics are kept here.", "")
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		h.cfg.Metrics.ServeHTTP(w, r)
		return
	}
	if !h.authenticate(w, r) {
		return
	}
	switch {
	case path == "/" || path == "":
		w.Header().Set("Location", filesPrefix)
		w.WriteHeader(http.StatusFound)
	case path == "/api/v1/backups":
		w.Header().Set("Cache-Control", noStore)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(h.backups)
	case path+"/" == filesPrefix || strings.HasPrefix(path, filesPrefix):
		h.files(w, r)
	default:
		h.refuse(w, r, http.StatusNotFound, "not_found", "There is nothing at this address.", "Files are under /files/, the report is at /api/v1/backups.")
	}
}

func (h *handler) ready(w *response, r *http.Request) {
	if h.cfg.Ready != nil {
		if err := h.cfg.Ready(); err != nil {
			// Anyone may ask, so the reason goes to the log only.
			h.log.WarnContext(r.Context(), "not ready", "error", err.Error())
			w.Header().Set("Retry-After", "1")
			h.refuse(w, r, http.StatusServiceUnavailable, "not_ready", "The service is not ready.", "Try again in a second.")
			return
		}
	}
	plain(w, "ready\n")
}

func plain(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(text))
}
