// Package faketree makes trees in memory for tests: what no real file system would hold, too, such
// as a folder that contains itself.
//
// Non-goal: it is no part of the program. Content is zeros.
package faketree

import (
	"context"
	"io"
	iofs "io/fs"
	"testing"
	"time"

	"vmfr/agent/engine"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/agent/volume"
)

// Root is where the file system is shown.
const Root = "/backups/b/d"

// Node is an object: a regular file if Mode has no type, a folder if Children is set.
type Node struct {
	Mode     uint32 // fsys.Mode* type and permissions
	Size     int64
	Time     time.Time
	Target   string  // of a symbolic link
	Children []Child // in the order of the directory
	Untyped  bool    // directories do not record its type
	Err      error   // of describing it
	ListErr  error   // of listing it, after its children
}

// Child is a name in a folder.
type Child struct {
	Name string
	*Node
}

// Dir is a folder.
func Dir(children ...Child) *Node {
	if children == nil {
		children = []Child{}
	}
	return &Node{Mode: fsys.ModeDir | 0o755, Children: children}
}

// File is a regular file.
func File(size int64, modified time.Time) *Node {
	return &Node{Mode: fsys.ModeRegular | 0o644, Size: size, Time: modified}
}

// Link is a symbolic link.
func Link(target string) *Node {
	return &Node{Mode: fsys.ModeSymlink | 0o777, Size: int64(len(target)), Target: target}
}

// New returns a tree that shows root at Root.
func New(t testing.TB, root *Node) *tree.Tree {
	t.Helper()
	f := &fake{numbers: map[*Node]fsys.Ino{}}
	f.add(root)
	tr, err := tree.New(context.Background(), tree.Config{Engines: []engine.Engine{one{f}},
		Backups: []tree.Backup{{Name: "b", Disks: []tree.Disk{{Name: "d", Format: "raw", Reader: extent.Zeros(1 << 20)}}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

// Find resolves a path below Root.
func Find(t testing.TB, tr *tree.Tree, path string) tree.Node {
	t.Helper()
	n, err := tr.Resolve(Root+"/"+path, false)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// one is an engine that opens every volume as its file system.
type one struct{ f *fake }

// Name and Open are engine.Engine's.
func (one) Name() string { return "fake" }

func (e one) Open(volume.Volume) (fsys.FS, error) { return e.f, nil }

// fake is a file system.
type fake struct {
	nodes   []*Node // by number, from 1
	numbers map[*Node]fsys.Ino
}

var (
	_ fsys.FS       = (*fake)(nil)
	_ engine.Engine = one{}
)

func (f *fake) add(n *Node) {
	if f.numbers[n] != 0 {
		return
	}
	f.nodes = append(f.nodes, n)
	f.numbers[n] = fsys.Ino(len(f.nodes))
	for _, c := range n.Children {
		f.add(c.Node)
	}
}

func (f *fake) node(i fsys.Ino) (*Node, error) {
	if i < 1 || int(i) > len(f.nodes) {
		return nil, iofs.ErrNotExist
	}
	return f.nodes[i-1], nil
}

func (f *fake) Info() fsys.Info { return fsys.Info{Type: "fake"} }
func (f *fake) Root() fsys.Ino  { return 1 }
func (f *fake) Close() error    { return nil }

func (f *fake) Open(i fsys.Ino) (extent.Reader, error) {
	n, err := f.node(i)
	if err != nil {
		return nil, err
	}
	return extent.Zeros(n.Size), nil
}

func (f *fake) Stat(i fsys.Ino) (fsys.Attr, error) {
	n, err := f.node(i)
	if err != nil || n.Err != nil {
		return fsys.Attr{}, errOf(err, n)
	}
	return fsys.Attr{Ino: i, Mode: n.Mode, Nlink: 1, Size: n.Size, Mtime: n.Time}, nil
}

func errOf(err error, n *Node) error {
	if err != nil {
		return err
	}
	return n.Err
}

func (f *fake) Lookup(dir fsys.Ino, name string) (fsys.Ino, error) {
	n, err := f.node(dir)
	if err != nil {
		return 0, err
	}
	for _, c := range n.Children {
		if c.Name == name {
			return f.numbers[c.Node], nil
		}
	}
	return 0, iofs.ErrNotExist
}

func (f *fake) ReadDir(dir fsys.Ino, from fsys.Cookie, out []fsys.Dirent) (int, error) {
	n, err := f.node(dir)
	if err != nil {
		return 0, err
	}
	k := 0
	for ; k < len(out) && int(from) < len(n.Children); k++ {
		c := n.Children[from]
		from++
		out[k] = fsys.Dirent{Name: c.Name, Ino: f.numbers[c.Node], Type: c.Mode & fsys.ModeFmt, Next: from}
		if c.Untyped {
			out[k].Type = 0
		}
	}
	switch {
	case int(from) < len(n.Children):
		return k, nil
	case n.ListErr != nil && k == 0:
		return 0, n.ListErr
	case n.ListErr != nil:
		return k, nil
	}
	return k, io.EOF
}

func (f *fake) Readlink(i fsys.Ino) (string, error) {
	n, err := f.node(i)
	if err != nil {
		return "", err
	}
	return n.Target, nil
}
