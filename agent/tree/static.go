package tree

import (
	"fmt"
	"io"
	iofs "io/fs"
	"sort"
	"time"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// static is the tree's own part as one more file system: folders, links, texts and raw disks
// that are built before it is served and never change. Inode n is nodes[n-1]; the root is 1.
type static struct {
	nodes []*staticNode
}

type staticNode struct {
	ino     fsys.Ino
	mode    uint32
	mtime   time.Time
	data    extent.Reader // of a regular file
	target  string        // of a link
	names   []string      // of a folder, sorted
	entries map[string]*staticNode
	blocks  int64
}

var _ fsys.FS = (*static)(nil)

func newStatic(mtime time.Time) *static {
	s := &static{}
	s.add(&staticNode{mode: fsys.ModeDir | 0o555, mtime: mtime, entries: map[string]*staticNode{}})
	return s
}

func (s *static) add(n *staticNode) *staticNode {
	s.nodes = append(s.nodes, n)
	n.ino = fsys.Ino(len(s.nodes))
	return n
}

// put adds a child. The names are unique by construction.
func (s *static) put(dir *staticNode, name string, n *staticNode) *staticNode {
	s.add(n)
	dir.entries[name] = n
	dir.names = append(dir.names, name)
	sort.Strings(dir.names)
	return n
}

func (s *static) root() *staticNode { return s.nodes[0] }

// dir returns the folder name in parent, made if it is not there.
func (s *static) dir(parent *staticNode, name string, mtime time.Time) *staticNode {
	if n, ok := parent.entries[name]; ok {
		return n
	}
	return s.put(parent, name, &staticNode{mode: fsys.ModeDir | 0o555, mtime: mtime, entries: map[string]*staticNode{}})
}

func (s *static) text(parent *staticNode, name, content string, mtime time.Time) {
	s.file(parent, name, extent.Bytes([]byte(content)), mtime, (int64(len(content))+511)/512)
}

func (s *static) file(parent *staticNode, name string, r extent.Reader, mtime time.Time, blocks int64) {
	s.put(parent, name, &staticNode{mode: fsys.ModeRegular | 0o444, mtime: mtime, data: r, blocks: blocks})
}

func (s *static) link(parent *staticNode, name, target string, mtime time.Time) {
	if _, ok := parent.entries[name]; ok {
		return
	}
	s.put(parent, name, &staticNode{mode: fsys.ModeSymlink | 0o777, mtime: mtime, target: target})
}

func (s *static) Info() fsys.Info { return fsys.Info{Type: "vmfr", BlockSize: 4096} }

func (s *static) Root() fsys.Ino { return 1 }

func (s *static) Close() error { return nil }

func (s *static) node(ino fsys.Ino) (*staticNode, error) {
	if ino == 0 || ino > fsys.Ino(len(s.nodes)) {
		return nil, fmt.Errorf("inode %d: %w", ino, iofs.ErrNotExist)
	}
	return s.nodes[ino-1], nil
}

func (s *static) folder(ino fsys.Ino) (*staticNode, error) {
	n, err := s.node(ino)
	if err == nil && n.entries == nil {
		err = fsys.ErrNotDir
	}
	return n, err
}

func (s *static) Stat(ino fsys.Ino) (fsys.Attr, error) {
	n, err := s.node(ino)
	if err != nil {
		return fsys.Attr{}, err
	}
	a := fsys.Attr{
		Ino: ino, Mode: n.mode, Nlink: 1, BlockSize: 4096, Blocks: n.blocks,
		Atime: n.mtime, Mtime: n.mtime, Ctime: n.mtime,
	}
	switch {
	case n.entries != nil:
		a.Nlink = 2
		for _, c := range n.entries {
			if c.entries != nil {
				a.Nlink++
			}
		}
	case n.data != nil:
		a.Size = n.data.Size()
	default:
		a.Size = int64(len(n.target))
	}
	return a, nil
}

func (s *static) Lookup(dir fsys.Ino, name string) (fsys.Ino, error) {
	d, err := s.folder(dir)
	if err != nil {
		return 0, err
	}
	n, ok := d.entries[name]
	if !ok {
		return 0, iofs.ErrNotExist
	}
	return n.ino, nil
}

func (s *static) ReadDir(dir fsys.Ino, from fsys.Cookie, out []fsys.Dirent) (int, error) {
	d, err := s.folder(dir)
	if err != nil {
		return 0, err
	}
	n := 0
	for i := from; i < fsys.Cookie(len(d.names)) && n < len(out); i++ {
		c := d.entries[d.names[i]]
		out[n] = fsys.Dirent{Name: d.names[i], Ino: c.ino, Type: c.mode & fsys.ModeFmt, Next: i + 1}
		n++
	}
	if from+fsys.Cookie(n) >= fsys.Cookie(len(d.names)) {
		return n, io.EOF
	}
	return n, nil
}

func (s *static) Readlink(ino fsys.Ino) (string, error) {
	n, err := s.node(ino)
	if err != nil {
		return "", err
	}
	if n.mode&fsys.ModeFmt != fsys.ModeSymlink {
		return "", fsys.ErrNotLink
	}
	return n.target, nil
}

func (s *static) Open(ino fsys.Ino) (extent.Reader, error) {
	n, err := s.node(ino)
	switch {
	case err != nil:
		return nil, err
	case n.entries != nil:
		return nil, fsys.ErrIsDir
	case n.data == nil:
		return nil, fsys.ErrNotRegular
	}
	return n.data, nil
}
