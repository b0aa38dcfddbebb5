// Package image opens disk images as extent.Readers: raw files and block devices, and qcow2
// versions 2 and 3 with their backing chains.
//
//	top image ── absent ──> backing ── absent ──> backing ── absent ──> zeros
//	    │ data: a range of the host file, handed out as such
//	    └ packed: inflated into a cache of bytes, ahead of a sequential reader
//
// Non-goals: no writing, no internal snapshots (the active state is read), no encryption, no
// external data files, no formats but these two. Invariants: nothing is allocated from a
// number in a header before that number is checked; a backing file's format is never probed
// and its name never leaves the folder of the top image; an image that was only detected as
// qcow2 never has a backing file; damage is reported for the range it lies in, other ranges
// stay readable.
package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"vmfr/agent/extent"
	"vmfr/agent/latency"
)

// Format names how an image file encodes the bytes of a disk.
type Format string

// The formats that Open reads.
const (
	FormatRaw   Format = "raw"
	FormatQCOW2 Format = "qcow2"
)

var (
	// ErrCorrupt: the image contradicts itself or ends too early. From Open it is about the
	// image as a whole; from ReadAt and Extent it is about the range asked for only.
	ErrCorrupt = errors.New("image is corrupt")
	// ErrUnsupported: not something that can be read as a disk here (a directory, an
	// encrypted image, a backing file that must not be followed); the text says why.
	ErrUnsupported = errors.New("image is not supported")
)

// Limits. What an Image holds in memory is at most the inflated clusters, the pieces of
// tables, a small L1 table for each file of the chain, and for each inflation under way one
// compressed cluster: with the defaults and clusters of 64 KiB about 21 MiB.
const (
	// DefaultCacheBytes bounds the inflated clusters of one image. The garbage collector may
	// hold twice that for a moment, which leaves room in the 80 MB of a worker.
	DefaultCacheBytes = 16 << 20
	// MaxChain bounds the files of a backing chain, the top image included: a month of
	// nightly overlays twice over. Each file costs a descriptor.
	MaxChain = 64

	tableCacheBytes  = 4 << 20 // pieces of L1 and L2 tables: 1024 pieces, 32 GiB of disk at 64 KiB clusters
	minCacheClusters = 8       // fewer inflated clusters could not hold what is read ahead
)

// Source is an open image file and how to read it. The file must be open for reading; it is
// used by position, apart from lseek's SEEK_DATA and SEEK_HOLE, and it stays the caller's.
type Source struct {
	File *os.File
	// Format "" means: detect it by content. Only the top image may be detected.
	Format Format
}

// Options say what Open may use besides the top image. The zero value allows nothing else.
type Options struct {
	// Backing is the chain below the top image, nearest first, each with its Format. It goes
	// before what the images' headers name; naming more files than the images have links is
	// an error.
	Backing []Source
	// Dir is the folder of the top image. Where Backing ends, a backing file that a header
	// names without any directory is opened here if the header tells its format too.
	// nil: nothing is opened. It is not used after Open.
	Dir Folder
	// CacheBytes bounds the inflated clusters kept in memory. 0 means DefaultCacheBytes; it
	// is raised to 8 of the image's clusters.
	CacheBytes int64
	// Reads is told of all reads of the image's files while they go on; nil: nobody asks.
	Reads *latency.Pending
}

// Folder opens files by their bare names and never one outside of itself, such as *os.Root does.
type Folder interface {
	OpenFile(name string, flag int, perm fs.FileMode) (*os.File, error)
}

// Image is the disk that an image file and its backing chain describe. It is immutable and
// safe for concurrent use.
type Image struct {
	layers   []layer // [0] is the top; a read goes down while a layer has nothing
	size     int64
	detected bool
	owned    []*os.File // opened by Open, closed by Close
	tables   *tableCache
	packs    *packs // nil: no layer can hold compressed clusters

	closing sync.Once
	closed  error
}

var _ extent.Reader = (*Image)(nil)

// layer is one file of a chain.
type layer interface {
	// size is the length in bytes of the disk that this file describes.
	size() int64
	// run tells what lies at off, 0 <= off < size, for 0 < n <= max bytes, off+max <= size.
	// steps bounds how many table entries it looks at to make n long; at least one is read.
	// With holes, a raw file is asked for its holes, which costs a system call.
	run(off, max int64, holes bool, steps *int) (run, error)
	info() LayerInfo
	host() hostFile
}

// kind is where the bytes of a run come from.
type kind uint8

const (
	absent kind = iota // the next layer's, or zeros where there is none
	zero
	data   // file holds them verbatim at host
	packed // a compressed cluster
)

// run is a range of a layer that is of one kind.
type run struct {
	kind kind
	n    int64
	file hostFile // data
	host int64    // data: offset in file
	pack pack     // packed
	in   int64    // packed: offset of the range's first byte in the inflated cluster
}

// Info describes an open image.
type Info struct {
	Format   Format // of the top image
	Detected bool   // the format was found by content, nobody named it
	Size     int64  // bytes of the disk
	Layers   []LayerInfo
}

// LayerInfo describes one file of a chain.
type LayerInfo struct {
	Name   string
	Format Format
	Size   int64 // bytes of the disk as this file has it
	// The rest is of qcow2 only.
	Version     int   // 2 or 3
	ClusterSize int64 // bytes
	Compression string
	ExtendedL2  bool
	Dirty       bool // not closed properly: reference counts may be stale, which reading does not need
	Snapshots   int  // internal snapshots, which are not shown
	BackingName string
}

// Stats counts what an image did since Open.
type Stats struct {
	Inflated     uint64 // clusters inflated
	InflatedHits uint64 // clusters found inflated, or joined while under way
	CacheBytes   int64  // bytes of inflated clusters kept now
	Ahead        uint64 // clusters asked for before they were read
	TableReads   uint64 // pieces of L1 and L2 tables read
	TableHits    uint64
}

// Open opens the disk whose top image is top. Close must be called when it is no longer
// used; files handed in through top and o stay the caller's and must stay open until then.
// Errors wrap ErrCorrupt or ErrUnsupported, or are I/O errors.
func Open(top Source, o Options) (*Image, error) {
	if top.File == nil {
		return nil, fmt.Errorf("%w: no file", ErrUnsupported)
	}
	detected := top.Format == ""
	if detected {
		f, err := detect(top.File, o.Reads)
		if err != nil {
			return nil, err
		}
		top.Format = f
	}
	m := &Image{}
	if err := m.build(top, detected, o); err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

// Size is the length of the disk in bytes.
func (m *Image) Size() int64 { return m.size }

// Close stops reading ahead, waits until that has ended, and closes the files that Open
// opened. No ReadAt or Extent may be under way or follow.
func (m *Image) Close() error {
	m.closing.Do(func() {
		if m.packs != nil {
			m.packs.close()
		}
		for _, f := range m.owned {
			m.closed = errors.Join(m.closed, f.Close())
		}
	})
	return m.closed
}

// Info describes the image and its chain.
func (m *Image) Info() Info {
	i := Info{Size: m.size, Detected: m.detected}
	for _, l := range m.layers {
		i.Layers = append(i.Layers, l.info())
	}
	i.Format = i.Layers[0].Format
	return i
}

// Stats returns the counters.
func (m *Image) Stats() Stats {
	t := m.tables.Stats()
	s := Stats{TableReads: t.Misses, TableHits: t.Hits}
	if m.packs != nil {
		c := m.packs.clusters.Stats()
		s.Inflated, s.InflatedHits, s.CacheBytes = m.packs.inflated.Load(), c.Hits, c.Bytes
		s.Ahead = m.packs.ahead.count.Load()
	}
	return s
}

// ReadAt reads as io.ReaderAt says. Runs of uncompressed data are read with one system call
// each. A damaged range ends the read with an error that wraps ErrCorrupt.
func (m *Image) ReadAt(p []byte, off int64) (int, error) {
	n, end := extent.CheckRead(m.size, p, off)
	noted := false
	for done := 0; done < n; {
		at := off + int64(done)
		steps := int(int64(n-done)>>minSubclusterBits) + 1 // no more entries than the range can have
		r, err := m.at(at, int64(n-done), false, &steps)
		if err != nil {
			return done, err
		}
		dst := p[done : done+int(r.n)]
		switch r.kind {
		case data:
			if got, err := r.file.ReadAt(dst, r.host); got < len(dst) {
				if err == nil || err == io.EOF {
					err = fmt.Errorf("%s at byte %d: %w", r.file.Name(), r.host+int64(got), io.ErrUnexpectedEOF)
				}
				return done + got, err
			}
		case packed:
			if !noted {
				m.packs.ahead.note(at, off+int64(n), r.pack.q.clusterSize)
				noted = true
			}
			c, err := m.packs.get(r.pack)
			if err != nil {
				return done, err
			}
			copy(dst, c[r.in:])
		default:
			clear(dst)
		}
		done += int(r.n)
	}
	return n, end
}

// extentSteps bounds the table entries that one Extent call looks at: 4 GiB of disk at
// clusters of 64 KiB, about 0.2 ms.
const extentSteps = 1 << 16

// Extent tells what lies at off; neighbouring clusters of one kind that are contiguous on
// the host are joined. It looks at no more than 65,536 table entries, so a long extent may be
// told in several calls.
func (m *Image) Extent(off, max int64) (extent.Extent, error) {
	max, err := extent.CheckExtent(m.size, off, max)
	if err != nil {
		return extent.Extent{}, err
	}
	steps := extentSteps
	first, err := m.at(off, max, true, &steps)
	if err != nil {
		return extent.Extent{}, err
	}
	n := first.n
	for n < max && steps > 0 {
		r, err := m.at(off+n, max-n, true, &steps)
		if err != nil || !first.continuedBy(r, n) {
			break // an error is for the call that starts there
		}
		n += r.n
	}
	e := extent.Extent{Len: n}
	switch first.kind {
	case data:
		e.Host, e.HostOff, e.Reads = first.file.File, first.host, first.file.reads
	case packed:
	default:
		e.Zero = true
	}
	return e, nil
}

// continuedBy tells whether s, which starts n bytes after r, is more of the same.
func (r run) continuedBy(s run, n int64) bool {
	return r.kind == s.kind && (r.kind != data || r.file == s.file && s.host == r.host+n)
}

// at resolves a range through the chain: the result is zero, data or packed.
func (m *Image) at(off, max int64, holes bool, steps *int) (run, error) {
	for _, l := range m.layers {
		if off >= l.size() {
			break // a backing file may be shorter than its overlay
		}
		r, err := l.run(off, min(max, l.size()-off), holes, steps)
		if err != nil || r.kind != absent {
			return r, err
		}
		max = r.n
	}
	*steps--
	return run{kind: zero, n: max}, nil
}
