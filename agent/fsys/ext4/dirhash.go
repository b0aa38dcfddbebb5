package ext4

import "math/bits"

// Hash versions of a hashed directory's root. The unsigned variants treat the name's bytes as
// unsigned; which one a file system uses is told by its s_flags, not by the directory.
const (
	hashLegacy         = 0
	hashHalfMD4        = 1
	hashTEA            = 2
	hashLegacyUnsigned = 3
	hashHalfMD4Unsgn   = 4
	hashTEAUnsigned    = 5
	hashUnsignedShift  = 3
)

// dirHash returns the major and minor hash of a name. ok is false for a version that cannot be
// computed (siphash needs the directory's encryption key).
func dirHash(version uint8, seed [4]uint32, name []byte) (hash, minor uint32, ok bool) {
	if seed == [4]uint32{} {
		seed = [4]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}
	}
	unsigned := version >= hashUnsignedShift
	switch version {
	case hashLegacy, hashLegacyUnsigned:
		hash = legacyHash(name, unsigned)
	case hashHalfMD4, hashHalfMD4Unsgn:
		var in [8]uint32
		buf := seed
		for p := name; len(p) > 0; p = p[min(len(p), 32):] {
			packName(p, in[:], unsigned)
			halfMD4(&buf, &in)
		}
		hash, minor = buf[1], buf[2]
	case hashTEA, hashTEAUnsigned:
		var in [4]uint32
		buf := seed
		for p := name; len(p) > 0; p = p[min(len(p), 16):] {
			packName(p, in[:], unsigned)
			tea(&buf, &in)
		}
		hash, minor = buf[0], buf[1]
	default:
		return 0, 0, false
	}
	// The lowest bit marks a continued chain in the index; the highest value means "end".
	hash &^= 1
	if hash == 0xFFFFFFFE {
		hash = 0xFFFFFFFC
	}
	return hash, minor, true
}

// char is one byte of a name as the C type char of the machine that made the directory.
func char(c byte, unsigned bool) uint32 {
	if unsigned {
		return uint32(c)
	}
	return uint32(int32(int8(c)))
}

func legacyHash(name []byte, unsigned bool) uint32 {
	h0, h1 := uint32(0x12a3fe2d), uint32(0x37abe8f9)
	for _, c := range name {
		h := h1 + (h0 ^ char(c, unsigned)*7152373)
		if h&0x80000000 != 0 {
			h -= 0x7fffffff
		}
		h1, h0 = h0, h
	}
	return h0 << 1
}

// packName fills in with the next 4*len(in) bytes of a name, big end first, the rest with the
// length of what is left.
func packName(p []byte, in []uint32, unsigned bool) {
	pad := uint32(len(p)) | uint32(len(p))<<8
	pad |= pad << 16
	p = p[:min(len(p), 4*len(in))]
	for i := range in {
		v := pad
		for _, c := range p[:min(len(p), 4)] {
			v = char(c, unsigned) + v<<8
		}
		p = p[min(len(p), 4):]
		in[i] = v
	}
}

// halfMD4 is MD4 with half of its steps.
func halfMD4(buf *[4]uint32, in *[8]uint32) {
	const k2, k3 = 0x5A827999, 0x6ED9EBA1
	f := func(x, y, z uint32) uint32 { return z ^ x&(y^z) }
	g := func(x, y, z uint32) uint32 { return x&y + (x^y)&z }
	h := func(x, y, z uint32) uint32 { return x ^ y ^ z }
	v := *buf
	// Four steps change a, d, c, b in turn: v[0], v[3], v[2], v[1].
	steps := func(fn func(x, y, z uint32) uint32, k uint32, order [8]int, shift [4]int) {
		for i, o := range order {
			t := (4 - i%4) % 4
			x := v[t] + fn(v[(t+1)%4], v[(t+2)%4], v[(t+3)%4]) + in[o] + k
			v[t] = bits.RotateLeft32(x, shift[i%4])
		}
	}
	steps(f, 0, [8]int{0, 1, 2, 3, 4, 5, 6, 7}, [4]int{3, 7, 11, 19})
	steps(g, k2, [8]int{1, 3, 5, 7, 0, 2, 4, 6}, [4]int{3, 5, 9, 13})
	steps(h, k3, [8]int{3, 7, 2, 6, 1, 5, 0, 4}, [4]int{3, 9, 11, 15})
	for i := range buf {
		buf[i] += v[i]
	}
}

// tea is 16 rounds of the Tiny Encryption Algorithm with the name as the key.
func tea(buf *[4]uint32, in *[4]uint32) {
	sum, x, y := uint32(0), buf[0], buf[1]
	for range 16 {
		sum += 0x9E3779B9
		x += (y<<4 + in[0]) ^ (y + sum) ^ (y>>5 + in[1])
		y += (x<<4 + in[2]) ^ (x + sum) ^ (x>>5 + in[3])
	}
	buf[0] += x
	buf[1] += y
}
