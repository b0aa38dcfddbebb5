package sshd

import (
	"context"
	"encoding/binary"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/engine"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/agent/volume"
)

// hostFS shows a directory of this machine as a guest's file system, so that the server can be
// compared with the kernel's view of the very same files, whatever an engine does.
type hostFS struct {
	root  string
	mu    sync.Mutex
	paths map[fsys.Ino]string
	names map[fsys.Ino][]string // directories that were listed
	fail  func(fsys.Ino) error  // of Stat and Open, for tests of errors
	block chan struct{}         // if set, reads wait until it is closed
}

func newHostFS(root string) *hostFS {
	return &hostFS{root: root, paths: map[fsys.Ino]string{1: root}, names: map[fsys.Ino][]string{}}
}

func (h *hostFS) path(i fsys.Ino) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.paths[i]
	if !ok {
		return "", iofs.ErrNotExist
	}
	return p, nil
}

func (h *hostFS) Info() fsys.Info {
	return fsys.Info{Type: "host", BlockSize: 4096, Total: 1 << 30, Free: 1 << 29, Files: 1000, FreeFiles: 400}
}
func (h *hostFS) Root() fsys.Ino { return 1 }
func (h *hostFS) Close() error   { return nil }

func (h *hostFS) Stat(i fsys.Ino) (fsys.Attr, error) {
	if h.fail != nil {
		if err := h.fail(i); err != nil {
			return fsys.Attr{}, err
		}
	}
	p, err := h.path(i)
	if err != nil {
		return fsys.Attr{}, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return fsys.Attr{}, err
	}
	return fsys.Attr{
		Ino: i, Mode: st.Mode, Nlink: uint32(st.Nlink), UID: st.Uid, GID: st.Gid, Size: st.Size, Blocks: st.Blocks,
		Atime: time.Unix(st.Atim.Unix()), Mtime: time.Unix(st.Mtim.Unix()), Ctime: time.Unix(st.Ctim.Unix()),
	}, nil
}

func (h *hostFS) Lookup(dir fsys.Ino, name string) (fsys.Ino, error) {
	p, err := h.path(dir)
	if err != nil {
		return 0, err
	}
	p = filepath.Join(p, name)
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return 0, &os.PathError{Op: "lookup", Path: name, Err: err}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.paths[fsys.Ino(st.Ino)]; !ok {
		h.paths[fsys.Ino(st.Ino)] = p
	}
	return fsys.Ino(st.Ino), nil
}

func (h *hostFS) ReadDir(dir fsys.Ino, from fsys.Cookie, out []fsys.Dirent) (int, error) {
	p, err := h.path(dir)
	if err != nil {
		return 0, err
	}
	h.mu.Lock()
	names, ok := h.names[dir]
	h.mu.Unlock()
	if !ok {
		f, err := os.Open(p)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		if names, err = f.Readdirnames(-1); err != nil {
			return 0, err
		}
		sort.Strings(names)
		h.mu.Lock()
		h.names[dir] = names
		h.mu.Unlock()
	}
	n := 0
	for i := int(from); i < len(names) && n < len(out); i++ {
		ino, err := h.Lookup(dir, names[i])
		if err != nil {
			return n, err
		}
		out[n] = fsys.Dirent{Name: names[i], Ino: ino, Next: fsys.Cookie(i + 1)}
		n++
	}
	if int(from)+n >= len(names) {
		return n, io.EOF
	}
	return n, nil
}

func (h *hostFS) Readlink(i fsys.Ino) (string, error) {
	p, err := h.path(i)
	if err != nil {
		return "", err
	}
	return os.Readlink(p)
}

func (h *hostFS) Open(i fsys.Ino) (extent.Reader, error) {
	a, err := h.Stat(i)
	switch {
	case err != nil:
		return nil, err
	case a.IsDir():
		return nil, fsys.ErrIsDir
	case !a.IsRegular():
		return nil, fsys.ErrNotRegular
	}
	p, err := h.path(i)
	if err != nil {
		return nil, err
	}
	return hostFile{p, a.Size, h.block}, nil
}

// hostFile opens its file for every read, so nothing needs closing.
type hostFile struct {
	path  string
	size  int64
	block chan struct{}
}

func (f hostFile) Size() int64 { return f.size }

func (f hostFile) ReadAt(p []byte, off int64) (int, error) {
	if f.block != nil {
		<-f.block
	}
	n, end := extent.CheckRead(f.size, p, off)
	if n == 0 {
		return 0, end
	}
	fh, err := os.Open(f.path)
	if err != nil {
		return 0, err
	}
	defer fh.Close()
	if k, err := fh.ReadAt(p[:n], off); err != nil {
		return k, err
	}
	return n, end
}

func (f hostFile) Extent(off, max int64) (extent.Extent, error) {
	max, err := extent.CheckExtent(f.size, off, max)
	return extent.Extent{Len: max}, err
}

// hostEngine opens the file system whose number stands at the volume's start.
type hostEngine []fsys.FS

func (hostEngine) Name() string { return "host" }

func (e hostEngine) Open(v volume.Volume) (fsys.FS, error) {
	b := make([]byte, 16)
	if _, err := v.ReadAt(b, 0); err != nil {
		return nil, err
	}
	if string(b[:8]) != "hostfs\n\x00" {
		return nil, fsys.ErrNotRecognized
	}
	return e[binary.BigEndian.Uint64(b[8:])], nil
}

// hostTree is a tree with one disk, /backups/b/d, that shows fs.
func hostTree(t testing.TB, fs fsys.FS) *tree.Tree {
	t.Helper()
	b := make([]byte, 1<<20)
	copy(b, "hostfs\n\x00")
	return newTree(t, []engine.Engine{hostEngine{fs}}, extent.Bytes(b))
}

// newTree is a tree with the disk r at /backups/b/d, made on 2026-01-02.
func newTree(t testing.TB, engines []engine.Engine, r extent.Reader) *tree.Tree {
	t.Helper()
	day := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tr, err := tree.New(context.Background(), tree.Config{
		Backups: []tree.Backup{{Name: "b", VM: "vm", Timestamp: day, Disks: []tree.Disk{{Name: "d", Source: "d.raw", Format: "raw", Reader: r, ModTime: day}}}},
		Engines: engines, Version: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}
