package files

import (
	"context"
	"errors"
	"io"
	iofs "io/fs"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/net/webdav"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/api/files/limit"
	"vmfr/api/files/walk"
)

const (
	davPrefix = "/dav/"
	// maxPropfind bounds the body of a PROPFIND, in bytes: a list of names of properties.
	maxPropfind = 64 << 10
	// davEntrySize is the memory of one entry of a listing without its name.
	davEntrySize = 320
)

func isDAV(path string) bool { return path+"/" == davPrefix || strings.HasPrefix(path, davPrefix) }

// newDAV returns the library's handler of PROPFIND; all other methods are ours. It answers from
// the tree and has no locks to give.
func (h *handler) newDAV() http.Handler {
	return &webdav.Handler{Prefix: strings.TrimSuffix(davPrefix, "/"), FileSystem: davFS{h}, LockSystem: webdav.NewMemLS()}
}

// serveDAV answers /dav/<path>.
func (h *handler) serveDAV(w *response, r *http.Request) {
	names, dir, err := treePath(r.URL, davPrefix)
	if err != nil {
		h.refuse(w, r, http.StatusBadRequest, "bad_path", "The path cannot be used: "+err.Error()+".", "Percent-encode each name of the path by itself.")
		return
	}
	n, a, err := h.find(w, r, "/"+strings.Join(names, "/"))
	if err == nil && dir && !a.IsDir() && len(names) > 0 {
		err = fsys.ErrNotDir
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	switch {
	case r.Method == "PROPFIND":
		h.propfind(w, r, names)
	case a.IsDir():
		h.list(w, r, names, n, a, nil)
	default:
		h.content(w, r, names, n, a, nil)
	}
}

// propfind answers with the properties of an object, and with Depth 1 of what is in it.
func (h *handler) propfind(w *response, r *http.Request, names []string) {
	w.Header().Set("Cache-Control", noStore)
	if d := r.Header.Get("Depth"); d != "0" && d != "1" {
		// RFC 4918, 9.1: a server may refuse to walk all that is below.
		w.Header().Set("Content-Type", "application/xml; charset=utf-8")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `<?xml version="1.0" encoding="utf-8"?><D:error xmlns:D="DAV:"><D:propfind-finite-depth/></D:error>`+"\n")
		return
	}
	_ = w.rc.SetReadDeadline(time.Now().Add(bodyTimeout))
	r.Body = http.MaxBytesReader(w, r.Body, maxPropfind)
	account := h.memory.Account()
	defer account.Close()
	m := &davListing{account: account, w: w, r: r}
	h.cfg.Counters.Count(tree.OpList)
	h.dav.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), davKey{}, m)))
	h.cfg.Audit.List(w.who, "/"+strings.Join(names, "/"), int64(len(m.entries)), m.err)
	if m.err != nil && w.bytes > 0 {
		panic(http.ErrAbortHandler) // a list that lacks something must not look whole
	}
}

// davListing is the folder that one request lists, kept so that the library's questions about
// each entry need no search.
type davListing struct {
	dir     string
	entries map[string]*davInfo
	account *limit.Account
	w       *response
	r       *http.Request
	err     error
}

type davKey struct{}

// davFS is the tree as the library sees it. Links are followed: WebDAV knows none.
type davFS struct{ h *handler }

var _ webdav.FileSystem = davFS{}

func (davFS) Mkdir(context.Context, string, os.FileMode) error { return iofs.ErrPermission }

func (davFS) RemoveAll(context.Context, string) error { return iofs.ErrPermission }

func (davFS) Rename(context.Context, string, string) error { return iofs.ErrPermission }

func (f davFS) info(ctx context.Context, name string) (*davInfo, error) {
	m, ok := ctx.Value(davKey{}).(*davListing)
	if !ok {
		return nil, errors.New("not asked by a request")
	}
	if i, ok := m.entries[path.Base(name)]; ok && path.Dir(name) == m.dir {
		return i, nil
	}
	n, err := f.h.resolve(m.w, m.r, name, true)
	if err != nil {
		return nil, err
	}
	a, err := f.h.tree.Attr(n)
	if err != nil {
		return nil, err
	}
	return &davInfo{h: f.h, name: path.Base(name), node: n, attr: a}, nil
}

// Stat describes the object at name.
func (f davFS) Stat(ctx context.Context, name string) (os.FileInfo, error) {
	i, err := f.info(ctx, name)
	if err != nil {
		return nil, err
	}
	return i, nil
}

// OpenFile returns the object at name, of which the library asks only what Stat and Readdir say.
func (f davFS) OpenFile(ctx context.Context, name string, flag int, _ os.FileMode) (webdav.File, error) {
	if flag != os.O_RDONLY {
		return nil, iofs.ErrPermission
	}
	i, err := f.info(ctx, name)
	if err != nil {
		return nil, err
	}
	return &davFile{davInfo: i, ctx: ctx, path: name}, nil
}

// davInfo is an object. It tells its type and validator, so that the library reads no content.
type davInfo struct {
	h    *handler
	name string
	node tree.Node
	attr fsys.Attr
}

var (
	_ os.FileInfo         = (*davInfo)(nil)
	_ webdav.ETager       = (*davInfo)(nil)
	_ webdav.ContentTyper = (*davInfo)(nil)
)

func (i *davInfo) Name() string       { return i.name }
func (i *davInfo) Size() int64        { return i.attr.Size }
func (i *davInfo) ModTime() time.Time { return i.attr.Mtime }
func (i *davInfo) IsDir() bool        { return i.attr.IsDir() }
func (i *davInfo) Sys() any           { return nil }

func (i *davInfo) Mode() os.FileMode {
	m := os.FileMode(i.attr.Mode & 0o777)
	if i.IsDir() {
		m |= os.ModeDir
	}
	return m
}

// ETag is the validator of /files/.
func (i *davInfo) ETag(context.Context) (string, error) { return i.h.etag(i.node, i.attr) }

// ContentType is the type of /files/.
func (i *davInfo) ContentType(context.Context) (string, error) {
	t, _ := typeOf([]string{i.name})
	return t, nil
}

// davFile is an open object.
type davFile struct {
	*davInfo
	ctx  context.Context
	path string
}

var _ webdav.File = (*davFile)(nil)

func (f *davFile) Close() error                   { return nil }
func (f *davFile) Stat() (os.FileInfo, error)     { return f.davInfo, nil }
func (f *davFile) Read([]byte) (int, error)       { return 0, iofs.ErrPermission }
func (f *davFile) Write([]byte) (int, error)      { return 0, iofs.ErrPermission }
func (f *davFile) Seek(int64, int) (int64, error) { return 0, iofs.ErrPermission }

// Readdir lists files and folders, and links that lead to some; what has no content has no
// place in WebDAV.
func (f *davFile) Readdir(int) ([]os.FileInfo, error) {
	m, ok := f.ctx.Value(davKey{}).(*davListing)
	if !ok || m.entries != nil {
		return nil, errors.New("one folder is listed at a time")
	}
	var list []walk.Child
	list, m.err = walk.List(f.h.tree, f.node, f.h.await(m.w, m.r), m.account)
	if m.err != nil {
		return nil, m.err
	}
	if m.err = m.account.Take(davEntrySize * int64(len(list))); m.err != nil {
		return nil, m.err
	}
	m.dir, m.entries = f.path, make(map[string]*davInfo, len(list))
	out := make([]os.FileInfo, 0, len(list))
	for _, c := range list {
		if err := f.ctx.Err(); err != nil {
			return nil, err
		}
		i := &davInfo{h: f.h, name: c.Name, node: c.Node}
		var err error
		if i.attr, err = f.h.tree.Attr(i.node); err == nil && i.attr.IsSymlink() {
			if i.node, err = f.h.resolve(m.w, m.r, path.Join(f.path, c.Name), true); err == nil {
				i.attr, err = f.h.tree.Attr(i.node)
			}
			if err != nil {
				continue // a link that leads nowhere
			}
		}
		if err == nil && !i.attr.IsDir() && !i.attr.IsRegular() {
			continue
		}
		if err != nil { // shown, with nothing known: opening it tells why
			i.attr = fsys.Attr{Mode: fsys.ModeRegular}
		}
		m.entries[c.Name] = i
		out = append(out, i)
	}
	return out, nil
}
