package files

import (
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
)

const filesPrefix = "/files/"

var (
	errEncodedSlash = errors.New("a name contains an encoded slash (%2F), which no file name can")
	errNUL          = errors.New("a name contains a NUL byte (%00), which no file name can")
	errDots         = errors.New(`the path contains "." or ".."`)
)

// treePath turns /files/a/b%0A, where prefix is "/files/", into the names "a" and "b\n". Names are bytes: each segment
// is decoded by itself and nothing is cleaned, normalised or checked to be UTF-8. Empty
// segments vanish; dir tells that the path ended in a slash and so must be a folder.
func treePath(u *url.URL, prefix string) (names []string, dir bool, err error) {
	// RawPath is what the client sent, unless that is the default encoding of Path; then
	// Path's slashes are the client's own.
	raw := u.RawPath
	if raw == "" {
		raw = u.EscapedPath()
	}
	raw = strings.TrimPrefix(raw, strings.TrimSuffix(prefix, "/"))
	for _, seg := range strings.Split(raw, "/") {
		if dir = seg == ""; dir {
			continue
		}
		name, err := url.PathUnescape(seg)
		switch {
		case err != nil:
			return nil, false, err
		case name == "." || name == "..":
			return nil, false, errDots
		case strings.Contains(name, "/"):
			return nil, false, errEncodedSlash
		case strings.Contains(name, "\x00"):
			return nil, false, errNUL
		}
		names = append(names, name)
	}
	return names, dir, nil
}

// fileURL is the path of the URL of a file or, with a slash at its end, of a folder. It
// begins with /files/ whatever the names are, so it never is an address of another host.
func fileURL(names []string, dir bool) string {
	var b strings.Builder
	b.WriteString(strings.TrimSuffix(filesPrefix, "/"))
	for _, n := range names {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(n))
	}
	if dir || len(names) == 0 {
		b.WriteByte('/')
	}
	return b.String()
}

// files answers /files/<path>.
func (h *handler) files(w *response, r *http.Request) {
	names, dir, err := treePath(r.URL, filesPrefix)
	if err != nil {
		h.refuse(w, r, http.StatusBadRequest, "bad_path", "The path cannot be used: "+err.Error()+".", "Percent-encode each name of the path by itself.")
		return
	}
	query := r.URL.Query()
	stat, nofollow := flag(query, "stat"), flag(query, "nofollow")
	path := "/" + strings.Join(names, "/")
	if dir && len(names) > 0 {
		path += "/"
	}
	n, err := h.resolve(w, r, path, !nofollow)
	if errors.Is(err, fs.ErrNotExist) && !stat && !nofollow && !dir && !query.Has("stream") {
		// "<file>:<stream>", as Windows names it, is ?stream= of the file.
		if file, stream, e := h.tree.ResolveStream(r.Context(), path); e == nil {
			n, err = file, nil
			last := &names[len(names)-1]
			*last = (*last)[:strings.LastIndexByte(*last, ':')]
			query.Set("stream", stream)
		}
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	a, err := h.tree.Attr(n)
	h.cfg.Counters.Count(tree.OpStat)
	switch {
	case err != nil:
		h.fail(w, r, err)
	case stat || nofollow:
		h.stat(w, r, names, n, a)
	case a.IsDir() && query.Get("stream") == "":
		h.list(w, r, names, n, a, query)
	default:
		h.content(w, r, names, n, a, query)
	}
}

func flag(q url.Values, name string) bool {
	switch q.Get(name) {
	case "1", "true", "yes":
		return true
	}
	return false
}

// find follows a path to what is there.
func (h *handler) find(w *response, r *http.Request, path string) (n tree.Node, a fsys.Attr, err error) {
	n, err = h.resolve(w, r, path, true)
	if err == nil {
		a, err = h.tree.Attr(n)
	}
	return n, a, err
}
