package fat

import (
	"encoding/binary"
	"fmt"
	"io"

	"vmfr/agent/cache"
	"vmfr/agent/extent"
)

// tableChunk is the unit in which the allocation table is read and cached, in bytes.
const tableChunk = 16 << 10

// table reads the allocation table: entry c tells which cluster follows cluster c of a file.
type table struct {
	dev   extent.Reader
	geo   *geometry
	cache *cache.Cache[int64, []byte]
}

func newTable(dev extent.Reader, geo *geometry) *table {
	return &table{dev: dev, geo: geo, cache: cache.NewShards[int64](fatCacheBytes, 4, func(b []byte) int64 { return int64(cap(b)) + 128 })}
}

// cursor reads entries one after another; it keeps the chunk used last. It is owned by one
// goroutine.
type cursor struct {
	t     *table
	index int64 // of chunk, -1: none
	chunk []byte
}

func (t *table) cursor() *cursor { return &cursor{t: t, index: -1} }

// byteAt returns one byte of the table.
func (c *cursor) byteAt(off int64) (byte, error) {
	if index := off / tableChunk; index != c.index {
		t := c.t
		b, err := t.cache.Get(index, func() ([]byte, error) {
			b := make([]byte, min(tableChunk, t.geo.fatSize-index*tableChunk))
			at := t.geo.fat + index*tableChunk
			if have := t.dev.Size() - at; have < int64(len(b)) { // a device that ends inside the table
				if have <= 0 {
					return nil, fmt.Errorf("fat: allocation table at byte %d: %w", at, io.ErrUnexpectedEOF)
				}
				b = b[:have]
			}
			if _, err := extent.ReadFull(t.dev, b, at); err != nil {
				return nil, fmt.Errorf("fat: allocation table at byte %d: %w", at, err)
			}
			return b, nil
		})
		if err != nil {
			return 0, err
		}
		c.index, c.chunk = index, b
	}
	if in := off % tableChunk; in < int64(len(c.chunk)) {
		return c.chunk[in], nil
	}
	return 0, fmt.Errorf("fat: allocation table at byte %d: %w", c.t.geo.fat+off, io.ErrUnexpectedEOF)
}

// entry returns entry number n, which the table must have, as it is: 28 bits of FAT32.
func (c *cursor) entry(n uint32) (uint32, error) {
	width := int64(c.t.geo.bits) / 8
	off := int64(n) * width
	if width == 1 {
		off, width = int64(n)+int64(n)/2, 2
	}
	var b [4]byte
	if in := off - c.index*tableChunk; c.index >= 0 && in >= 0 && in+width <= int64(len(c.chunk)) {
		copy(b[:width], c.chunk[in:])
	} else {
		for i := range b[:width] {
			var err error
			if b[i], err = c.byteAt(off + int64(i)); err != nil {
				return 0, err
			}
		}
	}
	v := binary.LittleEndian.Uint32(b[:])
	switch {
	case c.t.geo.bits == 32:
		v &= 0x0fffffff
	case c.t.geo.bits == 12 && n&1 == 1:
		v >>= 4
	case c.t.geo.bits == 12:
		v &= 0xfff
	}
	return v, nil
}

// top returns the number from which on entries end a chain.
func (t *table) top() uint32 { return 1<<min(t.geo.bits, 28) - 8 }

// state reads the two bits of entry 1 in which Windows notes an unclean shutdown and I/O
// errors; FAT12 has none. The bits are set where all is well.
func (t *table) state() (dirty, failed bool, err error) {
	if t.geo.bits == 12 {
		return false, false, nil
	}
	e, err := t.cursor().entry(1)
	shift := min(t.geo.bits, 28) - 2
	return e>>shift&2 == 0, e>>shift&1 == 0, err
}

const (
	fsInfoSize    = 512
	maxCountedFAT = 4 << 20 // bytes of the table that are read to count free clusters
)

// free returns the number of free clusters: as FAT32's FSInfo sector tells, which a guest keeps
// up to date at unmount only, else by counting, else 0.
func (t *table) free() uint64 {
	g := t.geo
	if g.fsInfo > 0 {
		b := make([]byte, fsInfoSize)
		if _, err := extent.ReadFull(t.dev, b, g.fsInfo); err == nil {
			le := binary.LittleEndian
			if n := le.Uint32(b[488:]); string(b[:4]) == "RRaA" && string(b[484:488]) == "rrAa" && n <= g.clusters {
				return uint64(n)
			}
		}
	}
	if int64(g.clusters)*int64(g.bits)/8 > maxCountedFAT {
		return 0
	}
	n, c := uint64(0), t.cursor()
	for i := uint32(0); i < g.clusters; i++ {
		e, err := c.entry(firstData + i)
		if err != nil {
			return n
		}
		if e == 0 {
			n++
		}
	}
	return n
}
