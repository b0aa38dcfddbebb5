package fusefs

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/hanwen/go-fuse/v2/splice"
	"golang.org/x/sys/unix"

	"vmfr/agent/tree"
)

// Serve answers the requests that come from dev, a /dev/fuse that somebody has mounted (see
// Attach). It takes dev over, also when it fails. It returns when the kernel and we agree on
// the protocol; the mount works from then on. Unmounting is for whoever mounted.
func Serve(dev *os.File, t *tree.Tree, o Options) (*Server, error) {
	// go-fuse takes a descriptor by its number and closes it in the end.
	fd, err := unix.FcntlInt(dev.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		_ = dev.Close()
		return nil, fmt.Errorf("fuse device: %w", err)
	}
	_ = dev.Close()
	s, err := newServer(fmt.Sprintf("/dev/fd/%d", fd), t, o.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("fuse device: %w", err)
	}
	return s, nil
}

// Prepare opens what serving needs by path, for a process that is about to give up paths: go-fuse
// empties a pipe into /dev/null when it has been used.
func Prepare() error {
	if _, err := os.Stat(os.DevNull); err != nil {
		return err // go-fuse would panic
	}
	pipe, err := splice.Get()
	if err != nil {
		return err
	}
	splice.Done(pipe)
	return nil
}

// newServer starts serving at what go-fuse calls a mount point: a directory, which go-fuse
// mounts with fusermount3, or /dev/fd/N.
func newServer(mountPoint string, t *tree.Tree, o Options) (*Server, error) {
	s := &Server{v: newView(t, o), o: o, done: make(chan struct{})}
	server, err := fuse.NewServer(s.v, mountPoint, &fuse.MountOptions{
		AllowOther: o.AllowOther,
		Options:    mountOptions(o),
		FsName:     fsName,
		Name:       fsName,
		MaxWrite:   maxRead,
		// The data never changes, so the kernel need not ask whether it did.
		ExplicitDataCacheControl: true,
		EnableSymlinkCaching:     true,
		// See OpenDir; the same for files is go-fuse's default.
		ExtraCapabilities: fuse.CAP_NO_OPENDIR_SUPPORT,
		// The kernel enforces ACLs only together with modes, and keeps them then.
		EnableAcl:    o.DefaultPermissions,
		PanicHandler: s.v.panicked,
		Logger:       log.New(libraryLog{s.v}, "", 0),
	})
	if err != nil {
		return nil, err
	}
	go func() {
		server.Serve() // returns when all its goroutines have
		splice.ClearSplicePool()
		close(s.done)
	}()
	return s, nil
}

// panicked is the last net: the tree catches the engines' panics, so this one is our own.
func (v *view) panicked(p any) fuse.Status {
	v.panics.Add(1)
	stack := string(debug.Stack())
	v.often.Do(func() {
		v.o.Log.Error("a request failed by a defect of the program", "panic", p, "stack", stack)
	})
	return fuse.EIO
}

// libraryLog takes go-fuse's log lines, which can come with every request.
type libraryLog struct{ v *view }

func (l libraryLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	level := slog.LevelWarn
	if strings.HasPrefix(text, "Unimplemented opcode") {
		level = slog.LevelDebug // answered with ENOSYS, which the kernel understands
	}
	l.v.often.Do(func() { l.v.o.Log.Log(context.Background(), level, "fuse", "message", text) })
	return len(line), nil
}
