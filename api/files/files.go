// Package files serves a tree over HTTPS: to programs as an API, to file managers as WebDAV, and
// to people as pages.
//
//	/                       the file browser's start page; for programs -> /files/
//	/files/<path>           a file's bytes; a folder's listing; ?stat=1 the attributes
//	/dav/<path>             the same as read-only WebDAV
//	/api/v1/backups         backups, disks, volumes, states, warnings
//	/api/v1/entries         a folder in sorted pages
//	/api/v1/archive         files and folders as one zip or tar
//	/api/v1/search          objects by name, type, size and time
//	/api/v1/versions        one path in every backup
//	/api/v1/diff            two files or folders compared
//	/api/v1/checksum        the digest of one file
//	/api/v1/manifest        the digests of all files below a folder
//	/api/v1/openapi.json    what all of this takes and gives, for programs
//	/browse/<path> ...      the file browser, see package web
//	/assets/<file>          its style and script, no password
//	/login /logout          a person's session
//	/healthz /readyz        for probes, no password
//	/metrics                for Prometheus, no password: it must not hold names of guest files
//
// Non-goals: no writing, no CORS: other origins may not read. Invariants: no path leads out of
// the tree; guest bytes are never interpreted, neither as markup nor as a type; a body that
// could not be read to its end breaks the connection or says so in its last line, and never
// ends as if it were whole; memory does not grow with the size of a file, and what long
// requests need beyond that comes from one account for all of them.
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

	"vmfr/agent/audit"
	"vmfr/agent/cache"
	"vmfr/agent/tree"
	"vmfr/api/files/archive"
	"vmfr/api/files/limit"
	"vmfr/api/files/web"
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
	Logins   *Logins        // nil: not counted
	Audit    *audit.Log     // nil: nothing is recorded
	Metrics  http.Handler   // served at /metrics; nil: 404
	Ready    func() error   // for /readyz; nil: always ready
	Log      *slog.Logger   // nil: slog.Default()
	Version  string         // of the program
	SSHPort  int            // where the same tree is served by SSH, for the commands that people are shown; 0: nowhere
	Limits   Limits

	now  func() time.Time                     // nil: time.Now
	wait func(context.Context, time.Duration) // nil: a timer
}

// Limits bound what clients can use. Zero fields mean the defaults.
type Limits struct {
	Connections        int           // open at once; more wait in the listen backlog
	ConnectionsPerAddr int           // of one address; more are closed at once
	Requests           int           // under way at once; more get 503
	Jobs               int           // archives, searches and the like of them; more get 503
	Memory             int64         // bytes that those may use together, beyond their buffers
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
	defaultJobs               = 32
	defaultMemory             = 64 << 20
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
	def(&l.Jobs, defaultJobs)
	if l.Memory == 0 {
		l.Memory = defaultMemory
	}
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
	sessions *sessions
	csrf     *http.CrossOriginProtection
	slots    chan struct{} // one for each request under way
	jobs     chan struct{} // one for each of them that works for long
	buffers  *buffers
	memory   *limit.Memory
	sorted   *cache.Cache[sortKey, *sortedList]
	plans    *cache.Cache[string, archive.Plan]
	dav      http.Handler
	web      *web.Site
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
	h := &handler{
		tree: t, cfg: cfg, log: cfg.Log,
		gate:     newGate(cfg.User, cfg.Password, cfg.now),
		sessions: newSessions(cfg.now),
		csrf:     http.NewCrossOriginProtection(),
		slots:    make(chan struct{}, cfg.Limits.Requests),
		jobs:     make(chan struct{}, cfg.Limits.Jobs),
		buffers:  newBuffers(),
		memory:   limit.NewMemory(cfg.Limits.Memory),
		sorted:   cache.NewShards[sortKey](maxSorted, 1, (*sortedList).size),
		plans:    cache.NewShards[string](maxPlans, 1, func(archive.Plan) int64 { return 1 }),
	}
	h.dav = h.newDAV()
	var err error
	if h.web, err = h.newSite(); err != nil {
		return nil, err
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
	w.who = audit.Who{Via: "https", Address: r.RemoteAddr}
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

	path := r.URL.EscapedPath()
	switch {
	case r.Method == http.MethodGet, r.Method == http.MethodHead,
		r.Method == http.MethodPost && (path == loginPath || path == logoutPath),
		r.Method == "PROPFIND" && isDAV(path):
		h.route(w, r, path)
	case r.Method == http.MethodOptions:
		w.Header().Set("Allow", allowed(path))
		if isDAV(path) {
			w.Header().Set("DAV", "1")
			w.Header().Set("MS-Author-Via", "DAV")
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		h.cfg.Counters.Count(tree.OpRefused)
		h.cfg.Audit.Refused(w.who, fmt.Sprintf("%.20s %s", r.Method, r.URL.Path), "backups are read-only")
		w.Header().Set("Allow", allowed(path))
		h.refuse(w, r, http.StatusMethodNotAllowed, "method_not_allowed",
			fmt.Sprintf("The method %.20q is not allowed: backups are read-only.", r.Method), "Use GET or HEAD.")
	}
}

func allowed(path string) string {
	switch {
	case path == loginPath || path == logoutPath:
		return "GET, HEAD, OPTIONS, POST"
	case isDAV(path):
		return "GET, HEAD, OPTIONS, PROPFIND"
	}
	return "GET, HEAD, OPTIONS"
}

// open are the addresses that need no password, routes the others.
var (
	open = map[string]func(*handler, *response, *http.Request){
		"/healthz": func(_ *handler, w *response, _ *http.Request) { plain(w, "ok\n") },
		"/readyz":  (*handler).ready,
		"/metrics": (*handler).metrics,
		loginPath:  (*handler).login,
		logoutPath: (*handler).logout,
	}
	routes = map[string]func(*handler, *response, *http.Request){
		"/":                    (*handler).home,
		"/api/v1/backups":      (*handler).backups,
		"/api/v1/entries":      (*handler).entries,
		"/api/v1/archive":      (*handler).archive,
		"/api/v1/search":       (*handler).search,
		"/api/v1/versions":     (*handler).versions,
		"/api/v1/diff":         (*handler).diff,
		"/api/v1/checksum":     (*handler).checksum,
		"/api/v1/manifest":     (*handler).manifest,
		"/api/v1/openapi.json": (*handler).openapi,
	}
)

// route knows the few paths. http.ServeMux is of no use: it cleans paths, and names are bytes.
func (h *handler) route(w *response, r *http.Request, path string) {
	if path == "" {
		path = "/"
	}
	if answer, ok := open[path]; ok {
		answer(h, w, r)
		return
	}
	if isAsset(path) {
		h.web.Asset(w, r)
		return
	}
	if !h.authenticate(w, r) {
		return
	}
	answer, ok := routes[path]
	switch {
	case ok:
		answer(h, w, r)
	case path+"/" == filesPrefix || strings.HasPrefix(path, filesPrefix):
		h.files(w, r)
	case isDAV(path):
		h.serveDAV(w, r)
	case web.Owns(path):
		h.web.ServeHTTP(w, r)
	default:
		h.refuse(w, r, http.StatusNotFound, "not_found", "There is nothing at this address.", "Files are under /files/, the report is at /api/v1/backups.")
	}
}

// report is what was found in the backups, as JSON.
func (h *handler) report() ([]byte, error) {
	backups := h.tree.Backups()
	readable, partial, unreadable := tree.Summary(backups)
	b, err := json.MarshalIndent(map[string]any{
		"version": 1,
		"program": "vmfr " + h.cfg.Version,
		"disks":   map[string]int{"readable": readable, "partial": partial, "unreadable": unreadable},
		"backups": backups,
	}, "", "  ")
	return append(b, '\n'), err
}

func (h *handler) backups(w *response, r *http.Request) {
	b, err := h.report()
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", noStore)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

func (h *handler) metrics(w *response, r *http.Request) {
	if h.cfg.Metrics == nil {
		h.refuse(w, r, http.StatusNotFound, "not_found", "No metrics are kept here.", "")
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	h.cfg.Metrics.ServeHTTP(w, r)
}

// job begins a request that works for long, with the parameters q. It is to be ended by done;
// false: it is answered, because q has a mistake or too many are under way.
func (h *handler) job(w *response, r *http.Request, q *params) (done func(), ok bool) {
	if q.err != nil {
		h.fail(w, r, q.err)
		return nil, false
	}
	select {
	case h.jobs <- struct{}{}:
		return func() { <-h.jobs }, true
	default:
		w.Header().Set("Retry-After", "5")
		h.refuse(w, r, http.StatusServiceUnavailable, "busy", "Too many archives, searches and comparisons are under way.", "Try again when one of them has ended.")
		return nil, false
	}
}

func found(w *response, to string) {
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusFound)
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
