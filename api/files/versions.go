package files

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	iofs "io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
)

// version is one state of a path, and the backups in a row that have it.
type version struct {
	Backups   []string    `json:"backups"`             // from the oldest to the newest
	Paths     []string    `json:"paths"`               // in each of them
	Timestamp *time.Time  `json:"timestamp,omitempty"` // of the first
	Last      *time.Time  `json:"lastTimestamp,omitempty"`
	State     string      `json:"state"` // "present", "absent", "unreadable"
	Entry     *entry      `json:"entry,omitempty"`
	SHA256    string      `json:"sha256,omitempty"`
	Changes   []string    `json:"changes"` // against the version before
	Error     *entryError `json:"error,omitempty"`

	attr fsys.Attr
}

// versions answers /api/v1/versions: one path in every backup.
func (h *handler) versions(w *response, r *http.Request) {
	q := parameters(r, "path", "hash")
	path, hash := q.path("path"), q.flag("hash")
	if len(namesOf(path)) == 0 {
		q.fail(badParameter("path", "it begins with a disk: rootdisk/etc/hosts"))
	}
	done, ok := h.job(w, r, q)
	if !ok {
		return
	}
	defer done()
	backups := slices.Clone(h.tree.Backups())
	slices.SortStableFunc(backups, func(a, b tree.BackupReport) int { return stamp(a).Compare(stamp(b)) })
	start := time.Now()
	out := struct {
		Path      string     `json:"path"`
		PathBytes []byte     `json:"pathBytes,omitempty"`
		Versions  []*version `json:"versions"`
	}{Versions: []*version{}}
	out.Path, out.PathBytes = text(strings.TrimPrefix(path, "/"))
	var last, present *version
	for _, b := range backups {
		v := h.version(w, r, b.Path+path, hash)
		if err := r.Context().Err(); err != nil {
			panic(http.ErrAbortHandler)
		}
		p, _ := text(b.Path + path)
		v.Backups, v.Paths, v.Timestamp, v.Last = []string{b.Name}, []string{p}, b.Timestamp, b.Timestamp
		v.Changes = changes(last, present, v)
		if last != nil && len(v.Changes) == 0 && v.State != "unreadable" {
			last.Backups, last.Paths, last.Last = append(last.Backups, b.Name), append(last.Paths, p), b.Timestamp
			continue
		}
		out.Versions = append(out.Versions, v)
		if last = v; v.State == "present" {
			present = v
		}
	}
	h.cfg.Audit.Query(w.who, "versions", []string{path}, time.Since(start), nil)
	h.json(w, r, out)
}

func stamp(b tree.BackupReport) time.Time {
	if b.Timestamp == nil {
		return time.Time{}
	}
	return *b.Timestamp
}

// version describes what is at a path.
func (h *handler) version(w *response, r *http.Request, path string, hash bool) *version {
	v := &version{State: "present"}
	n, err := h.resolve(w, r, path, false)
	if err == nil {
		v.attr, err = h.tree.Attr(n)
	}
	if err == nil && hash && v.attr.IsRegular() {
		var sum []byte
		if sum, err = h.digest(r.Context(), w, n, path, "sha256"); err == nil {
			v.SHA256 = hex.EncodeToString(sum)
		}
	}
	switch {
	case errors.Is(err, iofs.ErrNotExist), errors.Is(err, fsys.ErrNotDir):
		v.State = "absent"
	case err != nil:
		v.State, v.Error = "unreadable", describeError(err)
	default:
		e := h.entry(path[strings.LastIndexByte(path, '/')+1:], n, v.attr)
		e.times(v.attr)
		v.Entry = &e
	}
	return v
}

// changes names what v has different from the version before and, after a gap, from the last
// that was there.
func changes(last, present, v *version) []string {
	out := []string{}
	switch {
	case last == nil:
		return out
	case v.State != "present":
		if last.State != v.State {
			out = append(out, v.State)
		}
		return out
	case last.State != "present":
		out = append(out, "appeared")
	}
	if present == nil {
		return out
	}
	return append(out, differences(present.attr, v.attr, present.Entry, v.Entry, present.SHA256, v.SHA256)...)
}

// differences names what two objects have different.
func differences(a, b fsys.Attr, ea, eb *entry, suma, sumb string) []string {
	var out []string
	add := func(differ bool, what string) {
		if differ {
			out = append(out, what)
		}
	}
	add(a.Mode&fsys.ModeFmt != b.Mode&fsys.ModeFmt, "type")
	add(!a.IsDir() && !b.IsDir() && a.Size != b.Size, "size")
	add(!a.Mtime.Equal(b.Mtime), "time")
	add(a.UID != b.UID || a.GID != b.GID, "owner")
	add((a.Mode^b.Mode)&^fsys.ModeFmt != 0, "mode")
	add(suma != sumb, "content")
	add(a.Major != b.Major || a.Minor != b.Minor, "device")
	if ea != nil && eb != nil {
		add(ea.Target != eb.Target || string(ea.TargetBytes) != string(eb.TargetBytes), "target")
	}
	return out
}

var _ io.Writer = (*progress)(nil)

// progress tells the connection that something is going on, and ends a copy with ctx.
type progress struct {
	ctx context.Context
	h   *handler
	w   *response
}

// Write counts what was read.
func (p *progress) Write(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	p.h.cfg.Counters.Read(len(b))
	p.w.extend(time.Now())
	return len(b), nil
}
