package ntfs

import (
	"bytes"
	"fmt"
	"sort"
	"sync/atomic"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/block"
)

// piece is a part of a mapped attribute: one entry of the attribute list.
type piece struct {
	first, next uint64 // virtual clusters; next is 0 for the last piece until it is decoded
	rec         reference
	instance    uint16
}

// stream is the mapped content of an attribute: a file's data, a directory's index. It keeps one
// decoded run list (of at most a record of mapping pairs) and, where the attribute lies in many
// records, 32 bytes for each; nothing else, however fragmented it is.
type stream struct {
	fs         *FS
	ino        uint64
	size, init int64   // bytes; from init on it reads as zeros
	owner      *object // to find the pieces by; nil where there is but one, kept in last
	typ        uint32
	name       []byte
	pieces     []piece
	last       atomic.Pointer[runList] // used last
}

var _ extent.Reader = (*stream)(nil)

// stream maps a non-resident attribute, given its first piece.
func (n *object) stream(a *attr) (*stream, error) {
	rl, err := n.fs.decodeRuns(n.rec.num, a)
	if err != nil {
		return nil, err
	}
	s := &stream{fs: n.fs, ino: n.rec.num, size: int64(a.size), init: int64(a.init), typ: a.typ, pieces: []piece{{next: rl.end}}}
	s.last.Store(rl)
	if n.list == nil {
		return s, nil
	}
	s.pieces = s.pieces[:0]
	for i := range n.list {
		e := &n.list[i]
		if e.typ != a.typ || !bytes.Equal(e.name, a.name) {
			continue
		}
		if k := len(s.pieces); k > 0 {
			if e.first <= s.pieces[k-1].first {
				return nil, fsys.Corrupt("ntfs", "attribute list", fsys.Ino(n.rec.num), -1, "clusters from %d on follow those from %d on", e.first, s.pieces[k-1].first)
			}
			s.pieces[k-1].next = e.first
		} else if e.first != 0 {
			return nil, fsys.Corrupt("ntfs", "attribute list", fsys.Ino(n.rec.num), -1, "the first clusters are from %d on", e.first)
		}
		s.pieces = append(s.pieces, piece{first: e.first, rec: e.ref, instance: e.instance})
	}
	if len(s.pieces) == 1 {
		s.pieces[0].next = rl.end
		return s, nil
	}
	if rl.end != s.pieces[0].next {
		return nil, s.gap(rl.end, s.pieces[0].next)
	}
	s.owner, s.name = n, a.name
	return s, nil
}

func (s *stream) gap(end, next uint64) error {
	return fsys.Corrupt("ntfs", "attribute list", fsys.Ino(s.ino), -1, "clusters up to %d are followed by those from %d on", end, next)
}

// runsAt returns the run list that maps cluster vcn.
func (s *stream) runsAt(vcn uint64) (*runList, error) {
	rl := s.last.Load()
	if rl != nil && vcn >= rl.first && vcn < rl.end {
		return rl, nil
	}
	i := sort.Search(len(s.pieces), func(i int) bool { return s.pieces[i].first > vcn }) - 1
	if s.owner == nil || i < 0 {
		return nil, fsys.Corrupt("ntfs", "run list", fsys.Ino(s.ino), -1, "cluster %d is not mapped", vcn)
	}
	p := s.pieces[i]
	var rd *runList
	a, err := s.owner.listed(listEntry{typ: s.typ, name: s.name, first: p.first, ref: p.rec, instance: p.instance})
	if err == nil && a.resident {
		err = fsys.Corrupt("ntfs", "attribute list", fsys.Ino(s.ino), -1, "a part of the content is resident")
	}
	if err == nil {
		rd, err = s.fs.decodeRuns(s.ino, a)
	}
	if err != nil {
		return nil, err
	}
	if p.next != 0 && rd.end != p.next {
		return nil, s.gap(rd.end, p.next)
	}
	if vcn >= rd.end {
		return nil, fsys.Corrupt("ntfs", "run list", fsys.Ino(s.ino), -1, "cluster %d is not mapped", vcn)
	}
	s.last.Store(rd)
	return rd, nil
}

// Span is that of block.Content.
func (s *stream) Span(off, n int64) (length, place int64, err error) {
	if off >= s.init {
		return n, block.Hole, nil
	}
	cs := int64(s.fs.boot.cluster)
	return block.Span(cs, off, min(n, s.init-off), func(vcn uint64) (int64, uint64, error) {
		rl, err := s.runsAt(vcn)
		if err != nil {
			return 0, 0, err
		}
		lcn, count := rl.at(vcn)
		if lcn == hole {
			return block.Hole, count, nil
		}
		return lcn * cs, count, nil
	})
}

// Failed is that of block.Content.
func (s *stream) Failed(place int64, err error) error {
	return fmt.Errorf("ntfs: inode %d at byte %d of the volume: %w", s.ino, place, err)
}

func (s *stream) Size() int64 { return s.size }

func (s *stream) ReadAt(p []byte, off int64) (int, error) { return block.ReadAt(s.fs.dev, s, p, off) }

func (s *stream) Extent(off, max int64) (extent.Extent, error) {
	return block.Extent(s.fs.dev, s, off, max)
}
