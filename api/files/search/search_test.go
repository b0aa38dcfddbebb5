package search_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/api/files/limit"
	"vmfr/api/files/search"
	"vmfr/api/files/walk"
	"vmfr/test/faketree"
)

func at(day int) time.Time { return time.Date(2026, 4, day, 12, 0, 0, 500, time.UTC) }

// sample has a bit of everything.
func sample() *faketree.Node {
	untyped := faketree.Dir(faketree.Child{Name: "in.conf", Node: faketree.File(5, at(5))})
	untyped.Untyped = true
	bad := faketree.File(7, at(1))
	bad.Err = errors.New("no such inode")
	broken := faketree.Dir(faketree.Child{Name: "first.log", Node: faketree.File(1, at(1))})
	broken.ListErr = errors.New("a torn block")
	return faketree.Dir(
		faketree.Child{Name: "a.conf", Node: faketree.File(10, at(1))},
		faketree.Child{Name: "B.CONF", Node: faketree.File(20, at(2))},
		faketree.Child{Name: "[x].conf", Node: faketree.File(30, at(3))},
		faketree.Child{Name: "sub", Node: faketree.Dir(faketree.Child{Name: "deep", Node: faketree.Dir(faketree.Child{Name: "c.conf", Node: faketree.File(40, at(4))})})},
		faketree.Child{Name: "link.conf", Node: faketree.Link("sub")},
		faketree.Child{Name: "untyped", Node: untyped},
		faketree.Child{Name: "bad.bin", Node: bad},
		faketree.Child{Name: "broken", Node: broken},
		faketree.Child{Name: "bad-\xff.txt", Node: faketree.File(0, at(6))},
	)
}

// run searches and returns the paths below the root, sorted, and of what failed.
func run(t *testing.T, tr *tree.Tree, q search.Query, change func(*search.Search)) (found, failed []string, stats search.Stats, err error) {
	t.Helper()
	s := &search.Search{Tree: tr, Roots: []walk.Root{{Path: faketree.Root, Node: faketree.Find(t, tr, "")}}, Query: q}
	s.Found = func(m search.Match) error {
		name := strings.TrimPrefix(m.Path, faketree.Root+"/")
		if m.Err != nil {
			name += " (" + m.Err.Error() + ")"
		}
		found = append(found, name)
		return nil
	}
	s.Failed = func(path string, err error) {
		failed = append(failed, fmt.Sprintf("%s: %v", strings.TrimPrefix(path, faketree.Root+"/"), err))
	}
	if change != nil {
		change(s)
	}
	stats, err = s.Run(t.Context())
	slices.Sort(found)
	slices.Sort(failed)
	return found, failed, stats, err
}

func TestQueries(t *testing.T) {
	tr := faketree.New(t, sample())
	all := []string{"B.CONF", "[x].conf", "a.conf", "bad-\xff.txt", "bad.bin (no such inode)", "broken", "broken/first.log", "link.conf", "sub", "sub/deep", "sub/deep/c.conf", "untyped", "untyped/in.conf"}
	const torn = "broken: a torn block"
	for name, c := range map[string]struct {
		q      search.Query
		want   []string
		failed []string
	}{
		"everything":             {search.Query{MaxSize: -1}, all, []string{torn}},
		"glob":                   {search.Query{Name: "?.conf", MaxSize: -1}, []string{"a.conf", "sub/deep/c.conf"}, []string{torn}},
		"glob of the whole name": {search.Query{Name: "conf", MaxSize: -1}, nil, []string{torn}},
		"glob with a class":      {search.Query{Name: "[a-c].conf", MaxSize: -1}, []string{"a.conf", "sub/deep/c.conf"}, []string{torn}},
		"glob escaped":           {search.Query{Name: `\[x].conf`, MaxSize: -1}, []string{"[x].conf"}, []string{torn}},
		"glob of bytes":          {search.Query{Name: "bad-?.txt", MaxSize: -1}, []string{"bad-\xff.txt"}, []string{torn}},
		"ignoring case":          {search.Query{Name: "B.*", IgnoreCase: true, MaxSize: -1}, []string{"B.CONF"}, []string{torn}},
		"case counts":            {search.Query{Name: "b.*", MaxSize: -1}, nil, []string{torn}},
		"regex on the path":      {search.Query{Regexp: regexp.MustCompile(`/sub/.*\.conf$`), MaxSize: -1}, []string{"sub/deep/c.conf"}, []string{torn}},
		"regex has the root":     {search.Query{Regexp: regexp.MustCompile(`^/backups/b/d/a`), MaxSize: -1}, []string{"a.conf"}, []string{torn}},
		"regex and glob":         {search.Query{Name: "*.conf", Regexp: regexp.MustCompile(`deep`), MaxSize: -1}, []string{"sub/deep/c.conf"}, []string{torn}},
		"folders":                {search.Query{Types: []uint32{fsys.ModeDir}, MaxSize: -1}, []string{"broken", "sub", "sub/deep", "untyped"}, []string{torn}},
		"links and folders":      {search.Query{Name: "*n*", Types: []uint32{fsys.ModeSymlink, fsys.ModeDir}, MaxSize: -1}, []string{"broken", "link.conf", "untyped"}, []string{torn}},
		"least size":             {search.Query{Name: "*.conf", MinSize: 30, MaxSize: -1}, []string{"[x].conf", "sub/deep/c.conf"}, []string{torn}},
		"largest size":           {search.Query{Name: "*.conf", Types: []uint32{fsys.ModeRegular}, MaxSize: 10}, []string{"a.conf", "untyped/in.conf"}, []string{torn}},
		"one size":               {search.Query{Name: "*.CONF", IgnoreCase: true, MinSize: 20, MaxSize: 20}, []string{"B.CONF"}, []string{torn}},
		"no bytes":               {search.Query{Types: []uint32{fsys.ModeRegular}, Name: "bad-*", MaxSize: 0}, []string{"bad-\xff.txt"}, []string{torn}},
		"at that time or later":  {search.Query{Name: "*.*", Types: []uint32{fsys.ModeRegular}, After: at(4), MaxSize: -1}, []string{"bad-\xff.txt", "sub/deep/c.conf", "untyped/in.conf"}, []string{"bad.bin: no such inode", torn}},
		"before that time":       {search.Query{Name: "*.conf", Types: []uint32{fsys.ModeRegular}, Before: at(3), MaxSize: -1}, []string{"a.conf"}, []string{torn}},
		"between two":            {search.Query{Name: "*.conf", After: at(3), Before: at(4), MaxSize: -1}, []string{"[x].conf"}, []string{torn}},
		"a nanosecond later":     {search.Query{Name: "[[]x*", After: at(3).Add(1), MaxSize: -1}, nil, []string{torn}},
		"size of what is bad":    {search.Query{Name: "bad.bin", MinSize: 1, MaxSize: -1}, nil, []string{"bad.bin: no such inode", torn}},
	} {
		found, failed, stats, err := run(t, tr, c.q, nil)
		if err != nil || !slices.Equal(found, c.want) || !slices.Equal(failed, c.failed) {
			t.Errorf("%s: %q %q, %v\nwant %q %q", name, found, failed, err, c.want, c.failed)
		}
		if stats.Objects != int64(len(all)) || stats.Matches != int64(len(found)) || stats.Errors != int64(len(failed)) {
			t.Errorf("%s: %+v", name, stats)
		}
	}
	for _, bad := range []string{"[", "a[", `\`, "[]a]"} {
		if (&search.Query{Name: bad}).Check() == nil {
			t.Errorf("the glob %q is accepted", bad)
		}
	}
	if err := (&search.Query{Name: `*?[a-z]\*`}).Check(); err != nil {
		t.Error(err)
	}
}

// TestFoldersOnce: a folder in itself and in two others is read once.
func TestFoldersOnce(t *testing.T) {
	loop := faketree.Dir()
	loop.Children = []faketree.Child{{Name: "self", Node: loop}, {Name: "file", Node: faketree.File(1, at(1))}}
	tr := faketree.New(t, faketree.Dir(faketree.Child{Name: "x", Node: loop}, faketree.Child{Name: "y", Node: loop}))
	found, failed, stats, err := run(t, tr, search.Query{Name: "file", MaxSize: -1}, nil)
	if err != nil || len(found) != 1 || len(failed) != 0 || stats.Objects != 4 {
		t.Errorf("%q %q %+v %v", found, failed, stats, err)
	}
}

func TestEnds(t *testing.T) {
	tr := faketree.New(t, sample())
	stop := errors.New("enough")
	gone, leave := context.WithCancelCause(t.Context())
	leave(stop)
	for name, c := range map[string]struct {
		change func(*search.Search)
		want   error
	}{
		"the caller has enough": {func(s *search.Search) { s.Found = func(search.Match) error { return stop } }, stop},
		"no memory":             {func(s *search.Search) { s.Memory = limit.NewMemory(100).Account() }, limit.ErrMemory},
		"no memory for folders": {func(s *search.Search) { s.Memory = limit.NewMemory(300).Account() }, limit.ErrMemory},
		"memory enough":         {func(s *search.Search) { s.Memory = limit.NewMemory(5000).Account() }, nil},
	} {
		for _, workers := range []int{1, 8} {
			_, _, _, err := run(t, tr, search.Query{MaxSize: -1}, func(s *search.Search) {
				c.change(s)
				s.Workers = workers
			})
			if !errors.Is(err, c.want) {
				t.Errorf("%s, %d workers: %v, want %v", name, workers, err, c.want)
			}
		}
	}
	s := &search.Search{Tree: tr, Roots: []walk.Root{{Path: faketree.Root, Node: faketree.Find(t, tr, "")}}, Query: search.Query{MaxSize: -1}, Found: func(search.Match) error { return nil }}
	if _, err := s.Run(gone); !errors.Is(err, stop) {
		t.Errorf("after its context: %v", err)
	}
	// What is waited for fails the folder, not the search.
	_, failed, _, err := run(t, tr, search.Query{MaxSize: -1}, func(s *search.Search) {
		s.Await = func(n tree.Node) error {
			if n == faketree.Find(t, tr, "sub") {
				return stop
			}
			return nil
		}
	})
	if err != nil || !slices.Contains(failed, "sub: enough") {
		t.Errorf("%q, %v", failed, err)
	}
}
