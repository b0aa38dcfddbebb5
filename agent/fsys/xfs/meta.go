package xfs

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

// metaReader reads metadata through a cache of aligned chunks.
type metaReader struct {
	dev   extent.Reader
	chunk int64
	cache *cache.Cache[int64, []byte]
}

func newMetaReader(dev extent.Reader, blockSize uint64, cacheBytes int64) *metaReader {
	chunk := max(metaChunk, int64(blockSize))
	return &metaReader{
		dev:   dev,
		chunk: chunk,
		cache: cache.New[int64](max(cacheBytes, minCacheChunks*chunk), func(b []byte) int64 { return int64(cap(b)) + 128 }),
	}
}

// bytes returns n bytes at off, shared and read-only unless the range crosses a chunk, which
// only directory blocks and symbolic links of several blocks do.
func (m *metaReader) bytes(off int64, n int) ([]byte, error) {
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
func (m *metaReader) within(off int64, n int) ([]byte, error) {
	start := off - off%m.chunk
	in := int(off - start)
	b, err := m.cache.Get(start/m.chunk, func() ([]byte, error) {
		b := make([]byte, min(m.chunk, m.dev.Size()-start))
		return b, readFull(m.dev, b, start)
	})
	if err == nil && in+n <= len(b) {
		return b[in : in+n : in+n], nil
	}
	// A neighbour that cannot be read must not take this one with it.
	b = make([]byte, n)
	if err := readFull(m.dev, b, off); err != nil {
		return nil, err
	}
	return b, nil
}

// readFull is extent.ReadFull where only all of the bytes are of use.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	_, err := extent.ReadFull(r, p, off)
	return err
}

// blocks returns count blocks of metadata from linear block b on, which the caller has checked.
// what and ino name the object in the error.
func (f *FS) blocks(what string, ino, b, count uint64) ([]byte, error) {
	p, err := f.meta.bytes(int64(b*f.sb.blockSize), int(count*f.sb.blockSize))
	if err != nil {
		return nil, fmt.Errorf("xfs: %s of inode %d in block %d: %w", what, ino, b, err)
	}
	return p, nil
}
