package ntfs

import (
	"encoding/binary"
	"errors"
)

// lzChunk is the number of bytes that a chunk of LZNT1 inflates to; references stay inside it.
const lzChunk = 4096

var (
	errChunkSize = errors.New("a chunk passes the end of its unit")
	errChunkMark = errors.New("a chunk without its signature")
	errReference = errors.New("a reference outside its chunk")
)

// inflate decodes LZNT1 ([MS-XCA] 2.5): chunks, each with a header of 12 bits of length less 1, the
// signature 3 and a bit that tells a compressed chunk from a stored one. A zero header, or the end of
// src, ends them; what they leave of dst is zeros. All of dst is written unless there is an error.
func inflate(dst, src []byte) error {
	for len(dst) > 0 && len(src) >= 2 {
		h := binary.LittleEndian.Uint16(src)
		if h == 0 {
			break
		}
		if h>>12&7 != 3 {
			return errChunkMark
		}
		n := int(h&0xFFF) + 1
		if n > len(src)-2 {
			return errChunkSize
		}
		chunk := src[2 : 2+n]
		src = src[2+n:]
		out := dst[:min(lzChunk, len(dst))]
		dst = dst[len(out):]
		if h&0x8000 == 0 {
			if n > len(out) {
				return errChunkSize
			}
			n = copy(out, chunk)
		} else {
			var err error
			if n, err = inflateChunk(out, chunk); err != nil {
				return err
			}
		}
		clear(out[n:])
	}
	clear(dst)
	return nil
}

// inflateChunk decodes one compressed chunk and returns the bytes that it gave. A byte of flags
// precedes eight tokens: a literal byte, or two bytes of length less 3 (low bits) and distance
// less 1. The more of the chunk is there, the more bits the distance has.
func inflateChunk(dst, src []byte) (int, error) {
	pos, limit, bits := 0, 16, uint(12) // bits of the length while pos <= limit
	for len(src) > 0 {
		flags := src[0]
		src = src[1:]
		if flags == 0 && len(src) >= 8 && len(dst)-pos >= 8 {
			binary.LittleEndian.PutUint64(dst[pos:], binary.LittleEndian.Uint64(src))
			pos, src = pos+8, src[8:]
			continue
		}
		for i := 0; i < 8 && len(src) > 0; i, flags = i+1, flags>>1 {
			if flags&1 == 0 {
				if pos == len(dst) {
					return 0, errReference
				}
				dst[pos] = src[0]
				pos, src = pos+1, src[1:]
				continue
			}
			if len(src) < 2 {
				return 0, errChunkSize
			}
			for pos > limit {
				limit, bits = limit<<1, bits-1
			}
			t := uint(binary.LittleEndian.Uint16(src))
			src = src[2:]
			length, dist := int(t&(1<<bits-1))+3, int(t>>bits)+1
			if dist > pos || length > len(dst)-pos {
				return 0, errReference
			}
			if dist >= length {
				copy(dst[pos:pos+length], dst[pos-dist:])
				pos += length
				continue
			}
			// What is being written is repeated: each copy doubles what can be copied.
			for end, from := pos+length, pos-dist; pos < end; {
				pos += copy(dst[pos:end], dst[from:pos])
			}
		}
	}
	return pos, nil
}
