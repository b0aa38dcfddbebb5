// Package web is the file browser: pages for people over the same tree that programs read by
// the API. Every page is made of the API's answers, asked in process as the person who is
// logged in, so that limits, errors and the audit log are the same for both.
//
//	/                   the backups on a time line
//	/browse/<path>      a folder in pages; a file's preview and attributes
//	/compare?from=&to=  two files or folders
//	/versions?path=     one path in every backup
//	/search?name=       names in all backups
//	/download /commands what is selected: as an archive; as rsync, scp and curl commands
//	/help               the keyboard
//	/assets/<file>      style and script, which need no login
//
// Non-goals: no state of its own, no writing, no page for programs. Invariants: what comes from a
// guest is text: it reaches a page only through html/template or a text node, its controls
// made visible, and no address of ours runs it; all pages work without script; pages and the
// memory for them are bounded however large a folder or file is.
package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"strings"
)

// Policy is the Content-Security-Policy of every page: nothing inline, nothing from elsewhere.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// AssetsPrefix is where the files are that a page needs and anybody may read.
const AssetsPrefix = "/assets/"

const browsePrefix = "/browse/"

//go:embed templates static texts
var embedded embed.FS

// Config is what a Site needs.
type Config struct {
	// API answers r, a GET of the API that the person behind outer is allowed to make, on
	// inner. It may panic with http.ErrAbortHandler to break an answer off.
	API func(outer, inner http.ResponseWriter, r *http.Request)
	// User is the account's name, SSHPort where it is served by SSH (0: not): both for the commands that
	// are shown.
	User    string
	SSHPort int
}

// Site makes the pages. It is safe for concurrent use.
type Site struct {
	cfg    Config
	texts  texts
	pages  map[string]*template.Template
	assets map[string]asset
	script template.URL // addresses with the content's digest, so that they may be kept
	style  template.URL
}

type asset struct {
	body []byte
	kind string
	etag string
}

var assetTypes = map[string]string{".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}

// pageNames are the templates that have a page of their own.
var pageNames = []string{"home", "folder", "file", "compare", "versions", "search", "commands", "help", "login", "error"}

// New prepares a Site. Errors are defects of the embedded files.
func New(cfg Config) (*Site, error) {
	s := &Site{cfg: cfg, pages: map[string]*template.Template{}, assets: map[string]asset{}}
	var err error
	if s.texts, err = loadTexts(embedded); err != nil {
		return nil, err
	}
	names, err := fs.Glob(embedded, "static/*")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		body, err := embedded.ReadFile(name)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(body)
		base := strings.TrimPrefix(name, "static/")
		a := asset{body, assetTypes[base[strings.LastIndexByte(base, '.'):]], `"` + hex.EncodeToString(sum[:8]) + `"`}
		if a.kind == "" {
			return nil, fmt.Errorf("web: %s has no type", name)
		}
		s.assets[base] = a
	}
	version := func(name string) template.URL {
		return template.URL(AssetsPrefix + name + "?" + strings.Trim(s.assets[name].etag, `"`))
	}
	s.script, s.style = version("app.js"), version("app.css")
	base, err := template.New("layout").Funcs(s.funcs()).ParseFS(embedded, "templates/layout.html", "templates/parts.html")
	if err != nil {
		return nil, fmt.Errorf("web: %w", err)
	}
	for _, name := range pageNames {
		t, err := template.Must(base.Clone()).ParseFS(embedded, "templates/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("web: %w", err)
		}
		s.pages[name] = t
	}
	return s, nil
}

// Owns tells whether an escaped path is one of the pages. "/" is shared with programs and so
// is the caller's to decide.
func Owns(path string) bool {
	_, ok := handlers[path]
	return ok || strings.HasPrefix(path, browsePrefix)
}

// handlers are the pages with fixed addresses.
var handlers = map[string]func(*Site, *visit) error{
	"/compare": (*Site).compare, "/versions": (*Site).versions, "/search": (*Site).search,
	"/download": (*Site).download, "/commands": (*Site).commands, "/help": (*Site).help,
}

// visit is one request of a person.
type visit struct {
	w   http.ResponseWriter
	r   *http.Request
	ctx context.Context
}

// ServeHTTP answers with a page. The caller has checked that the person is logged in, and that
// the method is GET or HEAD.
func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := &visit{w: w, r: r, ctx: r.Context()}
	path := r.URL.EscapedPath()
	var err error
	switch answer, ok := handlers[path]; {
	case ok:
		err = answer(s, v)
	case strings.HasPrefix(path, browsePrefix):
		err = s.browse(v, strings.TrimPrefix(path, strings.TrimSuffix(browsePrefix, "/")))
	default:
		err = s.home(v)
	}
	if err != nil {
		s.fail(v, err)
	}
}

// Asset answers AssetsPrefix.
func (s *Site) Asset(w http.ResponseWriter, r *http.Request) {
	a, ok := s.assets[strings.TrimPrefix(r.URL.Path, AssetsPrefix)]
	h := w.Header()
	if !ok {
		h.Set("Cache-Control", "no-store")
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	h.Set("Content-Type", a.kind)
	h.Set("ETag", a.etag)
	h.Set("Cache-Control", "public, max-age=86400")
	if r.Header.Get("If-None-Match") == a.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if r.Method != http.MethodHead {
		_, _ = w.Write(a.body)
	}
}

// view is what the layout shows around a page.
type view struct {
	Title    string
	Crumbs   []crumb
	Up       string // of the folder above; empty: none
	Path     string // of the tree, percent-encoded: where a search begins
	LoggedIn bool
	Script   template.URL
	Style    template.URL
	Texts    map[string]string // for the script
	Data     any
}

type crumb struct{ Href, Text string }

// show sends a page. It is made in memory first, so that an error is an answer of its own.
func (s *Site) show(v *visit, status int, name string, p view) error {
	p.LoggedIn = name != "login"
	p.Script, p.Style, p.Texts = s.script, s.style, s.texts.script()
	var b bytes.Buffer
	if err := s.pages[name].ExecuteTemplate(&b, "layout", p); err != nil {
		return err
	}
	h := v.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", Policy)
	h.Set("Cache-Control", "private, no-store")
	v.w.WriteHeader(status)
	if v.r.Method != http.MethodHead {
		_, _ = v.w.Write(b.Bytes())
	}
	return nil
}

// fail shows what went wrong and what to do next.
func (s *Site) fail(v *visit, err error) {
	if v.ctx.Err() != nil { // nobody is there to be shown it
		panic(http.ErrAbortHandler)
	}
	p := &problem{Status: http.StatusInternalServerError, Title: s.texts.get("error.title"), Detail: err.Error(), Advice: s.texts.get("error.defect")}
	_ = errors.As(err, &p)
	if e := s.show(v, p.Status, "error", view{Title: p.Title, Data: p}); e != nil {
		http.Error(v.w, p.Detail, p.Status)
	}
}

// Login shows the form with which people log in. wrong tells why they are not yet; empty: they
// have not tried.
func (s *Site) Login(w http.ResponseWriter, r *http.Request, status int, next, wrong string) {
	v := &visit{w: w, r: r, ctx: r.Context()}
	data := struct{ Next, Wrong string }{next, wrong}
	if err := s.show(v, status, "login", view{Title: s.texts.get("login.title"), Data: data}); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func (s *Site) help(v *visit) error {
	return s.show(v, http.StatusOK, "help", view{Title: s.texts.get("help.title")})
}
