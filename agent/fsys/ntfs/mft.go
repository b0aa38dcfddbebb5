package ntfs

import (
	"bytes"
	"errors"
	"fmt"

	"vmfr/agent/cache"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// mftChunk is the unit in bytes in which the master file table is read and cached: neighbours
// are asked for together.
const mftChunk = 32 << 10

// minCacheChunks is the smallest cache in chunks: one for each of its 16 shards, with overhead.
const minCacheChunks = 20

// metaKey names a piece of metadata: a chunk of the master file table (index 0, with its number)
// or a block of the index of a directory or of $Secure (index: the record's number plus 1).
type metaKey struct {
	index uint64
	name  string // of the index, where it is not a directory's
	block uint64
}

// metaChunk is one piece of metadata with its update sequences undone.
type metaChunk struct {
	b   []byte
	bad []error // of each record: why it cannot be used
}

func newMetaCache(limit int64) *cache.Cache[metaKey, *metaChunk] {
	return cache.New[metaKey](max(limit, minCacheChunks*mftChunk), func(c *metaChunk) int64 {
		return int64(cap(c.b)) + 16*int64(cap(c.bad)) + 192
	})
}

// masterTable is $MFT: an array of records, which is a file itself.
type masterTable struct {
	data    *stream
	records uint64 // that have ever been used: the initialized part
	partial bool   // while its later parts are looked for: not to be cached
}

// openMFT finds the master file table. Its first record, or where that is damaged the copy of
// it in $MFTMirr, tells where the rest lies.
func (f *FS) openMFT() (*masterTable, string, error) {
	warning := ""
	rec, err := f.bareRecord(f.boot.mft*f.boot.cluster, 0)
	if err != nil {
		first := err
		if f.boot.mirror == 0 || errors.Is(err, fsys.ErrUnsupported) {
			return nil, "", err
		}
		if rec, err = f.bareRecord(f.boot.mirror*f.boot.cluster, 0); err != nil {
			return nil, "", first
		}
		warning = "the start of the master file table is damaged, and its mirror is used: a file system check in the guest is due"
	}
	n := &object{fs: f, rec: rec}
	s, err := f.tableStream(n)
	if err != nil {
		return nil, "", fmt.Errorf("master file table: %w", err)
	}
	return &masterTable{data: s, records: uint64(s.init) / uint64(f.boot.record)}, warning, nil
}

// bareRecord reads one record at a byte of the volume.
func (f *FS) bareRecord(off, num uint64) (record, error) {
	b := make([]byte, f.boot.record)
	if err := extent.ReadAllAt(f.dev, b, int64(off)); err != nil {
		return record{}, fmt.Errorf("ntfs: MFT record %d: %w", num, err)
	}
	err := fixup(b)
	if err == nil {
		err = checkRecord(b)
	}
	if err != nil {
		return record{}, fsys.Corrupt("ntfs", "MFT record", fsys.Ino(num), int64(off), "%v", err)
	}
	return record{num, b}, nil
}

// maxTableRuns bounds the table's own run list: 16 MiB of memory, a thousand times what a badly
// fragmented table has.
const maxTableRuns = 1 << 20

// tableStream maps the table, in one run list: an extension record that maps a later part lies in
// an earlier one, so that no part can be asked for on demand.
func (f *FS) tableStream(n *object) (*stream, error) {
	bad := func(reason string, args ...any) (*stream, error) {
		return nil, fsys.Corrupt("ntfs", "master file table", 0, -1, reason, args...)
	}
	a, err := n.rec.find(typeData, nil)
	if err != nil {
		return nil, err
	}
	if a == nil || a.resident || a.first != 0 || a.flags&(attrMethod|attrEncrypted|attrSparse) != 0 {
		return bad("it has no plain content")
	}
	all, err := f.decodeRuns(0, a)
	if err != nil {
		return nil, err
	}
	// A new stream for each part: what has been read is immutable.
	mapped := func() *stream {
		s := &stream{fs: f, size: int64(a.size), init: int64(a.init), pieces: []piece{{next: all.end}}}
		s.last.Store(&runList{end: all.end, runs: all.runs})
		f.mft = &masterTable{data: s, records: min(a.init, all.end*f.boot.cluster) / uint64(f.boot.record), partial: true}
		return s
	}
	s := mapped()
	l, err := n.rec.find(typeList, nil)
	if err != nil || l == nil {
		return s, err
	}
	if err := n.readList(l); err != nil {
		return nil, err
	}
	for _, e := range n.list {
		if e.typ != typeData || len(e.name) > 0 || e.first == 0 {
			continue
		}
		if e.first != all.end {
			return bad("its clusters from %d on follow those up to %d", e.first, all.end)
		}
		part, err := n.listed(e)
		if err != nil {
			return nil, err
		}
		if part.resident {
			return bad("a part of it is resident")
		}
		rl, err := f.decodeRuns(0, part)
		if err != nil {
			return nil, err
		}
		if len(all.runs)+len(rl.runs) > maxTableRuns {
			return nil, fmt.Errorf("ntfs: %w: a master file table in more than %d parts", fsys.ErrUnsupported, maxTableRuns)
		}
		all = &runList{end: rl.end, runs: append(all.runs, rl.runs...)}
		s = mapped()
	}
	return s, nil
}

// record returns a record in use. Errors: errFree for one that holds no file and for a number
// outside the table (wrapped fs.ErrNotExist for neither: the caller knows who asked),
// fsys.ErrCorrupt, I/O errors.
func (f *FS) record(num uint64) (record, error) {
	m := f.mft
	if num >= m.records {
		return record{}, errFree
	}
	size := uint64(f.boot.record)
	per := mftChunk / size
	var c *metaChunk
	err := errDamaged
	if !m.partial {
		c, err = f.meta.Get(metaKey{block: num / per}, func() (*metaChunk, error) { return f.loadRecords(num / per) })
	}
	if err == nil {
		at := num % per
		if err := c.bad[at]; errors.Is(err, errFree) {
			return record{}, errFree
		} else if err != nil {
			return f.damagedRecord(num, err)
		}
		return record{num, c.b[at*size : (at+1)*size : (at+1)*size]}, nil
	}
	// A neighbour that cannot be read must not take this one with it.
	b := make([]byte, size)
	if err := extent.ReadAllAt(m.data, b, int64(num*size)); err != nil {
		return f.damagedRecord(num, err)
	}
	switch err := openRecord(b); {
	case errors.Is(err, errFree):
		return record{}, errFree
	case err != nil:
		return f.damagedRecord(num, err)
	}
	return record{num, b}, nil
}

// mirrored is the number of records that $MFTMirr has at least.
const mirrored = 4

// damagedRecord is what to return for a record that cannot be used: its mirror, if it has one.
func (f *FS) damagedRecord(num uint64, why error) (record, error) {
	if num < mirrored && f.boot.mirror != 0 {
		if r, err := f.bareRecord(f.boot.mirror*f.boot.cluster+num*uint64(f.boot.record), num); err == nil {
			return r, nil
		}
	}
	if !errors.Is(why, errDamaged) {
		return record{}, fmt.Errorf("ntfs: MFT record %d: %w", num, why)
	}
	return record{}, fsys.Corrupt("ntfs", "MFT record", fsys.Ino(num), -1, "%v", why)
}

// errDamaged is in the chain of what is wrong with a record's own bytes.
var errDamaged = errors.New("damaged")

// damage wraps what fixup or checkRecord found.
type damage struct{ error }

func (damage) Is(target error) bool { return target == errDamaged }

// loadRecords reads one chunk of the table.
func (f *FS) loadRecords(chunk uint64) (*metaChunk, error) {
	size := f.boot.record
	off := int64(chunk) * mftChunk
	end := int64(f.mft.records) * int64(size)
	c := &metaChunk{b: make([]byte, min(mftChunk, end-off))}
	if err := extent.ReadAllAt(f.mft.data, c.b, off); err != nil {
		return nil, err
	}
	c.bad = make([]error, len(c.b)/size)
	for i := range c.bad {
		c.bad[i] = openRecord(c.b[i*size : (i+1)*size])
	}
	return c, nil
}

// openRecord undoes the update sequence of a record and checks its header. The error is errFree
// or has errDamaged in its chain.
func openRecord(b []byte) error {
	if isZero(b[:4]) { // never used
		return errFree
	}
	err := fixup(b)
	if err == nil {
		err = checkRecord(b)
	}
	if err != nil && !errors.Is(err, errFree) {
		err = damage{err}
	}
	return err
}

func isZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// find returns the record's first attribute of a type and name, nil where it has none.
func (r record) find(typ uint32, name []byte) (*attr, error) {
	for off := r.firstAttr(); ; {
		a, next, ok, err := r.parseAttr(off)
		if err != nil || !ok {
			return nil, err
		}
		if a.typ == typ && bytes.Equal(a.name, name) {
			return &a, nil
		}
		off = next
	}
}
