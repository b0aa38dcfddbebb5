package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// problem is an error of the API.
type problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Advice string `json:"advice"`
}

// Error is the detail.
func (p *problem) Error() string { return p.Detail }

// entry is an object as the API describes it.
type entry struct {
	Name        string            `json:"name"`
	NameBytes   []byte            `json:"nameBytes"`
	Type        string            `json:"type"`
	Mode        string            `json:"mode"`
	UID         uint32            `json:"uid"`
	GID         uint32            `json:"gid"`
	Size        int64             `json:"size"`
	Allocated   int64             `json:"allocated"`
	Mtime       string            `json:"mtime"`
	Atime       string            `json:"atime"`
	Ctime       string            `json:"ctime"`
	Btime       string            `json:"btime"`
	Nlink       uint32            `json:"nlink"`
	Inode       uint64            `json:"inode"`
	Target      string            `json:"target"`
	TargetBytes []byte            `json:"targetBytes"`
	Device      string            `json:"device"`
	Xattrs      map[string][]byte `json:"xattrs"`
	Security    *security         `json:"security"`
	Streams     []stream          `json:"streams"`
	Error       *problem          `json:"error"`
}

// security is a Windows security descriptor in words.
type security struct {
	Owner     string `json:"owner"`
	OwnerName string `json:"ownerName"`
	Group     string `json:"group"`
	GroupName string `json:"groupName"`
	SDDL      string `json:"sddl"`
}

// maxSDDL is how much of a descriptor is shown, in bytes: a list has at most some dozens of entries,
// unless somebody wants a page to be long.
const maxSDDL = 4096

// Permissions is as much of the descriptor as a page shows.
func (s *security) Permissions() string {
	if len(s.SDDL) > maxSDDL {
		return s.SDDL[:maxSDDL] + "…"
	}
	return s.SDDL
}

type stream struct {
	Name      string `json:"name"`
	NameBytes []byte `json:"nameBytes"`
	Size      int64  `json:"size"`
}

// exact is the one of a text and its bytes that the guest has.
func exact(text string, raw []byte) string {
	if raw != nil {
		return string(raw)
	}
	return text
}

func (e *entry) name() string { return exact(e.Name, e.NameBytes) }

// LinkTarget is what a symbolic link points to.
func (e entry) LinkTarget() string { return exact(e.Target, e.TargetBytes) }

// recorder keeps an answer of the API, at most limit bytes of it.
type recorder struct {
	outer  http.ResponseWriter
	header http.Header
	status int
	body   bytes.Buffer
	limit  int
	full   bool // there was more
	broken bool // it was broken off
}

var errFull = errors.New("more than a page shows")

var _ http.Flusher = (*recorder)(nil)

// Header, WriteHeader, Write and Flush are http.ResponseWriter's and http.Flusher's.
func (r *recorder) Header() http.Header { return r.header }

// WriteHeader keeps the status.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

// Write keeps p as far as there is room; the API stops when there is none.
func (r *recorder) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	n := min(len(p), r.limit-r.body.Len())
	r.body.Write(p[:n])
	if n < len(p) {
		r.full = true
		return n, errFull
	}
	return n, nil
}

// Flush does nothing.
func (r *recorder) Flush() {}

// SetWriteDeadline gives the person's connection the time that the API's progress earns.
func (r *recorder) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(r.outer).SetWriteDeadline(t)
}

// maxAnswer bounds an answer that is kept whole, in bytes: a page of 200 entries with long names and
// targets, or the report of many backups.
const maxAnswer = 8 << 20

// ask sends a GET to the API. A refusal is a *problem.
func (s *Site) ask(ctx context.Context, v *visit, path string, q url.Values, limit int, headers ...string) (*recorder, error) {
	r, err := s.request(ctx, path, q)
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	r.RemoteAddr = v.r.RemoteAddr
	rec := &recorder{outer: v.w, header: http.Header{}, limit: limit}
	func() {
		defer func() {
			switch p := recover(); p {
			case nil:
			case http.ErrAbortHandler:
				rec.broken = true
			default:
				panic(p)
			}
		}()
		s.cfg.API(v.w, rec, r)
	}()
	if rec.status >= 400 {
		p := &problem{}
		if json.Unmarshal(rec.body.Bytes(), p) != nil || p.Status == 0 {
			p = &problem{Status: rec.status, Title: http.StatusText(rec.status)}
		}
		return nil, p
	}
	return rec, nil
}

func (s *Site) request(ctx context.Context, path string, q url.Values) (*http.Request, error) {
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, &problem{Status: http.StatusBadRequest, Title: http.StatusText(http.StatusBadRequest), Detail: s.texts.get("error.address")}
	}
	return r, nil
}

// get asks for one JSON value.
func (s *Site) get(v *visit, path string, q url.Values, to any) error {
	rec, err := s.ask(v.ctx, v, path, q, maxAnswer)
	if err != nil {
		return err
	}
	if rec.full || rec.broken {
		return &problem{Status: http.StatusBadGateway, Title: s.texts.get("error.title"), Detail: s.texts.get("error.broken"), Advice: s.texts.get("error.again")}
	}
	if err := json.Unmarshal(rec.body.Bytes(), to); err != nil {
		return fmt.Errorf("answer of %s: %w", path, err)
	}
	return nil
}

// patience is how long a page waits for a search or comparison: what is found by then is shown.
const patience = 20 * time.Second

// lines asks for NDJSON and calls each with the values that are whole. complete is false where the answer has
// more than limit bytes or did not end in time.
func lines[T any](s *Site, v *visit, path string, q url.Values, limit int, each func(T)) (complete bool, err error) {
	ctx, cancel := context.WithTimeout(v.ctx, patience)
	defer cancel()
	rec, err := s.ask(ctx, v, path, q, limit)
	if err != nil {
		return false, err
	}
	for line := range bytes.Lines(rec.body.Bytes()) {
		var t T
		if json.Unmarshal(line, &t) != nil {
			return false, nil // cut in the middle
		}
		each(t)
	}
	return !rec.full && !rec.broken, nil
}
