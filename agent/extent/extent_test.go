package extent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// check compares a Reader with the bytes it must have: random reads, reads at every edge, and
// a walk over its extents.
func check(t *testing.T, rng *rand.Rand, r Reader, want []byte) {
	t.Helper()
	size := int64(len(want))
	if r.Size() != size {
		t.Fatalf("size %d, want %d", r.Size(), size)
	}
	for range 50 {
		read(t, r, want, rng.Int64N(size+2), rng.IntN(len(want)+3))
	}
	for _, off := range []int64{0, size - 1, size, size + 1} {
		for _, n := range []int{0, 1, 2, len(want), len(want) + 1} {
			if off >= 0 {
				read(t, r, want, off, n)
			}
		}
	}
	if n, err := r.ReadAt(make([]byte, 1), -1); n != 0 || err == nil || err == io.EOF {
		t.Fatalf("read at -1: %d, %v", n, err)
	}
	walk(t, rng, r, want)
	for _, c := range []struct {
		off, max int64
		err      error
	}{{-1, 1, ErrRange}, {size + 1, 1, ErrRange}, {0, 0, ErrRange}, {0, -1, ErrRange}, {size, 1, io.EOF}, {size, 0, ErrRange}} {
		if _, err := r.Extent(c.off, c.max); !errors.Is(err, c.err) {
			t.Fatalf("Extent(%d, %d) of %d: %v, want %v", c.off, c.max, size, err, c.err)
		}
	}
}

// read holds ReadAt to io.ReaderAt's contract.
func read(t *testing.T, r Reader, want []byte, off int64, n int) {
	t.Helper()
	p := bytes.Repeat([]byte{0xee}, n)
	got, err := r.ReadAt(p, off)
	rest := want[min(off, int64(len(want))):]
	expect := min(n, len(rest))
	switch {
	case got != expect || !bytes.Equal(p[:got], rest[:got]):
		t.Fatalf("read of %d at %d of %d: %d bytes, %v, or other bytes", n, off, len(want), got, err)
	case got < n && err != io.EOF:
		t.Fatalf("short read of %d at %d of %d: %v", n, off, len(want), err)
	case got == n && err != nil && err != io.EOF:
		t.Fatalf("full read of %d at %d of %d: %v", n, off, len(want), err)
	case got == n && n > 0 && int(off)+n < len(want) && err != nil:
		t.Fatalf("read of %d at %d inside %d: %v", n, off, len(want), err)
	case !bytes.Equal(p[got:], bytes.Repeat([]byte{0xee}, n-got)):
		t.Fatalf("read of %d at %d wrote behind the %d bytes it returned", n, off, got)
	}
}

// walk visits all extents with random limits: holes are zeros, host ranges hold the bytes.
func walk(t *testing.T, rng *rand.Rand, r Reader, want []byte) {
	t.Helper()
	for off := int64(0); off < int64(len(want)); {
		limit := 1 + rng.Int64N(int64(len(want)))
		if rng.IntN(4) == 0 {
			limit = math.MaxInt64
		}
		e, err := r.Extent(off, limit)
		if err != nil || e.Len <= 0 || e.Len > limit || e.Len > int64(len(want))-off {
			t.Fatalf("Extent(%d, %d) of %d: %+v, %v", off, limit, len(want), e, err)
		}
		here := want[off : off+e.Len]
		if e.Zero && !bytes.Equal(here, make([]byte, e.Len)) {
			t.Fatalf("the hole of %d at %d has data", e.Len, off)
		}
		if e.Host != nil {
			b := make([]byte, e.Len)
			if _, err := e.Host.ReadAt(b, e.HostOff); err != nil || !bytes.Equal(b, here) {
				t.Fatalf("the host's bytes for %d at %d differ: %v", e.Len, off, err)
			}
		}
		off += e.Len
	}
}

// host is a Reader over a file that tells where its bytes lie.
type host struct {
	memory
	f   *os.File
	off int64
}

func (h host) Extent(off, max int64) (Extent, error) {
	e, err := h.memory.Extent(off, max)
	e.Host, e.HostOff = h.f, h.off+off
	return e, err
}

// build makes a random Reader of at most the given depth together with its bytes.
func build(t *testing.T, rng *rand.Rand, f *os.File, noise []byte, depth int) (Reader, []byte) {
	t.Helper()
	kind := rng.IntN(6)
	if depth == 0 {
		kind = rng.IntN(3)
	}
	switch kind {
	case 0:
		n := rng.IntN(300)
		return Zeros(int64(n)), make([]byte, n)
	case 1:
		n, at := rng.IntN(300), rng.IntN(len(noise)-300)
		return Bytes(noise[at : at+n]), noise[at : at+n]
	case 2:
		n, at := rng.IntN(300), rng.IntN(len(noise)-300)
		return host{memory(noise[at : at+n]), f, int64(at)}, noise[at : at+n]
	case 3:
		r, b := build(t, rng, f, noise, depth-1)
		off := rng.IntN(len(b) + 1)
		n := rng.IntN(len(b) - off + 1)
		s, err := Section(r, int64(off), int64(n))
		if err != nil {
			t.Fatal(err)
		}
		return s, b[off : off+n]
	case 4:
		var parts []Reader
		var all []byte
		for range rng.IntN(6) {
			r, b := build(t, rng, f, noise, depth-1)
			parts, all = append(parts, r), append(all, b...)
		}
		c, err := Concat(parts...)
		if err != nil {
			t.Fatal(err)
		}
		return c, all
	}
	base, b := build(t, rng, f, noise, depth-1)
	all := append([]byte(nil), b...)
	var patches []Patch
	for at := 0; at < len(all); {
		at += rng.IntN(100)
		r, p := build(t, rng, f, noise, depth-1)
		if at > len(all) || len(p) > len(all)-at {
			break
		}
		patches = append(patches, Patch{int64(at), r})
		copy(all[at:], p)
		at += len(p)
	}
	rng.Shuffle(len(patches), func(i, j int) { patches[i], patches[j] = patches[j], patches[i] })
	o, err := Overlay(base, patches)
	if err != nil {
		t.Fatal(err)
	}
	return o, all
}

func TestAgainstBytes(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 5))
	noise := make([]byte, 4096)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "host"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Write(noise); err != nil {
		t.Fatal(err)
	}
	for i := range 2000 {
		r, b := build(t, rng, f, noise, 3)
		t.Run(fmt.Sprint(i), func(t *testing.T) { check(t, rng, r, b) })
		if t.Failed() {
			return
		}
	}
}

func TestOutOfRange(t *testing.T) {
	base := Zeros(100)
	for _, c := range [][2]int64{{-1, 1}, {0, -1}, {0, 101}, {100, 1}, {101, 0}, {1, math.MaxInt64}, {math.MaxInt64, math.MaxInt64}} {
		if _, err := Section(base, c[0], c[1]); !errors.Is(err, ErrRange) {
			t.Errorf("Section(%d, %d): %v", c[0], c[1], err)
		}
	}
	if s, err := Section(base, 100, 0); err != nil || s.Size() != 0 {
		t.Errorf("an empty section at the end: %v", err)
	}
	if _, err := Concat(Zeros(math.MaxInt64), Zeros(1)); !errors.Is(err, ErrRange) {
		t.Errorf("a sum that overflows: %v", err)
	}
	if c, err := Concat(Zeros(math.MaxInt64-1), Zeros(1)); err != nil || c.Size() != math.MaxInt64 {
		t.Errorf("the largest sum: %v", err)
	}
	for name, ps := range map[string][]Patch{
		"before":   {{-1, Zeros(1)}},
		"behind":   {{100, Zeros(1)}},
		"far":      {{math.MaxInt64, Zeros(1)}},
		"too long": {{99, Zeros(2)}},
		"overlap":  {{10, Zeros(10)}, {19, Zeros(1)}},
		"same":     {{10, Zeros(1)}, {10, Zeros(1)}},
		"inside":   {{10, Zeros(10)}, {5, Zeros(6)}},
	} {
		if _, err := Overlay(base, ps); !errors.Is(err, ErrRange) {
			t.Errorf("Overlay, %s: %v", name, err)
		}
	}
	for range 20 { // whatever order the sort meets them in
		if _, err := Overlay(base, []Patch{{10, Zeros(5)}, {10, Zeros(0)}, {15, Zeros(0)}}); err != nil {
			t.Fatalf("empty patches beside another: %v", err)
		}
	}
}

// short is a device that lost its end, failing one that cannot be read from a byte on.
type short struct {
	Reader
	from int64
	err  error
}

func (s short) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) <= s.from {
		return s.Reader.ReadAt(p, off)
	}
	n, _ := s.Reader.ReadAt(p[:max(0, s.from-off)], off)
	return n, s.err
}

// TestShortSource: an end that comes early must not pass for the end of the composed Reader.
func TestShortSource(t *testing.T) {
	medium := errors.New("medium error")
	for _, c := range []struct{ give, want error }{{io.EOF, io.ErrUnexpectedEOF}, {nil, io.ErrUnexpectedEOF}, {medium, medium}} {
		bad := short{Zeros(100), 40, c.give}
		section, err1 := Section(bad, 10, 80)
		concat, err2 := Concat(bad, Zeros(10))
		overlay, err3 := Overlay(bad, []Patch{{5, Zeros(3)}})
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		for name, r := range map[string]Reader{"section": section, "concat": concat, "overlay": overlay} {
			good := 40
			if name == "section" {
				good = 30
			}
			if n, err := r.ReadAt(make([]byte, r.Size()), 0); n != good || !errors.Is(err, c.want) {
				t.Errorf("%s over a source that ends with %v: %d, %v", name, c.give, n, err)
			}
		}
	}
}

func TestSectionsStayFlat(t *testing.T) {
	r := Bytes([]byte("0123456789"))
	for range 4 {
		s, err := Section(r, 1, r.Size()-1)
		if err != nil {
			t.Fatal(err)
		}
		r = s
	}
	if s, ok := r.(*section); !ok || s.off != 4 {
		t.Fatalf("%#v", r)
	} else if _, nested := s.r.(*section); nested {
		t.Error("a section of a section")
	}
}

// TestHostOffset: the position on the host follows through all compositions.
func TestHostOffset(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	h := host{make([]byte, 1000), f, 5000}
	s, err1 := Section(h, 100, 500)
	c, err2 := Concat(Zeros(7), s)
	o, err3 := Overlay(c, []Patch{{57, Zeros(3)}})
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	for off, want := range map[int64]Extent{
		0: {Len: 7, Zero: true}, 7: {Len: 50, Host: f, HostOff: 5100}, 57: {Len: 3, Zero: true}, 60: {Len: 447, Host: f, HostOff: 5153},
	} {
		if e, err := o.Extent(off, 1<<40); err != nil || e != want {
			t.Errorf("at %d: %+v, %v; want %+v", off, e, err, want)
		}
	}
}
