// Package walk visits everything below folders of the tree: folders before what is in them,
// each in the order of its directory or sorted by name.
//
// Non-goals: it follows no symbolic link and reads no content. Invariants: an explicit stack
// and no recursion; a folder that contains itself is an error and not a loop; what cannot be
// read is reported in its place and the walk goes on.
package walk

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/api/files/limit"
)

const (
	// batch is how many names are read at once where the order does not matter.
	batch = 256
	// maxPath bounds the length of a path below a root, in bytes: 16 times what Linux lets a
	// program say at once, which also bounds the stack.
	maxPath = 64 << 10
	// maxVisits is how often one folder may be met at several paths: a file system that is
	// composed into another one has two, and a damaged one could have many.
	maxVisits = 4
	// childSize is the memory of a Child without its name, dirSize that of a visited folder.
	childSize, dirSize = 40, 48
)

// Child is a name in a folder.
type Child struct {
	Name string
	Node tree.Node
	Type uint32 // fsys.Mode*; 0: the directory does not record it
}

// Await waits until the names in a folder are as they will stay, see tree.Tree.Await: who reads
// for a client leaves with the client. A nil Await leaves the waiting to the tree, which does it
// to the end.
type Await func(dir tree.Node) error

// ReadDir is t.ReadDir after waiting.
func (a Await) ReadDir(t *tree.Tree, dir tree.Node, from fsys.Cookie, out []fsys.Dirent) (int, error) {
	if a != nil {
		if err := a(dir); err != nil {
			return 0, err
		}
	}
	return t.ReadDir(dir, from, out)
}

// Root is where a walk begins.
type Root struct {
	Path string // of what is found: "etc" for etc/hosts; may be empty
	Node tree.Node
}

// Entry is one object, or an error in its place.
type Entry struct {
	Path string // Root.Path and the names below it, joined by slashes
	Node tree.Node
	Attr fsys.Attr // not valid where Err is set
	Err  error     // the object could not be described, or, if List is set, not all of the folder listed
	List bool
}

// Options changes a walk.
type Options struct {
	Sorted bool // by name within each folder, as bytes
	Once   bool // a folder that has another path, too, is visited once
	Memory *limit.Account
	Await  Await
}

// Walker is a walk. It is for one goroutine.
type Walker struct {
	t      *tree.Tree
	o      Options
	roots  []Root
	stack  []*frame
	next   *frame // the folder that was returned last and is to be entered
	visits map[uint64]uint8
	alias  bool // the present root lies in a file system that is shown elsewhere, too
}

// frame is a folder that is being read.
type frame struct {
	node     tree.Node
	path     string
	children []Child
	at       int
	taken    int64 // of the memory
	from     fsys.Cookie
	end      bool
	buf      []fsys.Dirent
}

// New begins a walk.
func New(t *tree.Tree, roots []Root, o Options) *Walker {
	return &Walker{t: t, o: o, roots: roots, visits: map[uint64]uint8{}}
}

// Skip keeps the walk out of the folder that Next returned last.
func (w *Walker) Skip() { w.next = nil }

// Next returns the next entry, false at the end.
func (w *Walker) Next() (Entry, bool) {
	if f := w.next; f != nil {
		w.next = nil
		if err := w.enter(f); err != nil {
			return Entry{Path: f.path, Node: f.node, Err: err, List: true}, true
		}
	}
	for {
		if len(w.stack) == 0 {
			if len(w.roots) == 0 {
				return Entry{}, false
			}
			r := w.roots[0]
			w.roots = w.roots[1:]
			w.alias = w.t.Alias(r.Node)
			if e, ok := w.visit(r.Path, r.Node); ok {
				return e, true
			}
			continue
		}
		f := w.stack[len(w.stack)-1]
		if f.at == len(f.children) {
			if err := w.fill(f); err != nil {
				w.leave()
				return Entry{Path: f.path, Node: f.node, Err: err, List: true}, true
			}
			if f.at == len(f.children) {
				w.leave()
				continue
			}
		}
		c := f.children[f.at]
		f.at++
		if e, ok := w.visit(Join(f.path, c.Name), c.Node); ok {
			return e, true
		}
	}
}

// visit describes one object; false: it is left out.
func (w *Walker) visit(path string, n tree.Node) (Entry, bool) {
	e := Entry{Path: path, Node: n}
	if e.Attr, e.Err = w.t.Attr(n); e.Err != nil || !e.Attr.IsDir() {
		return e, true
	}
	id := w.t.ID(n)
	switch v := w.visits[id]; {
	case w.o.Once && (v > 0 || !w.alias && w.t.Alias(n)):
		return e, false
	case len(path) > maxPath:
		e.Err = fmt.Errorf("the folders lie in each other more than %d bytes deep: %w", maxPath, tree.ErrNameTooLong)
	case slices.ContainsFunc(w.stack, func(f *frame) bool { return f.node == n }):
		e.Err = fsys.Corrupt("tree", "directory", fsys.Ino(id), -1, "it contains itself")
	case v >= maxVisits:
		e.Err = fsys.Corrupt("tree", "directory", fsys.Ino(id), -1, "it is in more than %d folders", maxVisits)
	default:
		if v == 0 {
			e.Err = w.o.Memory.Take(dirSize)
		}
		w.visits[id] = v + 1
	}
	if e.Err == nil {
		w.next = &frame{node: n, path: path}
	}
	return e, true
}

// enter begins to read a folder.
func (w *Walker) enter(f *frame) error {
	if w.o.Sorted {
		var err error
		if f.children, f.taken, err = list(w.t, f.node, w.o.Await, w.o.Memory); err != nil {
			return err
		}
		f.end = true
	}
	w.stack = append(w.stack, f)
	return nil
}

func (w *Walker) leave() {
	f := w.stack[len(w.stack)-1]
	w.stack = w.stack[:len(w.stack)-1]
	w.o.Memory.Give(f.taken)
}

// fill reads the next names of a folder.
func (w *Walker) fill(f *frame) error {
	f.children, f.at = f.children[:0], 0
	if f.end {
		return nil
	}
	if f.buf == nil {
		f.buf = make([]fsys.Dirent, batch)
	}
	n, err := w.o.Await.ReadDir(w.t, f.node, f.from, f.buf)
	if err = ends(f.buf[:n], err, &f.from, &f.end); err != nil {
		return err
	}
	for _, d := range f.buf[:n] {
		c, err := child(w.t, f.node, d)
		if err != nil {
			return err
		}
		f.children = append(f.children, c)
	}
	return nil
}

// ends moves a position behind what was read and tells the end of the folder.
func ends(read []fsys.Dirent, err error, from *fsys.Cookie, end *bool) error {
	switch {
	case errors.Is(err, io.EOF):
		*end = true
	case err != nil:
		return err
	case len(read) == 0:
		return errors.New("a folder gave neither an entry nor its end")
	}
	if len(read) > 0 {
		*from = read[len(read)-1].Next
	}
	return nil
}

// child finds the object of an entry by its number, which costs no search by name.
func child(t *tree.Tree, dir tree.Node, d fsys.Dirent) (Child, error) {
	n, ok := t.ByID(uint64(d.Ino))
	if !ok {
		var err error
		if n, err = t.Lookup(dir, d.Name); err != nil {
			return Child{}, err
		}
	}
	return Child{Name: d.Name, Node: n, Type: d.Type}, nil
}

// List returns the whole folder sorted by name. The memory is a's until it is closed or the
// caller gives back Size of it.
func List(t *tree.Tree, dir tree.Node, await Await, a *limit.Account) ([]Child, error) {
	l, _, err := list(t, dir, await, a)
	return l, err
}

// Size is the memory of a list.
func Size(l []Child) int64 {
	var n int64
	for _, c := range l {
		n += childSize + int64(len(c.Name))
	}
	return n
}

func list(t *tree.Tree, dir tree.Node, await Await, a *limit.Account) (out []Child, taken int64, err error) {
	defer func() {
		if err != nil {
			a.Give(taken)
			taken = 0
		}
	}()
	var from fsys.Cookie
	buf := make([]fsys.Dirent, 4*batch)
	for end := false; !end; {
		n, err := await.ReadDir(t, dir, from, buf)
		if err = ends(buf[:n], err, &from, &end); err != nil {
			return nil, taken, err
		}
		var size int64
		for _, d := range buf[:n] {
			c, err := child(t, dir, d)
			if err != nil {
				return nil, taken, err
			}
			out = append(out, c)
			size += childSize + int64(len(d.Name))
		}
		if err := a.Take(size); err != nil {
			return nil, taken, fmt.Errorf("a folder with more than %d entries: %w", len(out), err)
		}
		taken += size
	}
	slices.SortFunc(out, func(a, b Child) int { return strings.Compare(a.Name, b.Name) })
	return out, taken, nil
}

// Join puts name behind a path, which may be empty.
func Join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "/" + name
}
