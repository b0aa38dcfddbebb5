package jbd2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/ext4/jbd2"
	"vmfr/test/fixture"
)

// image is a small ext4 file system in memory.
type image struct {
	b         []byte
	blockSize int
	log       []int // where the journal's blocks lie
}

func (m *image) journal() extent.Reader {
	var parts []extent.Reader
	for n := range m.log {
		parts = append(parts, extent.Bytes(m.block(n)))
	}
	r, err := extent.Concat(parts...)
	if err != nil {
		panic(err) // the sizes are ours
	}
	return r
}

// block is block n of the journal.
func (m *image) block(n int) []byte {
	return m.b[m.log[n]*m.blockSize : (m.log[n]+1)*m.blockSize]
}

func (m *image) clone() *image {
	c := *m
	c.b = bytes.Clone(m.b)
	return &c
}

func (m *image) load() (*jbd2.Replay, error) {
	return jbd2.Load(m.journal(), jbd2.Config{BlockSize: m.blockSize, Blocks: uint64(len(m.b) / m.blockSize)})
}

// read loads an image file.
func read(t testing.TB, img string) *image {
	t.Helper()
	m := &image{}
	var err error
	if m.b, err = os.ReadFile(img); err != nil {
		t.Fatal(err)
	}
	m.blockSize = 1024 << binary.LittleEndian.Uint32(m.b[1024+24:])
	// The journal has 4 MiB at most.
	var script strings.Builder
	for n := range 4 << 20 / m.blockSize {
		fmt.Fprintf(&script, "bmap <8> %d\n", n)
	}
	cmd := exec.Command("debugfs", "-c", "-f", "-", img)
	cmd.Stdin = strings.NewReader(script.String())
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(out), "\n") {
		if n, err := strconv.Atoi(line); err == nil && n != 0 {
			m.log = append(m.log, n)
		}
	}
	if want := binary.BigEndian.Uint32(m.block(0)[16:]); len(m.log) != int(want) {
		t.Fatalf("debugfs maps %d blocks of the journal, which has %d", len(m.log), want)
	}
	return m
}

// dirtyImage has a journal that the kernel left dirty, of several transactions with revokes.
func dirtyImage(t testing.TB, mkfs []string, mount string) *image {
	t.Helper()
	fixture.NeedRoot(t)
	fixture.Need(t, "debugfs")
	img := fixture.Ext4(t, "", 8<<20, append([]string{"-b", "1024", "-J", "size=1", "-N", "512", "-E", "lazy_itable_init=0"}, mkfs...)...)
	dir := fixture.Mount(t, img, "ext4", "rw,noatime"+mount, 0, 0)
	sync := func(name string) {
		f, err := os.Create(filepath.Join(dir, name))
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for round := range 5 {
		for i := range 12 {
			if err := os.Mkdir(filepath.Join(dir, fmt.Sprintf("dir%d-%d", round, i)), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		sync(fmt.Sprint("made", round))
		for i := range 8 {
			if err := os.Remove(filepath.Join(dir, fmt.Sprintf("dir%d-%d", round, i))); err != nil {
				t.Fatal(err)
			}
		}
		sync(fmt.Sprint("removed", round))
	}
	fixture.Shutdown(t, dir, true)
	return read(t, fixture.Copy(t, img))
}

// kernelReplay mounts and unmounts a copy, and returns what the kernel made of it, or false
// where it refuses to mount.
func kernelReplay(t testing.TB, m *image) (*image, bool) {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(img, m.b, 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := fixture.TryMount(t, img, "ext4", "rw,noatime,noinit_itable", 0, 0)
	if err != nil {
		t.Log(err)
		return nil, false
	}
	fixture.Unmount(t, dir)
	out := m.clone()
	if out.b, err = os.ReadFile(img); err != nil {
		t.Fatal(err)
	}
	return out, true
}

// difference names the first block, other than the superblock and the journal, whose contents
// differ between ours and the kernel's; -1: none.
func difference(t testing.TB, m, kernel *image, r *jbd2.Replay) int {
	t.Helper()
	o, err := extent.Overlay(extent.Bytes(m.b), r.Patches)
	if err != nil {
		t.Fatal(err)
	}
	ours := make([]byte, len(m.b))
	if n, err := o.ReadAt(ours, 0); n < len(ours) {
		t.Fatal(err)
	}
	for n := 2; n < len(m.b)/m.blockSize; n++ {
		if !slices.Contains(m.log, n) && !bytes.Equal(ours[n*m.blockSize:(n+1)*m.blockSize], kernel.b[n*m.blockSize:(n+1)*m.blockSize]) {
			return n
		}
	}
	return -1
}

// attempts is how many images may be made where what the kernel does at times of its own, or
// because anybody on the machine calls sync, leaves one that shows nothing.
const attempts = 10

// home tells whether all that a replay would write is in its place already.
func home(t testing.TB, m *image, r *jbd2.Replay) bool {
	t.Helper()
	return difference(t, m, m, r) < 0
}

var variants = []struct {
	name  string
	mkfs  []string
	mount string
}{
	{"v3 64bit", []string{"-O", "metadata_csum,64bit"}, ""},
	{"v3 32bit", []string{"-O", "metadata_csum,^64bit"}, ""},
	{"none 64bit", []string{"-O", "^metadata_csum,64bit"}, ""},
	{"none 32bit", []string{"-O", "^metadata_csum,^64bit"}, ""},
	{"v1", []string{"-O", "^metadata_csum,^64bit"}, ",journal_checksum"},
	{"v1 async", []string{"-O", "^metadata_csum,^64bit"}, ",journal_async_commit,data=writeback"},
	{"v3 async", []string{"-O", "metadata_csum,64bit"}, ",journal_async_commit,data=writeback"},
}

// TestAgainstKernel compares every block of the replayed device with what the kernel makes of it.
func TestAgainstKernel(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			m := dirtyImage(t, v.mkfs, v.mount)
			r, err := m.load()
			for n := 1; err == nil && n < attempts && home(t, m, r); n++ {
				m = dirtyImage(t, v.mkfs, v.mount)
				r, err = m.load()
			}
			if err != nil {
				t.Fatal(err)
			}
			kernel, ok := kernelReplay(t, m)
			if !ok {
				t.Fatal("the kernel does not mount it")
			}
			if r.Clean || r.Transactions < 8 || r.Blocks == 0 || r.Revoked == 0 {
				t.Errorf("replay of %d blocks, %d transactions, %d revoked: too little for this test", r.Blocks, r.Transactions, r.Revoked)
			}
			if n := difference(t, m, kernel, r); n >= 0 {
				t.Errorf("block %d differs from the kernel's", n)
			}
			r.Patches = nil
			if difference(t, m, kernel, r) < 0 {
				t.Error("nothing differs without the replay: this test shows nothing")
			}
		})
	}
}

// TestDamagedAgainstKernel damages the log at random. Where the kernel replays what is left we
// must do exactly the same, and where it refuses because of the journal so must we.
func TestDamagedAgainstKernel(t *testing.T) {
	const damages = 20 // of each variant; more by VMFR_JBD2_DAMAGES
	rounds := damages
	if s := os.Getenv("VMFR_JBD2_DAMAGES"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			base := dirtyImage(t, v.mkfs, v.mount)
			used := 1
			for n := 1; n < len(base.log) && !bytes.Equal(base.block(n), make([]byte, base.blockSize)); n++ {
				used++
			}
			replayed, refused := 0, 0
			for seed := range rounds {
				rng := rand.New(rand.NewPCG(uint64(seed), 3))
				m := base.clone()
				what := damage(m, rng, used)
				kernel, ok := kernelReplay(t, m)
				r, err := m.load()
				switch {
				case err != nil && !errors.Is(err, fsys.ErrCorrupt) && !errors.Is(err, fsys.ErrUnsupported):
					t.Errorf("seed %d: %s: %v is of no kind", seed, what, err)
				case ok && err != nil:
					t.Errorf("seed %d: %s: the kernel mounts it, we say %v", seed, what, err)
				case !ok && err == nil:
					// Replayed nonsense may make the file system unfit to mount for
					// other reasons; without data checksums nobody can see it.
					if strings.HasPrefix(v.name, "v3") {
						t.Errorf("seed %d: %s: the kernel refuses it, we replay %d blocks", seed, what, r.Blocks)
					}
				case ok:
					replayed++
					if n := difference(t, m, kernel, r); n >= 0 {
						t.Errorf("seed %d: %s: block %d differs from the kernel's", seed, what, n)
					}
				default:
					refused++
				}
			}
			t.Logf("%d replayed, %d refused", replayed, refused)
		})
	}
}

// damage changes one block of the log's used part and says how.
func damage(m *image, rng *rand.Rand, used int) string {
	// Half of the time a block of the journal itself, and not logged data.
	n := 1 + rng.IntN(used-1)
	if rng.IntN(2) == 0 {
		for range 200 {
			if n = 1 + rng.IntN(used-1); binary.BigEndian.Uint32(m.block(n)) == 0xC03B3998 {
				break
			}
		}
	}
	b := m.block(n)
	kind := binary.BigEndian.Uint32(b[4:])
	name := map[uint32]string{1: "descriptor", 2: "commit", 5: "revoke"}[kind]
	if binary.BigEndian.Uint32(b) != 0xC03B3998 {
		name = "data"
	}
	switch k := rng.IntN(6); k {
	case 0:
		clear(b)
		return fmt.Sprintf("%s block %d zeroed", name, n)
	case 1:
		at := rng.IntN(64)
		b[at] ^= 1 << rng.IntN(8)
		return fmt.Sprintf("%s block %d: bit at %d flipped", name, n, at)
	case 2:
		at := rng.IntN(len(b))
		b[at] ^= 1 << rng.IntN(8)
		return fmt.Sprintf("%s block %d: bit at %d flipped", name, n, at)
	case 3:
		o := 1 + rng.IntN(used-1)
		copy(b, m.block(o))
		return fmt.Sprintf("%s block %d overwritten by block %d", name, n, o)
	case 4:
		clear(b[512:])
		return fmt.Sprintf("%s block %d: second sector zeroed", name, n)
	default:
		// A commit block's time decides between damage and leftovers.
		if kind == 2 {
			binary.BigEndian.PutUint64(b[48:], 1)
			return fmt.Sprintf("commit block %d: time 1", n)
		}
		binary.BigEndian.PutUint32(b[8:], binary.BigEndian.Uint32(b[8:])+1)
		return fmt.Sprintf("%s block %d: next transaction's number", name, n)
	}
}

// fastCommit has a journal that ends with a fast commit, and the place of that: -1 if there is none.
func fastCommit(t testing.TB) (m *image, area int) {
	t.Helper()
	img := fixture.Ext4(t, "", 16<<20, "-b", "1024", "-J", "size=2", "-O", "fast_commit", "-E", "lazy_itable_init=0")
	dir := fixture.Mount(t, img, "ext4", "rw,noatime,commit=300", 0, 0)
	write := func(name string, full bool) {
		f, err := os.Create(filepath.Join(dir, name))
		if err == nil {
			if full { // an xattr makes a full commit
				err = unix.Fsetxattr(int(f.Fd()), "user.k", []byte("v"), 0)
			}
			_, werr := f.Write([]byte(name))
			err = errors.Join(err, werr, f.Sync(), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write("full", true)
	write("fast", false)
	fixture.Shutdown(t, dir, false)
	m = read(t, fixture.Copy(t, img))
	for n := range m.log {
		if binary.LittleEndian.Uint16(m.block(n)) == 9 && binary.LittleEndian.Uint16(m.block(n)[2:]) == 8 {
			return m, n
		}
	}
	return m, -1
}

// isNewest tells whether no full commit came after the fast one at area, which makes it void.
func (m *image) isNewest(area int) bool {
	full := uint32(0)
	for n := range m.log {
		if b := m.block(n); binary.BigEndian.Uint32(b) == 0xC03B3998 && binary.BigEndian.Uint32(b[4:]) == 2 {
			full = max(full, binary.BigEndian.Uint32(b[8:]))
		}
	}
	return binary.LittleEndian.Uint32(m.block(area)[8:]) == full+1
}

// TestFastCommit: a complete fast commit is refused as unsupported, and one that was interrupted
// is what the kernel makes of it.
func TestFastCommit(t *testing.T) {
	fixture.NeedRoot(t)
	fixture.Need(t, "debugfs")
	m, area := fastCommit(t)
	for n := 1; n < attempts && area >= 0 && !m.isNewest(area); n++ { // somebody's sync was a full commit
		m, area = fastCommit(t)
	}
	if area < 0 {
		t.Fatal("there is no fast commit: this test shows nothing")
	}
	for _, c := range []struct {
		name   string
		mutate func(b []byte)
		want   error
	}{
		{"complete", func([]byte) {}, fsys.ErrUnsupported},
		{"none", func(b []byte) { clear(b) }, nil},
		{"of another transaction", func(b []byte) { b[8] ^= 0x40 }, nil},
		{"interrupted", func(b []byte) { b[30] ^= 1 }, fsys.ErrCorrupt},
		{"of no known kind", func(b []byte) { b[4] = 1 }, fsys.ErrUnsupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := m.clone()
			c.mutate(m.block(area))
			r, err := m.load()
			if !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			kernel, ok := kernelReplay(t, m)
			if wantOK := c.want == nil || c.name == "complete"; ok != wantOK {
				t.Errorf("the kernel mounts it: %v", ok)
			}
			if ok && err == nil {
				if n := difference(t, m, kernel, r); n >= 0 {
					t.Errorf("block %d differs from the kernel's", n)
				}
			}
		})
	}
}
