package archive

import (
	"strconv"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

const (
	// minHole is the least hole that is worth an entry of a sparse file's map, in bytes: the
	// block of most file systems.
	minHole = 4096
	// maxSegments bounds the map of one file: 256 KiB of memory. A file with more pieces has its
	// smallest holes written as zeros.
	maxSegments = 16 << 10
)

// segment is a range of a file that is not a hole.
type segment struct{ off, end int64 }

// segments returns what of r is data, in order. One segment that is all of r: it has no hole.
func segments(r extent.Reader) ([]segment, error) {
	var out []segment
	least := int64(minHole)
	size := r.Size()
	for off := int64(0); off < size; {
		x, err := r.Extent(off, size-off)
		if err != nil {
			return nil, err
		}
		end := off + x.Len
		if !x.Zero {
			if n := len(out); n > 0 && off-out[n-1].end < least {
				out[n-1].end = end
			} else {
				out = append(out, segment{off, end})
			}
		}
		for off = end; len(out) > maxSegments; {
			least *= 2
			out = join(out, least)
		}
	}
	// Short holes at the ends are data, too.
	if n := len(out); n > 0 {
		if out[0].off < minHole {
			out[0].off = 0
		}
		if size-out[n-1].end < minHole {
			out[n-1].end = size
		}
	}
	return out, nil
}

// mayHaveHoles tells that a file has fewer blocks than bytes. Compressed and very small files
// have, too.
func mayHaveHoles(a fsys.Attr) bool { return a.Blocks < (a.Size+511)/512 }

// whole tells that segs are a file without holes.
func whole(segs []segment, size int64) bool {
	return len(segs) == 1 && segs[0] == segment{0, size}
}

// join fills holes that are shorter than least.
func join(in []segment, least int64) []segment {
	out := in[:1]
	for _, s := range in[1:] {
		if last := &out[len(out)-1]; s.off-last.end < least {
			last.end = s.end
		} else {
			out = append(out, s)
		}
	}
	return out
}

// sparseMap is what stands before the data of a sparse file in GNU's format 1.0: the number of
// segments and each one's offset and length, decimal, one a line, padded to a block.
func sparseMap(segs []segment, size int64) []byte {
	n := len(segs)
	tail := n == 0 || segs[n-1].end < size // the end of the file is told by an empty segment
	if tail {
		n++
	}
	b := strconv.AppendInt(nil, int64(n), 10)
	line := func(v int64) { b = strconv.AppendInt(append(b, '\n'), v, 10) }
	for _, s := range segs {
		line(s.off)
		line(s.end - s.off)
	}
	if tail {
		line(size)
		line(0)
	}
	b = append(b, '\n')
	return append(b, make([]byte, padding(int64(len(b))))...)
}
