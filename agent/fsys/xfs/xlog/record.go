package xlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"vmfr/agent/fsys"
)

// Layout of a log record. Headers are big-endian, but for the checksum.
//
//	0 magic   4 cycle      8 version  12 length    16 LSN   24 tail LSN
//	32 CRC   36 previous  40 number of operations  44 cycle data (64 words)
//	300 format of the data  304 UUID  320 size of the log buffer  324 padding
const (
	recordMagic = 0xFEEDBABE

	recVersion   = 8
	recLength    = 12
	recLSN       = 16
	recTailLSN   = 24
	recCRC       = 32
	recNumOps    = 40
	recCycleData = 44
	recFormat    = 300
	recUUID      = 304
	recSize      = 320

	formatLittleEndian = 1 // of the data: as the guest's processor has it
	formatBigEndian    = 2

	// headerCycleBytes is how much data one block of the header has saved words for: 64 blocks.
	headerCycleBytes = 32 << 10
	cyclesPerHeader  = headerCycleBytes / basicBlock

	recordBytesV1  = 32 << 10
	maxRecordBytes = 256 << 10
	maxBuffers     = 8 // log buffers that can be on their way to the disk at once
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is one log record: a header of one or more blocks, and data.
type record struct {
	blk    int64  // of its header
	header []byte // whole blocks
	data   []byte // whole blocks; the first word of each is a cycle number until unpack
	length int    // bytes of data that count
}

func (r *record) u32(at int) uint32 { return binary.BigEndian.Uint32(r.header[at:]) }
func (r *record) lsn() uint64       { return binary.BigEndian.Uint64(r.header[recLSN:]) }
func (r *record) tailLSN() uint64   { return binary.BigEndian.Uint64(r.header[recTailLSN:]) }
func (r *record) cycle() uint32     { return r.u32(4) }

// An LSN is the cycle and the block at which a record begins.
func lsnCycle(lsn uint64) uint32 { return uint32(lsn >> 32) }
func lsnBlock(lsn uint64) int64  { return int64(uint32(lsn)) }

func blocksOf(n int) int64 { return (int64(n) + basicBlock - 1) / basicBlock }

// headerBlocks is the length of a record's header, which grows with the size of the log buffer.
func (l *ring) headerBlocks(version, bufferSize uint32) int64 {
	if l.g.LogV2 && version&2 != 0 && bufferSize > headerCycleBytes {
		return (int64(bufferSize) + headerCycleBytes - 1) / headerCycleBytes
	}
	return 1
}

// checkHeader validates what every record of the log must have.
func (l *ring) checkHeader(h []byte, blk int64, bufferSize uint32) error {
	be := binary.BigEndian
	if m := be.Uint32(h); m != recordMagic {
		return l.corrupt("log record", blk, "magic number %#x", m)
	}
	if v := be.Uint32(h[recVersion:]); v == 0 || v > 3 {
		return l.corrupt("log record", blk, "version %d", v)
	}
	if n := be.Uint32(h[recLength:]); n == 0 || n > bufferSize || n > maxRecordBytes {
		return l.corrupt("log record", blk, "%d bytes of data in a log buffer of %d", n, bufferSize)
	}
	return nil
}

// walk calls visit for each record from the tail to the head. Where it fails, bad is the block of
// the record that it failed at. The record and its data are valid during the call only.
func (l *ring) walk(head, tail int64, visit func(*record) error) (bad int64, err error) {
	b, err := l.block(tail)
	if err != nil {
		return tail, err
	}
	bufferSize, headerBlocks := uint32(recordBytesV1), int64(1)
	if l.g.LogV2 {
		be := binary.BigEndian
		bufferSize = be.Uint32(b[recSize:])
		// mkfs.xfs writes one record of the stripe unit's size and says 32 KiB.
		if n, most := be.Uint32(b[recLength:]), max(recordBytesV1, l.g.LogSunit); n > bufferSize && n <= most && be.Uint32(b[recNumOps:]) == 1 {
			bufferSize = most
		}
		if bufferSize > maxRecordBytes {
			return tail, l.corrupt("log record", tail, "a log buffer of %d bytes (limit %d)", bufferSize, maxRecordBytes)
		}
		if err := l.checkHeader(b, tail, bufferSize); err != nil {
			return tail, err
		}
		headerBlocks = l.headerBlocks(be.Uint32(b[recVersion:]), bufferSize)
	}
	buf := make([]byte, headerBlocks*basicBlock+blocksOf(int(bufferSize))*basicBlock)
	if int64(len(buf)) > l.size*basicBlock {
		return tail, l.corrupt("log record", tail, "a log buffer of %d bytes", bufferSize)
	}
	blk, wrapped := tail, tail < head
	for {
		if !wrapped && blk >= l.size {
			blk, wrapped = blk-l.size, true
		}
		if wrapped && blk >= head {
			return 0, nil
		}
		rec := &record{blk: blk, header: buf[:headerBlocks*basicBlock]}
		if wrapped && blk+headerBlocks > l.size {
			return blk, l.corrupt("log record", blk, "it leaves the log")
		}
		if err := l.read(rec.header, blk); err != nil {
			return blk, err
		}
		if err := l.checkHeader(rec.header, blk, bufferSize); err != nil {
			return blk, err
		}
		rec.length = int(rec.u32(recLength))
		blocks := blocksOf(rec.length)
		if wrapped && blk+headerBlocks+blocks > l.size {
			return blk, l.corrupt("log record", blk, "its %d bytes leave the log", rec.length)
		}
		rec.data = buf[len(rec.header) : int64(len(rec.header))+blocks*basicBlock]
		if err := l.read(rec.data, l.wrap(blk+headerBlocks)); err != nil {
			return blk, err
		}
		if err := visit(rec); err != nil {
			return blk, err
		}
		blk += headerBlocks + blocks
	}
}

// checksumValid tells whether the record's checksum is right, and whether it has one: mkfs.xfs
// and old kernels write 0.
func (l *ring) checksumValid(r *record) (valid, present bool) {
	const (
		extension = 260 // of a further header block, covered by the checksum
		length    = 328 // of the header; written by 32-bit x86, it is 4 less
		length32  = 324
	)
	stored := binary.LittleEndian.Uint32(r.header[recCRC:])
	if stored == 0 {
		return false, false
	}
	for _, n := range []int{length, length32} {
		crc := crc32.Update(0, castagnoli, r.header[:recCRC])
		crc = crc32.Update(crc, castagnoli, []byte{0, 0, 0, 0})
		crc = crc32.Update(crc, castagnoli, r.header[recCRC+4:n])
		if l.g.LogV2 {
			more := (int64(r.u32(recSize)) + headerCycleBytes - 1) / headerCycleBytes
			for i := int64(1); i < min(more, int64(len(r.header)/basicBlock)); i++ {
				crc = crc32.Update(crc, castagnoli, r.header[i*basicBlock:i*basicBlock+extension])
			}
		}
		if crc32.Update(crc, castagnoli, r.data[:r.length]) == stored {
			return true, true
		}
	}
	return false, true
}

// verify checks a record's checksum where there is one.
func (l *ring) verify(r *record) error {
	if valid, present := l.checksumValid(r); present && !valid {
		return l.corrupt("log record", r.blk, "wrong checksum")
	}
	return nil
}

// unpack puts back the first word of each block of data, which the cycle number had replaced:
// the header has saved them.
func (l *ring) unpack(r *record) error {
	for i := range len(r.data) / basicBlock {
		from := recCycleData + 4*i
		if i >= cyclesPerHeader {
			if !l.g.LogV2 {
				break
			}
			from = i/cyclesPerHeader*basicBlock + 4 + 4*(i%cyclesPerHeader)
		}
		if from+4 > len(r.header) {
			return l.corrupt("log record", r.blk, "%d bytes of data for a header of %d blocks", r.length, len(r.header)/basicBlock)
		}
		copy(r.data[i*basicBlock:], r.header[from:from+4])
	}
	return nil
}

// checkOwner requires a record of this file system in this format.
func (l *ring) checkOwner(r *record) error {
	switch f := r.u32(recFormat); f {
	case formatLittleEndian:
	case formatBigEndian:
		return fmt.Errorf("xfs: %w: the log was written by a big-endian machine", fsys.ErrUnsupported)
	default:
		return l.corrupt("log record", r.blk, "format %d", f)
	}
	if !bytes.Equal(r.header[recUUID:recUUID+16], l.g.UUID[:]) {
		return l.corrupt("log record", r.blk, "it is of another file system (UUID %x)", r.header[recUUID:recUUID+16])
	}
	return nil
}

// damaged tells whether an error is about what the log holds, and not about reading it.
func damaged(err error) bool { return errors.Is(err, fsys.ErrCorrupt) }
