package fsystest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Populator fills a directory of a mounted file system of a Unix kind with objects that engines
// can read wrong. What the file system refuses is left out: the kernel's own listing is the oracle
// anyway.
type Populator struct {
	T         testing.TB
	Root      string
	BlockSize int
	Refused   []error            // by which this file system says that it has no such thing
	Random    func(n int) []byte // bytes that are like no others
}

// Path is where an object is.
func (p *Populator) Path(name string) string { return filepath.Join(p.Root, name) }

// Check ends the test on an error.
func (p *Populator) Check(err error) {
	p.T.Helper()
	if err != nil {
		p.T.Fatal(err)
	}
}

// May is Check for what may be refused, and tells whether it was done.
func (p *Populator) May(err error) bool {
	p.T.Helper()
	for _, e := range p.Refused {
		if errors.Is(err, e) {
			return false
		}
	}
	p.Check(err)
	return true
}

// Write makes a file and returns its path.
func (p *Populator) Write(name string, content []byte) string {
	p.T.Helper()
	p.Check(os.WriteFile(p.Path(name), content, 0o644))
	return p.Path(name)
}

// Create makes a file that fill writes.
func (p *Populator) Create(name string, fill func(f *os.File)) {
	p.T.Helper()
	f, err := os.Create(p.Path(name))
	p.Check(err)
	fill(f)
	p.Check(f.Close())
}

// Files makes files of these sizes, and one of each other kind of inode that a plain file has.
func (p *Populator) Files(sizes ...int) {
	for _, n := range sizes {
		p.Write(fmt.Sprintf("file-%d", n), p.Random(n))
	}
	grown := p.Write("small and grown", []byte("ten bytes."))
	p.Check(os.Truncate(grown, 5000))
	shrunk := p.Write("large and cut", p.Random(20000))
	p.Check(os.Truncate(shrunk, 33))
	p.Check(os.Chmod(p.Write("setuid", []byte("#!/bin/sh\n")), 0o755|os.ModeSetuid|os.ModeSetgid|os.ModeSticky))
	p.Check(os.Chown(p.Write("large ids", nil), 70000, 1<<31+5))
}

// Sparse makes files with holes: few, many extents, punched ones, and allocated ones that were
// never written, behind the end of the file too.
func (p *Populator) Sparse(extents, punched int) {
	block := func(f *os.File, i int, b []byte) {
		_, err := f.WriteAt(b, int64(i*p.BlockSize))
		p.Check(err)
	}
	p.Create("sparse", func(f *os.File) {
		for _, off := range []int{0, 10 * p.BlockSize, 1000 * p.BlockSize, 1200*p.BlockSize + 17} {
			_, err := f.WriteAt(p.Random(p.BlockSize), int64(off))
			p.Check(err)
		}
		p.Check(f.Truncate(int64(1400*p.BlockSize + 5)))
	})
	one := p.Random(p.BlockSize)
	p.Create("many extents", func(f *os.File) {
		for i := range extents {
			one[0] = byte(i)
			block(f, 2*i, one)
		}
	})
	p.Create("punched", func(f *os.File) {
		block(f, 0, p.Random(punched*p.BlockSize))
		for i := 1; i < punched; i += 7 {
			if !p.May(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(i*p.BlockSize), int64(i%3+1)*int64(p.BlockSize))) {
				break
			}
		}
	})
	p.Create("unwritten", func(f *os.File) {
		if !p.May(unix.Fallocate(int(f.Fd()), 0, 0, int64(200*p.BlockSize))) {
			return
		}
		for _, i := range []int{3, 4, 50, 199} {
			block(f, i, one)
		}
		p.May(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, int64(300*p.BlockSize), int64(20*p.BlockSize)))
	})
}

// Links makes symbolic links whose targets have these lengths, odd ones, and hard links of
// "file-500".
func (p *Populator) Links(lengths ...int) {
	for _, n := range lengths {
		p.May(os.Symlink(strings.Repeat("x", n), p.Path(fmt.Sprintf("link-%d", n))))
	}
	p.Check(os.Symlink("file-100", p.Path("link")))
	p.Check(os.Symlink("/etc/\xff\n", p.Path("odd link")))
	for i := range 3 {
		p.Check(os.Link(p.Path("file-500"), p.Path(fmt.Sprintf("hard-%d", i))))
	}
}

// Nodes makes devices, among them a character device with the largest numbers, a FIFO and a socket.
func (p *Populator) Nodes(major, minor uint32) {
	for _, n := range []struct {
		name         string
		mode         uint32
		major, minor uint32
	}{
		{"block small", unix.S_IFBLK | 0o660, 8, 1},
		{"char small", unix.S_IFCHR | 0o666, 1, 3},
		{"block large", unix.S_IFBLK | 0o600, 300, 70000},
		{"char large", unix.S_IFCHR | 0o600, major, minor},
		{"char zero", unix.S_IFCHR | 0o600, 0, 0},
		{"fifo", unix.S_IFIFO | 0o644, 0, 0},
		{"socket", unix.S_IFSOCK | 0o755, 0, 0},
	} {
		p.Check(unix.Mknod(p.Path(n.name), n.mode, int(unix.Mkdev(n.major, n.minor))))
	}
}

// Names makes files with names that are hard on readers.
func (p *Populator) Names() {
	p.Check(os.Mkdir(p.Path("names"), 0o755))
	for _, n := range []string{"new\nline", "\xff\xfe invalid", " ", "...", "ümlaut", strings.Repeat("n", 255), strings.Repeat("\x80", 254), "-", "*?[]\\\"'"} {
		p.Write("names/"+n, []byte(n))
	}
}

// ACL is a POSIX access control list as setxattr takes it: owner rwx, user 1000 r--, user 70000
// -w-, group r-x, group 12 --x, mask rwx, others r--.
var ACL = []byte("\x02\x00\x00\x00" +
	"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" + "\x02\x00\x02\x00\x70\x11\x01\x00" +
	"\x04\x00\x05\x00\xff\xff\xff\xff" + "\x08\x00\x01\x00\x0c\x00\x00\x00" + "\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff")

// ACLs makes a file and a directory with access control lists, and a file that inherits one.
func (p *Populator) ACLs() {
	set := func(path, name string) { p.May(unix.Lsetxattr(path, name, ACL, 0)) }
	set(p.Write("acl", nil), "system.posix_acl_access")
	p.Check(os.Mkdir(p.Path("acl dir"), 0o750))
	set(p.Path("acl dir"), "system.posix_acl_access")
	set(p.Path("acl dir"), "system.posix_acl_default")
	p.Write("acl dir/heir", []byte("inherits"))
}

// Times makes files with times from 1901 to last, which is the file system's latest. What changes
// a file afterwards changes them.
func (p *Populator) Times(last time.Time) {
	for i, at := range []time.Time{
		time.Date(1901, 12, 14, 0, 0, 0, 1, time.UTC),
		time.Date(1969, 12, 31, 23, 59, 59, 999999999, time.UTC),
		time.Date(2026, 5, 4, 3, 2, 1, 123456789, time.UTC),
		time.Date(2038, 1, 19, 3, 14, 8, 500, time.UTC),
		time.Date(2106, 2, 7, 6, 28, 16, 0, time.UTC),
		time.Date(2200, 1, 1, 0, 0, 0, 42, time.UTC),
		last,
	} {
		p.Check(os.Chtimes(p.Write(fmt.Sprintf("time-%d", i), nil), at, at.Add(-time.Nanosecond)))
	}
}
