package ondisk

import (
	"encoding/binary"
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

func TestView(t *testing.T) {
	b := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9}
	for _, c := range []struct {
		v             *View
		u16, u32, u64 uint64
	}{
		{Little(b), 0x0302, 0x05040302, 0x0908070605040302},
		{Big(b), 0x0203, 0x02030405, 0x0203040506070809},
	} {
		got := []uint64{uint64(c.v.U8(8)), uint64(c.v.U16(1)), uint64(c.v.U32(1)), c.v.U64(1)}
		for i, want := range []uint64{9, c.u16, c.u32, c.u64} {
			if got[i] != want {
				t.Errorf("field %d is %#x, want %#x", i, got[i], want)
			}
		}
		if c.v.Err() != nil || c.v.Len() != 9 {
			t.Error(c.v.Err(), c.v.Len())
		}
	}
}

func TestViewOutOfBounds(t *testing.T) {
	for _, off := range []int{-1, math.MinInt, 8, 9, 10, math.MaxInt, math.MaxInt - 1} {
		v := Little(make([]byte, 8))
		for i := range v.b {
			v.b[i] = 0xff
		}
		if n := uint64(v.U8(off)) | uint64(v.U16(off)) | uint64(v.U32(off)) | v.U64(off); n != 0 {
			t.Errorf("reads at %d give %#x", off, n)
		}
		if !errors.Is(v.Err(), ErrShort) {
			t.Errorf("reads at %d: %v", off, v.Err())
		}
	}
	v := Big(make([]byte, 8))
	for _, c := range []struct {
		off, n int
		ok     bool
	}{{0, 8, true}, {8, 0, true}, {0, 0, true}, {1, 8, false}, {0, -1, false}, {9, 0, false}, {4, math.MaxInt, false}} {
		if got := v.Bytes(c.off, c.n); (got != nil) != c.ok {
			t.Errorf("Bytes(%d, %d) = %v", c.off, c.n, got)
		}
	}
	if v := Little(nil); v.U8(0) != 0 || v.Err() == nil {
		t.Error("an empty structure has a byte")
	}
}

// TestFirstErrorStays: the first field read out of bounds is the one that is named, and what
// can be read is still right after it.
func TestFirstErrorStays(t *testing.T) {
	v := Little([]byte{7, 0})
	v.U32(5)
	first := v.Err()
	v.U64(100)
	text := first.Error()
	if v.Err().Error() != text || v.U8(0) != 7 || v.Err().Error() != text {
		t.Error(first, v.Err())
	}
}

// TestBytesCannotGrow: an append to a field must not write over the next one.
func TestBytesCannotGrow(t *testing.T) {
	b := []byte{1, 2, 3}
	_ = append(Little(b).Bytes(0, 1), 9)
	if b[1] != 2 {
		t.Error("the next field was overwritten")
	}
}

func TestBudget(t *testing.T) {
	b := NewBudget("walk", 10)
	if err := b.Spend(4); err != nil || b.Left() != 6 {
		t.Fatal(err, b.Left())
	}
	if err := b.Spend(0); err != nil {
		t.Fatal(err)
	}
	if err := b.Spend(6); err != nil || b.Left() != 0 {
		t.Fatal(err, b.Left())
	}
	if err := b.Spend(1); !errors.Is(err, ErrBudget) {
		t.Fatal(err)
	}
	for _, n := range []int64{-1, math.MinInt64, 11, math.MaxInt64} {
		b := NewBudget("walk", 10)
		if err := b.Spend(n); !errors.Is(err, ErrBudget) || b.Left() != 0 || b.Spend(1) == nil {
			t.Errorf("Spend(%d): %v", n, err)
		}
	}
}

// TestArithmetic compares with numbers that cannot overflow.
func TestArithmetic(t *testing.T) {
	edges := []uint64{0, 1, 2, 3, 511, 4096, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 1, math.MaxInt64 - 1, math.MaxInt64, math.MaxInt64 + 1, math.MaxUint64 - 1, math.MaxUint64}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 30 {
		edges = append(edges, rng.Uint64()>>rng.UintN(64))
	}
	wide := func(n uint64) *big.Int { return new(big.Int).SetUint64(n) }
	for _, a := range edges {
		if n, ok := Int64(a); ok != wide(a).IsInt64() || ok && uint64(n) != a {
			t.Errorf("Int64(%d) = %d, %v", a, n, ok)
		}
		for _, b := range edges {
			sum, product := new(big.Int).Add(wide(a), wide(b)), new(big.Int).Mul(wide(a), wide(b))
			if n, ok := Add(a, b); ok != sum.IsUint64() || ok && n != sum.Uint64() {
				t.Errorf("%d + %d = %d, %v", a, b, n, ok)
			}
			if n, ok := Mul(a, b); ok != product.IsUint64() || ok && n != product.Uint64() {
				t.Errorf("%d * %d = %d, %v", a, b, n, ok)
			}
			for _, unit := range edges {
				for _, size := range []int64{-1, 0, 4096, math.MaxInt64} {
					off, n, ok := Range(a, b, unit, size)
					start := new(big.Int).Mul(wide(a), wide(unit))
					length := new(big.Int).Mul(wide(b), wide(unit))
					inside := size >= 0 && new(big.Int).Add(start, length).Cmp(big.NewInt(size)) <= 0
					if ok != inside || ok && (off != start.Int64() || n != length.Int64()) {
						t.Fatalf("Range(%d, %d, %d, %d) = %d, %d, %v", a, b, unit, size, off, n, ok)
					}
				}
			}
		}
	}
}

// FuzzView reads every kind of field at any offset: never a panic, and the bytes are right
// where they exist.
func FuzzView(f *testing.F) {
	f.Add([]byte("0123456789"), 3, 4)
	f.Add([]byte{}, 0, 0)
	f.Add([]byte{1}, math.MaxInt, math.MaxInt)
	f.Fuzz(func(t *testing.T, b []byte, off, n int) {
		v := Big(b)
		got := v.Bytes(off, n)
		if inside := off >= 0 && n >= 0 && off <= len(b) && n <= len(b)-off; inside != (v.Err() == nil) || inside && len(got) != n {
			t.Errorf("Bytes(%d, %d) of %d: %v", off, n, len(b), v.Err())
		}
		u := v.U32(off)
		if off >= 0 && off <= len(b) && len(b)-off >= 4 && u != binary.BigEndian.Uint32(b[off:]) {
			t.Errorf("U32(%d) = %#x", off, u)
		}
		v.U8(off)
		v.U16(off)
		v.U64(off)
	})
}
