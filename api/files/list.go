package files

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/api/files/walk"
)

// Pages of a listing. A batch is what is held in memory of a page while it is sent.
const (
	defaultLimit = 1000
	maxLimit     = 10000
	listBatch    = 256
)

// list answers with a page of a folder: JSON for programs, HTML otherwise.
func (h *handler) list(w *response, r *http.Request, names []string, n tree.Node, a fsys.Attr, q url.Values) {
	hdr := w.Header()
	hdr.Set("Vary", "Accept")
	hdr.Set("Cache-Control", noStore)
	p := page{h: h, dir: n, await: h.await(w, r), left: defaultLimit}
	if s := q.Get("limit"); s != "" {
		v, err := strconv.Atoi(s)
		if err != nil || v < 1 || v > maxLimit {
			h.refuse(w, r, http.StatusBadRequest, "bad_limit", fmt.Sprintf("The limit is a number from 1 to %d.", maxLimit), "")
			return
		}
		p.left = v
	}
	if s := q.Get("cursor"); s != "" {
		at, err := h.openCursor(n, s)
		if err != nil {
			h.refuse(w, r, http.StatusBadRequest, "bad_cursor", "The cursor does not belong to this folder.", "Begin the listing again without a cursor.")
			return
		}
		p.from = at
	}
	h.cfg.Counters.Count(tree.OpList)
	defer func() { h.cfg.Audit.List(w.who, "/"+strings.Join(names, "/"), p.sent, nil) }()
	// The first batch is read before the answer begins, so that a folder that cannot be
	// read is an error and not a broken answer.
	ents, err := p.next()
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if !flag(q, "list") && !accepts(r.Header, "application/json") {
		h.html(w, r, names, &p, ents)
		return
	}
	hdr.Set("Content-Type", "application/json")
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return
	}
	if err := h.listJSON(w, names, &p, ents); err != nil {
		h.log.ErrorContext(r.Context(), "listing broken off", "path", quotePath(r.URL.Path), "error", err.Error())
		panic(http.ErrAbortHandler)
	}
}

// page reads a page of a folder in batches.
type page struct {
	h     *handler
	dir   tree.Node
	await walk.Await
	from  fsys.Cookie
	left  int // entries that this page may still have
	end   bool
	buf   []fsys.Dirent

	list *sortedList // set: the entries come from here, from number at on
	key  sortKey
	at   int
	desc bool

	full, xattrs bool // whether entries have all times, and attributes
	sent         int64
}

// cursor is where the next page begins.
func (p *page) cursor() string {
	if p.list != nil {
		return p.h.seal(p.dir, p.kind(), uint64(p.at))
	}
	return p.h.cursor(p.dir, p.from)
}

// kind tells the cursors of different orders apart.
func (p *page) kind() byte {
	k := p.key.by[0]
	if p.desc {
		k -= 'a' - 'A'
	}
	return k
}

// next returns the next batch, empty at the end of the page. The batch is valid until the
// next call.
func (p *page) next() ([]fsys.Dirent, error) {
	if p.end || p.left == 0 {
		return nil, nil
	}
	if p.buf == nil {
		p.buf = make([]fsys.Dirent, min(p.left, listBatch))
	}
	if p.list != nil {
		n := 0
		for ; n < min(p.left, len(p.buf)) && p.at < len(p.list.items); n++ {
			it := &p.list.items[p.at]
			if p.desc {
				it = &p.list.items[len(p.list.items)-1-p.at]
			}
			p.buf[n] = fsys.Dirent{Name: it.name, Ino: fsys.Ino(it.id), Type: it.kind}
			p.at++
		}
		p.end = p.at == len(p.list.items)
		p.left -= n
		p.sent += int64(n)
		return p.buf[:n], nil
	}
	n, err := p.await.ReadDir(p.h.tree, p.dir, p.from, p.buf[:min(p.left, len(p.buf))])
	switch {
	case errors.Is(err, io.EOF):
		p.end = true
	case err != nil:
		return nil, err
	case n == 0:
		return nil, errors.New("a folder gave neither an entry nor its end")
	}
	if n > 0 {
		p.from = p.buf[n-1].Next
	}
	p.left -= n
	p.sent += int64(n)
	return p.buf[:n], nil
}

// listJSON streams {"path": ..., "entries": [...], "next": ...}.
func (h *handler) listJSON(w io.Writer, names []string, p *page, ents []fsys.Dirent) error {
	out := bufio.NewWriterSize(w, 16<<10)
	path := "/" + strings.Join(names, "/")
	if !p.full {
		path = visible(path)
	}
	text, raw := text(path)
	head, err := json.Marshal(text)
	if err != nil {
		return err
	}
	_, _ = out.WriteString(`{"path":` + string(head))
	if raw != nil {
		_, _ = out.WriteString(`,"pathBytes":"` + base64.StdEncoding.EncodeToString(raw) + `"`)
	}
	if p.list != nil {
		_, _ = out.WriteString(`,"total":` + strconv.Itoa(len(p.list.items)))
	}
	_, _ = out.WriteString(`,"entries":[`)
	enc := json.NewEncoder(out) // ends each entry with a newline
	first := true
	for len(ents) > 0 {
		for _, d := range ents {
			if !first {
				_ = out.WriteByte(',')
			}
			first = false
			if err := enc.Encode(p.entry(d)); err != nil {
				return err
			}
		}
		if ents, err = p.next(); err != nil {
			return err
		}
	}
	_ = out.WriteByte(']')
	if !p.end {
		_, _ = out.WriteString(`,"next":"` + p.cursor() + `"`)
	}
	_, _ = out.WriteString("}\n")
	return out.Flush()
}

// accepts tells whether the Accept header names the media type itself, with a weight above 0.
func accepts(hdr http.Header, want string) bool {
	for _, line := range hdr.Values("Accept") {
		for _, part := range strings.Split(line, ",") {
			t, params, err := mime.ParseMediaType(part)
			if err != nil || t != want {
				continue
			}
			if q, err := strconv.ParseFloat(params["q"], 64); params["q"] == "" || err == nil && q > 0 {
				return true
			}
		}
	}
	return false
}
