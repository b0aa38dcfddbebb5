package jbd2

import (
	"encoding/binary"
	"fmt"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// windowBytes is how much is read at once while the log is read block after block.
const windowBytes = 256 << 10

// logReader reads blocks of the journal. A block that follows the one read before brings a
// window of its successors with it; any other is read alone, so that skipping over logged data
// costs nothing.
type logReader struct {
	r         extent.Reader
	sb        *superblock
	blockSize int
	buf       []byte // holds blocks [from, to)
	from, to  uint32
	recent    uint32 // the block returned last
}

// block returns block n of the journal, valid until the next call.
func (l *logReader) block(n uint32) ([]byte, error) {
	if n < l.from || n >= l.to {
		count := uint32(1)
		if n == l.recent+1 {
			count = min(max(uint32(windowBytes/l.blockSize), 1), l.sb.maxlen-n)
		}
		if need := int(count) * l.blockSize; len(l.buf) < need {
			l.buf = make([]byte, need)
		}
		l.from, l.to = 0, 0
		b := l.buf[:int(count)*l.blockSize]
		if _, err := extent.ReadFull(l.r, b, int64(n)*int64(l.blockSize)); err != nil {
			return nil, fmt.Errorf("jbd2: reading %d blocks of the journal from block %d: %w", count, n, err)
		}
		l.from, l.to = n, n+count
	}
	l.recent = n
	i := int(n-l.from) * l.blockSize
	return l.buf[i : i+l.blockSize], nil
}

// advance returns the block n steps after block at on the ring. n is at most one block's
// tags, at may be the ring's end.
func (s *superblock) advance(at uint32, n int) uint32 {
	ring := uint64(s.last - s.first)
	return s.first + uint32((uint64(at-s.first)+uint64(n))%ring)
}

// later tells whether transaction a comes after b: numbers wrap, so their distance decides.
func later(a, b uint32) bool { return int32(a-b) > 0 }

// logged is one block of a committed transaction: its new contents are in the journal's
// block pos.
type logged struct {
	target uint64 // block of the file system's device
	pos    uint32
	tid    uint32
	csum   uint32 // of the data: 32 bits with v3, 16 with v2, unused otherwise
	escape bool   // the first four bytes are the magic number, stored as zeros
}

// revokeBlock is the position of one block of revoke records.
type revokeBlock struct {
	pos, tid uint32
}

// scan is what a first pass over the log finds: everything that was committed, in log order.
type scan struct {
	blocks  []logged
	revokes []revokeBlock
	end     uint32 // number of the first transaction that is not committed
}

// scanLog walks the log from its oldest transaction to the end of its last committed one.
// It follows PASS_SCAN of the kernel's fs/jbd2/recovery.c, case by case: the end is the first
// block that is not of the expected transaction; a wrong checksum is the end too where it can
// come from a commit that was interrupted or from an older use of these blocks, and ErrCorrupt
// where it cannot.
func scanLog(l *logReader) (*scan, error) {
	sb := l.sb
	var (
		out        = &scan{}
		tid        = sb.sequence
		next       = sb.start
		budget     = ondisk.NewBudget("jbd2: the log of the journal", int64(sb.last-sb.first))
		suspicious = "" // a block of this transaction had a wrong checksum
		badCommit  = false
		newest     = uint64(0)  // commit time of the last good transaction
		crc        = ^uint32(0) // checksum v1 of the transaction
		scratch    []byte       // of checksum v1
	)
	finish := func() (*scan, error) {
		if !badCommit {
			out.end = tid
		}
		out.trim()
		return out, nil
	}
	for {
		if budget.Spend(1) != nil {
			return finish() // the ring is full to its last block
		}
		pos := next
		b, err := l.block(pos)
		if err != nil {
			return nil, err
		}
		next = sb.advance(pos, 1)
		v := ondisk.Big(b)
		if v.U32(0) != magic || v.U32(8) != tid {
			return finish()
		}
		switch v.U32(4) {
		case typeDescriptor:
			if !l.tailValid(b) {
				suspicious = "descriptor block"
			}
			n := len(out.blocks)
			if out.blocks, next, err = l.tags(out.blocks, b, pos, tid); err != nil {
				return nil, err
			}
			if budget.Spend(int64(len(out.blocks)-n)) != nil {
				return finish() // no room is left for its commit block
			}
			if sb.csumV1() && !badCommit {
				if scratch == nil {
					scratch = make([]byte, l.blockSize)
				}
				crc = crc32BE(crc, b, scratch)
				for _, x := range out.blocks[n:] {
					if b, err = l.block(x.pos); err != nil {
						return nil, err
					}
					crc = crc32BE(crc, b, scratch)
				}
			}
		case typeRevoke:
			if !l.tailValid(b) {
				suspicious = "revoke block"
			}
			out.revokes = append(out.revokes, revokeBlock{pos, tid})
		case typeCommit:
			when := v.U64(48)
			if suspicious != "" {
				if when >= newest {
					return nil, l.corrupt("transaction", tid, pos, "the checksum of a %s is wrong, and its commit block follows", suspicious)
				}
				return finish() // left from before the log came round to here
			}
			if sb.csumV1() && badCommit {
				return nil, l.corrupt("transaction", out.end, pos, "its checksum is wrong, and transaction %d is committed after it", tid)
			}
			if !l.commitValid(b, crc) {
				if when < newest {
					return finish()
				}
				if !sb.has(incompatAsyncCommit) {
					// A synchronous commit block is written after everything else has
					// reached the disk: this is no interrupted commit.
					return nil, l.corrupt("commit block", tid, pos, "wrong checksum")
				}
				badCommit, out.end = true, tid
			}
			crc = ^uint32(0)
			newest = when
			tid++
		default:
			return finish()
		}
	}
}

// trim drops what belongs to transactions from end on; both lists are in log order.
func (s *scan) trim() {
	n := len(s.blocks)
	for n > 0 && !later(s.end, s.blocks[n-1].tid) {
		n--
	}
	s.blocks = s.blocks[:n]
	n = len(s.revokes)
	for n > 0 && !later(s.end, s.revokes[n-1].tid) {
		n--
	}
	s.revokes = s.revokes[:n]
}

// tags appends what descriptor block b at pos describes, and returns the position after the
// last described block.
//
//	v1, v2:  target(4) csum(2) flags(2) [target high(4)] [pad(2)]
//	v3:      target(4) flags(4) target high(4) csum(4)
func (l *logReader) tags(out []logged, b []byte, pos, tid uint32) ([]logged, uint32, error) {
	const flagEscape, flagSameUUID, flagLast = 1, 2, 8
	sb, end := l.sb, len(b)
	if sb.csumV2or3() {
		end -= tailSize
	}
	v := ondisk.Big(b)
	size := sb.tagSize()
	next := sb.advance(pos, 1)
	for at := headerSize; at+size <= end; {
		flags := v.U16(at + 6)
		x := logged{target: uint64(v.U32(at)), pos: next, tid: tid, escape: flags&flagEscape != 0}
		if sb.has(incompat64Bit) {
			x.target |= uint64(v.U32(at+8)) << 32
		}
		switch {
		case sb.has(incompatCsumV3):
			x.csum = v.U32(at + 12)
		case sb.has(incompatCsumV2):
			x.csum = uint32(v.U16(at + 4))
		}
		out = append(out, x)
		next = sb.advance(next, 1)
		at += size
		if flags&flagSameUUID == 0 {
			at += uuidSize
		}
		if flags&flagLast != 0 {
			break
		}
	}
	return out, next, v.Err()
}

// tailValid checks the checksum at the end of a descriptor or revoke block.
func (l *logReader) tailValid(b []byte) bool {
	if !l.sb.csumV2or3() {
		return true
	}
	at := len(b) - tailSize
	return binary.BigEndian.Uint32(b[at:]) == crc32cWithout(l.sb.seed, b, at)
}

// dataValid checks the checksum of logged block b.
func (l *logReader) dataValid(x logged, b []byte) bool {
	if !l.sb.csumV2or3() {
		return true
	}
	var tid [4]byte
	binary.BigEndian.PutUint32(tid[:], x.tid)
	crc := crc32c(crc32c(l.sb.seed, tid[:]), b)
	if l.sb.has(incompatCsumV2) {
		crc &= 0xFFFF
	}
	return x.csum == crc
}

// commitValid checks a commit block, whose transaction has checksum v1 crc. Only the block's
// header may have reached the disk: then the rest counts as zeros.
//
//	header(12) type(1) size(1) pad(2) checksum(32) seconds(8) nanoseconds(4) pad(4)
func (l *logReader) commitValid(b []byte, crc uint32) bool {
	const typeAt, sizeAt, csumAt, commitHeaderSize = 12, 13, 16, 64
	found := binary.BigEndian.Uint32(b[csumAt:])
	switch {
	case l.sb.csumV1():
		if b[typeAt] == 0 && b[sizeAt] == 0 && found == 0 {
			return true // written without checksums
		}
		return b[typeAt] == checksumTypeCRC32 && b[sizeAt] == 4 && found == crc
	case l.sb.csumV2or3():
		if found == crc32cWithout(l.sb.seed, b, csumAt) {
			return true
		}
		header := make([]byte, len(b))
		copy(header, b[:commitHeaderSize])
		return found == crc32cWithout(l.sb.seed, header, csumAt)
	}
	return true
}

// corrupt reports a structure of transaction tid at block pos of the journal.
func (l *logReader) corrupt(structure string, tid, pos uint32, reason string, args ...any) error {
	return fsys.Corrupt("jbd2", fmt.Sprintf("%s of transaction %d (block %d of the journal)", structure, tid, pos), 0,
		int64(pos)*int64(l.blockSize), reason, args...)
}
