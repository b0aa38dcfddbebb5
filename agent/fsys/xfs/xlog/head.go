package xlog

import (
	"bytes"
	"encoding/binary"
)

// span is the active part of the log, from the tail, the oldest record that may not have reached
// the disk, to the head, where the next record would be written.
type span struct {
	head, tail int64
	clean      bool // nothing is to be replayed
	torn       bool // the last writes were incomplete: the head was moved back before them
	cycle      uint32
}

// find locates head and tail, following xlog_find_tail of the kernel case by case: what is left
// of an interrupted write is dropped, everything else that is wrong is ErrCorrupt.
func (l *ring) find() (span, error) {
	head, empty, err := l.findHead()
	if err != nil {
		return span{}, err
	}
	if empty {
		return span{clean: true}, nil
	}
	at, err := l.lastRecord(head)
	if err != nil {
		return span{}, err
	}
	s := span{head: head, tail: lsnBlock(at.tailLSN())}
	if s.clean, err = l.unmounted(head, at); err != nil {
		return span{}, err
	}
	if !s.clean {
		if err := l.verifyHead(&s, at); err != nil {
			return span{}, err
		}
		if s.torn {
			if at, err = l.lastRecord(s.head); err != nil {
				return span{}, err
			}
			if s.clean, err = l.unmounted(s.head, at); err != nil {
				return span{}, err
			}
		}
	}
	s.cycle = at.cycle()
	if at.blk >= s.head { // it ends behind the end of the ring, or at it
		s.cycle++
	}
	if err := l.checkOrder(s, at); err != nil {
		return span{}, err
	}
	s.clean = s.clean || s.head == s.tail
	return s, nil
}

// checkOrder requires the tail to lie behind the head: in the same cycle before it, or in the
// cycle before, after it.
func (l *ring) checkOrder(s span, at *record) error {
	cycle, tail := lsnCycle(at.tailLSN()), lsnBlock(at.tailLSN())
	if cycle == s.cycle && s.head >= tail && s.head < l.size || cycle+1 == s.cycle && s.head < tail {
		return nil
	}
	return l.corrupt("log record", at.blk, "the tail is in cycle %d at block %d, the head in cycle %d at block %d", cycle, tail, s.cycle, s.head)
}

// totalBlocks is how much of the log can be on its way to the disk at once: so far before the
// head, blocks may be in disorder.
func (l *ring) totalBlocks() int64 { return l.recordBlocks() * maxBuffers }

func (l *ring) recordBlocks() int64 {
	if l.g.LogV2 {
		return maxRecordBytes / basicBlock
	}
	return recordBytesV1 / basicBlock
}

// findHead looks for the first block that was not written in the last round, by its cycle number:
//
//	x+1 x+1 ... x+1 | x x x ... x        x ... x | 0 0 ... 0 (never written)
//	                ^ head                       ^ head
//
// Around the head, blocks may be in disorder, as later writes can reach the disk before earlier
// ones; the head is then the first that is missing, and never within a record.
func (l *ring) findHead() (head int64, empty bool, err error) {
	first, err := l.cycle(0)
	if err != nil {
		return 0, false, err
	}
	if first == 0 {
		return 0, true, nil
	}
	last, err := l.cycle(l.size - 1)
	if err != nil {
		return 0, false, err
	}
	if last == 0 {
		head, err = l.headBeforeZeros()
		return head, false, err
	}
	var stop uint32
	if first == last {
		head, stop = l.size, last-1
	} else {
		stop = last
		if head, err = l.cycleStart(0, l.size-1, last); err != nil {
			return 0, false, err
		}
	}
	scan := min(l.size, l.totalBlocks())
	var hole int64
	if head >= scan {
		hole, err = l.findCycle(head-scan, scan, stop)
	} else {
		if hole, err = l.findCycle(l.size-(scan-head), scan-head, stop-1); err == nil && hole < 0 {
			hole, err = l.findCycle(0, head, stop)
		}
	}
	if err != nil {
		return 0, false, err
	}
	if hole >= 0 {
		head = hole
	}
	if head, err = l.recordBoundary(head); err != nil {
		return 0, false, err
	}
	return l.wrap(head), false, nil
}

// headBeforeZeros is the head of a log that has not been round once.
func (l *ring) headBeforeZeros() (int64, error) {
	head, err := l.cycleStart(0, l.size-1, 0)
	if err != nil {
		return 0, err
	}
	scan := min(head, l.totalBlocks())
	hole, err := l.findCycle(head-scan, scan, 0)
	if err != nil {
		return 0, err
	}
	start := head - scan
	if hole >= 0 {
		head = hole
	}
	if head == start {
		return 0, l.corrupt("log", head, "no record precedes the head")
	}
	head, found, err := l.wholeRecord(start, head, 0)
	if err == nil && !found {
		err = l.corrupt("log", head, "no record precedes the head")
	}
	return head, err
}

// recordBoundary moves the head back where it lies within a record.
func (l *ring) recordBoundary(head int64) (int64, error) {
	scan := l.recordBlocks()
	if head >= scan {
		moved, found, err := l.wholeRecord(head-scan, head, 0)
		if err == nil && !found {
			err = l.corrupt("log", head, "no record precedes the head")
		}
		return moved, err
	}
	moved, found, err := l.wholeRecord(0, head, 0)
	if err != nil || found {
		return moved, err
	}
	// The record begins before the physical end.
	start := max(l.size-(scan-head), 0)
	end, found, err := l.wholeRecord(start, l.size, head)
	switch {
	case err != nil:
		return 0, err
	case !found:
		return 0, l.corrupt("log", head, "no record precedes the head")
	case end != l.size:
		return end, nil
	}
	return head, nil
}

// wholeRecord looks for the last record header of [start, end). Where the record does not end at
// end, plus the extra blocks that follow at the ring's start, it is incomplete, and its own
// block is the end instead. found is false where the start of the ring was met first.
func (l *ring) wholeRecord(start, end, extra int64) (moved int64, found bool, err error) {
	blk := end - 1
	var b []byte
	for ; ; blk-- {
		if blk < 0 {
			return end, false, nil
		}
		if blk < start {
			return 0, false, l.corrupt("log", end, "no record header in the %d blocks before the head", end-start)
		}
		if b, err = l.block(blk); err != nil {
			return 0, false, err
		}
		if binary.BigEndian.Uint32(b) == recordMagic {
			break
		}
	}
	uuid := b[recUUID : recUUID+16]
	if !bytes.Equal(uuid, make([]byte, 16)) && !bytes.Equal(uuid, l.g.UUID[:]) {
		return 0, false, l.corrupt("log record", blk, "it is of another file system (UUID %x)", uuid)
	}
	be := binary.BigEndian
	n := l.headerBlocks(be.Uint32(b[recVersion:]), be.Uint32(b[recSize:])) + blocksOf(int(be.Uint32(b[recLength:])))
	if end-blk+extra != n {
		return blk, true, nil
	}
	return end, true, nil
}

// seekBack looks for record headers before from, at most count of them and not beyond limit,
// round the start of the ring; from == limit means once round. It returns the last one found, and
// how many there were.
func (l *ring) seekBack(from, limit int64, count int) (blk int64, found int, err error) {
	steps := from - limit
	if steps <= 0 {
		steps += l.size
	}
	return l.seek(l.wrap(from-1+l.size), -1, steps, count)
}

// seekForward does the same from block from on, itself included, up to limit.
func (l *ring) seekForward(from, limit int64, count int) (blk int64, found int, err error) {
	steps := limit - from
	if steps <= 0 {
		steps += l.size
	}
	return l.seek(from, 1, steps, count)
}

func (l *ring) seek(at, step, steps int64, count int) (blk int64, found int, err error) {
	for ; steps > 0; steps-- {
		b, err := l.block(at)
		if err != nil {
			return 0, 0, err
		}
		if binary.BigEndian.Uint32(b) == recordMagic {
			blk = at
			if found++; found == count {
				break
			}
		}
		at = l.wrap(at + step + l.size)
	}
	return blk, found, nil
}

// lastRecord returns the header of the last record before the head.
func (l *ring) lastRecord(head int64) (*record, error) {
	blk, n, err := l.seekBack(head, head, 1)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, l.corrupt("log", head, "no record precedes the head")
	}
	b, err := l.block(blk)
	if err != nil {
		return nil, err
	}
	return &record{blk: blk, header: bytes.Clone(b)}, nil
}

// unmounted tells whether the log's last record says that the file system was unmounted.
func (l *ring) unmounted(head int64, at *record) (bool, error) {
	const unmount, opFlags = 0x20, 9
	data := at.blk + l.headerBlocks(at.u32(recVersion), at.u32(recSize))
	if (data+blocksOf(int(at.u32(recLength))))%l.size != head || at.u32(recNumOps) != 1 {
		return false, nil
	}
	b, err := l.block(data % l.size)
	if err != nil {
		return false, err
	}
	return b[opFlags]&unmount != 0, nil
}

// verifyHead checks the newest records, as many as there may have been on their way to the disk
// when the guest stopped. A bad one was torn, and it and all after it are dropped; then the tail
// is what the last good record says.
func (l *ring) verifyHead(s *span, at *record) error {
	start, n, err := l.seekBack(s.head, s.tail%l.size, maxBuffers)
	if err != nil {
		return err
	}
	if n == 0 {
		return l.corrupt("log", s.head, "no record between tail and head")
	}
	bad, err := l.walk(s.head, start, l.verify)
	if damaged(err) && bad != 0 {
		blk, n, err2 := l.seekBack(bad, s.tail%l.size, 1)
		if err2 != nil {
			return err2
		}
		if n == 0 {
			return err
		}
		b, err2 := l.block(blk)
		if err2 != nil {
			return err2
		}
		at = &record{blk: blk, header: bytes.Clone(b)}
		s.head, s.tail, s.torn = bad, lsnBlock(at.tailLSN()), true
		if s.head == s.tail {
			return nil
		}
		err = nil
	}
	if err != nil {
		return err
	}
	return l.verifyTail(s, at)
}

// verifyTail checks all records from the tail to the head. Where the head had come close to the
// tail, a write that is now dropped may have overwritten old records that were no longer needed:
// then the tail is the next good record. Damage elsewhere is ErrCorrupt.
func (l *ring) verifyTail(s *span, at *record) error {
	if s.tail >= l.size {
		return l.corrupt("log record", at.blk, "the tail is at block %d of %d", s.tail, l.size)
	}
	tail, n, err := l.seekForward(s.tail, s.head, 1)
	if err != nil {
		return err
	}
	if n == 0 {
		return l.corrupt("log", s.tail, "no record between tail and head")
	}
	reach := int64(maxBuffers) * min(int64(at.u32(recSize)), maxRecordBytes) / basicBlock
	for {
		bad, err := l.walk(s.head, tail, l.verify)
		if err == nil {
			s.tail = tail
			return nil
		}
		distance := bad - s.head
		if distance <= 0 {
			distance += l.size
		}
		if !damaged(err) || bad == 0 || distance > reach {
			return err
		}
		next, n, err2 := l.seekForward(bad, s.head, 2)
		if err2 != nil {
			return err2
		}
		if n < 2 || next == tail {
			return err
		}
		tail = next
	}
}
