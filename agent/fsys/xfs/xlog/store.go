package xlog

import (
	"bytes"
	"fmt"
	"slices"

	"vmfr/agent/cache"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

const (
	// chunkSize is the unit in bytes in which the log records changes of a buffer, and in which
	// the volume's new contents are kept.
	chunkSize = 128

	// maxChunks bounds what a replay keeps in memory: 128 MiB of contents and, counting those
	// that became zeros and have an index entry only, 2^21 entries of about 40 bytes. A log holds
	// its own size of changed chunks at most.
	maxChunks  = 1 << 20
	maxEntries = 1 << 21

	slabChunks = 1 << 13 // chunks in one allocation, 1 MiB

	// windowBytes is how much of the device is read at once: inodes and blocks that change
	// together lie together. cacheBytes of it are kept during the replay.
	windowBytes = 16 << 10
	cacheBytes  = 4 << 20
)

// store is the volume while it is being changed: the device, and the chunks that differ.
type store struct {
	base  extent.Reader
	cache *cache.Cache[int64, []byte] // windows of the base
	slot  map[int64]uint32            // chunk number on the device -> its contents; 0: zeros
	slabs [][]byte
	used  uint32   // slots given out; slot numbers begin with 1
	free  []uint32 // slots of chunks that became zeros
}

func newStore(base extent.Reader) *store {
	size := func(b []byte) int64 { return int64(cap(b)) }
	return &store{base: base, slot: map[int64]uint32{}, cache: cache.NewShards[int64](cacheBytes, 1, size)}
}

func contents(slabs [][]byte, slot uint32) []byte {
	at := (slot - 1) % slabChunks * chunkSize
	return slabs[(slot-1)/slabChunks][at : at+chunkSize]
}

var zeroChunk [chunkSize]byte

// read fills p from off on; both are multiples of the chunk size.
func (s *store) read(p []byte, off int64) error {
	if err := s.device(p, off); err != nil {
		return fmt.Errorf("xfs: reading %d bytes at byte %d: %w", len(p), off, err)
	}
	for at := 0; at < len(p); at += chunkSize {
		if slot, ok := s.slot[(off+int64(at))/chunkSize]; ok {
			if slot == 0 {
				clear(p[at : at+chunkSize])
			} else {
				copy(p[at:], contents(s.slabs, slot))
			}
		}
	}
	return nil
}

// device fills p with what the device has from off on.
func (s *store) device(p []byte, off int64) error {
	for len(p) > 0 {
		start := off / windowBytes * windowBytes
		b, err := s.cache.Get(start, func() ([]byte, error) {
			b := make([]byte, min(windowBytes, s.base.Size()-start))
			_, err := extent.ReadFull(s.base, b, start)
			return b, err
		})
		if err != nil {
			return err
		}
		n := copy(p, b[off-start:])
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// write makes p the contents from off on, where old is; both have a length and a place that are
// multiples of the chunk size. Only chunks that change are kept.
func (s *store) write(p, old []byte, off int64) error {
	for at := 0; at < len(p); at += chunkSize {
		b := p[at : at+chunkSize]
		if bytes.Equal(b, old[at:at+chunkSize]) {
			continue
		}
		if err := s.put(b, (off+int64(at))/chunkSize); err != nil {
			return err
		}
	}
	return nil
}

func (s *store) put(b []byte, chunk int64) error {
	slot, known := s.slot[chunk]
	if !known && len(s.slot) >= maxEntries {
		return tooMuchChanged()
	}
	if bytes.Equal(b, zeroChunk[:]) {
		if slot != 0 {
			s.free = append(s.free, slot)
		}
		s.slot[chunk] = 0
		return nil
	}
	if slot == 0 {
		if n := len(s.free); n > 0 {
			slot, s.free = s.free[n-1], s.free[:n-1]
		} else {
			if s.used == maxChunks {
				return tooMuchChanged()
			}
			if s.used%slabChunks == 0 {
				s.slabs = append(s.slabs, make([]byte, slabChunks*chunkSize))
			}
			s.used++
			slot = s.used
		}
		s.slot[chunk] = slot
	}
	copy(contents(s.slabs, slot), b)
	return nil
}

func tooMuchChanged() error {
	return fmt.Errorf("xfs: %w: the log changes more than %d bytes of the volume", fsys.ErrUnsupported, int64(maxChunks)*chunkSize)
}

// freeze returns the volume as it is now. The store must not be used afterwards.
func (s *store) freeze() *overlay {
	o := &overlay{base: s.base, slabs: s.slabs, chunks: make([]int64, 0, len(s.slot)), slots: make([]uint32, 0, len(s.slot))}
	for chunk := range s.slot {
		o.chunks = append(o.chunks, chunk)
	}
	slices.Sort(o.chunks)
	for _, chunk := range o.chunks {
		o.slots = append(o.slots, s.slot[chunk])
	}
	s.slot = nil
	return o
}

// overlay is a device with chunks of new contents laid over it. It is extent.Overlay for very
// many very small patches: 12 bytes for each beside its contents, and one read of the device
// however many of them a read meets.
type overlay struct {
	base   extent.Reader
	chunks []int64 // ascending
	slots  []uint32
	slabs  [][]byte
}

var _ extent.Reader = (*overlay)(nil)

// Size is the device's.
func (o *overlay) Size() int64 { return o.base.Size() }

// ReadAt reads the device and lays the chunks over what was read.
func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	n, end := extent.CheckRead(o.Size(), p, off)
	if n == 0 {
		return 0, end
	}
	got, err := extent.ReadFull(o.base, p[:n], off)
	if err != nil {
		return got, err
	}
	first := off / chunkSize
	i, _ := slices.BinarySearch(o.chunks, first)
	for ; i < len(o.chunks) && o.chunks[i]*chunkSize < off+int64(n); i++ {
		b := zeroChunk[:]
		if o.slots[i] != 0 {
			b = contents(o.slabs, o.slots[i])
		}
		if at := o.chunks[i]*chunkSize - off; at < 0 {
			copy(p[:n], b[-at:])
		} else {
			copy(p[at:n], b)
		}
	}
	return n, end
}

// Extent tells of changed chunks that they are nowhere on the host, and of the rest what the
// device tells.
func (o *overlay) Extent(off, max int64) (extent.Extent, error) {
	max, err := extent.CheckExtent(o.Size(), off, max)
	if err != nil {
		return extent.Extent{}, err
	}
	i, changed := slices.BinarySearch(o.chunks, off/chunkSize)
	if !changed {
		if i < len(o.chunks) {
			max = min(max, o.chunks[i]*chunkSize-off)
		}
		return o.base.Extent(off, max)
	}
	end := i + 1
	for end < len(o.chunks) && o.chunks[end] == o.chunks[end-1]+1 && o.chunks[end]*chunkSize-off < max {
		end++
	}
	return extent.Extent{Len: min(max, (o.chunks[end-1]+1)*chunkSize-off)}, nil
}
