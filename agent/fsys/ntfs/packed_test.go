package ntfs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/extent"
	"vmfr/agent/fsys/fsystest"
)

// compressed makes a directory whose files ntfs-3g compresses.
func compressed(t testing.TB, dir string) {
	t.Helper()
	check(t, os.Mkdir(dir, 0o755))
	check(t, unix.Setxattr(dir, "system.ntfs_attrib_be", []byte{0, 0, 0x08, 0x10}, 0))
}

// text compresses about as text does.
func text(seed uint64, n int) []byte {
	words := strings.Fields("the file system of a guest is read where it lies and nothing of it is ever written not even once")
	var b bytes.Buffer
	for i := seed; b.Len() < n; i = i*6364136223846793005 + 1442695040888963407 {
		fmt.Fprintf(&b, "%s %d ", words[i>>33%uint64(len(words))], i>>40&1023)
	}
	return b.Bytes()[:n]
}

// mixed has parts that compress, parts that do not and zeros, of lengths around a unit's.
func mixed(n int) []byte {
	var b []byte
	for i := uint64(0); len(b) < n; i++ {
		k := []int{70_000, 4096, 65_536, 1, 200_000}[i%5]
		switch i % 3 {
		case 0:
			b = append(b, text(i, k)...)
		case 1:
			b = append(b, noise(i, k)...)
		case 2:
			b = append(b, make([]byte, k)...)
		}
	}
	return b[:n]
}

func TestCompressed(t *testing.T) {
	for _, cluster := range []string{"512", "1024", "4096"} {
		t.Run(cluster, func(t *testing.T) {
			img := makeNTFS(t, 96<<20, "-c", cluster)
			dir := mount(t, img, "compression")
			c := filepath.Join(dir, "c")
			compressed(t, c)
			p := func(s string) string { return filepath.Join(c, s) }
			unit := 16 * atoi(t, cluster)
			for _, n := range []int{1, 100, 1000, 4095, 4096, 4097, unit - 1, unit, unit + 1, 3*unit - 7, 5*unit + 100, 1 << 20, 3<<20 + 12345} {
				write(t, p(fmt.Sprintf("text %d", n)), text(1, n))
				write(t, p(fmt.Sprintf("noise %d", n)), noise(2, n))
				write(t, p(fmt.Sprintf("mixed %d", n)), mixed(n))
				write(t, p(fmt.Sprintf("same %d", n)), bytes.Repeat([]byte("x"), n))
				write(t, p(fmt.Sprintf("zero %d", n)), make([]byte, n))
			}
			f, err := os.Create(p("sparse"))
			check(t, err)
			for i := range 10 {
				_, err := f.WriteAt(text(uint64(i), 10_000), int64(i)*300_000)
				check(t, err)
			}
			check(t, f.Close())
			check(t, os.Truncate(p("mixed 1048576"), 700_001))
			unmount(t, img, dir)
			want := manifest(t, img)
			fs := openImage(t, img)
			fsystest.Run(t, fs, want)

			// The test must have met units of every kind.
			kinds := map[string]int{}
			for path := range want {
				if !strings.HasPrefix(path, "c/") {
					continue
				}
				r, err := fs.Open(find(t, fs, path))
				check(t, err)
				if z, ok := r.(*packed); ok {
					for u := int64(0); u*z.unit < z.size; u++ {
						switch n, err := z.stored(u); {
						case err != nil:
							t.Fatal(err)
						case n == 0:
							kinds["hole"]++
						case n == z.unit:
							kinds["as it is"]++
						default:
							kinds["compressed"]++
						}
					}
				}
			}
			t.Logf("%v", kinds)
			for _, k := range []string{"hole", "as it is", "compressed"} {
				if kinds[k] < 10 {
					t.Errorf("%d units %s", kinds[k], k)
				}
			}
			if st := fs.inflated.Stats(); st.Bytes > DefaultInflatedBytes || st.Hits == 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

func atoi(t testing.TB, s string) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestInflate holds the decoder to chunks put together by hand.
func TestInflate(t *testing.T) {
	for _, c := range []struct {
		name, in, out string
		err           error
	}{
		{"empty", "", "", nil},
		{"end", "\x00\x00garbage", "", nil},
		{"stored", "\x02\x30abc", "abc", nil},
		{"literals", "\x03\xb0\x00abc", "abc", nil},
		{"eight literals", "\x08\xb0\x00abcdefgh", "abcdefgh", nil},
		{"overlap", "\x03\xb0\x02a\x07\x00", "aaaaaaaaaaa", nil},
		{"pair", "\x04\xb0\x04ab\x01\x10", "ababab", nil},
		{"two chunks", "\x00\x30a\x00\x30b", "a" + strings.Repeat("\x00", 4095) + "b", nil},
		{"no signature", "\x02\x00abc", "", errChunkMark},
		{"truncated", "\x10\x30abc", "", errChunkSize},
		{"half a reference", "\x02\xb0\x02a\x07", "", errChunkSize},
		{"before the start", "\x03\xb0\x02a\x00\x10", "", errReference},
		{"past the end", "\x03\xb0\x02a\xff\x0f", strings.Repeat("a", 4096), errReference},
		{"all", "\x03\xb0\x02a\xfc\x0f", strings.Repeat("a", 4096), nil},
	} {
		out := bytes.Repeat([]byte{0xEE}, 2*lzChunk)
		err := inflate(out, []byte(c.in))
		if err != c.err {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		} else if want := c.out + strings.Repeat("\x00", len(out)-len(c.out)); err == nil && string(out) != want {
			t.Errorf("%s: %.40q", c.name, out)
		}
	}
}

// BenchmarkCompressed reads a compressed file from start to end, in pieces as FUSE asks for them.
func BenchmarkCompressed(b *testing.B) {
	img := makeNTFS(b, 256<<20)
	dir := mount(b, img, "compression")
	compressed(b, filepath.Join(dir, "c"))
	write(b, filepath.Join(dir, "c/f"), text(1, 32<<20))
	write(b, filepath.Join(dir, "plain"), text(1, 32<<20))
	unmount(b, img, dir)
	fs := openImage(b, img)
	for _, c := range []struct {
		path  string
		piece int
	}{{"plain", 128 << 10}, {"c/f", 4 << 10}, {"c/f", 128 << 10}, {"c/f", 1 << 20}} {
		b.Run(fmt.Sprintf("%s by %d KiB", filepath.Base(c.path), c.piece>>10), func(b *testing.B) {
			ino, err := fsystest.Find(fs, c.path)
			check(b, err)
			r, err := fs.Open(ino)
			check(b, err)
			b.SetBytes(r.Size())
			buf := make([]byte, c.piece)
			for b.Loop() {
				for off := int64(0); off < r.Size(); off += int64(len(buf)) {
					if _, err := extent.ReadFull(r, buf[:min(int64(len(buf)), r.Size()-off)], off); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkInflate decodes one unit.
func BenchmarkInflate(b *testing.B) {
	img := makeNTFS(b, 32<<20)
	dir := mount(b, img, "compression")
	compressed(b, filepath.Join(dir, "c"))
	write(b, filepath.Join(dir, "c/f"), text(1, 64<<10))
	unmount(b, img, dir)
	fs := openImage(b, img)
	ino, err := fsystest.Find(fs, "c/f")
	check(b, err)
	r, err := fs.Open(ino)
	check(b, err)
	p := r.(*packed)
	n, err := p.stored(0)
	check(b, err)
	src, dst := make([]byte, n), make([]byte, p.unit)
	_, place, err := p.Span(0, n)
	check(b, err)
	check(b, extent.ReadAllAt(fs.dev, src, place))
	b.SetBytes(p.unit)
	for b.Loop() {
		check(b, inflate(dst, src))
	}
}
