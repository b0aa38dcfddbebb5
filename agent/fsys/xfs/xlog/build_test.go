package xlog_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	"vmfr/agent/extent"
	"vmfr/agent/fsys/xfs/xlog"
)

// A log made by hand, for what no kernel writes, lies on a device of 4 MiB that has nothing else
// but the inodes and blocks that a test puts there.
const (
	builtSize     = 4 << 20
	builtLogAt    = 2 << 20
	builtLogBytes = 1 << 20
)

// builder writes records one behind the other, beginning at block 0 in cycle 1.
type builder struct {
	m    *image
	next int // block
	tail uint64
}

func newBuilder(v5 bool) *builder {
	g := xlog.Geometry{
		BlockSize: 4096, InodeSize: 512, AGBlocks: builtSize / 4096, AGCount: 1, AGBlockLog: 10, InoPerLog: 3, InodeAlign: 4,
		LogStart: builtLogAt / 4096, LogBlocks: builtLogBytes / 4096, V5: v5, LogV2: true,
	}
	for i := range g.UUID {
		g.UUID[i] = byte(i + 1)
	}
	g.MetaUUID = g.UUID
	return &builder{m: &image{b: make([]byte, builtSize), g: g, logAt: builtLogAt, logSize: builtLogBytes}, tail: 1 << 32}
}

// record appends a record with the given operations.
func (b *builder) record(ops ...[]byte) {
	b.raw(bytes.Join(ops, nil), len(ops))
}

// raw appends a record with these bytes as its data, of which ops operations are to be read.
func (b *builder) raw(data []byte, ops int) {
	be := binary.BigEndian
	log := b.m.log()
	blocks := (len(data) + basicBlock - 1) / basicBlock
	header := log[b.next*basicBlock : (b.next+1)*basicBlock]
	be.PutUint32(header, 0xFEEDBABE)
	be.PutUint32(header[4:], 1)
	be.PutUint32(header[8:], 2)
	be.PutUint32(header[12:], uint32(len(data)))
	be.PutUint64(header[16:], 1<<32|uint64(b.next))
	be.PutUint64(header[24:], b.tail)
	be.PutUint32(header[40:], uint32(ops))
	be.PutUint32(header[300:], 1)
	copy(header[304:], b.m.g.UUID[:])
	be.PutUint32(header[320:], 32<<10)
	body := log[(b.next+1)*basicBlock : (b.next+1+blocks)*basicBlock]
	copy(body, data)
	for i := range blocks {
		copy(header[44+4*i:], body[i*basicBlock:i*basicBlock+4])
		be.PutUint32(body[i*basicBlock:], 1)
	}
	b.seal(b.next)
	b.next += 1 + blocks
}

// seal computes the checksum of the record at block blk anew.
func (b *builder) seal(blk int) { sealRecord(b.m.log()[blk*basicBlock:]) }

func castagnoli(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// sealRecord does that for a record with a header of any length.
func sealRecord(rec []byte) bool {
	be, table := binary.BigEndian, crc32.MakeTable(crc32.Castagnoli)
	headers := 1
	if size := be.Uint32(rec[320:]); be.Uint32(rec[8:])&2 != 0 && size > 32<<10 && size <= 256<<10 {
		headers = (int(size) + 32<<10 - 1) / (32 << 10)
	}
	length := int(be.Uint32(rec[12:]))
	if length <= 0 || headers*basicBlock+length > len(rec) {
		return false
	}
	clear(rec[32:36])
	crc := crc32.Checksum(rec[:328], table)
	for i := 1; i < headers; i++ {
		crc = crc32.Update(crc, table, rec[i*basicBlock:i*basicBlock+260])
	}
	binary.LittleEndian.PutUint32(rec[32:], crc32.Update(crc, table, rec[headers*basicBlock:headers*basicBlock+length]))
	return true
}

func (b *builder) replay() (extent.Reader, xlog.Report, error) { return b.m.replay() }

// op is one operation.
func op(tid uint32, flags byte, region []byte) []byte {
	h := make([]byte, 12, 12+len(region))
	binary.BigEndian.PutUint32(h, tid)
	binary.BigEndian.PutUint32(h[4:], uint32(len(region)))
	h[8], h[9] = 0x69, flags
	return append(h, region...)
}

const (
	flagStart, flagCommit, flagContinue, flagWasContinued, flagEnd, flagUnmount = 1, 2, 4, 8, 16, 32
)

// transaction is a whole transaction: its start, header, regions and commit.
func transaction(tid uint32, regions ...[]byte) [][]byte {
	ops := [][]byte{op(tid, flagStart, nil), op(tid, 0, le(uint32(0x5452414e), uint32(40), tid, uint32(len(regions))))}
	for _, r := range regions {
		ops = append(ops, op(tid, 0, r))
	}
	return append(ops, op(tid, flagCommit, nil))
}

// le is the little-endian encoding of integers.
func le(values ...any) []byte {
	var b []byte
	for _, v := range values {
		var err error
		if b, err = binary.Append(b, binary.LittleEndian, v); err != nil {
			panic(err) // not an integer of fixed size
		}
	}
	return b
}

// intent is an intent item, or one that says it is done.
func intent(kind uint16, id uint64) []byte { return le(kind, uint16(1), uint32(0), id) }

// bufferItem is a buffer item's format; bitmap has one bit for each chunk of 128 bytes.
func bufferItem(regions, flags, sectors uint16, daddr int64, bitmap ...uint32) []byte {
	return le(uint16(0x123c), regions, flags, sectors, daddr, uint32(len(bitmap)), bitmap)
}

// inodeItem is an inode item's format.
func inodeItem(regions uint16, fields uint32, ino uint64, daddr int64, sectors, offset int32) []byte {
	return le(uint16(0x123b), regions, fields, uint16(0), uint16(0), uint32(0), ino, uint64(0), uint64(0), daddr, sectors, offset)
}

// logDinode is a log dinode of a regular file with no extents.
func logDinode(v5 bool, ino uint64, size uint64) []byte {
	n := 96
	if v5 {
		n = 176
	}
	d := make([]byte, n)
	l := binary.LittleEndian
	l.PutUint16(d, 0x494e)
	l.PutUint16(d[2:], 0o100644)
	d[4], d[5] = 2, 2
	l.PutUint32(d[16:], 1)
	l.PutUint64(d[56:], size)
	if v5 {
		d[4] = 3
		l.PutUint64(d[152:], ino)
	}
	return d
}
