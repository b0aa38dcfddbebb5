package xfs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/fsys/fsystest"
)

// populate fills a directory of a mounted file system with one object of each kind that it takes.
func populate(t testing.TB, root string, blockSize int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(3, 4))
	p := &populator{fsystest.Populator{T: t, Root: root, BlockSize: blockSize, Refused: []error{unix.ENOTSUP, unix.ENAMETOOLONG, unix.EINVAL},
		Random: func(n int) []byte { // compresses well, for the images in testdata
			b := make([]byte, 0, n+16)
			for seed := rng.Uint32(); len(b) < n; {
				b = fmt.Appendf(b, "%08x at %04x\n\x00", seed, len(b)/16&0xFFFF)
			}
			return b[:n]
		}}}
	p.Files(0, 1, 100, 500, blockSize-1, blockSize, blockSize+1, 12*blockSize+3, 300*1024)
	// The tree of the map gets two levels above the leaves where blocks are small.
	p.Sparse(max(100, min(1000, 8<<20/blockSize)), 100)
	p.shared()
	p.Links(1, 60, 150, 300, 335, 336, 337, 455, 456, 457, 968, 969, 1000, 1022, 1023)
	p.Nodes(511, 262143)
	p.Names()
	p.ACLs()
	p.attributes()
	p.longACL()
	p.directories()
	p.Times(time.Date(2486, 7, 1, 0, 0, 0, 7, time.UTC))
}

type populator struct{ fsystest.Populator }

// shared makes reflinks, and a file that shares blocks with itself.
func (p *populator) shared() {
	src, err := os.Open(p.Write("original", p.Random(20*p.BlockSize)))
	p.Check(err)
	defer src.Close()
	for i, n := range []string{"clone", "clone changed"} {
		p.Create(n, func(f *os.File) {
			if p.May(unix.IoctlFileClone(int(f.Fd()), int(src.Fd()))) && i == 1 {
				_, err := f.WriteAt([]byte("changed"), int64(5*p.BlockSize+3))
				p.Check(err)
			}
		})
	}
	f, err := os.OpenFile(p.Write("shared with itself", p.Random(2*p.BlockSize)), os.O_RDWR, 0)
	p.Check(err)
	for i := 1; i < 5; i++ {
		if !p.May(unix.IoctlFileCloneRange(int(f.Fd()), &unix.FileCloneRange{Src_fd: int64(f.Fd()), Src_length: uint64(p.BlockSize), Dest_offset: uint64(3 * i * p.BlockSize)})) {
			break
		}
	}
	p.Check(f.Close())
}

func (p *populator) attributes() {
	set := func(path, name string, value []byte) { p.Check(unix.Lsetxattr(path, name, value, 0)) }
	f := p.Write("attributes", []byte("x"))
	set(f, "user.empty", nil)
	set(f, "user.small", []byte("value"))
	set(f, "trusted.binary", []byte{0, 1, 2, 0xFF})
	set(f, "security.selinux", []byte("system_u:object_r:etc_t:s0\x00"))
	set(f, "security.capability", []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	set(f, "user."+strings.Repeat("n", 250), []byte("long name"))
	for _, n := range []int{10, 200, 256, 400, 900, 2000, 3000, 4040, 10000, 60000, 65536} {
		f := p.Write(fmt.Sprintf("attribute of %d", n), nil)
		set(f, "user.large", p.Random(n))
		set(f, "user.other", bytes.Repeat([]byte("o"), 20))
	}
	f = p.Write("many attributes", nil) // an index above the leaves
	for i := range 250 {
		set(f, fmt.Sprintf("user.%0*d", 5+i%100, i), p.Random(i%7*40))
	}
	for i := 0; i < 250; i += 3 {
		p.Check(unix.Removexattr(f, fmt.Sprintf("user.%0*d", 5+i%100, i)))
	}
	f = p.Write("attributes gone", nil)
	set(f, "user.gone", p.Random(5000))
	p.Check(unix.Removexattr(f, "user.gone"))
	set(p.Path("link"), "trusted.on-a-link", []byte("l"))
	set(p.Path("link-337"), "trusted.block", p.Random(600))
	set(p.Path("fifo"), "trusted.on-a-fifo", []byte("f"))
	set(p.Path("char large"), "trusted.on-a-device", []byte("d"))
	set(p.Path("many extents"), "user.beside-a-tree", p.Random(700))
	p.Check(os.Mkdir(p.Path("attribute dir"), 0o755))
	set(p.Path("attribute dir"), "user.dir", p.Random(600))
}

// longACL makes a list of 500 users: a value with blocks of its own.
func (p *populator) longACL() {
	long := slices.Clone(fsystest.ACL[:12])
	for i := range 500 {
		long = append(long, 2, 0, 4, 0, byte(i), byte(i>>8+4), 0, 0)
	}
	p.Check(unix.Lsetxattr(p.Write("long acl", nil), "system.posix_acl_access", append(long, fsystest.ACL[4+3*8:]...), 0))
}

func (p *populator) directories() {
	deep := p.Root
	for i := range 40 {
		deep = filepath.Join(deep, fmt.Sprintf("deep%d", i))
		p.Check(os.Mkdir(deep, 0o755))
	}
	for dir, n := range map[string]int{"empty": 0, "two": 2, "ten": 10, "fifty": 50, "hundreds": 700} {
		p.Check(os.Mkdir(p.Path(dir), 0o700))
		for i := range n {
			p.Check(os.Link(p.Path("setuid"), p.Path(fmt.Sprintf("%s/entry %0*d", dir, 1+i%40, i))))
			if i%10 == 1 {
				p.Write(fmt.Sprintf("%s/\xe9ntr\xc3\xa9 %d", dir, i), nil)
			}
		}
		for i := 0; i < n; i += 3 { // gaps between entries
			p.Check(os.Remove(p.Path(fmt.Sprintf("%s/entry %0*d", dir, 1+i%40, i))))
		}
	}
	for _, dir := range []string{"emptied", "hollow"} {
		p.Check(os.Mkdir(p.Path(dir), 0o700))
		for i := range 300 {
			p.Check(os.Link(p.Path("setuid"), p.Path(fmt.Sprintf("%s/%0100d", dir, i))))
		}
	}
	for i := range 300 { // blocks in the middle of hollow are given back
		p.Check(os.Remove(p.Path(fmt.Sprintf("emptied/%0100d", i))))
		if i > 20 && i < 280 {
			p.Check(os.Remove(p.Path(fmt.Sprintf("hollow/%0100d", i))))
		}
	}
}
