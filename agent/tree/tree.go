// Package tree is the one read-only name space of a session: the backups' file systems joined
// under /backups, whole disks under /disks, /restores links, and what is known about each disk.
//
//	/backups/<backup>/<disk>/...         the file system of a disk
//	/backups/<backup>/<disk>@<volume>/   a further file system of that disk
//	/restores/<date>/<backup>/<vm>       -> ../../../backups/<backup>
//	/disks/<backup>/<disk>.raw           the disk's bytes as the guest sees them
//	/README.txt /METADATA.json           what is here, how it was read, every warning
//
// All front ends (FUSE, SFTP, HTTPS) are thin views of it. Non-goals: no protocol, no
// permission checks (whoever has the session's credentials may read all of it), no writing.
// Invariants: a Tree is immutable once New returned and safe for concurrent use; node ids are
// unique in it and the same for the same input; no path and no link leads out of it; a panic
// of an engine becomes an error and is counted.
package tree

import (
	"context"
	"fmt"
	"io"
	iofs "io/fs"
	"runtime/debug"
	"sync/atomic"

	"vmfr/agent/cache"
	"vmfr/agent/engine"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// Config is what a tree is made of.
type Config struct {
	Backups []Backup
	Engines []engine.Engine
	Version string // of the program, for METADATA.json
}

// Tree is a session's name space.
type Tree struct {
	mounts []mounted      // index: Node.fs; 0 is the static file system
	over   map[Node]Node  // mount points: the covered node -> the root that covers it
	report []BackupReport // sorted by name
	panics atomic.Uint64
	errs   [kinds]atomic.Uint64
	opens  atomic.Uint64
}

// mounted is one file system in the tree.
type mounted struct {
	fs      fsys.FS
	root    Node // where absolute links of this file system start
	guest   bool // a guest's file system, whose links stay below root
	covered bool // some directory of it is a mount point
	big     *bigInodes
}

// Node is one object of the tree. Nodes are comparable; equal nodes are one object (hard links).
type Node struct {
	fs  uint16
	ino fsys.Ino
}

// New opens every disk of cfg and joins the tree. A disk that cannot be read is part of the
// tree as an explanation, never an error; errors are bad names, duplicates, or ctx's end.
func New(ctx context.Context, cfg Config) (*Tree, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	opened, err := openAll(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return assemble(cfg, opened)
}

// Root is the tree's root directory. Its ID is 1.
func (t *Tree) Root() Node { return t.mounts[0].root }

// Backups tells what was found on each disk. The result is shared and must not be changed.
func (t *Tree) Backups() []BackupReport { return t.report }

// Close closes the file systems. No other call may be under way or follow.
func (t *Tree) Close() error {
	var first error
	for _, m := range t.mounts {
		if err := m.fs.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// Lookup finds name in directory n. "." and ".." are not names here: paths belong to Resolve.
func (t *Tree) Lookup(n Node, name string) (_ Node, err error) {
	defer t.guard("lookup", n, &err)
	m, err := t.at(n)
	if err != nil {
		return Node{}, err
	}
	ino, err := m.fs.Lookup(n.ino, name)
	if err != nil {
		return Node{}, err
	}
	return t.cross(m, Node{n.fs, ino}), nil
}

// Attr tells what stat(2) tells; Ino is the node's ID.
func (t *Tree) Attr(n Node) (a fsys.Attr, err error) {
	defer t.guard("stat", n, &err)
	m, err := t.at(n)
	if err != nil {
		return fsys.Attr{}, err
	}
	if a, err = m.fs.Stat(n.ino); err != nil {
		return fsys.Attr{}, err
	}
	a.Ino = fsys.Ino(t.ID(n))
	return a, nil
}

// ReadDir lists directory n as fsys.FS.ReadDir does; each Dirent.Ino is the ID of the node
// that Lookup of that name gives.
func (t *Tree) ReadDir(n Node, from fsys.Cookie, out []fsys.Dirent) (k int, err error) {
	defer t.guard("list", n, &err)
	m, err := t.at(n)
	if err != nil {
		return 0, err
	}
	k, err = m.fs.ReadDir(n.ino, from, out)
	for i := range out[:k] {
		out[i].Ino = fsys.Ino(t.ID(t.cross(m, Node{n.fs, out[i].Ino})))
	}
	return k, err
}

// Readlink returns the target of a symbolic link as it is recorded.
func (t *Tree) Readlink(n Node) (target string, err error) {
	defer t.guard("readlink", n, &err)
	m, err := t.at(n)
	if err != nil {
		return "", err
	}
	return m.fs.Readlink(n.ino)
}

// Xattrs returns the extended attributes; none where the file system has no such thing.
func (t *Tree) Xattrs(n Node) (xs map[string][]byte, err error) {
	defer t.guard("xattrs", n, &err)
	m, err := t.at(n)
	if err != nil {
		return nil, err
	}
	x, ok := m.fs.(fsys.Xattrer)
	if !ok {
		return nil, nil
	}
	return x.Xattrs(n.ino)
}

// Info describes the file system that n lies in; static tells that it is one of the tree's own
// directories.
func (t *Tree) Info(n Node) (info fsys.Info, static bool, err error) {
	m, err := t.at(n)
	if err != nil {
		return fsys.Info{}, false, err
	}
	return m.fs.Info(), !m.guest, nil
}

// Open returns the bytes of a regular file. The File needs no closing and is valid until the
// tree is closed.
func (t *Tree) Open(n Node) (f *File, err error) {
	defer t.guard("open", n, &err)
	m, err := t.at(n)
	if err != nil {
		return nil, err
	}
	r, err := m.fs.Open(n.ino)
	if err != nil {
		return nil, err
	}
	t.opens.Add(1)
	return &File{t: t, n: n, r: r}, nil
}

// File is an open regular file: an extent.Reader whose panics and errors the tree counts.
type File struct {
	t *Tree
	n Node
	r extent.Reader
}

var _ extent.Reader = (*File)(nil)

// Size is the file's length in bytes.
func (f *File) Size() int64 { return f.r.Size() }

// ReadAt reads as io.ReaderAt does.
func (f *File) ReadAt(p []byte, off int64) (k int, err error) {
	defer f.t.guard("read", f.n, &err)
	return f.r.ReadAt(p, off)
}

// Extent tells what lies at off, see extent.Reader.
func (f *File) Extent(off, max int64) (x extent.Extent, err error) {
	defer f.t.guard("extent", f.n, &err)
	return f.r.Extent(off, max)
}

// at returns the mounted file system of n.
func (t *Tree) at(n Node) (*mounted, error) {
	if int(n.fs) >= len(t.mounts) {
		return nil, fmt.Errorf("file system %d: %w", n.fs, iofs.ErrNotExist)
	}
	return &t.mounts[n.fs], nil
}

// cross follows a mount point from the covered node to the root that covers it.
func (t *Tree) cross(m *mounted, n Node) Node {
	if m.covered {
		if over, ok := t.over[n]; ok {
			return over
		}
	}
	return n
}

// guard is the last net under the engines: it turns a panic into a counted error and counts
// errors by kind. It must be deferred directly.
func (t *Tree) guard(op string, n Node, err *error) {
	if p := recover(); p != nil {
		t.panics.Add(1)
		*err = &PanicError{Op: op, Node: n, Value: p, Stack: debug.Stack()}
	}
	if *err != nil && *err != io.EOF {
		t.errs[KindOf(*err)].Add(1)
	}
}

// Stats is a snapshot of the tree's counters.
type Stats struct {
	Opens  uint64
	Panics uint64
	Errors map[string]uint64 // by Kind's name
	// Metadata sums the metadata caches of the file systems that have one.
	Metadata cache.Stats
}

// Stats returns the counters.
func (t *Tree) Stats() Stats {
	s := Stats{Opens: t.opens.Load(), Panics: t.panics.Load(), Errors: map[string]uint64{}}
	for k := range kinds {
		s.Errors[k.String()] = t.errs[k].Load()
	}
	for _, m := range t.mounts {
		if c, ok := m.fs.(fsys.CacheStatser); ok {
			x := c.CacheStats()
			s.Metadata.Hits += x.Hits
			s.Metadata.Misses += x.Misses
			s.Metadata.Bytes += x.Bytes
			s.Metadata.Entries += x.Entries
		}
	}
	return s
}
