package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"vmfr/agent/extent"
)

// onFile is a part whose bytes lie in a file, with a hole from byte hole on.
type onFile struct {
	extent.Reader
	f    *os.File
	off  int64
	hole int64
}

func (o onFile) Extent(off, max int64) (extent.Extent, error) {
	max, err := extent.CheckExtent(o.Size(), off, max)
	if err != nil {
		return extent.Extent{}, err
	}
	if off >= o.hole {
		return extent.Extent{Len: max, Zero: true}, nil
	}
	return extent.Extent{Len: min(max, o.hole-off), Host: o.f, HostOff: o.off + off}, nil
}

func TestStriped(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, c := range []struct {
		parts       int
		chunk, rows int64
	}{{2, 512, 1}, {2, 4096, 40}, {3, 512, 301}, {3, 65536, 5}, {7, 16384, 9}, {16, 1536, 33}, {128, 4096, 3}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			each := c.chunk * c.rows
			var parts []extent.Reader
			all := make([][]byte, c.parts)
			for i := range c.parts {
				b := make([]byte, each)
				hole := rng.Int64N(each + 1)
				for j := range b[:hole] {
					b[j] = byte(rng.Uint32() | 1)
				}
				off := int64(i) * each
				if _, err := f.WriteAt(b, off); err != nil {
					t.Fatal(err)
				}
				all[i] = b
				parts = append(parts, onFile{extent.Bytes(b), f, off, hole})
			}
			var want []byte
			for row := range c.rows {
				for _, b := range all {
					want = append(want, b[row*c.chunk:(row+1)*c.chunk]...)
				}
			}
			s, err := newStriped(parts, c.chunk)
			if err != nil || s.Size() != int64(len(want)) {
				t.Fatal(err)
			}
			for range 200 {
				off := rng.IntN(len(want) + 1)
				p := make([]byte, rng.IntN(len(want)-off+100))
				n, err := s.ReadAt(p, int64(off))
				if rest := want[off:]; n != min(len(p), len(rest)) || !bytes.Equal(p[:n], rest[:n]) || (n < len(p)) != (err == io.EOF && n < len(p)) {
					t.Fatalf("read of %d at %d: %d, %v", len(p), off, n, err)
				}
			}
			zeros := 0
			for off := int64(0); off < s.Size(); {
				x, err := s.Extent(off, 1+rng.Int64N(s.Size()))
				if err != nil || x.Len <= 0 || x.Len > s.Size()-off {
					t.Fatalf("extent at %d: %+v, %v", off, x, err)
				}
				here := want[off : off+x.Len]
				if x.Zero {
					zeros++
					if len(bytes.Trim(here, "\x00")) > 0 {
						t.Fatalf("the hole of %d at %d has data", x.Len, off)
					}
				} else {
					b := make([]byte, x.Len)
					if _, err := x.Host.ReadAt(b, x.HostOff); err != nil || !bytes.Equal(b, here) {
						t.Fatalf("the host's bytes for %d at %d differ", x.Len, off)
					}
				}
				off += x.Len
			}
		})
	}
}

// TestStripedHole: a hole over all parts is one extent, however small the chunks are.
func TestStripedHole(t *testing.T) {
	s, err := newStriped([]extent.Reader{extent.Zeros(1 << 50), extent.Zeros(1 << 50)}, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if x, err := s.Extent(100, 1<<62); err != nil || !x.Zero || x.Len != 1<<51-100 {
		t.Errorf("%+v, %v", x, err)
	}
}

// TestStripedError: what lies before an unreadable byte is returned.
func TestStripedError(t *testing.T) {
	b := bytes.Repeat([]byte{7}, 64*512)
	s, err := newStriped([]extent.Reader{extent.Bytes(b), later{extent.Bytes(b), 20 * 512}}, 512)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.ReadAt(make([]byte, 128*512), 0); n != 41*512 || !errors.Is(err, errMedium) {
		t.Errorf("%d bytes, %v", n, err)
	}
	for _, bad := range []struct {
		parts []extent.Reader
		chunk int64
	}{
		{[]extent.Reader{extent.Zeros(1024), extent.Zeros(512)}, 512},
		{[]extent.Reader{extent.Zeros(1024), extent.Zeros(1024)}, 0},
		{[]extent.Reader{extent.Zeros(1000), extent.Zeros(1000)}, 512},
		{[]extent.Reader{extent.Zeros(1 << 62), extent.Zeros(1 << 62)}, 512},
	} {
		if _, err := newStriped(bad.parts, bad.chunk); !errors.Is(err, extent.ErrRange) {
			t.Errorf("%v in chunks of %d: %v", bad.parts, bad.chunk, err)
		}
	}
}

// BenchmarkStriped reads 1 MiB pieces, as a warm sequential reader does.
func BenchmarkStriped(b *testing.B) {
	part := extent.Bytes(make([]byte, 32*mib))
	for _, chunk := range []int64{4 << 10, 16 << 10, 64 << 10} {
		b.Run(fmt.Sprint(chunk>>10, "KiB"), func(b *testing.B) {
			s, err := newStriped([]extent.Reader{part, part, part}, chunk)
			if err != nil {
				b.Fatal(err)
			}
			p := make([]byte, mib)
			b.SetBytes(mib)
			for i := range b.N {
				if _, err := s.ReadAt(p, int64(i%90)*mib); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
