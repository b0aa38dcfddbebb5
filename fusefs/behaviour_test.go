package fusefs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
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

// Everything that would write is EROFS, whether the kernel refuses or we do.
func TestReadOnly(t *testing.T) {
	_, dir := serveOdd(t, Options{})
	p, q := filepath.Join(dir, "data"), filepath.Join(dir, "new")
	open := func(flags int) error {
		fd, err := unix.Open(p, flags, 0o600)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	for name, op := range map[string]func() error{
		"open for writing":  func() error { return open(unix.O_WRONLY) },
		"open for both":     func() error { return open(unix.O_RDWR) },
		"open and truncate": func() error { return open(unix.O_RDONLY | unix.O_TRUNC) },
		"create":            func() error { _, err := unix.Open(q, unix.O_CREAT|unix.O_WRONLY, 0o600); return err },
		"tmpfile":           func() error { _, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600); return err },
		"mkdir":             func() error { return unix.Mkdir(q, 0o700) },
		"mknod":             func() error { return unix.Mknod(q, unix.S_IFREG|0o600, 0) },
		"symlink":           func() error { return unix.Symlink("x", q) },
		"link":              func() error { return unix.Link(p, q) },
		"rename":            func() error { return unix.Rename(p, q) },
		"unlink":            func() error { return unix.Unlink(p) },
		"rmdir":             func() error { return unix.Rmdir(filepath.Dir(dir)) },
		"chmod":             func() error { return unix.Chmod(p, 0o600) },
		"chown":             func() error { return unix.Chown(p, 1, 1) },
		"truncate":          func() error { return unix.Truncate(p, 0) },
		"utimes":            func() error { return unix.Utimes(p, make([]unix.Timeval, 2)) },
		"setxattr":          func() error { return unix.Setxattr(p, "user.x", []byte("y"), 0) },
		"removexattr":       func() error { return unix.Removexattr(p, "user.x") },
		"access":            func() error { return unix.Access(p, unix.W_OK) },
	} {
		if err := op(); err != unix.EROFS {
			t.Errorf("%s: %v, want EROFS", name, err)
		}
	}
	if err := unix.Access(p, unix.R_OK); err != nil {
		t.Errorf("access for reading: %v", err)
	}
}

func TestReadOnlyEvenIfTheKernelAsked(t *testing.T) {
	var c tree.Counters
	v := newView(emptyTree(t), Options{Counters: &c}.withDefaults())
	for name, st := range map[string]func() int32{
		"setattr":   func() int32 { return int32(v.SetAttr(nil, nil, nil)) },
		"mknod":     func() int32 { return int32(v.Mknod(nil, nil, "", nil)) },
		"mkdir":     func() int32 { return int32(v.Mkdir(nil, nil, "", nil)) },
		"unlink":    func() int32 { return int32(v.Unlink(nil, nil, "")) },
		"rmdir":     func() int32 { return int32(v.Rmdir(nil, nil, "")) },
		"rename":    func() int32 { return int32(v.Rename(nil, nil, "", "")) },
		"symlink":   func() int32 { return int32(v.Symlink(nil, nil, "", "", nil)) },
		"link":      func() int32 { return int32(v.Link(nil, nil, "", nil)) },
		"create":    func() int32 { return int32(v.Create(nil, nil, "", nil)) },
		"tmpfile":   func() int32 { return int32(v.Tmpfile(nil, nil, nil)) },
		"write":     func() int32 { _, st := v.Write(nil, nil, nil); return int32(st) },
		"writev":    func() int32 { _, st := v.Writev(nil, nil, nil); return int32(st) },
		"fallocate": func() int32 { return int32(v.Fallocate(nil, nil)) },
		"copy":      func() int32 { _, st := v.CopyFileRange(nil, nil); return int32(st) },
		"setxattr":  func() int32 { return int32(v.SetXAttr(nil, nil, "", nil)) },
		"rmxattr":   func() int32 { return int32(v.RemoveXAttr(nil, nil, "")) },
	} {
		if got := st(); got != int32(unix.EROFS) {
			t.Errorf("%s: %d", name, got)
		}
	}
	if n := c.Snapshot().Ops[tree.OpRefused.String()]; n != 16 {
		t.Errorf("%d refusals counted", n)
	}
}

// mapEnv makes the test program print the SHA-256 of a file that it maps. A process of its own
// does that, because a page fault stops a thread without the Go runtime knowing: it could wait
// for a server in the same process for ever.
const mapEnv = "FUSEFS_TEST_MAP"

func TestMain(m *testing.M) {
	if name := os.Getenv(mapEnv); name != "" {
		sum, err := mapped(name)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Printf("%x", sum)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func mapped(name string) ([sha256.Size]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	return sha256.Sum256(m), unix.Munmap(m)
}

// Mapped, direct and concurrent reads of one image agree with what was written.
func TestWaysToRead(t *testing.T) {
	for _, block := range []string{"1024", "4096"} {
		t.Run("block"+block, func(t *testing.T) {
			src := t.TempDir()
			data := make([]byte, 12<<20+777)
			for i := range data {
				data[i] = byte(i>>9) ^ byte(i*31)
			}
			if err := os.WriteFile(filepath.Join(src, "f"), data, 0o600); err != nil {
				t.Fatal(err)
			}
			img := fixture.Ext4(t, src, 64<<20, "-b", block)
			var c tree.Counters
			_, mnt := serve(t, newTree(t, native{}, img, img), Options{Counters: &c})
			waysToRead(t, filepath.Join(mnt, "backups/b/d0/f"), filepath.Join(mnt, "backups/b/d1/f"), data)
			if s := c.Snapshot(); s.Bytes < uint64(len(data)) || s.Ops["lookup"] == 0 {
				t.Errorf("counters: %+v", s)
			}
		})
	}
}

func waysToRead(t *testing.T, p, other string, data []byte) {
	f, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())

	for _, c := range []struct {
		off  int64
		n    int
		want string
	}{{0, 10, string(data[:10])}, {int64(len(data)) - 5, 100, string(data[len(data)-5:])}, {int64(len(data)), 10, ""}, {1 << 40, 10, ""}} {
		buf := make([]byte, c.n)
		if n, err := unix.Pread(fd, buf, c.off); err != nil || string(buf[:n]) != c.want {
			t.Errorf("pread %d at %d: %d bytes, %v", c.n, c.off, n, err)
		}
	}
	for _, c := range []struct {
		whence    int
		off, want int64
		err       error
	}{
		{unix.SEEK_DATA, 5, 5, nil}, {unix.SEEK_HOLE, 5, int64(len(data)), nil},
		{unix.SEEK_DATA, int64(len(data)), -1, unix.ENXIO}, {unix.SEEK_HOLE, int64(len(data)), -1, unix.ENXIO}, {unix.SEEK_HOLE, -1, -1, unix.ENXIO},
	} {
		if got, err := unix.Seek(fd, c.off, c.whence); got != c.want || err != c.err {
			t.Errorf("lseek %d to %d: %d, %v, want %d, %v", c.whence, c.off, got, err, c.want, c.err)
		}
	}

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fixture.Run(t, "env", mapEnv+"="+p, self), fmt.Sprintf("%x", sha256.Sum256(data)); got != want {
		t.Errorf("mapped bytes: %s, want %s", got, want)
	}

	direct, err := unix.Open(other, unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(direct)
	h := sha256.New()
	for buf, off := make([]byte, 3<<20+1<<12), 0; ; {
		n, err := unix.Pread(direct, buf, int64(off))
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		h.Write(buf[:n])
		off += n
	}
	if want := sha256.Sum256(data); !bytes.Equal(h.Sum(nil), want[:]) {
		t.Error("bytes read with O_DIRECT differ")
	}

	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := []string{p, other}[i%2]
			for j := range 40 {
				f, err := os.Open(name)
				if err != nil {
					t.Error(err)
					return
				}
				off := (i*7919 + j*104729*11) % len(data)
				buf := make([]byte, min(1<<20, len(data)-off))
				if _, err := f.ReadAt(buf, int64(off)); err != nil || !bytes.Equal(buf, data[off:off+len(buf)]) {
					t.Errorf("read at %d: %v or other bytes", off, err)
				}
				if j%10 == 0 { // have the kernel ask again
					_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
				}
				f.Close()
			}
		})
	}
	wg.Wait()
}

// An image that ends too early is an I/O error, not the end of the guest's file.
func TestShortImageIsAnError(t *testing.T) {
	src := t.TempDir()
	const size = 24 << 20
	if err := os.WriteFile(filepath.Join(src, "f"), bytes.Repeat([]byte("0123456789abcdef"), size/16), 0o600); err != nil {
		t.Fatal(err)
	}
	img := fixture.Ext4(t, src, 64<<20)
	tr := newTree(t, native{}, img)
	n, err := tr.Resolve("/backups/b/d0/f", false)
	if err != nil {
		t.Fatal(err)
	}
	file, err := tr.Open(n)
	if err != nil {
		t.Fatal(err)
	}
	x, err := file.Extent(4<<20+700_000, 1)
	if err != nil || x.Host == nil {
		t.Fatal(x, err)
	}
	_, mnt := serve(t, tr, Options{})
	if err := os.Truncate(img, x.HostOff); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(filepath.Join(mnt, "backups/b/d0/f"), unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if got, err := unix.Pread(fd, make([]byte, maxRead), 4<<20); err != unix.EIO {
		t.Errorf("read %d bytes: %v, want EIO", got, err)
	}
	if got, err := os.ReadFile(filepath.Join(mnt, "backups/b/d0/f")); !errors.Is(err, unix.EIO) {
		t.Errorf("read %d bytes of %d: %v, want EIO", len(got), size, err)
	}
}

// The guest's modes and ACLs count where the option says so.
func TestDefaultPermissions(t *testing.T) {
	fixture.Need(t, "setfacl", "getfacl")
	img := guest(t)
	for _, enforce := range []bool{true, false} {
		t.Run(fmt.Sprint(enforce), func(t *testing.T) {
			_, mnt := serve(t, newTree(t, native{}, img), Options{AllowOther: true, DefaultPermissions: enforce})
			// The way to the mount belongs to the test and is closed to others: open the folder first.
			dir, err := unix.Open(filepath.Join(mnt, "backups/b/d0"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(dir)
			if err := readAs(1234, dir, "plain"); err != nil {
				t.Errorf("the ACL names user 1234: %v", err)
			}
			if err := readAs(4321, dir, "plain"); (err != nil) != enforce {
				t.Errorf("user 4321: %v", err)
			}
			if out := fixture.Run(t, "getfacl", "-n", filepath.Join(mnt, "backups/b/d0/plain")); !strings.Contains(out, "user:1234:rw-") {
				t.Errorf("getfacl: %s", out)
			}
		})
	}
}

// readAs reads a file in the folder dir as another user, on a thread that ends with it.
func readAs(uid, dir int, name string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: no other goroutine gets this user's thread
		// The raw call concerns this thread alone; Go's changes all of them.
		if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
			done <- e
			return
		}
		if err := errors.Join(unix.Setfsgid(9999), unix.Setfsuid(uid)); err != nil {
			done <- err
			return
		}
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			_, err = unix.Read(fd, make([]byte, 1))
			err = errors.Join(err, unix.Close(fd))
		}
		done <- err
	}()
	return <-done
}

// Two mounts at once serve their own trees, and nothing is left of them.
func TestTwoMountsAndNothingLeft(t *testing.T) {
	fixture.NeedRoot(t)
	before := runtime.NumGoroutine()
	img := fixture.Ext4(t, "", 16<<20)
	one, dir1 := serve(t, newTree(t, native{}, img), Options{})
	two, dir2 := serve(t, emptyTree(t), Options{})
	if out := fixture.Run(t, "ls", filepath.Join(dir1, "backups"), filepath.Join(dir2, "backups")); strings.Count(out, "b\n") != 1 {
		t.Errorf("ls: %s", out)
	}
	if err := one.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	fixture.Run(t, "stat", filepath.Join(dir2, "README.txt"))
	if err := two.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		runtime.Gosched()
	}
	buf := make([]byte, 1<<20)
	t.Errorf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
}
