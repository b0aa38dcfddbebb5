package files

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"vmfr/agent/audit"
)

const (
	// noStore is for listings and reports: they are cheap, and a browser's cache on disk is
	// no place for a guest's file names.
	noStore = "private, no-store"
	// revalidate is for files: kept by the client, shown again after the ETag was compared.
	// The same address can serve another session tomorrow.
	revalidate = "private, no-cache"
	// sandbox makes whatever a browser does with an answer happen in an origin of its own,
	// without scripts, frames and subresources.
	sandbox = "default-src 'none'; sandbox; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

// securityHeaders sets what every answer has. host is the request's Host.
func securityHeaders(h http.Header, host string) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", sandbox)
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	// HSTS is about all ports of a host: on localhost it would break the other servers of
	// whoever opens this page. A session's address is short-lived, and so is the promise.
	if host = strings.ToLower(strings.TrimSuffix(host, ".")); host != "localhost" && !strings.HasSuffix(host, ".localhost") {
		h.Set("Strict-Transport-Security", "max-age=86400")
	}
}

// response notes the status and the bytes of an answer for the log, and cuts off a client
// that takes nothing: without a deadline it would hold its place for ever.
type response struct {
	http.ResponseWriter
	rc     *http.ResponseController
	stall  time.Duration
	since  atomic.Int64 // when the deadline was set, in Unix nanoseconds
	status int
	bytes  int64

	session *session // of a cookie; nil: a program
	who     audit.Who
}

// extend gives the client another stall to take what comes next. It may be called by whatever
// goroutine makes progress, but never by one that only waits for the client. net/http takes the deadline
// back when the request has ended. Setting it costs a message on HTTP/2, hence not each time.
func (w *response) extend(now time.Time) {
	if now.UnixNano()-w.since.Load() > int64(w.stall/16) {
		w.since.Store(now.UnixNano())
		_ = w.rc.SetWriteDeadline(now.Add(w.stall))
	}
}

// Unwrap lets http.ResponseController find the connection.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.extend(time.Now())
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// maxLogPath bounds what a client can write into the log with one request.
const maxLogPath = 1024

// access logs one request: the path without the query, no header. Paths are guest bytes and
// are quoted whatever the log's format is.
func (h *handler) access(w *response, r *http.Request, took time.Duration) {
	h.log.LogAttrs(r.Context(), levelOf(w.status), "https request",
		attr("method", fmt.Sprintf("%.20q", r.Method)), attr("path", quotePath(r.URL.Path)), attr("status", w.status),
		attr("bytes", w.bytes), attr("took", took), attr("client", r.RemoteAddr), attr("proto", r.Proto))
}

func quotePath(p string) string {
	if len(p) > maxLogPath {
		return fmt.Sprintf("%q...", p[:maxLogPath])
	}
	return fmt.Sprintf("%q", p)
}

// wait sleeps for d or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
