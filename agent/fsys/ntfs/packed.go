package ntfs

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"vmfr/agent/cache"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// maxUnit bounds a compression unit in bytes. Windows makes 16 clusters of at most 4 KiB.
const maxUnit = 1 << 20

// unitKey names one inflated compression unit.
type unitKey struct {
	ino  uint64
	name string // of the stream
	unit int64
}

func newInflatedCache(limit int64) *cache.Cache[unitKey, []byte] {
	// Few shards, or a unit would not fit into one.
	return cache.NewShards[unitKey](limit, 4, func(b []byte) int64 { return int64(cap(b)) + 256 })
}

// packed is a compressed stream. Its units are compressed on their own: one with all clusters
// is stored as it is, one with none is zeros, one with some has LZNT1 in them, and holes after.
type packed struct {
	*stream
	unit   int64  // bytes
	mapped uint64 // clusters
	name   string
}

var _ extent.Reader = (*packed)(nil)

func (n *object) packed(a *attr) (extent.Reader, error) {
	unit := int64(n.fs.boot.cluster) << min(a.unit, 32)
	if a.flags&attrMethod != attrCompressed || unit > maxUnit || unit < lzChunk {
		return nil, fmt.Errorf("ntfs: %w: inode %d is compressed by method %d in units of %d bytes", fsys.ErrUnsupported, n.rec.num, a.flags&attrMethod, unit)
	}
	s, err := n.stream(a)
	if err != nil {
		return nil, err
	}
	return &packed{s, unit, a.allocated / n.fs.boot.cluster, string(a.name)}, nil
}

// stored tells how unit u is stored: the bytes of its clusters, unit for all and 0 for none. What
// lies behind the last mapped cluster counts as a hole.
func (p *packed) stored(u int64) (int64, error) {
	cs := int64(p.fs.boot.cluster)
	n, at := int64(0), int64(0) // bytes in clusters, bytes looked at
	for at < p.unit {
		vcn := uint64((u*p.unit + at) / cs)
		if vcn >= p.mapped {
			break
		}
		rl, err := p.runsAt(vcn)
		if err != nil {
			return 0, err
		}
		lcn, count := rl.at(vcn)
		length := min(int64(min(count, uint64(p.unit/cs)))*cs, p.unit-at)
		if lcn != hole {
			if at > n {
				return 0, fsys.Corrupt("ntfs", "run list", fsys.Ino(p.ino), -1, "a compression unit has a hole before cluster %d", vcn)
			}
			n += length
		}
		at += length
	}
	return n, nil
}

// buffers holds what compressed units are read into.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// inflate fills dst, a whole unit, with the unit u, of which n bytes are stored.
func (p *packed) inflate(dst []byte, u, n int64) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	if int64(cap(*buf)) < n {
		*buf = make([]byte, p.unit)
	}
	src := (*buf)[:n]
	// Not bounded by the initialized size, which counts inflated bytes.
	raw := &stream{fs: p.fs, ino: p.ino, size: u*p.unit + n, init: u*p.unit + n, owner: p.owner, typ: p.typ, name: p.stream.name, pieces: p.pieces}
	raw.last.Store(p.last.Load())
	if err := extent.ReadAllAt(raw, src, u*p.unit); err != nil {
		return err
	}
	if err := inflate(dst, src); err != nil {
		return fsys.Corrupt("ntfs", "compressed content", fsys.Ino(p.ino), u*p.unit, "%v", err)
	}
	if rest := p.init - u*p.unit; rest < p.unit {
		clear(dst[max(0, rest):])
	}
	return nil
}

// part fills q with what lies at off, all of it in one unit.
func (p *packed) part(q []byte, off int64) error {
	u := off / p.unit
	if off >= p.init {
		clear(q)
		return nil
	}
	n, err := p.stored(u)
	if err != nil {
		return err
	}
	if n == 0 {
		clear(q)
		return nil
	}
	if n == p.unit {
		return extent.ReadAllAt(p.stream, q, off)
	}
	if int64(len(q)) == p.unit {
		return p.inflate(q, u, n)
	}
	b, err := p.fs.inflated.Get(unitKey{p.ino, p.name, u}, func() ([]byte, error) {
		b := make([]byte, p.unit)
		return b, p.inflate(b, u, n)
	})
	if err != nil {
		return err
	}
	copy(q, b[off-u*p.unit:])
	return nil
}

func (p *packed) ReadAt(b []byte, off int64) (int, error) {
	n, end := extent.CheckRead(p.size, b, off)
	if n == 0 {
		return 0, end
	}
	first, last := off/p.unit, (off+int64(n)-1)/p.unit
	one := func(u int64) error {
		from, to := max(off, u*p.unit), min(off+int64(n), (u+1)*p.unit)
		return p.part(b[from-off:to-off], from)
	}
	done := func(u int64) int { return int(max(off, u*p.unit) - off) } // bytes before unit u
	if last == first {
		if err := one(first); err != nil {
			return 0, err
		}
		return n, end
	}
	// Each unit is inflated for itself, so a large read can use every processor.
	workers := min(int64(runtime.GOMAXPROCS(0)), last-first+1)
	var next atomic.Int64
	next.Store(first)
	var mu sync.Mutex
	var wg sync.WaitGroup
	bad, failure := last+1, error(nil) // the first unit that failed, and why
	for range workers {
		wg.Go(func() {
			for {
				u := next.Add(1) - 1
				if u > last {
					return
				}
				if err := one(u); err != nil {
					mu.Lock()
					if u < bad {
						bad, failure = u, err
					}
					mu.Unlock()
					next.Store(last + 1)
					return
				}
			}
		})
	}
	wg.Wait()
	if failure != nil {
		return done(bad), failure
	}
	return n, end
}

// maxUnitsMerged bounds how many units one extent joins.
const maxUnitsMerged = 256

func (p *packed) Extent(off, max int64) (extent.Extent, error) {
	max, err := extent.CheckExtent(p.size, off, max)
	if err != nil {
		return extent.Extent{}, err
	}
	if off >= p.init {
		return extent.Extent{Len: max, Zero: true}, nil
	}
	// kind: 0 zeros, 1 compressed, 2 as it is
	kind := func(u int64) (int, error) {
		n, err := p.stored(u)
		switch {
		case err != nil:
			return 0, err
		case n == 0:
			return 0, nil
		case n == p.unit:
			return 2, nil
		}
		return 1, nil
	}
	u := off / p.unit
	k, err := kind(u)
	if err != nil {
		return extent.Extent{}, err
	}
	end := (u + 1) * p.unit
	for range maxUnitsMerged {
		if end-off >= max || end >= p.init {
			break
		}
		next, err := kind(end / p.unit)
		if err != nil || next != k {
			break
		}
		end += p.unit
	}
	length := min(max, end-off)
	if k != 0 {
		length = min(length, p.init-off)
	}
	switch k {
	case 0:
		return extent.Extent{Len: length, Zero: true}, nil
	case 1:
		return extent.Extent{Len: length}, nil
	}
	return p.stream.Extent(off, length)
}
