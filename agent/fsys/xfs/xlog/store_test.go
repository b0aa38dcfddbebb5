package xlog

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"vmfr/agent/extent"
)

// TestStore holds a volume with random changes to the same bytes in memory: while it changes, and
// as the Reader that it becomes.
func TestStore(t *testing.T) {
	const size = 64<<10 + 512 // not a multiple of a block
	rng := rand.New(rand.NewPCG(1, 2))
	want := make([]byte, size)
	for i := range want {
		want[i] = byte(rng.Uint32())
	}
	clear(want[8192:12288])
	base := bytes.Clone(want)
	s := newStore(extent.Bytes(base))
	for range 400 {
		off := rng.Int64N(size/chunkSize-8) * chunkSize
		p := make([]byte, chunkSize*(1+rng.IntN(8)))
		if rng.IntN(3) > 0 {
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
		}
		if rng.IntN(4) == 0 { // what is there already, and what was there first
			copy(p, base[off:])
		}
		if err := s.write(p, want[off:], off); err != nil {
			t.Fatal(err)
		}
		copy(want[off:], p)
		got := make([]byte, 4096)
		at := rng.Int64N(size/chunkSize-32) * chunkSize
		if err := s.read(got, at); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want[at:at+4096]) {
			t.Fatalf("4096 bytes at %d differ", at)
		}
	}
	if n := int(s.used) - len(s.free); n > len(s.slot) {
		t.Errorf("%d slots are in use for %d chunks", n, len(s.slot))
	}
	o := s.freeze()
	for range 2000 {
		off, n := rng.Int64N(size+1), rng.IntN(6000)
		p := make([]byte, n)
		got, err := o.ReadAt(p, off)
		expect := min(n, int(size-off))
		if got != expect || !bytes.Equal(p[:got], want[off:off+int64(got)]) || got < n && err != io.EOF {
			t.Fatalf("read of %d at %d: %d, %v, or other bytes", n, off, got, err)
		}
	}
	for off := int64(0); off < size; {
		limit := 1 + rng.Int64N(3000)
		e, err := o.Extent(off, limit)
		if err != nil || e.Len <= 0 || e.Len > limit || e.Len > size-off {
			t.Fatalf("Extent(%d, %d): %+v, %v", off, limit, e, err)
		}
		off += e.Len
	}
	if _, err := o.Extent(size, 1); err != io.EOF {
		t.Errorf("the extent at the end: %v", err)
	}
}

// TestExtentOfChange: changed bytes are nowhere on the host, and their neighbours keep their place.
func TestExtentOfChange(t *testing.T) {
	s := newStore(placed{extent.Zeros(4096)})
	if err := s.write(bytes.Repeat([]byte{1}, 2*chunkSize), make([]byte, 2*chunkSize), 1024); err != nil {
		t.Fatal(err)
	}
	o := s.freeze()
	for _, c := range []struct {
		off, length, host int64 // host -1: nowhere
	}{{0, 1024, 0}, {1000, 24, 1000}, {1024, 256, -1}, {1100, 180, -1}, {1280, 2816, 1280}} {
		e, err := o.Extent(c.off, 1<<40)
		if err != nil || e.Len != c.length || e.Zero != (c.host >= 0) || c.host >= 0 && e.HostOff != c.host {
			t.Errorf("at %d: %+v, %v", c.off, e, err)
		}
	}
}

// placed tells where its bytes lie.
type placed struct{ extent.Reader }

func (p placed) Extent(off, max int64) (extent.Extent, error) {
	e, err := p.Reader.Extent(off, max)
	e.HostOff = off
	return e, err
}
