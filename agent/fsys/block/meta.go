package block

import (
	"fmt"
	"io"

	"vmfr/agent/cache"
	"vmfr/agent/extent"
)

// metaChunk is the unit in which metadata is read and cached, in bytes: one read brings 32
// inodes of 512 bytes, and neighbours are asked for together. Larger blocks are their own unit.
const metaChunk = 16 << 10

// minCacheChunks is the smallest cache in chunks: one for each of its 16 shards, with overhead.
const minCacheChunks = 20

// Meta reads a volume's metadata through a cache of aligned chunks.
type Meta struct {
	dev   extent.Reader
	chunk int64
	cache *cache.Cache[int64, []byte]
}

// NewMeta returns a Meta whose cache holds cacheBytes, or its least where that is more.
func NewMeta(dev extent.Reader, blockSize uint64, cacheBytes int64) *Meta {
	chunk := max(metaChunk, int64(blockSize))
	return &Meta{
		dev:   dev,
		chunk: chunk,
		cache: cache.New[int64](max(cacheBytes, minCacheChunks*chunk), func(b []byte) int64 { return int64(cap(b)) + 128 }),
	}
}

// Bytes returns n bytes at off, shared and read-only unless the range crosses a chunk, which
// only directory blocks and symbolic links of several blocks do.
func (m *Meta) Bytes(off int64, n int) ([]byte, error) {
	if off < 0 || int64(n) > m.dev.Size() || off > m.dev.Size()-int64(n) {
		return nil, fmt.Errorf("%w: metadata at byte %d, but the device ends at %d", io.ErrUnexpectedEOF, off, m.dev.Size())
	}
	if in := off % m.chunk; in+int64(n) <= m.chunk {
		return m.within(off, n)
	}
	out := make([]byte, 0, n)
	for len(out) < n {
		at := off + int64(len(out))
		part := min(n-len(out), int(m.chunk-at%m.chunk))
		b, err := m.within(at, part)
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	return out, nil
}

// within returns n bytes at off that lie in one chunk.
func (m *Meta) within(off int64, n int) ([]byte, error) {
	start := off - off%m.chunk
	in := int(off - start)
	b, err := m.cache.Get(start/m.chunk, func() ([]byte, error) {
		b := make([]byte, min(m.chunk, m.dev.Size()-start))
		return b, extent.ReadAllAt(m.dev, b, start)
	})
	if err == nil && in+n <= len(b) {
		return b[in : in+n : in+n], nil
	}
	// A neighbour that cannot be read must not take this one with it.
	b = make([]byte, n)
	if err := extent.ReadAllAt(m.dev, b, off); err != nil {
		return nil, err
	}
	return b, nil
}

// Stats tells how the cache serves.
func (m *Meta) Stats() cache.Stats { return m.cache.Stats() }
