// Package tree is the one read-only name space of a session: the backups' file systems joined
// under /backups, whole disks under /disks, /restores links, and what is known about each disk.
//
//	/backups/<backup>/<disk>/...         the file system of a disk, composed as its guest mounts it
//	/backups/<backup>/<disk>@<volume>/   a further file system of that disk
//	/restores/<date>/<backup>/<vm>       -> ../../../backups/<backup>
//	/disks/<backup>/<disk>.raw           the disk's bytes as the guest sees them
//	/README.txt /METADATA.json           what is here, how it was read, every warning
//
// All front ends (FUSE, SFTP, HTTPS) are thin views of it. Non-goals: no protocol, no
// permission checks (whoever has the session's credentials may read all of it), no writing.
//
// Invariants: a Tree is safe for concurrent use. A node that was handed out keeps its ID and
// its meaning; IDs are unique and the same for the same input. Every directory has one path: a
// file system that is shown a second time has nodes of its own there (see Alias). No path and
// no link leads out of the tree, and no file system of one backup into another backup. A panic
// of an engine becomes an error and is counted.
//
// What no native engine reads is left to Config.Fallback, whose system boots when somebody
// first lists, or looks a name up in, a folder that depends on it; that call waits. The backup
// is then composed again in a new table, which replaces the old one at once.
package tree

import (
	"context"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"vmfr/agent/cache"
	"vmfr/agent/engine"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/latency"
)

// Config is what a tree is made of.
type Config struct {
	Backups []Backup
	Engines []engine.Engine
	Version string // of the program, for METADATA.json

	// Fallback reads what no engine of Engines does; nil: nothing does.
	Fallback engine.Fallback
	// NoFallback is what to do about that where there is no Fallback, and KeySource is where keys of
	// encrypted volumes come from, for people; empty: as the command line has it.
	NoFallback, KeySource string
	// BootLimit bounds one boot of the fallback's system with the time that it waits for other
	// backups'; 0: fifteen minutes.
	BootLimit time.Duration
	// RetryAfter is how long a boot that failed is not tried again; 0: one minute.
	RetryAfter time.Duration
}

const (
	defaultBootLimit  = 15 * time.Minute
	defaultRetryAfter = time.Minute
)

// Tree is a session's name space.
type Tree struct {
	cfg     Config
	now     func() time.Time
	ctx     context.Context // ends the boots
	end     context.CancelFunc
	cur     atomic.Pointer[table]
	backups []*backup // sorted by name
	texts   texts

	mu     sync.Mutex // one change of cur at a time
	next   int        // the first file-system index that nobody has
	closed bool

	panics atomic.Uint64
	errs   [kinds]atomic.Uint64
	opens  atomic.Uint64
	took   latency.Histogram
}

// Node is one object of the tree. Nodes are comparable; equal nodes are one object (hard links).
type Node struct {
	fs  uint16
	ino fsys.Ino
}

// New opens every disk of cfg and joins the tree. A disk that cannot be read is part of the
// tree as an explanation, never an error; errors are bad names, duplicates, or ctx's end. When
// ctx ends later, the fallback's boots end with it.
func New(ctx context.Context, cfg Config) (*Tree, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.BootLimit <= 0 {
		cfg.BootLimit = defaultBootLimit
	}
	if cfg.RetryAfter <= 0 {
		cfg.RetryAfter = defaultRetryAfter
	}
	backups, err := openAll(ctx, cfg)
	if err != nil {
		return nil, err
	}
	t := &Tree{cfg: cfg, now: time.Now, backups: backups}
	t.ctx, t.end = context.WithCancel(ctx)
	if err := t.assemble(); err != nil {
		_ = t.Close()
		return nil, err
	}
	return t, nil
}

// Root is the tree's root directory. Its ID is 1.
func (t *Tree) Root() Node { return Node{0, 1} }

// Backups tells what was found on each disk, as of now. The result is shared and must not be changed.
func (t *Tree) Backups() []BackupReport { return t.reports(t.cur.Load()) }

// Close ends the fallback's systems and closes the file systems. No other call may be under
// way or follow.
func (t *Tree) Close() error {
	t.end()
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	var first error
	keep := func(err error) {
		if err != nil && first == nil {
			first = err
		}
	}
	for _, b := range t.backups {
		keep(b.boot.close())
		for _, c := range b.contents() {
			keep(c.fs.Close())
		}
	}
	return first
}

// Lookup finds name in directory n. "." and ".." are not names here: paths belong to Resolve.
// It waits for a boot where n is Volatile.
func (t *Tree) Lookup(n Node, name string) (Node, error) {
	tab, err := t.ready(n)
	if err != nil {
		return Node{}, err
	}
	return tab.Lookup(n, name)
}

// Attr tells what stat(2) tells; Ino is the node's ID.
func (t *Tree) Attr(n Node) (fsys.Attr, error) { return t.cur.Load().Attr(n) }

// ReadDir lists directory n as fsys.FS.ReadDir does; each Dirent.Ino is the ID of the node
// that Lookup of that name gives. It waits for a boot where n is Volatile.
func (t *Tree) ReadDir(n Node, from fsys.Cookie, out []fsys.Dirent) (int, error) {
	tab, err := t.ready(n)
	if err != nil {
		return 0, err
	}
	defer t.observe(time.Now())
	return tab.ReadDir(n, from, out)
}

// Readlink returns the target of a symbolic link as it is recorded.
func (t *Tree) Readlink(n Node) (string, error) { return t.cur.Load().Readlink(n) }

// Xattrs returns the extended attributes; none where the file system has no such thing.
func (t *Tree) Xattrs(n Node) (xs map[string][]byte, err error) {
	tab := t.cur.Load()
	defer t.guard("xattrs", n, &err)
	m, err := tab.at(n)
	if err != nil {
		return nil, err
	}
	x, ok := m.fs.(fsys.Xattrer)
	if !ok {
		return nil, nil
	}
	return x.Xattrs(m.ino(n.ino))
}

// Info describes the file system that n lies in; static tells that it is one of the tree's own
// directories.
func (t *Tree) Info(n Node) (info fsys.Info, static bool, err error) {
	m, err := t.cur.Load().at(n)
	if err != nil {
		return fsys.Info{}, false, err
	}
	return m.fs.Info(), !m.guest, nil
}

// Open returns the bytes of a regular file. The File needs no closing and is valid until the
// tree is closed.
func (t *Tree) Open(n Node) (*File, error) {
	defer t.observe(time.Now())
	r, err := t.cur.Load().open(n)
	if err != nil {
		return nil, err
	}
	t.opens.Add(1)
	return &File{t: t, n: n, r: r}, nil
}

// SameFS tells whether a and b lie in one appearance of one file system: an entry of a
// directory for which it is false is a mount point.
func (t *Tree) SameFS(a, b Node) bool { return t.cur.Load().sameFS(a, b) }

// Alias tells that n lies in a file system that is shown at another place of the same backup,
// too, and that the other place is the one for whoever visits every file once.
func (t *Tree) Alias(n Node) bool {
	m, err := t.cur.Load().at(n)
	return err == nil && m.alias
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
	defer f.t.observe(time.Now())
	defer f.t.guard("read", f.n, &err)
	return f.r.ReadAt(p, off)
}

// Extent tells what lies at off, see extent.Reader.
func (f *File) Extent(off, max int64) (x extent.Extent, err error) {
	defer f.t.guard("extent", f.n, &err)
	return f.r.Extent(off, max)
}

// observe counts how long an operation took that began at start.
func (t *Tree) observe(start time.Time) { t.took.Observe(time.Since(start)) }

// guard is the last net under the engines: it turns a panic into a counted error and counts
// errors by kind. It must be deferred directly.
func (t *Tree) guard(op string, n Node, err *error) { t.caught(recover(), false, op, n, err) }

func (t *Tree) caught(p any, quiet bool, op string, n Node, err *error) {
	if p != nil {
		t.panics.Add(1)
		*err = &PanicError{Op: op, Node: n, Value: p, Stack: debug.Stack()}
	}
	if *err != nil && *err != io.EOF && !quiet {
		t.errs[KindOf(*err)].Add(1)
	}
}

// Stats is a snapshot of the tree's counters.
type Stats struct {
	Opens  uint64
	Panics uint64
	Errors map[string]uint64 // by Kind's name
	// Latency is of Open, ReadDir and File.ReadAt, without a boot that was waited for. Reads that a
	// front end takes from the image itself (File.Extent) are not among them.
	Latency latency.Snapshot
	// Metadata sums the metadata caches of the file systems that have one.
	Metadata cache.Stats
}

// Stats returns the counters.
func (t *Tree) Stats() Stats {
	s := Stats{Opens: t.opens.Load(), Panics: t.panics.Load(), Errors: map[string]uint64{}, Latency: t.took.Snapshot()}
	for k := range kinds {
		s.Errors[k.String()] = t.errs[k].Load()
	}
	for _, m := range t.cur.Load().mounts {
		if m == nil || m.alias {
			continue
		}
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
