package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"vmfr/agent/cache"
	"vmfr/agent/extent"
)

// pack is a compressed cluster: where it lies in its file and what it is for.
type pack struct {
	q    *qcow2
	host int64  // offset in the file, to the byte
	n    int64  // bytes, rounded up to sectors: other data may follow the stream in the last
	off  int64  // disk offset of the cluster, for errors
	word uint64 // the descriptor, which identifies the cluster in its file
}

// pack decodes a compressed cluster descriptor: with x = 62 - (clusterBits - 8), bits 0 to
// x-1 are the host offset and bits x to 61 the number of further 512-byte sectors it reaches
// into, which makes at most two clusters.
func (q *qcow2) pack(e uint64, off int64) pack {
	x := 62 - (q.h.clusterBits - 8)
	word := e & (entryCompressed - 1)
	host := int64(word & (1<<x - 1))
	return pack{q: q, host: host, n: int64(word>>x+1)*512 - host&511, off: off, word: word}
}

// packs inflates compressed clusters and keeps the result, for all files of a chain.
type packs struct {
	clusters *cache.Cache[packKey, []byte]
	inflated atomic.Uint64
	input    sync.Pool     // of *[]byte: compressed clusters
	flates   sync.Pool     // of *inflater
	zstd     *zstd.Decoder // nil: no layer uses it
	ahead    *ahead
}

type packKey struct {
	layer int
	word  uint64
}

// newPacks returns nil where no layer of m can hold compressed clusters.
func newPacks(m *Image, limit int64) (*packs, error) {
	largest, useZstd := int64(0), false
	for _, l := range m.layers {
		if q, ok := l.(*qcow2); ok {
			largest = max(largest, q.clusterSize)
			useZstd = useZstd || q.h.compression == compressionZstd
		}
	}
	if largest == 0 {
		return nil, nil
	}
	if limit <= 0 {
		limit = DefaultCacheBytes
	}
	limit = max(limit, minCacheClusters*largest)
	// Each shard must hold a few clusters, or two that meet in one would drive out each other.
	shards := int(limit / (minCacheClusters * largest))
	p := &packs{
		clusters: cache.NewShards[packKey](limit, shards, func(b []byte) int64 { return int64(cap(b)) }),
		ahead:    newAhead(m, limit/4),
	}
	if useZstd {
		var err error
		if p.zstd, err = newZstd(); err != nil {
			return nil, fmt.Errorf("image: zstd decoder: %w", err)
		}
	}
	return p, nil
}

func (p *packs) close() {
	p.ahead.close()
	if p.zstd != nil {
		p.zstd.Close()
	}
}

// get returns the inflated cluster, which must not be changed.
func (p *packs) get(k pack) ([]byte, error) {
	return p.clusters.Get(packKey{k.q.index, k.word}, func() ([]byte, error) { return p.load(k) })
}

func (p *packs) load(k pack) ([]byte, error) {
	if k.host >= k.q.f.length {
		return nil, k.q.corrupt("compressed cluster", k.off, "its data at byte %d is behind the end of the file, %d", k.host, k.q.f.length)
	}
	n := min(k.n, k.q.f.length-k.host) // the last cluster may end the file inside a sector
	in, _ := p.input.Get().(*[]byte)
	if in == nil || int64(cap(*in)) < n {
		b := make([]byte, max(n, k.q.clusterSize)) // what did not shrink is not stored compressed
		in = &b
	}
	defer p.input.Put(in)
	src := (*in)[:n]
	if _, err := extent.ReadFull(k.q.f, src, k.host); err != nil {
		return nil, fmt.Errorf("%s at byte %d: %w", k.q.f.Name(), k.host, err)
	}
	out := make([]byte, k.q.clusterSize)
	var err error
	if k.q.h.compression == compressionZstd {
		err = p.unzstd(out, src)
	} else {
		err = p.inflate(out, src)
	}
	if err != nil {
		return nil, k.q.corrupt("compressed cluster", k.off, "%d bytes at byte %d: %v", n, k.host, err)
	}
	p.inflated.Add(1)
	return out, nil
}

// inflater is a reusable raw deflate decoder. QEMU writes with a window of 12 bits; any
// window that deflate allows is read.
type inflater struct {
	src bytes.Reader
	r   io.ReadCloser
}

// forget is a deflate stream of nothing: one block with dynamic Huffman codes (RFC 1951, section
// 3.2.7), whose trees have the end of the block as their only symbol, and distance 0.
//
// A decoder that is used again has the last stream's trees until it has read others, and package
// flate takes them for a damaged stream whose tree has no codes at all. What is said of such a
// stream, or read from it, would depend on what was inflated before.
var forget = []byte{0x05, 0xc0, 0x81, 0, 0, 0, 0, 0, 0x90, 0xff, 0x6b, 0}

// inflate fills out from a raw deflate stream. What follows in src is not looked at.
func (p *packs) inflate(out, src []byte) error {
	d, _ := p.flates.Get().(*inflater)
	if d == nil {
		d = &inflater{}
		d.r = flate.NewReader(&d.src)
	}
	defer p.flates.Put(d)
	defer d.src.Reset(nil)
	if n, err := d.read(out[:1], forget); n > 0 || err != io.EOF {
		return fmt.Errorf("the decoder cannot be used again: %d bytes, %w", n, err)
	}
	n, err := d.read(out, src)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("the deflate stream ends after %d of %d bytes", n, len(out))
	}
	return err
}

// read fills out from the start of src, as io.ReadFull does.
func (d *inflater) read(out, src []byte) (int, error) {
	d.src.Reset(src)
	if err := d.r.(flate.Resetter).Reset(&d.src, nil); err != nil {
		return 0, err
	}
	return io.ReadFull(d.r, out)
}

// maxZstdWindow is what RFC 8878, section 3.1.1.1.2, asks decoders to support.
const maxZstdWindow = 8 << 20

func newZstd() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecodeAllCapLimit(true))
}

// unzstd fills out from the zstd frames in src, usually one. What follows in src after out is
// full is not looked at: it belongs to the next cluster.
func (p *packs) unzstd(out, src []byte) error {
	have := out[:0:len(out)]
	for len(have) < len(out) { // each frame takes some of src
		n, err := frameLen(src)
		if err != nil {
			return fmt.Errorf("zstd stream ends after %d of %d bytes: %w", len(have), len(out), err)
		}
		if have, err = p.zstd.DecodeAll(src[:n], have); err != nil {
			return fmt.Errorf("zstd: %w", err)
		}
		src = src[n:]
	}
	return nil
}

var errFrame = errors.New("a frame is truncated")

// frameLen returns the length of the zstd frame that src starts with (RFC 8878, section 3.1):
// header, blocks of a 3-byte header (last, type, size) and their data, checksum.
func frameLen(src []byte) (int, error) {
	var h zstd.Header
	if err := h.Decode(src); err != nil {
		return 0, err
	}
	n := h.HeaderSize
	if h.Skippable {
		if int64(h.SkippableSize) > int64(len(src)-n) {
			return 0, errFrame
		}
		return n + int(h.SkippableSize), nil
	}
	for last := false; !last; {
		if len(src)-n < 3 {
			return 0, errFrame
		}
		b := uint32(src[n]) | uint32(src[n+1])<<8 | uint32(src[n+2])<<16
		n += 3
		last = b&1 != 0
		size := int(b >> 3)
		if b>>1&3 == 1 { // RLE: one byte, repeated size times
			size = 1
		}
		if size > len(src)-n {
			return 0, errFrame
		}
		n += size
	}
	if h.HasCheckSum {
		if len(src)-n < 4 {
			return 0, errFrame
		}
		n += 4
	}
	return n, nil
}
