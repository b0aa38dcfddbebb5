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

// static is the tree's own part as one more file system: folders, links, texts and raw disks.
// It does not change while a table shows it; copy makes the next one, in which every path that
// stays has the number that it had. Inode n is nodes[n-1]; the root is 1.
type static struct {
	nodes []*staticNode
	// known are the numbers by path, also of what is not there at the moment. A file's has its
	// content's version behind a NUL: bytes behind a number never change.
	known map[string]fsys.Ino
	// skip is added to every number but the root's.
	skip fsys.Ino
}

type staticNode struct {
	ino     fsys.Ino
	path    string
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
	s := &static{known: map[string]fsys.Ino{}}
	s.add("", &staticNode{mode: fsys.ModeDir | 0o555, mtime: mtime, entries: map[string]*staticNode{}})
	return s
}

// copy returns a static whose folders can be changed without changing those of s.
func (s *static) copy() *static {
	c := &static{nodes: make([]*staticNode, len(s.nodes)), known: s.known, skip: s.skip}
	for i, n := range s.nodes {
		k := *n
		k.names = append([]string(nil), n.names...)
		c.nodes[i] = &k
	}
	for _, n := range c.nodes {
		if n.entries == nil {
			continue
		}
		entries := make(map[string]*staticNode, len(n.entries))
		for name, e := range n.entries {
			entries[name] = c.nodes[e.ino-1]
		}
		n.entries = entries
	}
	return c
}

// add gives n its number: the one that its path had before, or the next.
func (s *static) add(key string, n *staticNode) *staticNode {
	if ino, ok := s.known[key]; ok && ino <= fsys.Ino(len(s.nodes)) {
		n.ino = ino
		s.nodes[ino-1] = n
		return n
	}
	s.nodes = append(s.nodes, n)
	if n.ino = fsys.Ino(len(s.nodes)); n.ino > 1 {
		n.ino += s.skip
	}
	s.known[key] = n.ino
	return n
}

// put adds a child. version tells contents of one path apart.
func (s *static) put(dir *staticNode, name, version string, n *staticNode) *staticNode {
	n.path = dir.path + "/" + name
	s.add(n.path+version, n)
	if _, ok := dir.entries[name]; !ok {
		dir.names = append(dir.names, name)
		sort.Strings(dir.names)
	}
	dir.entries[name] = n
	return n
}

// clear empties a folder. What was in it keeps its number, see known.
func (s *static) clear(dir *staticNode) {
	dir.names, dir.entries = nil, map[string]*staticNode{}
}

func (s *static) root() *staticNode { return s.nodes[0] }

// dir returns the folder name in parent, made if it is not there.
func (s *static) dir(parent *staticNode, name string, mtime time.Time) *staticNode {
	if n, ok := parent.entries[name]; ok {
		return n
	}
	return s.put(parent, name, "", &staticNode{mode: fsys.ModeDir | 0o555, mtime: mtime, entries: map[string]*staticNode{}})
}

func (s *static) text(parent *staticNode, name, content string, mtime time.Time) {
	s.put(parent, name, "\x00"+content, textNode(content, mtime))
}

func textNode(content string, mtime time.Time) *staticNode {
	return &staticNode{mode: fsys.ModeRegular | 0o444, mtime: mtime, data: extent.Bytes([]byte(content)), blocks: (int64(len(content)) + 511) / 512}
}

func (s *static) file(parent *staticNode, name string, r extent.Reader, mtime time.Time, blocks int64) {
	s.put(parent, name, "", &staticNode{mode: fsys.ModeRegular | 0o444, mtime: mtime, data: r, blocks: blocks})
}

func (s *static) link(parent *staticNode, name, target string, mtime time.Time) {
	if _, ok := parent.entries[name]; ok {
		return
	}
	s.put(parent, name, "", &staticNode{mode: fsys.ModeSymlink | 0o777, mtime: mtime, target: target})
}

func (s *static) Info() fsys.Info { return fsys.Info{Type: "vmfr", BlockSize: 4096} }

func (s *static) Root() fsys.Ino { return 1 }

func (s *static) Close() error { return nil }

func (s *static) node(ino fsys.Ino) (*staticNode, error) {
	if ino > 1 {
		ino -= s.skip // wraps around where it is too small
	}
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
	return n.attr(), nil
}

func (n *staticNode) attr() fsys.Attr {
	a := fsys.Attr{
		Ino: n.ino, Mode: n.mode, Nlink: 1, BlockSize: 4096, Blocks: n.blocks,
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
	return a
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
