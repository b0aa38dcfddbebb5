package stuck

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Storage is a file system with one file, whose reads wait from Stall to Resume, as on storage whose
// path fails over. The kernel keeps nothing of the file.
type Storage struct {
	image   *os.File
	waiting atomic.Int64

	mu   sync.Mutex
	gate chan struct{} // nil: open
}

// NewStorage mounts image as the file name of the folder dir until the end of the test, which needs root.
func NewStorage(t testing.TB, image, dir, name string) *Storage {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	s := &Storage{image: f}
	root := &fs.Inode{}
	server, err := fs.Mount(dir, root, &fs.Options{
		MountOptions: fuse.MountOptions{AllowOther: true, DirectMountStrict: true, FsName: "stuck", MaxBackground: 128},
		OnAdd: func(ctx context.Context) {
			root.AddChild(name, root.NewPersistentInode(ctx, &storageFile{s: s}, fs.StableAttr{Mode: fuse.S_IFREG}), false)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Resume()
		_ = unix.Unmount(dir, unix.MNT_DETACH) // others may have it open still
		_ = f.Close()
		server.Wait()
	})
	return s
}

// Stall lets whoever reads wait.
func (s *Storage) Stall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate == nil {
		s.gate = make(chan struct{})
	}
}

// Resume answers those who wait, and all others.
func (s *Storage) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate != nil {
		close(s.gate)
		s.gate = nil
	}
}

// Waiting is how many reads wait.
func (s *Storage) Waiting() int { return int(s.waiting.Load()) }

type storageFile struct {
	fs.Inode
	s *Storage
}

var (
	_ fs.NodeOpener    = (*storageFile)(nil)
	_ fs.NodeReader    = (*storageFile)(nil)
	_ fs.NodeGetattrer = (*storageFile)(nil)
)

// Open opens it without the page cache.
func (f *storageFile) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

// Getattr tells the image's size.
func (f *storageFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	st, err := f.s.image.Stat()
	if err != nil {
		return fs.ToErrno(err)
	}
	out.Mode, out.Size = 0o444, uint64(st.Size())
	return 0
}

// Read waits while the storage does not answer. Who is killed need not wait.
func (f *storageFile) Read(ctx context.Context, _ fs.FileHandle, b []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	f.s.mu.Lock()
	gate := f.s.gate
	f.s.mu.Unlock()
	if gate != nil {
		f.s.waiting.Add(1)
		defer f.s.waiting.Add(-1)
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, syscall.EINTR
		}
	}
	n, err := f.s.image.ReadAt(b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fs.ToErrno(err)
	}
	return fuse.ReadResultData(b[:n]), 0
}
