package files

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"vmfr/agent/tree"
	"vmfr/api/files/limit"
)

// problem is an error as RFC 9457 has it, with two members of our own: kind is for programs
// and never changes its meaning, advice says what a person can do next.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Kind   string `json:"kind"`
	Advice string `json:"advice,omitempty"`
}

// fail answers with an error of the tree, or breaks off where the client has gone.
func (h *handler) fail(w *response, r *http.Request, err error) {
	if r.Context().Err() != nil { // nobody is there to be told
		panic(http.ErrAbortHandler)
	}
	var no *refusal
	switch {
	case errors.As(err, &no):
		h.refuse(w, r, no.status, no.kind, no.detail, no.advice)
		return
	case errors.Is(err, limit.ErrMemory):
		w.Header().Set("Retry-After", "5")
		h.refuse(w, r, http.StatusServiceUnavailable, "busy", "This needs more memory than the server has left: "+err.Error()+".",
			"Try again when other requests have ended, or ask for less at once.")
		return
	}
	k := tree.KindOf(err)
	if k.HTTP() >= 500 {
		h.log.ErrorContext(r.Context(), "https request failed", "path", quotePath(r.URL.Path), "kind", k.String(), "error", err.Error())
	}
	h.refuse(w, r, k.HTTP(), k.String(), err.Error(), k.Advice())
}

// refuse answers with a problem. What was said about a body that does not come is taken back.
func (h *handler) refuse(w *response, r *http.Request, status int, kind, detail, advice string) {
	hdr := w.Header()
	for _, name := range []string{"Content-Length", "Content-Disposition", "Accept-Ranges", "ETag", "Last-Modified", "Vary"} {
		hdr.Del(name)
	}
	if status != http.StatusRequestedRangeNotSatisfiable {
		hdr.Del("Content-Range")
	}
	hdr.Set("Content-Type", "application/problem+json")
	hdr.Set("Cache-Control", noStore)
	// The members are strings and a number, which always encode.
	b, _ := json.Marshal(problem{"about:blank", http.StatusText(status), status, detail, kind, advice})
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(append(b, '\n'))
	}
}

func attr(key string, value any) slog.Attr { return slog.Any(key, value) }

// levelOf makes the log readable: probes and ordinary requests are information, refusals and
// damage stand out.
func levelOf(status int) slog.Level {
	switch {
	case status >= 500:
		return slog.LevelError
	case status == http.StatusUnauthorized || status == http.StatusTooManyRequests:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}
