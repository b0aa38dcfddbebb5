package compare

import (
	"context"
	"fmt"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/api/files/limit"
	"vmfr/api/files/walk"
)

const (
	// maxDepth bounds how deep folders lie in each other.
	maxDepth = 4096
)

// Side is an object of one of the two folders.
type Side struct {
	Node tree.Node
	Attr fsys.Attr
	Err  error // it could not be described, or its folder not be listed
}

// Pair is one path that has something different, or could not be compared.
type Pair struct {
	Path     string // below the two folders
	From, To *Side  // nil: not there
}

// Folders compares two folders. Each is asked for all paths that are in one only, or in both:
// the caller judges objects. Errors are each's, ctx's and limit.ErrMemory.
type Folders struct {
	Tree   *tree.Tree
	Memory *limit.Account
	Await  walk.Await
	Each   func(Pair) error
	// Progress is called now and then; may be nil.
	Progress func()
}

// level is a folder on the way down. A side that is not there has no children.
type level struct {
	path     string
	node     [2]tree.Node
	children [2][]walk.Child
	at       [2]int
	taken    int64
}

// Run compares.
func (f *Folders) Run(ctx context.Context, from, to tree.Node) error {
	stack := []*level{}
	push := func(path string, sides [2]*Side) error {
		l := &level{path: path}
		for i, s := range sides {
			if s == nil || s.Err != nil || !s.Attr.IsDir() {
				continue
			}
			l.node[i] = s.Node
			for _, above := range stack {
				if above.node[i] == s.Node {
					s.Err = fsys.Corrupt("tree", "directory", fsys.Ino(f.Tree.ID(s.Node)), -1, "it contains itself")
				}
			}
			if s.Err == nil && len(stack) >= maxDepth {
				s.Err = fmt.Errorf("more than %d folders in each other: %w", maxDepth, tree.ErrNameTooLong)
			}
			if s.Err == nil {
				l.children[i], s.Err = walk.List(f.Tree, s.Node, f.Await, f.Memory)
			}
			if s.Err != nil {
				if err := f.Each(Pair{path, sides[0], sides[1]}); err != nil {
					return err
				}
				return nil // comparing a folder with what could not be listed would tell of removals that are none
			}
			l.taken += walk.Size(l.children[i])
		}
		stack = append(stack, l)
		return nil
	}
	if err := push("", [2]*Side{f.side(from), f.side(to)}); err != nil {
		return err
	}
	for len(stack) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		l := stack[len(stack)-1]
		name, sides, ok := f.next(l)
		if !ok {
			stack = stack[:len(stack)-1]
			f.Memory.Give(l.taken)
			continue
		}
		if f.Progress != nil {
			f.Progress()
		}
		path := walk.Join(l.path, name)
		if err := f.Each(Pair{path, sides[0], sides[1]}); err != nil {
			return err
		}
		if err := push(path, sides); err != nil {
			return err
		}
	}
	return nil
}

// next returns the next name of a level and what has it on each side.
func (f *Folders) next(l *level) (name string, sides [2]*Side, ok bool) {
	var c [2]*walk.Child
	for i := range c {
		if l.at[i] < len(l.children[i]) {
			c[i] = &l.children[i][l.at[i]]
		}
	}
	switch {
	case c[0] == nil && c[1] == nil:
		return "", sides, false
	case c[0] == nil || c[1] != nil && c[1].Name < c[0].Name:
		c[0] = nil
	case c[1] == nil || c[0].Name < c[1].Name:
		c[1] = nil
	}
	for i, x := range c {
		if x != nil {
			name = x.Name
			sides[i] = f.side(x.Node)
			l.at[i]++
		}
	}
	return name, sides, true
}

func (f *Folders) side(n tree.Node) *Side {
	s := &Side{Node: n}
	s.Attr, s.Err = f.Tree.Attr(n)
	return s
}
