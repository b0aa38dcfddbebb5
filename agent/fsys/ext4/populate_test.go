package ext4

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/agent/fsys/fsystest"
)

// populate fills a directory of a mounted file system with one object of each kind that it takes.
func populate(t testing.TB, root string, blockSize int) {
	t.Helper()
	p := newPopulator(t, root, blockSize)
	p.Files(0, 1, 59, 60, 61, 100, 150, 170, 500, blockSize-1, blockSize, blockSize+1, 12*blockSize+3, 300*1024)
	p.Sparse(1000, 300)
	p.Links(1, 30, 58, 59, 60, 61, 100, 150, 300, 1000, 1023, 2000, 4094, 4095)
	p.Nodes(4095, 1048575)
	p.Names()
	p.ACLs()
	p.attributes()
	p.directories()
	p.Times(time.Date(2446, 5, 10, 0, 0, 0, 7, time.UTC))
}

func newPopulator(t testing.TB, root string, blockSize int) *populator {
	rng := rand.New(rand.NewPCG(3, 4))
	return &populator{fsystest.Populator{T: t, Root: root, BlockSize: blockSize,
		Refused: []error{unix.ENOTSUP, unix.ENOSPC, unix.ENAMETOOLONG, unix.E2BIG, unix.ERANGE, unix.EFBIG},
		Random: func(n int) []byte {
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
			return b
		}}}
}

type populator struct{ fsystest.Populator }

func (p *populator) attributes() {
	set := func(path, name string, value []byte) { p.May(unix.Lsetxattr(path, name, value, 0)) }
	f := p.Write("attributes", []byte("x"))
	set(f, "user.empty", nil)
	set(f, "user.small", []byte("value"))
	set(f, "trusted.binary", []byte{0, 1, 2, 0xFF})
	set(f, "security.selinux", []byte("system_u:object_r:etc_t:s0\x00"))
	set(f, "security.capability", []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	set(f, "user."+strings.Repeat("n", 200), []byte("long name"))
	for _, n := range []int{10, 400, 900, 3000, 10000, 60000, 65536} {
		f := p.Write(fmt.Sprintf("attribute of %d", n), nil)
		set(f, "user.large", p.Random(n))
		set(f, "user.other", bytes.Repeat([]byte("o"), 20))
	}
	for _, n := range []string{"shared a", "shared b"} { // one block, one value inode for both
		f := p.Write(n, nil)
		set(f, "user.same", bytes.Repeat([]byte("s"), 700))
		set(f, "user.long", bytes.Repeat([]byte("t"), 5000))
	}
	set(p.Path("link"), "trusted.on-a-link", []byte("l"))
	set(p.Path("link-59"), "trusted.block", p.Random(min(600, p.BlockSize/2)))
	set(p.Path("fifo"), "trusted.on-a-fifo", []byte("f"))
	p.Check(os.Mkdir(p.Path("attribute dir"), 0o755))
	set(p.Path("attribute dir"), "user.dir", p.Random(min(600, p.BlockSize/2)))
}

func (p *populator) directories() {
	deep := p.Root
	for i := range 20 {
		deep = filepath.Join(deep, fmt.Sprintf("deep%d", i))
		p.Check(os.Mkdir(deep, 0o755))
	}
	for dir, n := range map[string]int{"empty": 0, "two": 2, "ten": 10, "hundreds": 400} {
		p.Check(os.Mkdir(p.Path(dir), 0o700))
		for i := range n {
			p.Write(fmt.Sprintf("%s/entry %0*d", dir, 1+i%40, i), nil)
			if i%10 == 1 {
				p.Write(fmt.Sprintf("%s/\xe9ntr\xc3\xa9 %d", dir, i), nil) // the sign of char counts
			}
		}
		for i := 0; i < n; i += 3 { // gaps between records
			p.Check(os.Remove(p.Path(fmt.Sprintf("%s/entry %0*d", dir, 1+i%40, i))))
		}
	}
	p.Check(os.Mkdir(p.Path("emptied"), 0o700))
	for i := range 300 {
		p.Write(fmt.Sprintf("emptied/%d", i), nil)
	}
	for i := range 300 {
		p.Check(os.Remove(p.Path(fmt.Sprintf("emptied/%d", i))))
	}
}
