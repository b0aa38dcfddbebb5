package fusefs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/agent/volume"
	"vmfr/test/fixture"
)

// fake is an engine whose one file system is made by a test: it reads any volume.
type fake struct{ fs fsys.FS }

func (fake) Name() string { return "fake" }

func (f fake) Open(volume.Volume) (fsys.FS, error) { return f.fs, nil }

// odd is a file system that misbehaves or reaches for the limits. Its root holds:
//
//	2 "data"    4 MiB of a pattern, decoded (no host extents)
//	3 "panic"   panics when it is read
//	4 "corrupt" fails with ErrCorrupt when it is read
//	5 "locked"  cannot be opened: ErrNoKey
//	6 "broken"  cannot be stat'ed
//	7 "xattrs"  values of 64 KiB and more
//	8 "crash"   panics when it is opened
type odd struct{}

var oddNames = []string{"data", "panic", "corrupt", "locked", "broken", "xattrs", "crash"}

func (odd) Info() fsys.Info {
	return fsys.Info{Type: "odd", BlockSize: 1024, Total: 10 << 20, Free: 3 << 20, Files: 100, FreeFiles: 40}
}
func (odd) Root() fsys.Ino { return 1 }
func (odd) Close() error   { return nil }
func (odd) Stat(i fsys.Ino) (fsys.Attr, error) {
	a := fsys.Attr{Ino: i, Mode: fsys.ModeRegular | 0o644, Nlink: 1, Size: 4 << 20, BlockSize: 1024, Btime: time.Unix(1234, 5678)}
	switch {
	case i == 1:
		a.Mode, a.Nlink = fsys.ModeDir|0o755, 2
	case i == 6:
		return a, fsys.Corrupt("odd", "inode", i, -1, "by design")
	case int(i) > len(oddNames)+1:
		return a, iofs.ErrNotExist
	}
	return a, nil
}
func (odd) Lookup(_ fsys.Ino, name string) (fsys.Ino, error) {
	for i, n := range oddNames {
		if n == name {
			return fsys.Ino(i + 2), nil
		}
	}
	return 0, iofs.ErrNotExist
}

// ReadDir has cookies over the whole range that a directory stream can have.
func (odd) ReadDir(_ fsys.Ino, from fsys.Cookie, out []fsys.Dirent) (int, error) {
	const step = fsys.Cookie(1) << 59
	i := int((from + step - 1) / step)
	n := 0
	for ; i < len(oddNames) && n < len(out); i++ {
		out[n] = fsys.Dirent{Name: oddNames[i], Ino: fsys.Ino(i + 2), Type: fsys.ModeRegular, Next: fsys.Cookie(i+1)*step - fsys.Cookie(i&1)}
		n++
	}
	if i == len(oddNames) {
		return n, io.EOF
	}
	return n, nil
}
func (odd) Readlink(fsys.Ino) (string, error) { return "", fsys.ErrNotLink }
func (odd) Open(i fsys.Ino) (extent.Reader, error) {
	switch i {
	case 5:
		return nil, fsys.ErrNoKey
	case 8:
		panic("by design, in Open")
	}
	return oddFile(i), nil
}
func (odd) Xattrs(i fsys.Ino) (map[string][]byte, error) {
	if i != 7 {
		return nil, nil
	}
	return map[string][]byte{"user.max": make([]byte, 64<<10), "user.over": make([]byte, 64<<10+1), "user.none": {}, "user.\xff": []byte("x")}, nil
}

type oddFile fsys.Ino

func (oddFile) Size() int64 { return 4 << 20 }
func (f oddFile) ReadAt(p []byte, off int64) (int, error) {
	switch f {
	case 3:
		panic("by design, in ReadAt")
	case 4:
		return 0, fsys.Corrupt("odd", "extent", fsys.Ino(f), off, "by design")
	}
	n, err := extent.CheckRead(f.Size(), p, off)
	for i := range p[:n] {
		p[i] = byte((off + int64(i)) / 1000)
	}
	return n, err
}
func (f oddFile) Extent(off, max int64) (extent.Extent, error) {
	max, err := extent.CheckExtent(f.Size(), off, max)
	return extent.Extent{Len: max}, err
}

func serveOdd(t *testing.T, o Options) (*tree.Tree, string) {
	t.Helper()
	img := filepath.Join(t.TempDir(), "disk")
	fixture.Sparse(t, img, 1<<20)
	tr := newTree(t, fake{odd{}}, img)
	_, dir := serve(t, tr, o)
	return tr, filepath.Join(dir, "backups/b/d0")
}

// A panic and an error are answers; the mount goes on serving.
func TestErrorsAndPanics(t *testing.T) {
	tr, dir := serveOdd(t, Options{})
	for name, want := range map[string][]unix.Errno{
		"panic": {unix.EIO}, "locked": {unix.ENOKEY}, "broken": {unix.EUCLEAN}, "crash": {unix.EIO}, "none": {unix.ENOENT},
		"corrupt": {unix.EUCLEAN, unix.EIO}, // older kernels turn every error of a cached read into EIO
	} {
		for range 2 {
			_, err := os.ReadFile(filepath.Join(dir, name))
			var got unix.Errno
			if !errors.As(err, &got) || !slices.Contains(want, got) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "data"))
	if err != nil || len(data) != 4<<20 || data[123456] != byte(123456/1000) {
		t.Errorf("data after errors: %d bytes, %v", len(data), err)
	}
	if n := tr.Stats().Panics; n == 0 {
		t.Error("the panics were not counted")
	}
	if out := fixture.Run(t, "ls", dir); strings.Count(out, "\n") != len(oddNames) {
		t.Errorf("ls: %s", out)
	}
}

func TestXattrSizes(t *testing.T) {
	_, dir := serveOdd(t, Options{})
	p := filepath.Join(dir, "xattrs")
	big := make([]byte, 64<<10)
	for _, c := range []struct {
		name string
		buf  []byte
		n    int
		err  error
	}{
		{"user.max", nil, 64 << 10, nil}, {"user.max", big, 64 << 10, nil}, {"user.max", big[:100], -1, unix.ERANGE},
		{"user.over", nil, -1, unix.E2BIG}, {"user.over", big, -1, unix.E2BIG},
		{"user.none", nil, 0, nil}, {"user.none", big, 0, nil}, {"user.\xff", big, 1, nil}, {"user.other", big, -1, unix.ENODATA},
	} {
		if n, err := unix.Lgetxattr(p, c.name, c.buf); n != c.n || err != c.err {
			t.Errorf("getxattr %q into %d bytes: %d, %v, want %d, %v", c.name, len(c.buf), n, err, c.n, c.err)
		}
	}
	const names = "user.max\x00user.none\x00user.over\x00user.\xff\x00"
	if n, err := unix.Llistxattr(p, big); err != nil || string(big[:n]) != names {
		t.Errorf("listxattr: %q, %v", big[:n], err)
	}
	if n, err := unix.Llistxattr(p, nil); err != nil || n != len(names) {
		t.Errorf("listxattr, size: %d, %v", n, err)
	}
	if _, err := unix.Llistxattr(p, big[:5]); err != unix.ERANGE {
		t.Errorf("listxattr, short buffer: %v", err)
	}
}

func TestStatfsAndBirth(t *testing.T) {
	_, dir := serveOdd(t, Options{})
	for _, d := range []string{dir, filepath.Join(dir, "../../..")} {
		var st unix.Statfs_t
		if err := unix.Statfs(d, &st); err != nil {
			t.Fatal(err)
		}
		if got := [4]uint64{st.Blocks * uint64(st.Bsize), st.Bfree * uint64(st.Bsize), st.Files, st.Ffree}; got != [4]uint64{10 << 20, 3 << 20, 100, 40} {
			t.Errorf("statfs of %s: %v", d, got)
		}
	}
	var sx unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, filepath.Join(dir, "data"), 0, unix.STATX_ALL, &sx); err != nil {
		t.Fatal(err)
	}
	if sx.Mask&unix.STATX_BTIME == 0 || sx.Btime.Sec != 1234 || sx.Btime.Nsec != 5678 {
		t.Errorf("birth: mask %x, %+v", sx.Mask, sx.Btime)
	}
}

// Positions of a directory stream survive rewinddir and seekdir.
func TestSeekdir(t *testing.T) {
	_, dir := serveOdd(t, Options{})
	for _, d := range []string{dir, filepath.Join(dir, "../../..")} { // an engine's, a static one
		fd, err := unix.Open(d, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		type entry struct {
			name string
			next int64
		}
		read := func() (es []entry) {
			buf := make([]byte, 64<<10)
			for {
				n, err := unix.Getdents(fd, buf)
				if err != nil {
					t.Fatal(err)
				}
				if n == 0 {
					return es
				}
				for b := buf[:n]; len(b) > 0; {
					reclen := int(b[16]) | int(b[17])<<8
					name, _, _ := bytes.Cut(b[19:reclen], []byte{0})
					var next int64
					for i := range 8 {
						next |= int64(b[8+i]) << (8 * i)
					}
					es = append(es, entry{string(name), next})
					b = b[reclen:]
				}
			}
		}
		all := read()
		if len(all) < 5 || all[0].name != "." || all[1].name != ".." {
			t.Fatalf("%s: %v", d, all)
		}
		seen := map[int64]bool{0: true}
		for i := len(all) - 1; i >= 0; i-- {
			if seen[all[i].next] {
				t.Errorf("position %d of %q is not unique", all[i].next, all[i].name)
			}
			seen[all[i].next] = true
			if _, err := unix.Seek(fd, all[i].next, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			if got, want := fmt.Sprint(read()), fmt.Sprint(all[i+1:]); got != want {
				t.Errorf("after %q: %s, want %s", all[i].name, got, want)
			}
		}
		if _, err := unix.Seek(fd, 0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if got := read(); fmt.Sprint(got) != fmt.Sprint(all) {
			t.Errorf("after rewinding: %v, want %v", got, all)
		}
	}
}
