// Package ondisk holds what every parser of guest-written bytes needs: bounds-checked
// decoding, checked arithmetic and a Budget that ends every loop over guest data.
//
// Purpose: a parser built on it cannot index out of bounds, overflow an offset or loop
// for ever. Non-goals: no format knowledge, no I/O, no reflection-based struct decoding.
// Invariants: standard library only; integers from disk are unsigned.
package ondisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrShort reports a structure that ends before one of its fields.
var ErrShort = errors.New("structure is truncated")

// View reads integers at byte offsets of a structure. A read outside the structure
// yields zero and makes Err non-nil from then on, so a parser may decode all fields of
// a structure and check once. A View is not safe for concurrent use.
type View struct {
	b     []byte
	order binary.ByteOrder
	err   error
}

// Little returns a little-endian View of b (ext4, NTFS, FAT, GPT, MBR).
func Little(b []byte) *View { return &View{b: b, order: binary.LittleEndian} }

// Big returns a big-endian View of b (qcow2, jbd2, XFS).
func Big(b []byte) *View { return &View{b: b, order: binary.BigEndian} }

// Len is the number of bytes viewed.
func (v *View) Len() int { return len(v.b) }

// Err is nil, or an error that wraps ErrShort and names the first field read out of bounds.
func (v *View) Err() error { return v.err }

// Bytes returns n bytes at off, sharing memory with the view, or nil out of bounds.
func (v *View) Bytes(off, n int) []byte {
	if off < 0 || n < 0 || off > len(v.b) || n > len(v.b)-off {
		if v.err == nil {
			v.err = fmt.Errorf("%w: %d bytes at offset %d of %d", ErrShort, n, off, len(v.b))
		}
		return nil
	}
	return v.b[off : off+n : off+n]
}

// U8 reads one byte at off.
func (v *View) U8(off int) uint8 {
	if b := v.Bytes(off, 1); b != nil {
		return b[0]
	}
	return 0
}

// U16 reads two bytes at off.
func (v *View) U16(off int) uint16 {
	if b := v.Bytes(off, 2); b != nil {
		return v.order.Uint16(b)
	}
	return 0
}

// U32 reads four bytes at off.
func (v *View) U32(off int) uint32 {
	if b := v.Bytes(off, 4); b != nil {
		return v.order.Uint32(b)
	}
	return 0
}

// U64 reads eight bytes at off.
func (v *View) U64(off int) uint64 {
	if b := v.Bytes(off, 8); b != nil {
		return v.order.Uint64(b)
	}
	return 0
}

// Add returns a+b, and false where the sum does not fit in 64 bits.
func Add(a, b uint64) (uint64, bool) {
	s := a + b
	return s, s >= a
}

// Mul returns a*b, and false where the product does not fit in 64 bits.
func Mul(a, b uint64) (uint64, bool) {
	if a == 0 || b == 0 {
		return 0, true
	}
	p := a * b
	return p, p/a == b
}

// Int64 returns u as an int64 (offsets and sizes of Go's I/O), and false where it does not fit.
func Int64(u uint64) (int64, bool) {
	return int64(u), u <= math.MaxInt64
}

// Range converts a block run into a byte range: start*unit, count*unit. It is false where
// either overflows, or where the range leaves [0, size).
func Range(start, count, unit uint64, size int64) (off, n int64, ok bool) {
	o, ok1 := Mul(start, unit)
	l, ok2 := Mul(count, unit)
	end, ok3 := Add(o, l)
	if !ok1 || !ok2 || !ok3 || size < 0 || end > uint64(size) {
		return 0, 0, false
	}
	return int64(o), int64(l), true
}
