package jbd2

import (
	"encoding/binary"
	"fmt"

	"vmfr/agent/fsys"
)

// Tags of the fast-commit area, as in the kernel's fs/ext4/fast_commit.h. A tag is a kind(2) and
// a length(2) with that many bytes; unlike the rest of the journal it is little-endian.
const (
	fcTagSize    = 4
	fcAddRange   = 1 // the first of the tags that describe a change, up to fcPad
	fcPad        = 7
	fcTail       = 8 // transaction(4) checksum(4), and the rest of the block
	fcHead       = 9 // features(4) transaction(4)
	fcBodySize   = 8 // of head and tail
	fcTailBefore = 4 // the tail's bytes that its checksum covers
)

// checkFastCommits returns fsys.ErrUnsupported where the fast-commit area holds at least one
// complete commit on top of transaction expected-1: its changes are known only as operations
// on the file system, which are not implemented. An area that holds nothing for that transaction
// is left over from earlier ones. One whose first commit was interrupted makes the kernel refuse
// to mount, and is ErrCorrupt.
func checkFastCommits(l *logReader, expected uint32) error {
	crc := uint32(0)
	// The area's first block stays unused, as in the kernel.
	for n := l.sb.last + 1; n < l.sb.maxlen; n++ {
		b, err := l.block(n)
		if err != nil {
			return err
		}
		first := n == l.sb.last+1
		torn := func(reason string) error {
			return fsys.Corrupt("jbd2", fmt.Sprintf("fast commit after transaction %d", expected-1), 0,
				int64(n)*int64(l.blockSize), "%s", reason)
		}
		if first && binary.LittleEndian.Uint16(b) != fcHead {
			return nil
		}
		for len(b) >= fcTagSize {
			kind, size := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
			if size > len(b)-fcTagSize {
				return torn("a tag leaves its block")
			}
			tag, body := b[:fcTagSize+size], b[fcTagSize:fcTagSize+size]
			b = b[fcTagSize+size:]
			switch {
			case kind == fcHead && size >= fcBodySize:
				if f := binary.LittleEndian.Uint32(body); f != 0 {
					return fmt.Errorf("jbd2: fast commit with features %#x: %w", f, fsys.ErrUnsupported)
				}
				if binary.LittleEndian.Uint32(body[4:]) != expected {
					return nil
				}
				crc = crc32c(crc, tag)
			case kind >= fcAddRange && kind <= fcPad:
				crc = crc32c(crc, tag)
			case kind == fcTail && size >= fcBodySize:
				crc = crc32c(crc, tag[:fcTagSize+fcTailBefore])
				if binary.LittleEndian.Uint32(body) != expected || binary.LittleEndian.Uint32(body[4:]) != crc {
					return torn("wrong checksum or transaction")
				}
				return fmt.Errorf("jbd2: the journal ends with a fast commit after transaction %d: %w", expected-1, fsys.ErrUnsupported)
			default:
				return torn(fmt.Sprintf("a tag of kind %d and %d bytes", kind, size))
			}
		}
	}
	return nil
}
