package tree

import (
	"fmt"
	iofs "io/fs"
	"maps"
	"slices"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// table says what is where at one moment. It is not changed once it is the tree's current one.
type table struct {
	t      *Tree
	static *static        // mounts[0]
	mounts []*mounted     // index: Node.fs; nil: kept for what a boot may find
	over   map[Node]Node  // mount points: the covered node -> the root that covers it
	report []BackupReport // parallel to Tree.backups
	// changes counts the tables; a text that was made of one is not that of the next.
	changes int
	// quiet: what is asked of it is no client's doing and not counted.
	quiet bool
}

// mounted is one appearance of a file system in the tree. It is not changed either.
type mounted struct {
	fs      fsys.FS
	top     Node // its root directory
	root    Node // where absolute links of this file system start
	guest   bool // a guest's file system, whose links stay below root
	alias   bool // the same files are shown elsewhere, too
	covered bool // some directory of it is a mount point
	// swap is the root's real number where the index was handed out before it was known.
	swap fsys.Ino
	// part is the index of the appearance that this is a folder of; 0: it is one itself.
	part uint16
	wait *boot // not nil: what is here is known after that boot
	big  *bigInodes
}

// heldIno is the root of every index that was handed out before anybody knew which file
// system it stands for. The inode that really has the number takes the root's.
const heldIno = 1

// ino translates between the numbers of the tree's nodes and those of the file system, in
// both directions: they differ where swap is set, in heldIno and the root's.
func (m *mounted) ino(i fsys.Ino) fsys.Ino {
	switch {
	case m.swap == 0:
	case i == heldIno:
		return m.swap
	case i == m.swap:
		return heldIno
	}
	return i
}

// copy returns a table that can be changed, with the next static file system.
func (tab *table) copy() *table {
	return &table{
		t: tab.t, static: tab.static.copy(), mounts: slices.Clone(tab.mounts), over: maps.Clone(tab.over),
		report: slices.Clone(tab.report), changes: tab.changes + 1,
	}
}

// at returns the mounted file system of n.
func (tab *table) at(n Node) (*mounted, error) {
	if int(n.fs) >= len(tab.mounts) || tab.mounts[n.fs] == nil {
		return nil, fmt.Errorf("file system %d: %w", n.fs, iofs.ErrNotExist)
	}
	return tab.mounts[n.fs], nil
}

// set puts m at an index and returns its root directory.
func (tab *table) set(index uint16, m *mounted) Node {
	for int(index) >= len(tab.mounts) {
		tab.mounts = append(tab.mounts, nil)
	}
	m.big = &bigInodes{rows: map[fsys.Ino]uint64{}}
	if old := tab.mounts[index]; old != nil {
		m.big = old.big
	}
	tab.mounts[index] = m
	if m.top == (Node{}) {
		m.top = Node{index, m.ino(m.fs.Root())}
	}
	if m.root == (Node{}) {
		m.root = m.top
	}
	return m.top
}

// cover makes a directory a mount point.
func (tab *table) cover(n, root Node) {
	if m := *tab.mounts[n.fs]; !m.covered {
		m.covered = true
		tab.mounts[n.fs] = &m
	}
	tab.over[n] = root
}

// cross follows a mount point from the covered node to the root that covers it.
func (tab *table) cross(m *mounted, n Node) Node {
	if m.covered {
		if over, ok := tab.over[n]; ok {
			return over
		}
	}
	return n
}

// Lookup, Attr, ReadDir and Readlink are the tree's, without waiting for anything.

func (tab *table) Lookup(n Node, name string) (_ Node, err error) {
	defer tab.guard("lookup", n, &err)
	m, err := tab.at(n)
	if err != nil {
		return Node{}, err
	}
	if tab.live(n, name) {
		return Node{0, tab.t.texts.node(tab, name).ino}, nil
	}
	ino, err := m.fs.Lookup(m.ino(n.ino), name)
	if err != nil {
		return Node{}, err
	}
	return tab.cross(m, Node{n.fs, m.ino(ino)}), nil
}

func (tab *table) Attr(n Node) (a fsys.Attr, err error) {
	defer tab.guard("stat", n, &err)
	m, err := tab.at(n)
	if err != nil {
		return fsys.Attr{}, err
	}
	if s := tab.version(n); s != nil {
		a = s.attr()
	} else if a, err = m.fs.Stat(m.ino(n.ino)); err != nil {
		return fsys.Attr{}, err
	}
	a.Ino = fsys.Ino(tab.id(n))
	if m.swap != 0 && n.ino == heldIno {
		a.Generation = 0 // as before the boot: it is the same directory
	}
	return a, nil
}

func (tab *table) ReadDir(n Node, from fsys.Cookie, out []fsys.Dirent) (k int, err error) {
	defer tab.guard("list", n, &err)
	m, err := tab.at(n)
	if err != nil {
		return 0, err
	}
	k, err = m.fs.ReadDir(m.ino(n.ino), from, out)
	for i := range out[:k] {
		child := Node{n.fs, m.ino(out[i].Ino)}
		if tab.live(n, out[i].Name) {
			child.ino = tab.t.texts.node(tab, out[i].Name).ino
		}
		out[i].Ino = fsys.Ino(tab.id(tab.cross(m, child)))
	}
	return k, err
}

func (tab *table) Readlink(n Node) (target string, err error) {
	defer tab.guard("readlink", n, &err)
	m, err := tab.at(n)
	if err != nil {
		return "", err
	}
	return m.fs.Readlink(m.ino(n.ino))
}

func (tab *table) open(n Node) (r extent.Reader, err error) {
	defer tab.guard("open", n, &err)
	m, err := tab.at(n)
	if err != nil {
		return nil, err
	}
	if s := tab.version(n); s != nil {
		return s.data, nil
	}
	return m.fs.Open(m.ino(n.ino))
}

// sameFS is Tree.SameFS.
func (tab *table) sameFS(a, b Node) bool {
	whole := func(n Node) uint16 {
		if m, err := tab.at(n); err == nil && m.part != 0 {
			return m.part
		}
		return n.fs
	}
	return whole(a) == whole(b)
}

// linkRoot is where an absolute link in n's file system starts.
func (tab *table) linkRoot(n Node) Node { return tab.mounts[n.fs].root }

// readAt reads from an open file.
func (tab *table) readAt(n Node, r extent.Reader, p []byte) (k int, err error) {
	defer tab.guard("read", n, &err)
	return r.ReadAt(p, 0)
}

// live tells whether a name is one of those whose bytes tell how things are.
func (tab *table) live(dir Node, name string) bool {
	return tab.static != nil && dir == Node{0, 1} && tab.t.texts.has(name)
}

func (tab *table) version(n Node) *staticNode {
	if tab.static == nil {
		return nil
	}
	return tab.t.texts.version(n)
}

// guard is Tree.guard. It must be deferred directly.
func (tab *table) guard(op string, n Node, err *error) {
	tab.t.caught(recover(), tab.quiet, op, n, err)
}
