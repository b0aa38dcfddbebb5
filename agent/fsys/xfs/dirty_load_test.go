package xfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// loader runs the steps of a load until one fails.
type loader struct {
	dir string
	err error
}

func (l *loader) path(format string, args ...any) string {
	return filepath.Join(l.dir, fmt.Sprintf(format, args...))
}

func (l *loader) do(err error) {
	if l.err == nil {
		l.err = err
	}
}

func (l *loader) write(p string, n int, b byte) {
	l.do(os.WriteFile(p, bytes.Repeat([]byte{b}, n), 0o644))
}

func (l *loader) mkdir(p string) { l.do(os.Mkdir(p, 0o755)) }

// with calls f with an open file.
func (l *loader) with(p string, f func(fd int) error) {
	h, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		l.do(err)
		return
	}
	l.do(errors.Join(f(int(h.Fd())), h.Close()))
}

func (l *loader) fsync(p string) { l.with(p, unix.Fsync) }

func (l *loader) setxattr(p, name string, n int, b byte) {
	l.do(unix.Setxattr(p, name, bytes.Repeat([]byte{b}, n), 0))
}

// storm creates, renames, replaces and removes names.
func storm(dir string) error {
	l := &loader{dir: dir}
	for d := range 4 {
		l.mkdir(l.path("d%d", d))
	}
	for i := range 1500 {
		l.write(l.path("d%d/file %d", i%4, i), i%40, 'x')
		switch {
		case i%5 == 1:
			l.do(os.Rename(l.path("d%d/file %d", i%4, i), l.path("d%d/renamed %d", (i+1)%4, i)))
		case i%5 == 2 && i > 10:
			l.do(os.Remove(l.path("d%d/file %d", i%4, i)))
		case i%5 == 3 && i > 10:
			l.do(os.Rename(l.path("d%d/file %d", i%4, i), l.path("d0/replaced")))
		}
		if i == 700 {
			l.do(syncDir(dir))
		}
	}
	return l.err
}

func truncates(dir string) error {
	l := &loader{dir: dir}
	for i := range 60 {
		p := l.path("file %d", i)
		l.write(p, 3000*i, byte('a'+i%26))
		if i%4 == 0 {
			l.do(fragment(p, 12+i, 'z'))
		}
	}
	l.do(syncDir(dir))
	for i := range 60 {
		p := l.path("file %d", i)
		l.do(os.Truncate(p, int64(i)*1111))
		if i%3 == 0 {
			l.do(os.Truncate(p, int64(i)*9999))
		}
		if i%7 == 0 {
			l.do(os.Truncate(p, 0))
		}
	}
	return l.err
}

// attributes grow from the inode to a leaf, to a tree with values of their own, and shrink again.
func attributes(dir string) error {
	l := &loader{dir: dir}
	for i := range 20 {
		p := l.path("file %d", i)
		l.write(p, 10, 'x')
		for k := range i * 6 {
			l.setxattr(p, fmt.Sprintf("user.attribute number %d", k), k*17%300, byte('a'+k%26))
		}
		if i%2 == 0 {
			l.setxattr(p, "user.remote", 3000+i*2500, byte('A'+i))
			l.setxattr(p, "trusted.remote", 60000-i*100, byte('A'+i))
		}
		if i == 10 {
			l.do(syncDir(dir))
		}
	}
	for i := 0; i < 20; i += 3 {
		p := l.path("file %d", i)
		for k := 0; k < i*6; k += 1 + i%2 {
			l.do(unix.Removexattr(p, fmt.Sprintf("user.attribute number %d", k)))
		}
		if i%2 == 0 {
			l.setxattr(p, "user.remote", 9000, 'r')
		}
	}
	return l.err
}

func fsyncs(dir string) error {
	l := &loader{dir: dir}
	l.mkdir(l.path("sub"))
	for i := range 120 {
		l.write(l.path("sub/%d", i), i*700, byte(i))
		if i%9 == 0 {
			l.fsync(l.path("sub/%d", i))
		}
		if i%10 == 9 {
			l.do(os.Remove(l.path("sub/%d", i-3)))
		}
	}
	return l.err
}

// wraps has the log go round: every fsync is a checkpoint, and together they are longer than it.
func wraps(dir string) error {
	l := &loader{dir: dir}
	for round := range 33 {
		sub := l.path("round %d", round)
		l.mkdir(sub)
		for i := range 200 {
			p := filepath.Join(sub, fmt.Sprint("file number ", i))
			l.write(p, 1+i%10, byte(round))
			if i%10 == 0 {
				l.fsync(p)
			}
		}
		l.do(syncDir(dir))
		if round%3 != 1 {
			l.do(os.RemoveAll(sub))
		}
	}
	return l.err
}

// reflinks share extents and overwrite them.
func reflinks(dir string) error {
	l := &loader{dir: dir}
	l.write(l.path("base"), 600000, 'b')
	l.do(fragment(l.path("base"), 40, 'f'))
	l.do(syncDir(dir))
	base, err := os.Open(l.path("base"))
	if err != nil {
		return err
	}
	defer base.Close()
	for i := range 25 {
		p := l.path("clone %d", i)
		l.with(p, func(fd int) error { return unix.IoctlFileClone(fd, int(base.Fd())) })
		l.with(p, func(fd int) error {
			_, err := unix.Pwrite(fd, bytes.Repeat([]byte{byte('0' + i)}, 5000), int64(i)*20000)
			return errors.Join(err, unix.Fsync(fd))
		})
		if i%4 == 0 {
			l.do(os.Remove(p))
		}
		l.with(l.path("part %d", i), func(fd int) error {
			return unix.IoctlFileCloneRange(fd, &unix.FileCloneRange{Src_fd: int64(base.Fd()), Src_offset: uint64(i) * 4096, Src_length: 8 * 4096, Dest_offset: 4096 * 3})
		})
	}
	return l.err
}

// directories go from the inode to a block, leaves and a tree, and back.
func directories(dir string) error {
	l := &loader{dir: dir}
	for d, n := range []int{3, 10, 60, 300, 1200, 2500} {
		sub := l.path("d%d", d)
		l.mkdir(sub)
		for i := range n {
			l.do(os.Symlink("t", filepath.Join(sub, fmt.Sprintf("a name of some length %05d", i))))
		}
		l.mkdir(l.path("shrunk %d", d))
		for i := range n {
			l.do(os.Symlink("t", l.path("shrunk %d/another name of some length %05d", d, i)))
		}
		if d == 4 {
			l.do(syncDir(dir))
		}
	}
	for d, n := range []int{3, 10, 60, 300, 1200, 2500} {
		for i := d % 3; i < n; i++ {
			if i%50 != 49 {
				l.do(os.Remove(l.path("shrunk %d/another name of some length %05d", d, i)))
			}
		}
	}
	return l.err
}

func links(dir string) error {
	l := &loader{dir: dir}
	l.write(l.path("file"), 100, 'x')
	for i := range 150 {
		l.do(os.Symlink(strings.Repeat("t/", 1+i*3), l.path("symbolic %d", i)))
		l.do(os.Link(l.path("file"), l.path("hard %d", i)))
		if i%4 == 0 {
			l.do(os.Remove(l.path("hard %d", i)))
			l.do(os.Remove(l.path("symbolic %d", i)))
		}
		if i == 70 {
			l.do(syncDir(dir))
		}
	}
	return l.err
}

// holes converts extents between written, unwritten and absent.
func holes(dir string) error {
	const zero, punch, collapse, insert = unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
		unix.FALLOC_FL_COLLAPSE_RANGE, unix.FALLOC_FL_INSERT_RANGE
	l := &loader{dir: dir}
	for i := range 30 {
		p := l.path("file %d", i)
		l.write(p, 400000, byte('a'+i%26))
		l.fsync(p)
		l.with(p, func(fd int) error {
			var errs []error
			for k := range int64(8) {
				mode := []uint32{punch, zero, collapse, insert, 0, unix.FALLOC_FL_KEEP_SIZE}[(int(k)+i)%6]
				errs = append(errs, unix.Fallocate(fd, mode, k*32768+int64(i)*4096, 8192))
			}
			_, err := unix.Pwrite(fd, bytes.Repeat([]byte("w"), 3000), 500000+int64(i))
			return errors.Join(append(errs, err)...)
		})
		if i%3 != 0 {
			l.fsync(p)
		}
	}
	return l.err
}

// inodeChunks allocates chunks of inodes and frees them, so that others use their blocks.
func inodeChunks(dir string) error {
	l := &loader{dir: dir}
	for round := range 6 {
		sub := l.path("inodes %d", round)
		l.mkdir(sub)
		for i := range 400 {
			l.do(os.Symlink("target", filepath.Join(sub, fmt.Sprint(i))))
		}
		l.fsync(l.path("synced %d", round))
		if round != 4 {
			l.do(os.RemoveAll(sub))
		}
		l.write(l.path("data %d", round), 300000, byte('0'+round))
		l.fsync(l.path("data %d", round))
	}
	return l.err
}

func acls(dir string) error {
	l := &loader{dir: dir}
	for i := range 40 {
		p := l.path("dir %d", i)
		l.mkdir(p)
		args := []string{"-m", fmt.Sprintf("u:%d:rwx,g:%d:r-x", 1000+i, 2000+i), p}
		if i%2 == 0 {
			args = append([]string{"-d"}, args...)
		}
		l.do(exec.Command("setfacl", args...).Run())
		l.write(filepath.Join(p, "inherits"), 10, 'x')
		l.do(os.Chmod(filepath.Join(p, "inherits"), os.FileMode(0o600+i)))
		l.do(os.Chown(p, i, i*3))
		if i == 20 {
			l.do(syncDir(dir))
		}
	}
	return l.err
}

func specialFiles(dir string) error {
	l := &loader{dir: dir}
	for i := range 40 {
		mode := []uint32{unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK}[i%4]
		l.do(unix.Mknod(l.path("special %d", i), mode|0o640, int(unix.Mkdev(uint32(i), uint32(i*300)))))
		if i%5 == 0 {
			l.setxattr(l.path("special %d", i), "trusted.k", i*3, 'v')
		}
		if i == 20 {
			l.do(syncDir(dir))
		}
	}
	return l.err
}

// extentTrees grows files to trees of extents and shrinks some of them.
func extentTrees(dir string) error {
	l := &loader{dir: dir}
	for i, n := range []int{8, 30, 120, 500, 900} {
		l.do(fragment(l.path("fragmented %d", i), n, 'f'))
		l.do(fragment(l.path("cut %d", i), n, 'c'))
		if i == 3 {
			l.do(syncDir(dir))
		}
	}
	for i := range 5 {
		l.do(os.Truncate(l.path("cut %d", i), 200000))
	}
	l.fsync(l.path("fragmented 4"))
	return l.err
}

// fragment writes n blocks with holes between them.
func fragment(p string, n int, b byte) error {
	f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	for i := range n {
		if _, err := f.WriteAt(bytes.Repeat([]byte{b}, 4096), int64(n-i)*12288); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.Sync(), f.Close())
}
