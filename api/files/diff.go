package files

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"slices"
	"time"

	"vmfr/agent/audit"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/api/files/compare"
)

// diffLine is a line of a comparison.
type diffLine struct {
	// Event is "text" or "binary" for two files; "added", "removed", "changed" or "error" for an
	// object of two folders; "end" at the end of folders.
	Event     string      `json:"event"`
	Path      string      `json:"path,omitempty"` // below the two folders
	PathBytes []byte      `json:"pathBytes,omitempty"`
	Changes   []string    `json:"changes,omitempty"`
	From      *diffSide   `json:"from,omitempty"`
	To        *diffSide   `json:"to,omitempty"`
	Error     *entryError `json:"error,omitempty"`

	Identical *bool  `json:"identical,omitempty"`       // of two files: their bytes are equal
	First     *int64 `json:"firstDifference,omitempty"` // byte offset
	Unified   string `json:"unified,omitempty"`
	Why       string `json:"why,omitempty"` // two texts are compared as binary

	*diffEnd
}

type diffSide struct {
	Path      string `json:"path,omitempty"`
	PathBytes []byte `json:"pathBytes,omitempty"`
	*entry
	SHA256   string `json:"sha256,omitempty"`
	Encoding string `json:"encoding,omitempty"` // "utf-8", "utf-16"
}

type diffEnd struct {
	Added    int64 `json:"added"`
	Removed  int64 `json:"removed"`
	Changed  int64 `json:"changed"`
	Same     int64 `json:"same"`
	Errors   int64 `json:"errors"`
	Complete bool  `json:"complete"`
}

// diff answers /api/v1/diff: two files, or two folders, compared.
func (h *handler) diff(w *response, r *http.Request) {
	q := parameters(r, "from", "to", "content")
	paths := [2]string{q.path("from"), q.path("to")}
	byContent := q.flag("content")
	done, ok := h.job(w, r, q)
	if !ok {
		return
	}
	defer done()
	var nodes [2]tree.Node
	var attrs [2]fsys.Attr
	for i, p := range paths {
		var err error
		nodes[i], attrs[i], err = h.find(w, r, p)
		if err != nil {
			h.fail(w, r, err)
			return
		}
	}
	start := time.Now()
	var err error
	switch {
	case attrs[0].IsDir() && attrs[1].IsDir():
		err = h.diffFolders(w, r, nodes, byContent)
	case attrs[0].IsRegular() && attrs[1].IsRegular():
		h.diffFiles(w, r, paths, nodes, attrs)
	default:
		h.refuse(w, r, http.StatusBadRequest, "not_comparable", "Only two files or two folders can be compared.", "One is a "+typeName(attrs[0].Mode)+", the other a "+typeName(attrs[1].Mode)+".")
	}
	h.cfg.Audit.Query(w.who, "diff", paths[:], time.Since(start), err)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
}

// diffFiles compares two files in one line.
func (h *handler) diffFiles(w *response, r *http.Request, paths [2]string, nodes [2]tree.Node, attrs [2]fsys.Attr) {
	l := diffLine{Event: "binary"}
	var sides [2]*diffSide
	var files [2]*tree.File
	var err error
	for i := range sides {
		names := namesOf(paths[i])
		e := h.entry(names[len(names)-1], nodes[i], attrs[i])
		e.times(attrs[i])
		sides[i] = &diffSide{entry: &e}
		sides[i].Path, sides[i].PathBytes = text(paths[i])
		h.cfg.Counters.Count(tree.OpOpen)
		if files[i], err = h.tree.Open(nodes[i]); err != nil {
			h.fail(w, r, err)
			return
		}
	}
	l.From, l.To = sides[0], sides[1]
	l.Changes = differences(attrs[0], attrs[1], nil, nil, "", "")
	first, err := h.compareBytes(r.Context(), w, paths, files, &l)
	if err == nil && first >= 0 && max(files[0].Size(), files[1].Size()) <= compare.MaxText {
		err = h.compareTexts(paths, files, &l)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	same := first < 0
	l.Identical = &same
	if !same {
		l.First = &first
		l.Changes = append(l.Changes, "content")
	}
	w.Header().Set("Vary", "Accept")
	if accepts(r.Header, "text/x-diff") && l.Event == "text" {
		w.Header().Set("Content-Type", "text/x-diff; charset=utf-8")
		w.Header().Set("Cache-Control", noStore)
		_, _ = io.WriteString(w, l.Unified)
		return
	}
	out := newLines(w, ndjsonType)
	_ = out.send(l)
	_ = out.close()
}

// compareBytes reads both files once: their digests, and where they first differ; -1: nowhere.
func (h *handler) compareBytes(ctx context.Context, w *response, paths [2]string, files [2]*tree.File, l *diffLine) (int64, error) {
	var bufs [2][]byte
	var records [2]*audit.File
	sums := [2]interface {
		io.Writer
		Sum([]byte) []byte
	}{sha256.New(), sha256.New()}
	for i := range bufs {
		var release func()
		bufs[i], release = h.buffers.get()
		defer release()
		records[i] = h.cfg.Audit.Open(w.who, paths[i], files[i].Size())
		defer records[i].Close()
	}
	piece := int64(min(len(bufs[0]), len(bufs[1])))
	first := int64(-1)
	for off := int64(0); off < max(files[0].Size(), files[1].Size()); off += piece {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		var got [2][]byte
		for i, f := range files {
			got[i] = bufs[i][:max(0, min(piece, f.Size()-off))]
			n, err := extent.ReadFull(f, got[i], off)
			h.cfg.Counters.Read(n)
			records[i].Read(off, n, err)
			w.extend(time.Now())
			if err != nil && len(got[i]) > 0 {
				return 0, err
			}
			_, _ = sums[i].Write(got[i])
		}
		if first < 0 && !bytes.Equal(got[0], got[1]) {
			k := 0
			for k < min(len(got[0]), len(got[1])) && got[0][k] == got[1][k] {
				k++
			}
			first = off + int64(k)
		}
	}
	l.From.SHA256, l.To.SHA256 = hex.EncodeToString(sums[0].Sum(nil)), hex.EncodeToString(sums[1].Sum(nil))
	return first, nil
}

// textMemory is what comparing two texts takes, as a multiple of their lengths.
const textMemory = 8

// compareTexts makes a unified diff if both files are text.
func (h *handler) compareTexts(paths [2]string, files [2]*tree.File, l *diffLine) error {
	account := h.memory.Account()
	defer account.Close()
	if err := account.Take(textMemory * (files[0].Size() + files[1].Size())); err != nil {
		return err
	}
	var texts, names [2]string
	for i, f := range files {
		b := make([]byte, f.Size())
		if _, err := extent.ReadFull(f, b, 0); err != nil && len(b) > 0 {
			return err
		}
		side := []*diffSide{l.From, l.To}[i]
		if texts[i], side.Encoding = compare.Text(b); side.Encoding == "" && len(b) > 0 {
			return nil
		}
		names[i] = visible(paths[i])
	}
	var ok bool
	if l.Unified, ok = compare.Unified(names[0], names[1], texts[0], texts[1]); !ok {
		l.Why = "the texts have too many lines to be compared line by line"
		return nil
	}
	l.Event = "text"
	return nil
}

// diffFolders compares two folders line by line.
func (h *handler) diffFolders(w *response, r *http.Request, nodes [2]tree.Node, byContent bool) error {
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", ndjsonType)
		w.WriteHeader(http.StatusOK)
		return nil
	}
	account := h.memory.Account()
	defer account.Close()
	out := newLines(w, ndjsonType)
	var end diffEnd
	f := compare.Folders{Tree: h.tree, Memory: account, Await: h.await(w, r), Each: func(p compare.Pair) error {
		l := h.pair(r.Context(), w, p, byContent, &end)
		if l == nil {
			return r.Context().Err()
		}
		return out.send(l)
	}}
	err := f.Run(r.Context(), nodes[0], nodes[1])
	end.Complete = err == nil && end.Errors == 0
	l := diffLine{Event: "end", diffEnd: &end}
	if err != nil {
		l.Error = describeError(err)
	}
	_ = out.send(l)
	if e := out.close(); e != nil {
		return e
	}
	return r.Context().Err()
}

// pair judges one path of two folders; nil: it is the same in both.
func (h *handler) pair(ctx context.Context, w *response, p compare.Pair, byContent bool, end *diffEnd) *diffLine {
	l := &diffLine{Event: "changed"}
	l.Path, l.PathBytes = text(p.Path)
	for i, s := range []*compare.Side{p.From, p.To} {
		if s == nil {
			continue
		}
		if s.Err != nil {
			end.Errors++
			l.Event, l.Error = "error", describeError(s.Err)
			return l
		}
		e := h.entry(lastName(p.Path), s.Node, s.Attr)
		side := &diffSide{entry: &e}
		if i == 0 {
			l.From = side
		} else {
			l.To = side
		}
	}
	switch {
	case p.From == nil:
		end.Added++
		l.Event = "added"
		return l
	case p.To == nil:
		end.Removed++
		l.Event = "removed"
		return l
	}
	a, b := p.From.Attr, p.To.Attr
	l.Changes = differences(a, b, l.From.entry, l.To.entry, "", "")
	if a.IsDir() && b.IsDir() { // a folder's time changes with the names in it, which are told themselves
		l.Changes = slices.DeleteFunc(l.Changes, func(s string) bool { return s == "time" })
	}
	if byContent && a.IsRegular() && b.IsRegular() {
		switch differ, err := h.differ(ctx, w, p); {
		case err != nil:
			end.Errors++
			l.Event, l.Error = "error", describeError(err)
			return l
		case differ:
			l.Changes = append(l.Changes, "content")
		}
	}
	if len(l.Changes) == 0 {
		end.Same++
		return nil
	}
	end.Changed++
	return l
}

func lastName(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[i+1:]
		}
	}
	return path
}

// differ compares the bytes of two files of one size.
func (h *handler) differ(ctx context.Context, w *response, p compare.Pair) (bool, error) {
	if p.From.Attr.Size != p.To.Attr.Size {
		return true, nil
	}
	if p.From.Node == p.To.Node {
		return false, nil
	}
	var files [2]*tree.File
	var bufs [2][]byte
	for i, n := range []tree.Node{p.From.Node, p.To.Node} {
		var err error
		if files[i], err = h.tree.Open(n); err != nil {
			return false, err
		}
		var release func()
		bufs[i], release = h.buffers.get()
		defer release()
	}
	piece := int64(min(len(bufs[0]), len(bufs[1])))
	for off := int64(0); off < p.From.Attr.Size; off += piece {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n := min(piece, p.From.Attr.Size-off)
		for i, f := range files {
			k, err := extent.ReadFull(f, bufs[i][:n], off)
			h.cfg.Counters.Read(k)
			w.extend(time.Now())
			if err != nil {
				return false, err
			}
		}
		if !bytes.Equal(bufs[0][:n], bufs[1][:n]) {
			return true, nil
		}
	}
	return false, nil
}
