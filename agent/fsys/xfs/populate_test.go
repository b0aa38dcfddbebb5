package xfs

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// populate fills a directory of a mounted file system with one object of each kind that it takes.
// What the file system refuses (reflinks, say) is left out: the kernel's own listing is the oracle
// anyway.
func populate(t testing.TB, root string, blockSize int) {
	t.Helper()
	p := &populator{t: t, root: root, bs: blockSize, rng: rand.New(rand.NewPCG(3, 4))}
	p.files()
	p.sparse()
	p.shared()
	p.links()
	p.nodes()
	p.names()
	p.attributes()
	p.lists()
	p.directories()
	p.times() // last: it sets times
}

type populator struct {
	t    testing.TB
	root string
	bs   int
	rng  *rand.Rand
}

func (p *populator) path(name string) string { return filepath.Join(p.root, name) }

func (p *populator) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// may accepts the errors by which a file system says that it has no such thing.
func (p *populator) may(err error) bool {
	p.t.Helper()
	if err == nil {
		return true
	}
	for _, e := range []error{unix.ENOTSUP, unix.ENAMETOOLONG, unix.EINVAL} {
		if errors.Is(err, e) {
			return false
		}
	}
	p.t.Fatal(err)
	return false
}

// random gives bytes that are like no others and compress well, for the images in testdata.
func (p *populator) random(n int) []byte {
	b := make([]byte, 0, n+16)
	for seed := p.rng.Uint32(); len(b) < n; {
		b = fmt.Appendf(b, "%08x at %04x\n\x00", seed, len(b)/16&0xFFFF)
	}
	return b[:n]
}

func (p *populator) write(name string, content []byte) string {
	p.check(os.WriteFile(p.path(name), content, 0o644))
	return p.path(name)
}

func (p *populator) files() {
	for _, n := range []int{0, 1, 100, 500, p.bs - 1, p.bs, p.bs + 1, 12*p.bs + 3, 300 * 1024} {
		p.write(fmt.Sprintf("file-%d", n), p.random(n))
	}
	grown := p.write("small and grown", []byte("ten bytes."))
	p.check(os.Truncate(grown, 5000))
	shrunk := p.write("large and cut", p.random(20000))
	p.check(os.Truncate(shrunk, 33))
	p.check(os.Chmod(p.write("setuid", []byte("#!/bin/sh\n")), 0o755|os.ModeSetuid|os.ModeSetgid|os.ModeSticky))
	p.check(os.Chown(p.write("large ids", nil), 70000, 1<<31+5))
}

func (p *populator) sparse() {
	f, err := os.Create(p.path("sparse"))
	p.check(err)
	for _, off := range []int{0, 10 * p.bs, 1000 * p.bs, 1200*p.bs + 17} {
		_, err := f.WriteAt(p.random(p.bs), int64(off))
		p.check(err)
	}
	p.check(f.Truncate(int64(1400*p.bs + 5)))
	p.check(f.Close())

	// The tree of the map gets two levels above the leaves where blocks are small.
	f, err = os.Create(p.path("many extents"))
	p.check(err)
	one := p.random(p.bs)
	for i := range max(100, min(1000, 8<<20/p.bs)) {
		one[0] = byte(i)
		_, err := f.WriteAt(one, int64(2*i*p.bs))
		p.check(err)
	}
	p.check(f.Close())

	f, err = os.Create(p.path("punched"))
	p.check(err)
	_, err = f.Write(p.random(100 * p.bs))
	p.check(err)
	for i := 1; i < 100; i += 7 {
		p.check(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(i*p.bs), int64(i%3+1)*int64(p.bs)))
	}
	p.check(f.Close())

	f, err = os.Create(p.path("unwritten"))
	p.check(err)
	p.check(unix.Fallocate(int(f.Fd()), 0, 0, int64(200*p.bs)))
	for _, i := range []int{3, 4, 50, 199} {
		_, err := f.WriteAt(one, int64(i*p.bs))
		p.check(err)
	}
	p.check(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, int64(300*p.bs), int64(20*p.bs)))
	p.check(f.Close())
}

// shared makes reflinks, and a file that shares blocks with itself.
func (p *populator) shared() {
	src, err := os.Open(p.write("original", p.random(20*p.bs)))
	p.check(err)
	defer src.Close()
	for i, n := range []string{"clone", "clone changed"} {
		f, err := os.Create(p.path(n))
		p.check(err)
		if p.may(unix.IoctlFileClone(int(f.Fd()), int(src.Fd()))) && i == 1 {
			_, err := f.WriteAt([]byte("changed"), int64(5*p.bs+3))
			p.check(err)
		}
		p.check(f.Close())
	}
	f, err := os.OpenFile(p.write("shared with itself", p.random(2*p.bs)), os.O_RDWR, 0)
	p.check(err)
	for i := 1; i < 5; i++ {
		if !p.may(unix.IoctlFileCloneRange(int(f.Fd()), &unix.FileCloneRange{Src_fd: int64(f.Fd()), Src_length: uint64(p.bs), Dest_offset: uint64(3 * i * p.bs)})) {
			break
		}
	}
	p.check(f.Close())
}

func (p *populator) links() {
	for _, n := range []int{1, 60, 150, 300, 335, 336, 337, 455, 456, 457, 968, 969, 1000, 1022, 1023} {
		p.may(os.Symlink(strings.Repeat("x", n), p.path(fmt.Sprintf("link-%d", n))))
	}
	p.check(os.Symlink("file-100", p.path("link")))
	p.check(os.Symlink("/etc/\xff\n", p.path("odd link")))
	for i := range 3 {
		p.check(os.Link(p.path("file-500"), p.path(fmt.Sprintf("hard-%d", i))))
	}
}

func (p *populator) nodes() {
	for _, n := range []struct {
		name         string
		mode         uint32
		major, minor uint32
	}{
		{"block", unix.S_IFBLK | 0o660, 8, 1},
		{"char", unix.S_IFCHR | 0o666, 1, 3},
		{"block large", unix.S_IFBLK | 0o600, 300, 70000},
		{"char large", unix.S_IFCHR | 0o600, 511, 262143},
		{"char zero", unix.S_IFCHR | 0o600, 0, 0},
		{"fifo", unix.S_IFIFO | 0o644, 0, 0},
		{"socket", unix.S_IFSOCK | 0o755, 0, 0},
	} {
		p.check(unix.Mknod(p.path(n.name), n.mode, int(unix.Mkdev(n.major, n.minor))))
	}
}

func (p *populator) names() {
	p.check(os.Mkdir(p.path("names"), 0o755))
	for _, n := range []string{"new\nline", "\xff\xfe invalid", " ", "...", "ümlaut", strings.Repeat("n", 255), strings.Repeat("\x80", 254), "-", "*?[]\\\"'"} {
		p.write("names/"+n, []byte(n))
	}
}

func (p *populator) attributes() {
	set := func(path, name string, value []byte) { p.check(unix.Lsetxattr(path, name, value, 0)) }
	f := p.write("attributes", []byte("x"))
	set(f, "user.empty", nil)
	set(f, "user.small", []byte("value"))
	set(f, "trusted.binary", []byte{0, 1, 2, 0xFF})
	set(f, "security.selinux", []byte("system_u:object_r:etc_t:s0\x00"))
	set(f, "security.capability", []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	set(f, "user."+strings.Repeat("n", 250), []byte("long name"))
	for _, n := range []int{10, 200, 256, 400, 900, 2000, 3000, 4040, 10000, 60000, 65536} {
		f := p.write(fmt.Sprintf("attribute of %d", n), nil)
		set(f, "user.large", p.random(n))
		set(f, "user.other", bytes.Repeat([]byte("o"), 20))
	}
	f = p.write("many attributes", nil) // an index above the leaves
	for i := range 250 {
		set(f, fmt.Sprintf("user.%0*d", 5+i%100, i), p.random(i%7*40))
	}
	for i := 0; i < 250; i += 3 {
		p.check(unix.Removexattr(f, fmt.Sprintf("user.%0*d", 5+i%100, i)))
	}
	f = p.write("attributes gone", nil)
	set(f, "user.gone", p.random(5000))
	p.check(unix.Removexattr(f, "user.gone"))
	set(p.path("link"), "trusted.on-a-link", []byte("l"))
	set(p.path("link-337"), "trusted.block", p.random(600))
	set(p.path("fifo"), "trusted.on-a-fifo", []byte("f"))
	set(p.path("char large"), "trusted.on-a-device", []byte("d"))
	set(p.path("many extents"), "user.beside-a-tree", p.random(700))
	p.check(os.Mkdir(p.path("attribute dir"), 0o755))
	set(p.path("attribute dir"), "user.dir", p.random(600))
}

// lists sets POSIX access control lists.
func (p *populator) lists() {
	set := func(path, name string, value []byte) { p.check(unix.Lsetxattr(path, name, value, 0)) }
	// owner rwx, user 1000 r--, user 70000 -w-, group r-x, group 12 --x, mask rwx, others r--
	acl := []byte("\x02\x00\x00\x00" +
		"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" + "\x02\x00\x02\x00\x70\x11\x01\x00" +
		"\x04\x00\x05\x00\xff\xff\xff\xff" + "\x08\x00\x01\x00\x0c\x00\x00\x00" + "\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff")
	set(p.write("acl", nil), "system.posix_acl_access", acl)
	p.check(os.Mkdir(p.path("acl dir"), 0o750))
	set(p.path("acl dir"), "system.posix_acl_access", acl)
	set(p.path("acl dir"), "system.posix_acl_default", acl)
	p.write("acl dir/heir", []byte("inherits"))
	long := append([]byte(nil), acl[:12]...) // 500 users: a value with blocks of its own
	for i := range 500 {
		long = append(long, 2, 0, 4, 0, byte(i), byte(i>>8+4), 0, 0)
	}
	set(p.write("long acl", nil), "system.posix_acl_access", append(long, acl[4+3*8:]...))
}

func (p *populator) directories() {
	deep := p.root
	for i := range 40 {
		deep = filepath.Join(deep, fmt.Sprintf("deep%d", i))
		p.check(os.Mkdir(deep, 0o755))
	}
	for dir, n := range map[string]int{"empty": 0, "two": 2, "ten": 10, "fifty": 50, "hundreds": 700} {
		p.check(os.Mkdir(p.path(dir), 0o700))
		for i := range n {
			p.check(os.Link(p.path("setuid"), p.path(fmt.Sprintf("%s/entry %0*d", dir, 1+i%40, i))))
			if i%10 == 1 {
				p.write(fmt.Sprintf("%s/\xe9ntr\xc3\xa9 %d", dir, i), nil)
			}
		}
		for i := 0; i < n; i += 3 { // gaps between entries
			p.check(os.Remove(p.path(fmt.Sprintf("%s/entry %0*d", dir, 1+i%40, i))))
		}
	}
	for _, dir := range []string{"emptied", "hollow"} {
		p.check(os.Mkdir(p.path(dir), 0o700))
		for i := range 300 {
			p.check(os.Link(p.path("setuid"), p.path(fmt.Sprintf("%s/%0100d", dir, i))))
		}
	}
	for i := range 300 { // blocks in the middle of hollow are given back
		p.check(os.Remove(p.path(fmt.Sprintf("emptied/%0100d", i))))
		if i > 20 && i < 280 {
			p.check(os.Remove(p.path(fmt.Sprintf("hollow/%0100d", i))))
		}
	}
}

func (p *populator) times() {
	for i, at := range []time.Time{
		time.Date(1901, 12, 14, 0, 0, 0, 1, time.UTC),
		time.Date(1969, 12, 31, 23, 59, 59, 999999999, time.UTC),
		time.Date(2026, 5, 4, 3, 2, 1, 123456789, time.UTC),
		time.Date(2038, 1, 19, 3, 14, 8, 500, time.UTC),
		time.Date(2106, 2, 7, 6, 28, 16, 0, time.UTC),
		time.Date(2200, 1, 1, 0, 0, 0, 42, time.UTC),
		time.Date(2486, 7, 1, 0, 0, 0, 7, time.UTC),
	} {
		p.check(os.Chtimes(p.write(fmt.Sprintf("time-%d", i), nil), at, at.Add(-time.Nanosecond)))
	}
}
