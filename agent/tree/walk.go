package tree

import (
	"context"
	"fmt"
	iofs "io/fs"
	"strings"

	"vmfr/agent/fsys"
)

// MaxLinks and MaxPath bound one path walk, as in the Linux kernel (MAXSYMLINKS, PATH_MAX).
const (
	MaxLinks = 40
	MaxPath  = 4096
)

// Resolve walks a slash-separated path from the tree's root; a leading slash changes nothing.
// Symbolic links on the way are followed inside the tree only; the last one too if follow is
// set. A guest's link never leaves the guest's own root: an absolute target starts there, and
// ".." stays there, as it would in the guest. ".." that the caller wrote may climb up to the
// tree's root. Errors are those of Lookup, ErrLoop and ErrNameTooLong.
func (t *Tree) Resolve(path string, follow bool) (Node, error) {
	return t.ResolveContext(context.Background(), path, follow)
}

// ResolveContext is Resolve for a caller that may give up: where it has to wait for a boot (see
// Await), it returns ctx's error when that ends first.
func (t *Tree) ResolveContext(ctx context.Context, path string, follow bool) (Node, error) {
	w := walk{space: patient{t, ctx}, stack: []Node{t.Root()}}
	if err := w.run(path, follow); err != nil {
		return Node{}, fmt.Errorf("%q: %w", path, err)
	}
	return w.top(), nil
}

// patient is a tree whose lookups wait no longer than a context.
type patient struct {
	*Tree
	ctx context.Context
}

func (p patient) Lookup(dir Node, name string) (Node, error) {
	if err := p.Await(p.ctx, dir); err != nil {
		return Node{}, err
	}
	return p.Tree.Lookup(dir, name)
}

// space is where a walk goes: a tree, or a table that is being made.
type space interface {
	Lookup(dir Node, name string) (Node, error)
	Attr(Node) (fsys.Attr, error)
	Readlink(Node) (string, error)
	linkRoot(Node) Node
}

var (
	_ space = patient{}
	_ space = (*table)(nil)
)

func (t *Tree) linkRoot(n Node) Node { return t.cur.Load().linkRoot(n) }

// walk is the state of one path walk: the stack holds the nodes from the root to the current
// one, so ".." needs no parent pointers, which engines do not have.
type walk struct {
	space
	stack []Node
	names []string // of stack[1:], without the links that were followed
	todo  []part   // innermost link last
	links int
	bytes int
}

// part is a piece of path still to be walked, and the stack height below which its ".." may
// not climb: 1 for the caller's own words, the guest root's height for a guest's link.
type part struct {
	path  string
	floor int
}

func (w *walk) top() Node { return w.stack[len(w.stack)-1] }

func (w *walk) run(path string, follow bool) error {
	w.push(path, 1)
	for len(w.todo) > 0 {
		if w.bytes > MaxPath {
			return ErrNameTooLong
		}
		name, floor := w.next()
		if name == "" {
			continue
		}
		if name == "." || name == ".." {
			if err := w.mustBeDir(); err != nil {
				return err
			}
			if name == ".." && len(w.stack) > floor {
				w.cut(len(w.stack) - 1)
			}
			continue
		}
		n, err := w.Lookup(w.top(), name)
		if err != nil {
			return err
		}
		if err := w.enter(n, name, follow || len(w.todo) > 0, floor); err != nil {
			return err
		}
	}
	return nil
}

// cut makes an ancestor the current node.
func (w *walk) cut(height int) { w.stack, w.names = w.stack[:height], w.names[:height-1] }

// push adds a path to be walked before what is left. Its length counts towards MaxPath.
func (w *walk) push(path string, floor int) {
	w.bytes += len(path)
	w.todo = append(w.todo, part{path, floor})
}

// next takes the next name. A path that ends in a slash ends in ".": it must be a directory,
// and a link before the slash is followed.
func (w *walk) next() (string, int) {
	p := &w.todo[len(w.todo)-1]
	name, rest, slash := strings.Cut(p.path, "/")
	floor := p.floor
	switch {
	case rest != "":
		p.path = rest
	case slash && name != "":
		p.path = "."
	default:
		w.todo = w.todo[:len(w.todo)-1]
	}
	return name, floor
}

// enter makes n the current node or, where it is a link to be followed, replaces it by its target.
func (w *walk) enter(n Node, name string, follow bool, floor int) error {
	if !follow {
		w.stack, w.names = append(w.stack, n), append(w.names, name)
		return nil
	}
	a, err := w.Attr(n)
	if err != nil {
		return err
	}
	if !a.IsSymlink() {
		w.stack, w.names = append(w.stack, n), append(w.names, name)
		return nil
	}
	if w.links++; w.links > MaxLinks {
		return ErrLoop
	}
	target, err := w.Readlink(n)
	if err != nil {
		return err
	}
	if target == "" {
		return fmt.Errorf("empty link target: %w", iofs.ErrNotExist)
	}
	base := w.base(n)
	if target[0] == '/' {
		w.cut(base)
	}
	w.push(target, max(floor, base))
	return nil
}

// base is the height of the stack whose top is the root at which absolute links of n's file
// system start.
func (w *walk) base(n Node) int {
	root := w.linkRoot(n)
	for i, s := range w.stack {
		if s == root {
			return i + 1
		}
	}
	return 1
}

func (w *walk) mustBeDir() error {
	a, err := w.Attr(w.top())
	if err != nil {
		return err
	}
	if !a.IsDir() {
		return fsys.ErrNotDir
	}
	return nil
}
