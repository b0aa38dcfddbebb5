package web

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// maxFound is how many matches a page without script shows, maxFoundBytes what it reads for them.
const (
	maxFound      = 500
	maxFoundBytes = 4 << 20
)

// match is a line of /api/v1/search.
type match struct {
	entry
	Event     string   `json:"event"`
	Path      string   `json:"path"`
	PathBytes []byte   `json:"pathBytes"`
	Backup    string   `json:"backup"`
	Objects   int64    `json:"objects"`
	Matches   int64    `json:"matches"`
	Complete  bool     `json:"complete"`
	Why       *problem `json:"why"`

	Raw, Href, Icon string
}

// searchForm is what was asked for, and the answer.
type searchForm struct {
	Name, Path, Backup, Type, MinSize, MaxSize, After, Before string

	Root    string // Path as the guest has it
	Asked   bool
	Wrong   string
	API     string // the same question for the script; empty: the answer is in the page
	Plain   string // address of this page with the answer in it
	Matches []match
	Errors  int
	End     *match
	Cut     bool
	Backups []backup
}

// Types are what can be searched for.
func (searchForm) Types() []string { return []string{"file", "directory", "symlink"} }

func (s *Site) search(v *visit) error {
	q := v.r.URL.Query()
	f := searchForm{Name: q.Get("name"), Path: q.Get("path"), Backup: q.Get("backup"), Type: q.Get("type"),
		MinSize: q.Get("minSize"), MaxSize: q.Get("maxSize"), After: q.Get("after"), Before: q.Get("before")}
	// The path comes from a form, percent-encoded once more.
	root, err := treePath(f.Path)
	if err != nil {
		root = "/"
	}
	f.Root, f.Path = root, encodePath(root)
	f.Asked = f.Name+f.Type+f.MinSize+f.MaxSize+f.After+f.Before != ""
	if f.Backups, err = s.backups(v); err != nil {
		return err
	}
	ask, err := f.question(s)
	switch {
	case err != nil:
		f.Wrong = err.Error()
	case !f.Asked:
	case q.Get("live") != "":
		f.API = "/api/v1/search?" + ask.Encode()
		q.Del("live")
		f.Plain = "/search?" + q.Encode()
	default:
		ask.Set("limit", strconv.Itoa(maxFound))
		if err := s.find(v, &f, ask); err != nil {
			return err
		}
	}
	return s.show(v, http.StatusOK, "search", view{Title: s.texts.get("search.title"), Up: "/", Path: f.Path, Data: f})
}

// question is the form as the API wants it.
func (f *searchForm) question(s *Site) (url.Values, error) {
	ask := url.Values{}
	set := func(k, v string) {
		if v != "" {
			ask.Set(k, v)
		}
	}
	if n := f.Name; n != "" {
		if !strings.ContainsAny(n, `*?[\`) {
			n = "*" + n + "*"
		}
		set("name", n)
		set("ignoreCase", "1")
	}
	if f.Root != "/" {
		set("path", f.Root)
	}
	set("backup", f.Backup)
	set("type", f.Type)
	set("after", f.After)
	set("before", f.Before)
	for k, v := range map[string]string{"minSize": f.MinSize, "maxSize": f.MaxSize} {
		n, err := bytesOf(v)
		if err != nil {
			return nil, &problem{Detail: s.texts.get("search.size")}
		}
		if n >= 0 {
			set(k, strconv.FormatInt(n, 10))
		}
	}
	return ask, nil
}

// bytesOf reads a size such as "10M"; -1: none is given.
func bytesOf(v string) (int64, error) {
	v = strings.ToUpper(strings.TrimSpace(v))
	if v == "" {
		return -1, nil
	}
	v = strings.TrimSuffix(strings.TrimSuffix(v, "B"), "I")
	shift := 0
	for i, unit := range []string{"K", "M", "G", "T"} {
		if n, ok := strings.CutSuffix(v, unit); ok {
			shift, v = 10*(i+1), strings.TrimSpace(n)
			break
		}
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 || n > 1<<62>>shift {
		return 0, strconv.ErrRange
	}
	return n << shift, nil
}

// find searches for a page without script: what is found within its patience.
func (s *Site) find(v *visit, f *searchForm, ask url.Values) error {
	complete, err := lines(s, v, "/api/v1/search", ask, maxFoundBytes, func(m match) {
		switch m.Event {
		case "end":
			f.End = &m
		case "match":
			m.Raw = exact(m.Path, m.PathBytes)
			m.Href, m.Icon = browseURL(m.Raw), iconOf(m.Type, m.Raw)
			f.Matches = append(f.Matches, m)
		default:
			f.Errors++
		}
	})
	f.Cut = !complete || f.End == nil || !f.End.Complete
	if p, ok := err.(*problem); ok && p.Status == http.StatusBadRequest { //nolint:errorlint // ask returns it as it is
		f.Wrong = p.Detail
		return nil
	}
	return err
}
