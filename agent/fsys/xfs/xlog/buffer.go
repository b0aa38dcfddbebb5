package xlog

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"vmfr/agent/fsys"
)

// A buffer item's format, little-endian, and behind it the changed chunks, each run of which is
// a region of its own:
//
//	0 type  2 regions  4 flags  6 length in sectors  8 first sector (8 bytes)
//	16 words of the bitmap  20 bitmap, one bit for each chunk of 128 bytes
const (
	bufferFormatSize = 20

	bufferInodes = 1 << 0 // of inodes only the links of unlinked lists are in it
	bufferCancel = 1 << 1 // the blocks were freed
	bufferDquots = 1<<2 | 1<<3 | 1<<4

	// maxBufferBytes is the length of the largest buffer: a block, a directory block or a
	// cluster of 32 inodes.
	maxBufferBytes = 64 << 10
)

// bufferFormat is the decoded format of a buffer item.
type bufferFormat struct {
	location
	flags  uint16
	bitmap []byte
}

func (f *bufferFormat) kind() uint16 { return f.flags >> 11 }

func parseBuffer(it *item) (bufferFormat, error) {
	b := it.regions[0]
	if len(b) >= bufferFormatSize {
		le := binary.LittleEndian
		f := bufferFormat{flags: le.Uint16(b[4:])}
		f.blocks, f.daddr = uint32(le.Uint16(b[6:])), int64(le.Uint64(b[8:]))
		if n := uint64(le.Uint32(b[16:])) * 4; n <= uint64(len(b)-bufferFormatSize) {
			f.bitmap = b[bufferFormatSize : bufferFormatSize+n]
			return f, nil
		}
	}
	return bufferFormat{}, fsys.Corrupt("xfs", "buffer item of the log", 0, -1, "a format of %d bytes", len(b))
}

// change is a run of bytes of a buffer.
type change struct {
	off  int
	data []byte
}

// changes pairs the runs of the bitmap with the regions of data. A run may be cut into several
// regions.
func (p *replay) changes(it *item, f *bufferFormat, size int) ([]change, error) {
	var out []change
	regions := it.regions[1:]
	for bit := f.next(0); bit >= 0; {
		if len(regions) == 0 {
			return nil, p.log.corrupt("buffer item of the log", p.at, "its bitmap has more than its %d regions", len(it.regions)-1)
		}
		n := min(f.run(bit), len(regions[0])/chunkSize)
		if n == 0 || (bit+n)*chunkSize > size {
			return nil, p.log.corrupt("buffer item of the log", p.at, "a region of %d bytes for byte %d of %d", len(regions[0]), bit*chunkSize, size)
		}
		out = append(out, change{bit * chunkSize, regions[0][:n*chunkSize]})
		regions = regions[1:]
		bit = f.next(bit + n)
	}
	return out, nil
}

// next returns the first bit that is set from bit on, or -1.
func (f *bufferFormat) next(bit int) int {
	for i := bit / 8; i < len(f.bitmap); i++ {
		b := f.bitmap[i]
		if i == bit/8 {
			b &= 0xFF << (bit % 8)
		}
		if b != 0 {
			return i*8 + bits.TrailingZeros8(b)
		}
	}
	return -1
}

// run tells how many bits are set from bit on.
func (f *bufferFormat) run(bit int) int {
	n := 0
	for i := bit; i < len(f.bitmap)*8 && f.bitmap[i/8]&(1<<(i%8)) != 0; i++ {
		n++
	}
	return n
}

// buffer applies a buffer item.
func (p *replay) buffer(it *item) error {
	f, err := parseBuffer(it)
	if err != nil {
		return err
	}
	if f.flags&bufferCancel != 0 {
		// Only what was logged before is cancelled: from here on it may come back.
		if p.cancelled[f.location]--; p.cancelled[f.location] <= 0 {
			delete(p.cancelled, f.location)
		}
		p.report.Cancelled++
		return nil
	}
	if p.cancelled[f.location] > 0 {
		p.report.Cancelled++
		return nil
	}
	off, n, err := p.bytes(f.location, "buffer item of the log")
	if err != nil {
		return err
	}
	b, err := p.load(off, n)
	if err != nil {
		return err
	}
	if lsn := p.bufferLSN(b); lsn != 0 && lsn != noLSN && lsn >= p.lsn {
		p.report.Skipped++
		return nil
	}
	if f.flags&bufferDquots != 0 {
		return nil // quota accounting is not read
	}
	changes, err := p.changes(it, &f, n)
	if err != nil {
		return err
	}
	p.report.Buffers++
	if f.flags&bufferInodes != 0 {
		if err := p.unlinkedLists(b, changes); err != nil {
			return err
		}
		return p.save(b, off)
	}
	for _, c := range changes {
		copy(b[c.off:], c.data)
	}
	if p.g.V5 {
		if s, ok := stampOf(f.kind(), b); ok {
			s.lsn = p.lsn
			if _, known := p.pending[f.location]; !known {
				if len(p.touched) >= maxPending {
					return fmt.Errorf("xfs: %w: more than %d buffers changed at one moment of the log", fsys.ErrUnsupported, maxPending)
				}
				p.touched = append(p.touched, f.location)
			}
			p.pending[f.location] = s
		}
	}
	if f.kind() == kindSuper && off == 0 && binary.BigEndian.Uint32(b) == magicSuper {
		p.g.AGCount = max(p.g.AGCount, binary.BigEndian.Uint32(b[superAGCount:])) // the guest had grown it
	}
	return p.save(b, off)
}

// unlinkedLists takes from a logged buffer of inodes what it may be used for: each inode's link to
// the next one that has no name. The rest may be older than what inode items hold.
func (p *replay) unlinkedLists(b []byte, changes []change) error {
	size := int(p.g.InodeSize)
	for at := 0; at+size <= len(b); at += size {
		field := at + dinodeNextUnlinked
		for _, c := range changes {
			if field < c.off || field+4 > c.off+len(c.data) {
				continue
			}
			next := c.data[field-c.off:][:4]
			if binary.BigEndian.Uint32(next) == 0 {
				return p.log.corrupt("buffer item of the log", p.at, "an inode with 0 as the next unlinked one")
			}
			copy(b[field:], next)
			if p.g.V5 {
				setChecksum(b[at:at+size], dinodeCRC)
			}
		}
	}
	return nil
}

// flush gives the buffers that transactions changed their LSN and checksum, as a write to the disk
// does.
func (p *replay) flush() error {
	for _, at := range p.touched {
		s := p.pending[at]
		b, err := p.load(at.daddr*basicBlock, int(at.blocks)*basicBlock)
		if err != nil {
			return err
		}
		unit := len(b)
		if s.perBlock {
			unit = min(unit, int(p.g.BlockSize))
		}
		for i := 0; i+unit <= len(b); i += unit {
			if s.lsnAt > 0 {
				binary.BigEndian.PutUint64(b[i+s.lsnAt:], s.lsn)
			}
			setChecksum(b[i:i+unit], s.crcAt)
		}
		if err := p.save(b, at.daddr*basicBlock); err != nil {
			return err
		}
	}
	clear(p.pending)
	p.touched = p.touched[:0]
	return nil
}
