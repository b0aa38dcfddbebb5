package image

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"vmfr/agent/cache"
	"vmfr/agent/extent"
)

// Guest offset, from the high bits down:
//
//	| L1 index | L2 index | offset in the cluster |      entries of 8 bytes,
//	             clusterBits-3  clusterBits bits         L2 of 16 if extended
//
// L1 and L2 tables are read in pieces of 4 KiB (or a cluster, if that is smaller), so neither
// a large table nor a large cluster costs more memory than what is used of it.
const (
	maxPieceBits       = 12
	tableCacheOverhead = 160 // of a kept piece: map and list entries, so that 512-byte pieces count right
)

// An L1 table of up to 64 KiB (4 TiB of disk at clusters of 64 KiB) is held in memory.
const heldL1Bytes = 64 << 10

// Table entries.
const (
	entryOffset     = 1<<56 - 1<<9 // bits 9 to 55: host offset
	entryCopied     = 1 << 63      // the reference count is 1: nothing to a reader
	entryCompressed = 1 << 62
	entryZero       = 1 << 0 // standard L2 entries only
)

// qcow2 is one qcow2 file of a chain.
type qcow2 struct {
	f           hostFile
	h           header
	index       int // in Image.layers: part of the cache keys
	clusterSize int64
	entrySize   int64
	pieceBits   uint
	l1          []byte // nil: read in pieces
	tables      *tableCache
}

// tableCache holds pieces of the tables of all files of a chain.
type tableCache = cache.Cache[tableKey, []byte]

type tableKey struct {
	layer int
	start int64 // host offset of the piece
}

func newTableCache() *tableCache {
	return cache.New[tableKey](tableCacheBytes, func(b []byte) int64 { return int64(cap(b)) + tableCacheOverhead })
}

// openQCOW2 opens f, the chain's layer number index. Errors wrap ErrCorrupt or ErrUnsupported.
func openQCOW2(f hostFile, index int, tables *tableCache) (*qcow2, error) {
	h, err := readHeader(f)
	if err != nil {
		return nil, err
	}
	q := &qcow2{
		f: f, h: h, index: index, clusterSize: 1 << h.clusterBits, entrySize: 8,
		pieceBits: min(h.clusterBits, maxPieceBits), tables: tables,
	}
	if h.extendedL2 {
		q.entrySize = 16
	}
	if n := h.l1Entries * 8; n <= heldL1Bytes {
		q.l1 = make([]byte, n)
		if _, err := f.ReadAt(q.l1, h.l1Offset); err != nil && n > 0 {
			return nil, fmt.Errorf("qcow2 L1 table of %s: %w", f.Name(), err)
		}
	}
	return q, nil
}

func (q *qcow2) size() int64    { return q.h.size }
func (q *qcow2) host() hostFile { return q.f }

func (q *qcow2) info() LayerInfo {
	return LayerInfo{
		Name: q.f.Name(), Format: FormatQCOW2, Size: q.h.size, Version: q.h.version, ClusterSize: q.clusterSize,
		Compression: []string{"zlib", "zstd"}[q.h.compression], ExtendedL2: q.h.extendedL2, Dirty: q.h.dirty,
		Snapshots: q.h.snapshots, BackingName: q.h.backing,
	}
}

// corrupt makes an error about the structure that maps guest offset off.
func (q *qcow2) corrupt(structure string, off int64, format string, args ...any) error {
	return fmt.Errorf("%w: qcow2 %s of %s for disk offset %d: %s", ErrCorrupt, structure, q.f.Name(), off, fmt.Sprintf(format, args...))
}

// piece returns the piece of a table that holds host offset at, and its start. Table offsets
// are multiples of a cluster, hence of a piece. off is for the error.
func (q *qcow2) piece(structure string, at, off int64) ([]byte, int64, error) {
	start := at &^ (1<<q.pieceBits - 1)
	// The L1 table may end with the file and inside a piece; an entry is never cut.
	n := min(1<<q.pieceBits, q.f.length-start)
	if n < at-start+q.entrySize {
		return nil, 0, q.corrupt(structure, off, "the file ends before byte %d", at+q.entrySize)
	}
	b, err := q.tables.Get(tableKey{q.index, start}, func() ([]byte, error) {
		b := make([]byte, n)
		if _, err := extent.ReadFull(q.f, b, start); err != nil {
			return nil, fmt.Errorf("qcow2 %s of %s at byte %d: %w", structure, q.f.Name(), start, err)
		}
		return b, nil
	})
	return b, start, err
}

// cursor remembers the L2 table and piece used last, for runs over many entries.
type cursor struct {
	l1Index int64 // -1: none
	l2      int64 // host offset of its table, 0: none
	piece   []byte
	start   int64 // host offset of piece
}

// l2Table returns the host offset of the L2 table that maps off, 0 where there is none.
func (q *qcow2) l2Table(off int64) (int64, error) {
	i := off >> q.h.l2SpanBits() // below l1Entries, since off < size
	var e uint64
	if q.l1 != nil {
		e = binary.BigEndian.Uint64(q.l1[i*8:])
	} else {
		at := q.h.l1Offset + i*8
		b, start, err := q.piece("L1 table", at, off)
		if err != nil {
			return 0, err
		}
		e = binary.BigEndian.Uint64(b[at-start:])
	}
	l2 := e & entryOffset
	switch {
	case e&^uint64(entryOffset|entryCopied) != 0:
		return 0, q.corrupt("L1 entry", off, "reserved bits are set in %#016x", e)
	case l2&uint64(q.clusterSize-1) != 0:
		return 0, q.corrupt("L1 entry", off, "the L2 table at byte %d is not aligned", l2)
	case int64(l2) >= q.f.length:
		return 0, q.corrupt("L1 entry", off, "the L2 table at byte %d is behind the end of the file, %d", l2, q.f.length)
	}
	return int64(l2), nil
}

// lookup decodes the entry that maps off. The run ends at most with the entry's cluster, or
// with what the absent L2 table would map; the caller clips it to the disk.
func (q *qcow2) lookup(c *cursor, off int64) (run, error) {
	if i := off >> q.h.l2SpanBits(); i != c.l1Index {
		l2, err := q.l2Table(off)
		if err != nil {
			return run{}, err
		}
		*c = cursor{l1Index: i, l2: l2}
	}
	if c.l2 == 0 {
		return run{kind: absent, n: q.h.l2Span() - off&(q.h.l2Span()-1)}, nil
	}
	at := c.l2 + (off&(q.h.l2Span()-1))>>q.h.clusterBits*q.entrySize
	if c.piece == nil || at < c.start || at >= c.start+int64(len(c.piece)) {
		b, start, err := q.piece("L2 table", at, off)
		if err != nil {
			return run{}, err
		}
		c.piece, c.start = b, start
	}
	entry := c.piece[at-c.start:]
	if int64(len(entry)) < q.entrySize {
		return run{}, q.corrupt("L2 table", off, "the file ends before byte %d", at+q.entrySize)
	}
	e := binary.BigEndian.Uint64(entry)
	in := off & (q.clusterSize - 1)
	if e&entryCompressed != 0 {
		return run{kind: packed, n: q.clusterSize - in, in: in, pack: q.pack(e, off-in)}, nil
	}
	if q.h.extendedL2 {
		return q.extended(e, binary.BigEndian.Uint64(entry[8:]), off, in)
	}
	return q.standard(e, off, in)
}

// standard decodes a standard L2 entry of 8 bytes; in is off's offset in its cluster.
func (q *qcow2) standard(e uint64, off, in int64) (run, error) {
	r := run{n: q.clusterSize - in}
	host := e & entryOffset
	switch {
	case e&^uint64(entryOffset|entryCopied|entryZero) != 0:
		return r, q.corrupt("L2 entry", off, "reserved bits are set in %#016x", e)
	case e&entryZero != 0 && q.h.version < 3:
		return r, q.corrupt("L2 entry", off, "a zero cluster in version 2: %#016x", e)
	case host&uint64(q.clusterSize-1) != 0:
		return r, q.corrupt("L2 entry", off, "the cluster at byte %d is not aligned", host)
	case e&entryZero != 0:
		r.kind = zero
		return r, nil
	case host == 0:
		r.kind = absent
		return r, nil
	}
	return q.verbatim(r, int64(host)+in, off)
}

// extended decodes an extended L2 entry: the low half of bitmap tells which of the 32
// subclusters are allocated, the high half which read as zeros; neither means absent.
func (q *qcow2) extended(e, bitmap uint64, off, in int64) (run, error) {
	host := e & entryOffset
	alloc, zeros := uint32(bitmap), uint32(bitmap>>32)
	switch {
	case e&^uint64(entryOffset|entryCopied) != 0:
		return run{}, q.corrupt("L2 entry", off, "reserved bits are set in %#016x", e)
	case host&uint64(q.clusterSize-1) != 0:
		return run{}, q.corrupt("L2 entry", off, "the cluster at byte %d is not aligned", host)
	case alloc&zeros != 0:
		return run{}, q.corrupt("L2 entry", off, "subclusters %#x are both allocated and zero", alloc&zeros)
	case alloc != 0 && host == 0:
		return run{}, q.corrupt("L2 entry", off, "subclusters %#x are allocated in no cluster", alloc)
	}
	unit := q.clusterSize / subclusters
	i := int(in / unit)
	r, same := run{kind: absent}, ^(alloc | zeros)
	switch {
	case alloc>>i&1 != 0:
		r.kind, same = data, alloc
	case zeros>>i&1 != 0:
		r.kind, same = zero, zeros
	}
	count := min(bits.TrailingZeros32(^(same >> i)), subclusters-i)
	r.n = int64(i+count)*unit - in
	if r.kind == data {
		return q.verbatim(r, int64(host)+in, off)
	}
	return r, nil
}

// verbatim completes a run of uncompressed data at a host offset: what is behind the end of
// the file is damage of its own and not part of the run.
func (q *qcow2) verbatim(r run, host, off int64) (run, error) {
	if host >= q.f.length {
		return r, q.corrupt("L2 entry", off, "its data at byte %d is behind the end of the file, %d", host, q.f.length)
	}
	r.kind, r.file, r.host = data, q.f, host
	r.n = min(r.n, q.f.length-host)
	return r, nil
}

func (q *qcow2) run(off, max int64, _ bool, steps *int) (run, error) {
	c := cursor{l1Index: -1}
	*steps--
	r, err := q.lookup(&c, off)
	if err != nil {
		return run{}, err
	}
	for r.n < max && r.kind != packed && *steps > 0 {
		*steps--
		next, err := q.lookup(&c, off+r.n)
		if err != nil || !r.continuedBy(next, r.n) {
			break // an error is for the read that starts there
		}
		r.n += next.n
	}
	r.n = min(r.n, max)
	return r, nil
}
