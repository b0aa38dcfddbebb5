// Package search finds objects of the tree by name, type, size and time. There is no index:
// folders are read in parallel, and attributes only where a condition needs them.
//
// Non-goals: no content is searched, no symbolic link is followed. Invariants: a folder is read
// once, whatever many paths it has; the work of one search is bounded in memory and in objects;
// it ends soon after its context.
package search

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/api/files/limit"
	"vmfr/api/files/walk"
)

const (
	// batch is how many names a worker reads at once: 48 KiB of memory.
	batch = 1024
	// dirSize is the memory of a folder that waits to be read, without its name; seenSize that
	// of one that was read.
	dirSize, seenSize = 112, 40
	// maxDepth bounds how deep folders lie in each other.
	maxDepth = 4096
	// DefaultWorkers hide the latency of a device behind each other.
	DefaultWorkers = 8
	// MaxObjects bounds one search: hours of work.
	MaxObjects = 1 << 30
)

// ErrObjects ends a search that has seen MaxObjects.
var ErrObjects = errors.New("the search has seen too many objects; search in fewer folders")

// Query is what an object must be to be found. Zero fields ask nothing.
type Query struct {
	Name       string         // a glob of path.Match for the last name; see Check
	IgnoreCase bool           // of Name
	Regexp     *regexp.Regexp // for the whole path
	Types      []uint32       // fsys.Mode* file types, any of them
	MinSize    int64          // bytes
	MaxSize    int64          // bytes; negative: no limit
	After      time.Time      // not modified before
	Before     time.Time      // modified before
}

// Check tells what is wrong with the query.
func (q *Query) Check() error {
	if _, err := path.Match(q.Name, ""); err != nil {
		return fmt.Errorf("the glob %.100q: %w", q.Name, err)
	}
	return nil
}

// needsAttr tells whether names and types are not enough.
func (q *Query) needsAttr() bool {
	return q.MinSize > 0 || q.MaxSize >= 0 || !q.After.IsZero() || !q.Before.IsZero()
}

// Match is an object that was found.
type Match struct {
	Root int // the index of the root below which it lies
	Path string
	Node tree.Node
	Attr fsys.Attr // zero where Err is set
	Err  error     // its attributes could not be read
}

// Stats is what a search did.
type Stats struct {
	Objects int64 // seen
	Matches int64
	Errors  int64
}

// Search is one run. Found and Failed are called by one goroutine at a time; an error of Found
// ends the search and is returned.
type Search struct {
	Tree    *tree.Tree
	Roots   []walk.Root // folders; their paths begin the paths of matches
	Query   Query
	Workers int // 0: DefaultWorkers
	Memory  *limit.Account
	Await   walk.Await
	Found   func(Match) error
	Failed  func(path string, err error) // of a folder that could not be read to its end

	lower string // Query.Name where case is ignored

	mu      sync.Mutex
	wake    sync.Cond
	queue   []*dir // the last is read next, so that little waits
	busy    int    // workers that read
	seen    map[tree.Node]struct{}
	stats   Stats
	err     error
	stopped bool

	out sync.Mutex // held while Found and Failed are called
}

// dir is a folder. Its path is made only when it is needed.
type dir struct {
	parent *dir
	name   string
	node   tree.Node
	root   int
	depth  int
}

// size is the memory of a folder that waits.
func (d *dir) size() int64 { return dirSize + int64(len(d.name)) }

func (s *Search) path(d *dir, name string) string {
	n := len(name)
	for p := d; p != nil; p = p.parent {
		n += len(p.name) + 1
	}
	b := make([]byte, n)
	put := func(s string) {
		n -= len(s)
		copy(b[n:], s)
	}
	put(name)
	for p := d; p != nil; p = p.parent {
		put("/")
		put(p.name)
	}
	return string(b)
}

// Run searches. The error is ctx's, Found's, limit.ErrMemory or ErrObjects; the stats are
// valid with it.
func (s *Search) Run(ctx context.Context) (Stats, error) {
	s.wake.L = &s.mu
	s.seen = map[tree.Node]struct{}{}
	s.lower = strings.ToLower(s.Query.Name)
	for i := len(s.Roots) - 1; i >= 0; i-- {
		d := &dir{name: strings.TrimSuffix(s.Roots[i].Path, "/"), node: s.Roots[i].Node, root: i}
		if err := s.Memory.Take(d.size()); err != nil {
			return s.stats, err
		}
		s.queue = append(s.queue, d)
	}
	stop := context.AfterFunc(ctx, func() { s.fail(context.Cause(ctx)) })
	defer stop()
	workers := s.Workers
	if workers <= 0 {
		workers = DefaultWorkers
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(s.work)
	}
	wg.Wait()
	return s.stats, s.err
}

func (s *Search) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.stopped = true
	s.mu.Unlock()
	s.wake.Broadcast()
}

// work reads folders until none is left and nobody can find another.
func (s *Search) work() {
	buf := make([]fsys.Dirent, batch)
	for {
		s.mu.Lock()
		for len(s.queue) == 0 && s.busy > 0 && !s.stopped {
			s.wake.Wait()
		}
		if s.stopped || len(s.queue) == 0 {
			s.mu.Unlock()
			s.wake.Broadcast()
			return
		}
		d := s.queue[len(s.queue)-1]
		s.queue = s.queue[:len(s.queue)-1]
		_, again := s.seen[d.node]
		s.seen[d.node] = struct{}{}
		s.busy++
		s.mu.Unlock()
		var err error
		if !again {
			err = s.read(d, buf)
		}
		s.Memory.Give(d.size())
		if err == nil && !again {
			err = s.Memory.Take(seenSize)
		}
		s.mu.Lock()
		s.busy--
		s.mu.Unlock()
		s.wake.Broadcast()
		if err != nil {
			s.fail(err)
			return
		}
	}
}

// read looks at what is in one folder.
func (s *Search) read(d *dir, buf []fsys.Dirent) error {
	var from fsys.Cookie
	var sub []*dir
	for {
		n, err := s.Await.ReadDir(s.Tree, d.node, from, buf)
		if err != nil && !errors.Is(err, io.EOF) {
			return s.failed(d, err)
		}
		for _, e := range buf[:n] {
			child, err := s.look(d, e)
			if err != nil {
				return err
			}
			if child != nil {
				sub = append(sub, child)
			}
		}
		s.mu.Lock()
		s.stats.Objects += int64(n)
		tooMany, stopped := s.stats.Objects > MaxObjects, s.stopped
		s.mu.Unlock()
		switch {
		case stopped:
			return nil
		case tooMany:
			return ErrObjects
		case err != nil:
			s.push(sub)
			return nil
		case n == 0:
			return s.failed(d, errors.New("a folder gave neither an entry nor its end"))
		}
		from = buf[n-1].Next
	}
}

// push queues folders; those with the lowest numbers, which mostly lie together on the disk,
// are read first.
func (s *Search) push(sub []*dir) {
	if len(sub) == 0 {
		return
	}
	slices.SortFunc(sub, func(a, b *dir) int {
		x, y := s.Tree.ID(a.node), s.Tree.ID(b.node)
		switch {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return 0
	})
	s.mu.Lock()
	s.queue = append(s.queue, sub...)
	s.mu.Unlock()
	s.wake.Broadcast()
}

func (s *Search) failed(d *dir, err error) error {
	s.mu.Lock()
	s.stats.Errors++
	s.mu.Unlock()
	s.out.Lock()
	defer s.out.Unlock()
	if s.Failed != nil {
		p := s.path(d.parent, d.name)
		if d.parent == nil {
			p = d.name
		}
		s.Failed(p, err)
	}
	return nil
}

// look judges one entry and returns it if it is a folder to be read.
func (s *Search) look(d *dir, e fsys.Dirent) (*dir, error) {
	named := s.named(d, e.Name)
	if e.Type != 0 && e.Type != fsys.ModeDir && !named {
		return nil, nil // most entries end here
	}
	n, ok := s.Tree.ByID(uint64(e.Ino))
	if !ok {
		var err error
		if n, err = s.Tree.Lookup(d.node, e.Name); err != nil {
			return nil, s.failed(&dir{parent: d, name: e.Name, root: d.root}, err)
		}
	}
	var a fsys.Attr
	var err error
	known := false
	if e.Type == 0 {
		a, err = s.Tree.Attr(n)
		e.Type, known = a.Mode&fsys.ModeFmt, true
	}
	var child *dir
	if e.Type == fsys.ModeDir && err == nil && (s.Tree.Alias(s.Roots[d.root].Node) || !s.Tree.Alias(n)) {
		child = &dir{parent: d, name: e.Name, node: n, root: d.root, depth: d.depth + 1}
		if child.depth > maxDepth {
			return nil, s.failed(child, tree.ErrNameTooLong)
		}
		if err := s.Memory.Take(child.size()); err != nil {
			return nil, err
		}
	}
	q := &s.Query
	if !named || len(q.Types) > 0 && !slices.Contains(q.Types, e.Type) {
		return child, nil
	}
	if !known {
		a, err = s.Tree.Attr(n)
	}
	if err == nil && !q.fits(a) || err != nil && q.needsAttr() {
		if err != nil {
			return child, s.failed(&dir{parent: d, name: e.Name, root: d.root}, err)
		}
		return child, nil
	}
	return child, s.found(Match{Root: d.root, Path: s.path(d, e.Name), Node: n, Attr: a, Err: err})
}

func (s *Search) found(m Match) error {
	s.out.Lock()
	defer s.out.Unlock()
	s.mu.Lock()
	stopped := s.stopped
	if !stopped {
		s.stats.Matches++
	}
	s.mu.Unlock()
	if stopped {
		return nil
	}
	return s.Found(m)
}

func (s *Search) named(d *dir, name string) bool {
	q := &s.Query
	if q.Name != "" {
		pattern, n := q.Name, name
		if q.IgnoreCase {
			pattern, n = s.lower, strings.ToLower(name)
		}
		if ok, _ := path.Match(pattern, n); !ok {
			return false
		}
	}
	return q.Regexp == nil || q.Regexp.MatchString(s.path(d, name))
}

func (q *Query) fits(a fsys.Attr) bool {
	return a.Size >= q.MinSize && (q.MaxSize < 0 || a.Size <= q.MaxSize) &&
		(q.After.IsZero() || !a.Mtime.Before(q.After)) && (q.Before.IsZero() || a.Mtime.Before(q.Before))
}
