package volume

import (
	"fmt"

	"vmfr/agent/extent"
)

// striped distributes its bytes over parts of equal size, chunk after chunk:
//
//	part 0   chunk 0   chunk 2   chunk 4
//	part 1   chunk 1   chunk 3   chunk 5
type striped struct {
	parts []extent.Reader
	chunk int64 // bytes
	size  int64 // bytes, a multiple of len(parts)*chunk
}

var _ extent.Reader = (*striped)(nil)

// newStriped joins at least two parts. Their size must be the same and a multiple of chunk.
func newStriped(parts []extent.Reader, chunk int64) (*striped, error) {
	each := parts[0].Size()
	for _, p := range parts {
		if p.Size() != each {
			return nil, fmt.Errorf("%w: stripes of %d and %d bytes", extent.ErrRange, each, p.Size())
		}
	}
	if chunk <= 0 || each%chunk != 0 || each > (1<<63-1)/int64(len(parts)) {
		return nil, fmt.Errorf("%w: %d stripes of %d bytes in chunks of %d", extent.ErrRange, len(parts), each, chunk)
	}
	return &striped{parts, chunk, each * int64(len(parts))}, nil
}

func (s *striped) Size() int64 { return s.size }

// at tells where off lies: in which part, where there, and for how many bytes.
func (s *striped) at(off int64) (part int, in, span int64) {
	c, rest := off/s.chunk, off%s.chunk
	n := int64(len(s.parts))
	return int(c % n), c/n*s.chunk + rest, s.chunk - rest
}

// smallChunk is the chunk size below which one read for each part is cheaper than one for
// each chunk, although its bytes must be copied.
const smallChunk = 32 << 10

// maxGather bounds the memory of one such read, in bytes for each part.
const maxGather = 256 << 10

func (s *striped) ReadAt(p []byte, off int64) (int, error) {
	n, end := extent.CheckRead(s.size, p, off)
	done := 0
	row := s.chunk * int64(len(s.parts))
	small := s.chunk < smallChunk
	for done < n {
		at := off + int64(done)
		if small && at%row == 0 && int64(n-done) >= 2*row {
			rows := min(int64(n-done)/row, max(maxGather/s.chunk, 1))
			if err := s.gather(p[done:done+int(rows*row)], at/row*s.chunk); err == nil {
				done += int(rows * row)
				continue
			}
			small = false // what can be read before the failing byte is read chunk by chunk
		}
		part, in, span := s.at(at)
		got, err := extent.ReadFull(s.parts[part], p[done:done+int(min(span, int64(n-done)))], in)
		done += got
		if err != nil {
			return done, err
		}
	}
	return n, end
}

// gather fills p, whole rows, from position in of every part on.
func (s *striped) gather(p []byte, in int64) error {
	n := len(s.parts)
	chunk := int(s.chunk)
	b := make([]byte, len(p)/n)
	for i, part := range s.parts {
		if _, err := extent.ReadFull(part, b, in); err != nil {
			return err
		}
		for row := 0; row*chunk < len(b); row++ {
			copy(p[(row*n+i)*chunk:], b[row*chunk:(row+1)*chunk])
		}
	}
	return nil
}

func (s *striped) Extent(off, max int64) (extent.Extent, error) {
	max, err := extent.CheckExtent(s.size, off, max)
	if err != nil {
		return extent.Extent{}, err
	}
	part, in, span := s.at(off)
	x, err := s.parts[part].Extent(in, min(span, max))
	if err != nil || !x.Zero || x.Len < span || max == span {
		return x, err
	}
	x.Len = min(max, s.zeros(off+span)-off)
	return x, nil
}

// zeros returns where the hole that covers chunk boundary off ends, in whole chunks: one
// question to each part in place of one for each chunk. It returns off where nothing is
// certain.
func (s *striped) zeros(off int64) int64 {
	end := s.size
	for i := range s.parts {
		at := off + int64(i)*s.chunk // the next chunks lie on one part each
		if at >= end {
			break
		}
		part, in, _ := s.at(at)
		whole := int64(0)
		if x, err := s.parts[part].Extent(in, s.parts[part].Size()-in); err == nil && x.Zero {
			whole = x.Len / s.chunk
		}
		if first := at + whole*s.chunk*int64(len(s.parts)); first < end { // its first chunk that is no hole
			end = first
		}
	}
	return end
}
