package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"vmfr/test/fixture"
)

// TestConcurrent reads at random offsets and lengths from many goroutines, some of them in
// sequence: bytes and extents must agree with qemu-img's. It is meant for -race.
func TestConcurrent(t *testing.T) {
	fixture.Need(t, "qemu-img", "qemu-io")
	guest := guestBytes(2, diskBytes)
	for _, v := range variants() {
		switch v.name {
		case "zlib-512", "zstd-65536", "zstd-2097152", "chain-mixed", "extl2-zstd-64k", "mixed-compressed":
		default:
			continue
		}
		t.Run(v.name, func(t *testing.T) {
			dir := t.TempDir()
			raw, img := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.qcow2")
			writeFile(t, raw, guest)
			v.make(t, dir, raw, img)
			want := qemuRaw(t, img, "qcow2")
			m := open(t, img)
			var wg sync.WaitGroup
			for g := range 8 {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(g), 3))
					buf := make([]byte, 256<<10)
					next := 0
					for range 60 {
						off, n := rng.IntN(len(want)), rng.IntN(len(buf))+1
						if g < 3 { // sequential
							off, n = next, 32<<10
							next = (next + n) % len(want)
						}
						got, err := m.ReadAt(buf[:n], int64(off))
						whole := min(n, len(want)-off)
						if got != whole || (err != nil && err != io.EOF) || !bytes.Equal(buf[:got], want[off:off+got]) {
							t.Errorf("ReadAt(%d at %d) = %d, %v, or its bytes differ", n, off, got, err)
							return
						}
						if e, err := m.Extent(int64(off), int64(n)); err != nil || e.Len <= 0 || e.Len > int64(n) {
							t.Errorf("Extent(%d, %d) = %+v, %v", off, n, e, err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// compressed makes a compressed image of n bytes in clusters of a size.
func compressed(t testing.TB, n, cluster int, kind string) (img string, want []byte) {
	t.Helper()
	fixture.Need(t, "qemu-img")
	dir := t.TempDir()
	raw, img := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.qcow2")
	want = guestBytes(11, n)
	for i := 0; i < n; i += cluster {
		want[i] |= 1 // no cluster is a hole
	}
	writeFile(t, raw, want)
	convert(fmt.Sprintf("cluster_size=%d,compression_type=%s", cluster, kind), "-c")(t, dir, raw, img)
	return img, want
}

// TestAhead: a sequential reader finds clusters inflated, each is inflated once, the cache
// keeps its bound, and a random reader causes no read-ahead.
func TestAhead(t *testing.T) {
	img, want := compressed(t, 8<<20, 64<<10, "zlib")
	m, err := Open(Source{openFile(t, img), FormatQCOW2}, Options{CacheBytes: 32 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	sameBytes(t, "sequential", readAll(t, m, 16<<10), want)
	s := m.Stats()
	if s.Ahead == 0 {
		t.Fatalf("nothing was read ahead: %+v", s)
	}
	if s.Inflated > 128 {
		t.Fatalf("%d inflations of 128 clusters: %+v", s.Inflated, s)
	}

	small, err := Open(Source{openFile(t, img), FormatQCOW2}, Options{CacheBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer small.Close()
	sameBytes(t, "with a small cache", readAll(t, small, 16<<10), want)
	if s := small.Stats(); s.CacheBytes > minCacheClusters*64<<10 {
		t.Fatalf("the cache exceeds its bound: %+v", s)
	}

	random, err := Open(Source{openFile(t, img), FormatQCOW2}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer random.Close()
	b := make([]byte, 512)
	for _, i := range []int64{3, 0, 6, 2, 5, 1, 7, 4} { // in steps larger than the slack
		if _, err := random.ReadAt(b, i<<20+1000*i); err != nil {
			t.Fatal(err)
		}
	}
	if s := random.Stats(); s.Inflated == 0 || s.Inflated > 8 { // what does not compress is stored as it is
		t.Fatalf("8 reads of a compressed image: %+v", s)
	}
	if s := random.Stats(); s.Ahead != 0 {
		t.Fatalf("random reads caused read-ahead: %+v", s)
	}
}

// TestCloseEndsWorkers: after Close no goroutine of the image is left, whenever it comes.
func TestCloseEndsWorkers(t *testing.T) {
	img, want := compressed(t, 4<<20, 64<<10, "zstd")
	for range 20 {
		m, err := Open(Source{openFile(t, img), FormatQCOW2}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1<<20)
		if _, err := m.ReadAt(b, 0); err != nil || !bytes.Equal(b, want[:1<<20]) {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatal("second Close:", err)
		}
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		if strings.Contains(string(stacks), "(*ahead)") || strings.Contains(string(stacks), "zstd.") {
			t.Fatalf("goroutines after Close:\n%s", stacks)
		}
	}
}

// TestDamageAhead: damage that read-ahead meets first is reported to the read that needs it,
// and only there.
func TestDamageAhead(t *testing.T) {
	img, want := compressed(t, 4<<20, 4<<10, "zlib")
	b := readFile(t, img)
	v := &victim{b: b, cluster: 4096, entry: 8}
	v.append(0, 300, bytes.Repeat([]byte{0xff}, 100))
	writeFile(t, img, v.b)
	m, err := Open(Source{openFile(t, img), FormatQCOW2}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	buf := make([]byte, 4096)
	for i := int64(0); i < 1024; i++ {
		n, err := m.ReadAt(buf, i*4096)
		if i == 300 {
			if n != 0 || !errors.Is(err, ErrCorrupt) {
				t.Fatalf("the damaged cluster: %d, %v", n, err)
			}
			continue
		}
		if err != nil || !bytes.Equal(buf, want[i*4096:(i+1)*4096]) {
			t.Fatalf("cluster %d: %d, %v", i, n, err)
		}
	}
}
