package walk_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"vmfr/agent/tree"
	"vmfr/api/files/limit"
	"vmfr/api/files/walk"
	"vmfr/test/faketree"
)

func file() *faketree.Node { return faketree.File(1, time.Unix(0, 0)) }

// sample is in no order, has something that cannot be described and something that cannot be listed.
func sample() *faketree.Node {
	bad, torn := file(), faketree.Dir(faketree.Child{Name: "kept", Node: file()})
	bad.Err, torn.ListErr = errors.New("no inode"), errors.New("torn")
	return faketree.Dir(
		faketree.Child{Name: "z", Node: file()}, faketree.Child{Name: "dir", Node: faketree.Dir(faketree.Child{Name: "2", Node: file()}, faketree.Child{Name: "1", Node: faketree.Dir()})},
		faketree.Child{Name: "dir.d", Node: faketree.Link("dir")}, faketree.Child{Name: "bad", Node: bad}, faketree.Child{Name: "torn", Node: torn}, faketree.Child{Name: "a\xff", Node: file()},
	)
}

// all walks to the end. Errors stand behind their path, those of listing with a star.
func all(w *walk.Walker, skip string) (out []string) {
	for {
		e, ok := w.Next()
		if !ok {
			return out
		}
		if skip != "" && e.Path == skip {
			w.Skip()
		}
		text := e.Path
		if e.List {
			text += "*"
		}
		if e.Err != nil {
			text += ": " + e.Err.Error()
		}
		out = append(out, text)
	}
}

func TestOrder(t *testing.T) {
	tr := faketree.New(t, sample())
	roots := func(names ...string) (out []walk.Root) {
		for _, n := range names {
			out = append(out, walk.Root{Path: n, Node: faketree.Find(t, tr, n)})
		}
		return out
	}
	for name, c := range map[string]struct {
		roots []walk.Root
		o     walk.Options
		skip  string
		want  string
	}{
		"as it lies":     {roots(""), walk.Options{}, "", "|z|dir|dir/2|dir/1|dir.d|bad: no inode|torn|torn/kept|torn*: torn|a\xff"},
		"sorted":         {roots(""), walk.Options{Sorted: true}, "", "|a\xff|bad: no inode|dir|dir/1|dir/2|dir.d|torn|torn*: torn|z"},
		"skipping":       {roots(""), walk.Options{Sorted: true}, "dir", "|a\xff|bad: no inode|dir|dir.d|torn|torn*: torn|z"},
		"several roots":  {roots("dir", "z", "dir.d"), walk.Options{}, "", "dir|dir/2|dir/1|z|dir.d"},
		"a root twice":   {roots("dir", "dir"), walk.Options{}, "", "dir|dir/2|dir/1|dir|dir/2|dir/1"},
		"each once":      {roots("dir", "dir"), walk.Options{Once: true}, "", "dir|dir/2|dir/1"},
		"skip the first": {roots("dir", "z"), walk.Options{}, "dir", "dir|z"},
		"nothing":        {nil, walk.Options{}, "", ""},
	} {
		m := limit.NewMemory(1 << 20)
		c.o.Memory = m.Account()
		if got := strings.Join(all(walk.New(tr, c.roots, c.o), c.skip), "|"); got != c.want {
			t.Errorf("%s: %q\nwant %q", name, got, c.want)
		}
		c.o.Memory.Close()
		if m.Used() != 0 {
			t.Errorf("%s: %d bytes are left", name, m.Used())
		}
	}
}

// TestLoops: what contains itself, and what is in many folders, ends.
func TestLoops(t *testing.T) {
	loop, shared := faketree.Dir(), faketree.Dir(faketree.Child{Name: "f", Node: file()})
	loop.Children = []faketree.Child{{Name: "self", Node: loop}, {Name: "sub", Node: faketree.Dir(faketree.Child{Name: "up", Node: loop})}}
	var many []faketree.Child
	for i := range 7 {
		many = append(many, faketree.Child{Name: fmt.Sprint(i), Node: shared})
	}
	tr := faketree.New(t, faketree.Dir(faketree.Child{Name: "loop", Node: loop}, faketree.Child{Name: "many", Node: faketree.Dir(many...)}))
	for _, sorted := range []bool{false, true} {
		got := all(walk.New(tr, []walk.Root{{Path: "r", Node: faketree.Find(t, tr, "")}}, walk.Options{Sorted: sorted}), "")
		count := func(part string) (n int) {
			for _, g := range got {
				if strings.Contains(g, part) {
					n++
				}
			}
			return n
		}
		if count("contains itself") != 2 || count("/f") != 4 || count("in more than 4 folders") != 3 {
			t.Errorf("sorted %v: %q", sorted, got)
		}
		once := all(walk.New(tr, []walk.Root{{Path: "r", Node: faketree.Find(t, tr, "")}}, walk.Options{Sorted: sorted, Once: true}), "")
		if want := []string{"r", "r/loop", "r/loop/sub", "r/many", "r/many/0", "r/many/0/f"}; !slices.Equal(once, want) {
			t.Errorf("once: %q", once)
		}
	}
}

// TestDeep: folders in each other to the bound of a path.
func TestDeep(t *testing.T) {
	inner := faketree.Dir(faketree.Child{Name: "end", Node: file()})
	for range 400 {
		inner = faketree.Dir(faketree.Child{Name: strings.Repeat("n", 200), Node: inner})
	}
	tr := faketree.New(t, inner)
	got := all(walk.New(tr, []walk.Root{{Node: faketree.Find(t, tr, "")}}, walk.Options{Sorted: true}), "")
	if last := got[len(got)-1]; len(got) != 328 || !strings.Contains(last, "bytes deep") {
		t.Errorf("%d entries, the last is %.60q ... %q", len(got), last, last[len(last)-60:])
	}
}

func TestMemory(t *testing.T) {
	var children []faketree.Child
	for i := range 5000 {
		children = append(children, faketree.Child{Name: fmt.Sprintf("%05d", 4999-i), Node: file()})
	}
	tr := faketree.New(t, faketree.Dir(children...))
	dir := faketree.Find(t, tr, "")
	m := limit.NewMemory(100 << 10) // 5,000 names are 225,000 bytes
	a := m.Account()
	if _, err := walk.List(tr, dir, nil, a); !errors.Is(err, limit.ErrMemory) || m.Used() != 0 {
		t.Errorf("List: %v, %d bytes are left", err, m.Used())
	}
	got := all(walk.New(tr, []walk.Root{{Node: dir}}, walk.Options{Sorted: true, Memory: a}), "")
	if len(got) != 2 || !strings.HasPrefix(got[1], "*") {
		t.Errorf("sorted: %.200q", got)
	}
	if got := all(walk.New(tr, []walk.Root{{Node: dir}}, walk.Options{Memory: a}), ""); len(got) != 5001 {
		t.Errorf("unsorted, which needs none: %d entries", len(got))
	}
	m = limit.NewMemory(1 << 20)
	a = m.Account()
	list, err := walk.List(tr, dir, nil, a)
	if err != nil || len(list) != 5000 || !slices.IsSortedFunc(list, func(a, b walk.Child) int { return strings.Compare(a.Name, b.Name) }) || walk.Size(list) != m.Used() {
		t.Errorf("%d entries, %d of %d bytes, %v", len(list), walk.Size(list), m.Used(), err)
	}
}

// TestAwait: each folder is waited for before it is read, and who does not want to wait is told so
// in its place.
func TestAwait(t *testing.T) {
	tr := faketree.New(t, sample())
	dir := faketree.Find(t, tr, "dir")
	for _, sorted := range []bool{false, true} {
		asked := map[tree.Node]bool{}
		await := func(n tree.Node) error {
			asked[n] = true
			if n == dir {
				return errors.New("gone")
			}
			return nil
		}
		got := all(walk.New(tr, []walk.Root{{Node: faketree.Find(t, tr, "")}}, walk.Options{Sorted: sorted, Await: await}), "")
		if !slices.Contains(got, "dir*: gone") || slices.Contains(got, "dir/1") || !slices.Contains(got, "z") || len(asked) != 3 {
			t.Errorf("sorted %v: %q, %d waits", sorted, got, len(asked))
		}
	}
}

func TestJoin(t *testing.T) {
	for _, c := range [][3]string{{"", "a", "a"}, {"a", "b", "a/b"}, {"a/b", "c\n", "a/b/c\n"}} {
		if got := walk.Join(c[0], c[1]); got != c[2] {
			t.Errorf("%q + %q: %q", c[0], c[1], got)
		}
	}
}
