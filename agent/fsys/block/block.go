// Package block is what file systems made of blocks have in common: how the content of a file is
// found in pieces on the volume and read from there, and a cache of the volume's metadata.
//
// Non-goals: no format; what a map or a block holds is the engine's. Invariants: no lock across
// I/O, and one call joins at most maxMerge runs, whatever the map says.
package block

import (
	"io"
	"sort"

	"vmfr/agent/extent"
)

// Hole is the place of what is not stored: it reads as zeros.
const Hole = -1

// Run is a part of a file: Count blocks from Logical on lie at block Phys, or are zeros where
// Phys is 0 (a hole or an unwritten extent; no file has its content in the volume's first block).
type Run struct {
	Logical, Count, Phys uint64
}

// Place is where the run's first block lies in bytes, or Hole.
func (r Run) Place(blockSize int64) int64 {
	if r.Phys == 0 {
		return Hole
	}
	return int64(r.Phys) * blockSize
}

// Leaf is one decoded list of runs: all that is mapped of logical blocks [First, End).
type Leaf struct {
	First, End uint64
	Runs       []Run // ascending, disjoint, inside [First, End)
}

// Find returns the run from logical block lblk on, First <= lblk < End.
func (l *Leaf) Find(lblk uint64) Run {
	i := sort.Search(len(l.Runs), func(i int) bool { return l.Runs[i].Logical > lblk })
	if i > 0 {
		r := l.Runs[i-1]
		if in := lblk - r.Logical; in < r.Count {
			r.Logical, r.Count = lblk, r.Count-in
			if r.Phys != 0 {
				r.Phys += in
			}
			return r
		}
	}
	end := l.End
	if i < len(l.Runs) {
		end = l.Runs[i].Logical
	}
	return Run{Logical: lblk, Count: end - lblk}
}

// maxMerge bounds how many runs one span joins: a file whose every extent is adjacent to the
// last must not make one call as long as the file.
const maxMerge = 1024

// Span returns how many bytes from off on, at most n, lie together at byte place of the volume,
// or are zeros (Hole). at maps one logical block: where it lies in bytes, or Hole, and how many
// blocks from it on lie together there.
func Span(blockSize, off, n int64, at func(lblk uint64) (place int64, count uint64, err error)) (length, place int64, err error) {
	for i := 0; i < maxMerge && length < n; i++ {
		pos := off + length
		start, count, err := at(uint64(pos / blockSize))
		if err != nil {
			if length > 0 {
				return length, place, nil // the error comes up when its own bytes are asked for
			}
			return 0, 0, err
		}
		in := pos % blockSize
		if start != Hole {
			start += in
		}
		if i == 0 {
			place = start
		} else if place == Hole && start != Hole || place != Hole && start != place+length {
			break
		}
		room := n - length
		if count <= uint64(room/blockSize)+1 {
			room = min(room, int64(count)*blockSize-in)
		}
		length += room
	}
	return length, place, nil
}

// Content is a file's bytes as its file system places them on the volume.
type Content interface {
	Size() int64
	// Span is as the function Span: what lies together from off on, 0 < length <= n.
	Span(off, n int64) (length, place int64, err error)
	// Failed names the file in an error of the volume at byte place.
	Failed(place int64, err error) error
}

// ReadAt is extent.Reader's ReadAt of a file on dev.
func ReadAt(dev extent.Reader, c Content, p []byte, off int64) (int, error) {
	n, end := extent.CheckRead(c.Size(), p, off)
	done := 0
	for done < n {
		length, place, err := c.Span(off+int64(done), int64(n-done))
		if err != nil {
			return done, err
		}
		q := p[done : done+int(length)]
		if place == Hole {
			clear(q)
		} else if got, err := extent.ReadFull(dev, q, place); err != nil {
			return done + got, c.Failed(place+int64(got), err)
		}
		done += len(q)
	}
	return n, end
}

// Extent is extent.Reader's Extent of a file on dev.
func Extent(dev extent.Reader, c Content, off, max int64) (extent.Extent, error) {
	max, err := extent.CheckExtent(c.Size(), off, max)
	if err != nil {
		return extent.Extent{}, err
	}
	length, place, err := c.Span(off, max)
	if err != nil {
		return extent.Extent{}, err
	}
	if place == Hole {
		return extent.Extent{Len: length, Zero: true}, nil
	}
	x, err := dev.Extent(place, length)
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return extent.Extent{}, c.Failed(place, err)
	}
	return x, nil
}
