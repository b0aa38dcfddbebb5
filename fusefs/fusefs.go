// Package fusefs shows a tree.Tree as a FUSE file system.
//
//	kernel ── /dev/fuse ── go-fuse's raw protocol ── view ── tree.Tree
//
// A FUSE node id is the tree's ID of the node, so nothing is kept for an inode that the kernel
// knows, forgetting is nothing to do, and hard links are one inode by construction; a directory
// has one path in a tree, as the kernel demands. What a node is never changes, so the kernel may
// keep every answer for as long as it likes: names that exist and names that do not, attributes,
// link targets, directories and file contents. Directories that are Volatile in the tree are
// the exception: nothing is kept of them, and reading one can wait until the client gives up.
//
// Non-goals: no writing (every operation that would write is EROFS), no path or link
// resolution (the kernel's), no locks, no notifications. Invariants: no lock is held across
// I/O; memory does not grow with what a client has looked at; a panic is answered with EIO.
//
// A process that serves a mount must not fork into it (exec.Cmd's Dir or a chroot below the
// mount) nor map its files: the Go runtime knows neither wait, and can wait for the waiting
// thread while that waits for an answer. Opening and reading files of one's own mount is fine.
package fusefs

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/time/rate"

	"vmfr/agent/cache"
	"vmfr/agent/fsys"
	"vmfr/agent/tree"
)

const (
	// validity is how long the kernel may keep a name or attributes that never change; it
	// drops them when it needs the memory.
	validity = uint64(30 * 24 * time.Hour / time.Second)

	// maxRead is the largest read request, in bytes. It passes through a pipe together with its
	// header. A pipe has at most 256 pages (pipe-max-size is 1 MiB); one is for the header and
	// one for data that does not begin at a page in the image.
	maxRead = 254 * 4096

	// openFiles bounds the tree.Files kept for reading: a File costs its engine's block map.
	// Files that are not kept are opened again, so more may be open at once.
	openFiles = 1024

	// defaultReadAhead is the default of Options.ReadAhead: two whole requests.
	defaultReadAhead = 2 * maxRead >> 10

	// defaultGrace is the default of Options.Grace.
	defaultGrace = 2 * time.Second
)

// Options say how a tree is mounted and served. The zero value is usable.
type Options struct {
	// AllowOther lets users other than the one who mounted use the mount.
	AllowOther bool
	// DefaultPermissions has the kernel check the guest's modes and ACLs against the caller.
	// Without it whoever may use the mount may read all of it.
	DefaultPermissions bool
	// ReadAhead is how far the kernel reads ahead in a file that is read in sequence, in KiB;
	// 0 means 2032. Raising it above the kernel's default of 128 needs a writable /sys.
	ReadAhead int
	// Grace is how long Unmount waits for users of the mount to leave; 0 means two seconds.
	Grace time.Duration
	// Counters counts what is done; nil counts nothing.
	Counters *tree.Counters
	// Log receives what an administrator should know; nil is slog.Default().
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.ReadAhead <= 0 {
		o.ReadAhead = defaultReadAhead
	}
	if o.Grace <= 0 {
		o.Grace = defaultGrace
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o
}

// view answers FUSE requests from a tree. Operations that it does not have are go-fuse's
// ENOSYS, which the kernel remembers and does not ask again: access (allowed) and fsync
// (nothing to do).
type view struct {
	fuse.RawFileSystem
	t      *tree.Tree
	o      Options
	files  *cache.Cache[uint64, *tree.File] // by node id
	whole  fuse.StatfsOut                   // of the tree's own directories: the sum of all file systems
	panics atomic.Uint64

	// Set by Init, before any other request: the kernel accepts that nothing is opened.
	noOpen, noOpenDir bool

	often rate.Sometimes // limits the log lines about errors
}

func newView(t *tree.Tree, o Options) *view {
	return &view{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		t:             t,
		o:             o,
		files:         cache.New[uint64](openFiles, func(*tree.File) int64 { return 1 }),
		whole:         sum(t),
		often:         rate.Sometimes{First: 20, Interval: time.Second},
	}
}

// Init learns what the kernel can do.
func (v *view) Init(s *fuse.Server) {
	can := s.KernelSettings().Flags64()
	v.noOpen = can&fuse.CAP_NO_OPEN_SUPPORT != 0
	v.noOpenDir = can&fuse.CAP_NO_OPENDIR_SUPPORT != 0
}

// String is the name of the file system type, "fuse.vmfr" in /proc/mounts.
func (v *view) String() string { return fsName }

// node is the node of a request. The kernel only sends ids that it got from here.
func (v *view) node(id uint64) (tree.Node, fuse.Status) {
	n, ok := v.t.ByID(id)
	if !ok {
		return n, fuse.ENOENT
	}
	return n, fuse.OK
}

// fail turns an error of the tree into its errno and logs what is not the client's mistake.
func (v *view) fail(op string, id uint64, err error) fuse.Status {
	kind := tree.KindOf(err)
	switch kind {
	case tree.KindInternal:
		var p *tree.PanicError
		if errors.As(err, &p) {
			v.often.Do(func() {
				v.o.Log.Error("a request failed by a defect of the program", "op", op, "node", id, "err", err, "stack", string(p.Stack))
			})
		}
	case tree.KindIO, tree.KindCorrupt, tree.KindUnsupported:
		v.often.Do(func() {
			v.o.Log.Warn("a request failed", "op", op, "node", id, "kind", kind.String(), "err", err)
		})
	}
	return fuse.Status(kind.Errno())
}

// sum adds up the file systems of a tree for statfs of its own directories.
func sum(t *tree.Tree) fuse.StatfsOut {
	i := fsys.Info{BlockSize: statfsBlock}
	for _, b := range t.Backups() {
		for _, d := range b.Disks {
			for _, v := range d.Volumes {
				if f := v.FileSystem; f != nil {
					i.Total = addSat(i.Total, f.Total)
					i.Free = addSat(i.Free, f.Total-min(f.Used, f.Total))
					i.Files = addSat(i.Files, f.Files)
					i.FreeFiles = addSat(i.FreeFiles, f.FreeFiles)
				}
			}
		}
	}
	return statfs(i)
}

// addSat adds numbers that a guest chose.
func addSat(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

// Server is a tree being served. Its methods are safe for concurrent use.
type Server struct {
	v    *view
	o    Options
	at   *Mountpoint // nil: another process's
	done chan struct{}
}

// Done is closed when the serving has ended: after Unmount, or when somebody else unmounted.
// No goroutine of the Server is left then and the tree may be closed.
func (s *Server) Done() <-chan struct{} { return s.done }

// Wait waits for Done or for ctx.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Panics is how many requests were answered with EIO because of a panic in this package.
// Panics of the engines are caught and counted by the tree.
func (s *Server) Panics() uint64 { return s.v.panics.Load() }
