package ext4

import (
	"fmt"
	"io"

	"vmfr/agent/cache"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// metaChunk is the unit in which metadata is read and cached, in bytes: one read brings 64
// inodes of 256 bytes, and neighbours are asked for together. Larger blocks are their own unit.
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

// bytes returns n bytes at off, shared and read-only. The range must not cross a chunk: no
// block, inode or descriptor does.
func (m *metaReader) bytes(off int64, n int) ([]byte, error) {
	if off < 0 || int64(n) > m.dev.Size() || off > m.dev.Size()-int64(n) {
		return nil, fmt.Errorf("%w: metadata at byte %d, but the device ends at %d", io.ErrUnexpectedEOF, off, m.dev.Size())
	}
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

// block returns metadata block b of an object. what and ino name the object in the error.
func (f *FS) block(what string, ino uint32, b uint64) ([]byte, error) {
	if !f.sb.validBlocks(b, 1) {
		return nil, fsys.Corrupt("ext4", what, fsys.Ino(ino), -1, "block %d is outside the file system", b)
	}
	p, err := f.meta.bytes(int64(b*f.sb.blockSize), int(f.sb.blockSize))
	if err != nil {
		return nil, fmt.Errorf("ext4: %s of inode %d in block %d: %w", what, ino, b, err)
	}
	return p, nil
}
