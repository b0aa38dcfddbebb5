package files

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"vmfr/agent/tree"
)

// refusal is a request that cannot be answered because of what it says.
type refusal struct {
	status               int
	kind, detail, advice string
}

// Error is the detail.
func (r *refusal) Error() string { return r.detail }

func badParameter(name, format string, args ...any) error {
	return &refusal{http.StatusBadRequest, "bad_parameter", fmt.Sprintf("The parameter %q: ", name) + fmt.Sprintf(format, args...) + ".",
		"docs/api.md and /api/v1/openapi.json tell what each address takes."}
}

// params are the parameters of a request. The first that is wrong is kept in err, so that a
// handler reads all of them and asks once.
type params struct {
	v   url.Values
	err error
}

// parameters reads the query, which may have no other names than these: a parameter that is
// misspelt must not silently widen what is asked for.
func parameters(r *http.Request, names ...string) *params {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return &params{v: v, err: badParameter("", "the query cannot be read: %v", err)}
	}
	p := &params{v: v}
	for name := range v {
		if !slices.Contains(names, name) {
			p.fail(badParameter(fmt.Sprintf("%.40s", name), "there is none of this name here"))
		}
	}
	return p
}

func (p *params) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

// one returns the only value; empty if there is none.
func (p *params) one(name string) string {
	if len(p.v[name]) > 1 {
		p.fail(badParameter(name, "it is given more than once"))
	}
	return p.v.Get(name)
}

func (p *params) flag(name string) bool {
	switch v := p.one(name); v {
	case "1", "true", "yes":
		return true
	case "", "0", "false", "no":
	default:
		p.fail(badParameter(name, "write 1 or 0"))
	}
	return false
}

// choice returns one of the words, the first if none is given.
func (p *params) choice(name string, words ...string) string {
	v := p.one(name)
	if v == "" {
		return words[0]
	}
	if !slices.Contains(words, v) {
		p.fail(badParameter(name, "it is one of %s", strings.Join(words, ", ")))
	}
	return v
}

func (p *params) number(name string, def, least, most int64) int64 {
	s := p.one(name)
	if s == "" {
		return def
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil || v < least || v > most {
		p.fail(badParameter(name, "it is a number from %d to %d", least, most))
		return def
	}
	return v
}

// time reads an RFC 3339 time or a date, which is its first moment in UTC.
func (p *params) time(name string) time.Time {
	s := p.one(name)
	if s == "" {
		return time.Time{}
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t
		}
	}
	p.fail(badParameter(name, "write a time such as 2026-04-12T02:00:00Z or a date such as 2026-04-12"))
	return time.Time{}
}

// path reads a path of the tree, which must be there.
func (p *params) path(name string) string {
	s := p.one(name)
	if s == "" {
		p.fail(badParameter(name, "a path is needed, such as /backups"))
		return "/"
	}
	return p.clean(name, s)
}

// clean makes a path absolute and without empty names. What could be taken for another path
// than it looks like is refused.
func (p *params) clean(name, s string) string {
	var out []string
	for _, e := range strings.Split(s, "/") {
		switch {
		case e == "":
			continue
		case e == "." || e == "..":
			p.fail(badParameter(name, `the path contains "." or ".."`))
		case strings.Contains(e, "\x00"):
			p.fail(badParameter(name, "the path contains a NUL byte, which no file name can"))
		}
		out = append(out, e)
	}
	if len(s) > tree.MaxPath {
		p.fail(badParameter(name, "the path has more than %d bytes", tree.MaxPath))
	}
	return "/" + strings.Join(out, "/")
}

// maxPaths bounds the paths of one archive; a request's header has room for few more.
const maxPaths = 1000

// paths reads one path or several.
func (p *params) paths(name string) []string {
	all := p.v[name]
	if len(all) == 0 || len(all) > maxPaths {
		p.fail(badParameter(name, "1 to %d paths are needed, such as /backups", maxPaths))
		return nil
	}
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = p.clean(name, s)
	}
	return out
}

// namesOf splits a clean path.
func namesOf(path string) []string {
	if path == "/" {
		return nil
	}
	return strings.Split(path[1:], "/")
}
