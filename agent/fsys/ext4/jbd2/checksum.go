package jbd2

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c continues a CRC-32C over p. Unlike hash/crc32 neither the start value nor the result
// is inverted, as on disk.
func crc32c(crc uint32, p []byte) uint32 {
	return ^crc32.Update(^crc, castagnoli, p)
}

// crc32cWithout is crc32c over p with the four bytes at off, which hold the checksum itself,
// taken as zeros.
func crc32cWithout(crc uint32, p []byte, off int) uint32 {
	var zeros [4]byte
	return crc32c(crc32c(crc32c(crc, p[:off]), zeros[:]), p[off+4:])
}

// crc32BE continues the CRC-32 that takes the most significant bit first (checksum v1) over
// p. It is the mirror image of the one in hash/crc32, so p is mirrored, byte by byte, in scratch,
// which is at least as long.
func crc32BE(crc uint32, p, scratch []byte) uint32 {
	scratch = scratch[:len(p)]
	i := 0
	for ; i+8 <= len(p); i += 8 {
		x := binary.LittleEndian.Uint64(p[i:])
		binary.LittleEndian.PutUint64(scratch[i:], bits.ReverseBytes64(bits.Reverse64(x)))
	}
	for ; i < len(p); i++ {
		scratch[i] = bits.Reverse8(p[i])
	}
	return bits.Reverse32(^crc32.Update(^bits.Reverse32(crc), crc32.IEEETable, scratch))
}
