package files

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/api/files/limit"
	"vmfr/api/files/search"
	"vmfr/api/files/walk"
)

const (
	ndjsonType = "application/x-ndjson"
	// maxPattern bounds a glob or regular expression, in bytes; Go's expressions are linear in
	// time, and bounded in memory by their length.
	maxPattern = 1000
	// defaultFound and maxFound bound the matches of one search.
	defaultFound = 100_000
	maxFound     = 10_000_000
	// groupSize is the memory of a remembered match without its paths.
	groupSize = 256
)

// searchLine is a line of a search's answer.
type searchLine struct {
	Event     string `json:"event"` // "match", "error" or, at the end, "end"
	Path      string `json:"path,omitempty"`
	PathBytes []byte `json:"pathBytes,omitempty"`
	Backup    string `json:"backup,omitempty"`
	*entry
	// Same are the other paths of identical files, when they were to be grouped.
	Same []samePath `json:"same,omitempty"`
	*searchEnd
}

type samePath struct {
	Backup    string `json:"backup"`
	Path      string `json:"path"`
	PathBytes []byte `json:"pathBytes,omitempty"`
}

type searchEnd struct {
	Objects  int64       `json:"objects"` // looked at
	Matches  int64       `json:"matches"`
	Errors   int64       `json:"errors"`
	Complete bool        `json:"complete"` // nothing was left out
	Seconds  float64     `json:"seconds"`
	Why      *entryError `json:"why,omitempty"` // it is not complete
}

// found collects the matches of a search.
type searchRun struct {
	h       *handler
	out     *lines
	roots   []searchRoot
	left    int64
	missing []searchLine             // disks that cannot be searched
	groups  map[groupKey]*searchLine // nil: not grouped
	order   []*searchLine
	memory  *limit.Account
}

// searchRoot is a file system or folder to be searched, and what it is of.
type searchRoot struct {
	backup string
	path   string // of the backup's disk: what identical files' paths have behind it is the same
	disk   string
}

// groupKey is equal for what is taken for the same file in several backups.
type groupKey struct {
	disk, path   string
	inode        uint64
	size         int64
	mtime, ctime time.Time
}

var errFoundAll = errors.New("as many matches as were asked for")

// search answers /api/v1/search.
func (h *handler) search(w *response, r *http.Request) {
	q := parameters(r, "name", "ignoreCase", "regex", "path", "backup", "type", "minSize", "maxSize", "after", "before", "group", "limit")
	s := &search.Search{Tree: h.tree, Query: search.Query{
		Name: q.one("name"), IgnoreCase: q.flag("ignoreCase"), MinSize: q.number("minSize", 0, 0, 1<<62), MaxSize: q.number("maxSize", -1, 0, 1<<62),
		After: q.time("after"), Before: q.time("before"),
	}}
	group := q.flag("group")
	run := &searchRun{h: h, left: q.number("limit", defaultFound, 1, maxFound)}
	patterns(q, &s.Query)
	var paths []string
	for _, p := range q.v["path"] {
		paths = append(paths, q.clean("path", p))
	}
	backups := q.v["backup"]
	if q.err == nil {
		s.Roots, run.roots, q.err = h.searchRoots(w, r, run, paths, backups)
	}
	done, ok := h.job(w, r, q)
	if !ok {
		return
	}
	defer done()
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", ndjsonType)
		w.WriteHeader(http.StatusOK)
		return
	}
	start := time.Now()
	s.Memory = h.memory.Account()
	defer s.Memory.Close()
	run.memory, s.Await = s.Memory, h.await(w, r)
	if group {
		run.groups = map[groupKey]*searchLine{}
	}
	run.out = newLines(w, ndjsonType)
	s.Found, s.Failed = run.match, run.failed
	for _, l := range run.missing {
		_ = run.out.send(l)
	}
	stats, err := s.Run(r.Context())
	stats.Errors += int64(len(run.missing))
	run.finish(stats, err, time.Since(start))
	h.cfg.Audit.Query(w.who, "search "+r.URL.RawQuery, append(paths, backups...), time.Since(start), err)
	if run.out.close() != nil || r.Context().Err() != nil {
		panic(http.ErrAbortHandler)
	}
}

// patterns reads what is not a plain value.
func patterns(q *params, to *search.Query) {
	if len(to.Name) > maxPattern {
		q.fail(badParameter("name", "it has more than %d bytes", maxPattern))
	}
	if err := to.Check(); err != nil {
		q.fail(badParameter("name", "%v", err))
	}
	if s := q.one("regex"); s != "" {
		re, err := regexp.Compile(s)
		switch {
		case len(s) > maxPattern:
			q.fail(badParameter("regex", "it has more than %d bytes", maxPattern))
		case err != nil:
			q.fail(badParameter("regex", "%v", err))
		default:
			to.Regexp = re
		}
	}
	for _, t := range q.v["type"] {
		mode := uint32(0)
		for m, name := range typeNames {
			if name == t {
				mode = m
			}
		}
		if mode == 0 {
			q.fail(badParameter("type", "it is one of file, directory, symlink, block, char, fifo, socket"))
		}
		to.Types = append(to.Types, mode)
	}
}

// searchRoots are the folders to be searched: the given ones, or every file once. What of the
// backups cannot be searched is kept in run.missing.
func (h *handler) searchRoots(w *response, r *http.Request, run *searchRun, paths, backups []string) (roots []walk.Root, of []searchRoot, err error) {
	known := map[string]bool{}
	for _, b := range h.tree.Backups() {
		known[b.Name] = true
		if len(paths) > 0 || len(backups) > 0 && !slices.Contains(backups, b.Name) {
			continue
		}
		for _, d := range b.Disks {
			if e := unsearched(d); e != nil {
				run.missing = append(run.missing, searchLine{Event: "error", Backup: b.Name, Path: d.Path, entry: &entry{Type: "unknown", Error: e}})
			}
			for _, v := range d.Volumes {
				for _, p := range v.Roots() {
					n, err := h.resolve(w, r, p, true)
					if err != nil {
						return nil, nil, err
					}
					roots = append(roots, walk.Root{Path: p, Node: n})
					of = append(of, searchRoot{backup: b.Name, path: p, disk: strings.TrimPrefix(p, b.Path+"/")})
				}
			}
		}
	}
	for _, b := range backups {
		if !known[b] {
			return nil, nil, &refusal{http.StatusNotFound, "not_found", "There is no backup " + quotePath(b) + ".", "/api/v1/backups names those that there are."}
		}
	}
	for _, p := range paths {
		n, a, err := h.find(w, r, p)
		if err != nil {
			return nil, nil, err
		}
		if !a.IsDir() {
			return nil, nil, fsys.ErrNotDir
		}
		backup := backupOf(p)
		if len(backups) > 0 && !slices.Contains(backups, backup) {
			continue
		}
		root := searchRoot{backup: backup, path: p}
		if names := namesOf(p); len(names) > 2 {
			root.path, root.disk = "/"+strings.Join(names[:3], "/"), names[2]
		}
		roots, of = append(roots, walk.Root{Path: p, Node: n}), append(of, root)
	}
	return roots, of, nil
}

// unsearched tells why files of a disk are missing in a search of everything; nil: none are.
func unsearched(d tree.DiskReport) *entryError {
	switch d.State {
	case tree.StatePending:
		return &entryError{"pending", "This disk has not been opened yet.", "Open " + d.Path + ", which starts what reads it, and search again."}
	case tree.StateUnreadable:
		return &entryError{"unreadable", "This disk cannot be read: " + d.Error, d.Advice}
	case tree.StatePartial:
		return &entryError{"partial", "Not every file system of this disk can be read.", "/api/v1/backups says which and why."}
	}
	return nil
}

// backupOf is the backup that a path of the tree lies in; empty where it lies in none.
func backupOf(path string) string {
	names := namesOf(path)
	if len(names) > 1 && names[0] == "backups" {
		return names[1]
	}
	return ""
}

// match takes one match.
func (s *searchRun) match(m search.Match) error {
	l := &searchLine{Event: "match", Backup: backupOf(m.Path)}
	l.Path, l.PathBytes = text(m.Path)
	name := m.Path[strings.LastIndexByte(m.Path, '/')+1:]
	if m.Err != nil {
		l.entry = &entry{Type: "unknown", Error: describeError(m.Err)}
		l.entry.Name, l.entry.NameBytes = text(name)
	} else {
		e := s.h.entry(name, m.Node, m.Attr)
		l.entry = &e
	}
	if s.groups != nil && m.Err == nil {
		joined, err := s.join(l, m)
		if joined || err != nil {
			return err
		}
	} else if err := s.out.send(l); err != nil {
		return err
	}
	if s.left--; s.left == 0 {
		return errFoundAll
	}
	return nil
}

// join puts a match to the identical ones.
func (s *searchRun) join(l *searchLine, m search.Match) (joined bool, err error) {
	root := s.roots[m.Root]
	k := groupKey{disk: root.disk, path: strings.TrimPrefix(m.Path, root.path), inode: uint64(m.Attr.Ino) & (1<<48 - 1), size: m.Attr.Size, mtime: m.Attr.Mtime, ctime: m.Attr.Ctime}
	if err := s.memory.Take(groupSize + 3*int64(len(m.Path))); err != nil {
		return false, err
	}
	if g, ok := s.groups[k]; ok {
		g.Same = append(g.Same, samePath{l.Backup, l.Path, l.PathBytes})
		return true, nil
	}
	s.groups[k] = l
	s.order = append(s.order, l)
	return false, nil
}

func (s *searchRun) failed(path string, err error) {
	l := searchLine{Event: "error", Backup: backupOf(path), entry: &entry{Type: "unknown", Error: describeError(err)}}
	l.Path, l.PathBytes = text(path)
	_ = s.out.send(l) // a client that has gone ends the search by its context
}

// finish sends the groups and the last line.
func (s *searchRun) finish(stats search.Stats, err error, took time.Duration) {
	sort.Slice(s.order, func(i, j int) bool { return s.order[i].Path < s.order[j].Path })
	for _, l := range s.order {
		sort.Slice(l.Same, func(i, j int) bool { return l.Same[i].Path < l.Same[j].Path })
		_ = s.out.send(l)
	}
	end := &searchEnd{Objects: stats.Objects, Matches: stats.Matches, Errors: stats.Errors, Complete: err == nil && stats.Errors == 0, Seconds: took.Seconds()}
	switch {
	case errors.Is(err, errFoundAll):
		end.Why = &entryError{"limit", "There may be more matches than were asked for.", "Ask more precisely, or for a higher limit."}
	case errors.Is(err, context.Canceled):
		end.Why = &entryError{"cancelled", "The search was ended.", ""}
	case errors.Is(err, limit.ErrMemory):
		end.Why = &entryError{"busy", err.Error(), "Search in fewer folders, or again when other requests have ended."}
	case err != nil:
		end.Why = describeError(err)
	case stats.Errors > 0:
		end.Why = &entryError{"errors", "Some folders or disks could not be read; their lines say why.", "Other backups may have them."}
	}
	_ = s.out.send(searchLine{Event: "end", searchEnd: end})
}
