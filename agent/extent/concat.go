package extent

import (
	"math"
	"sort"
)

// Concat joins parts end to end: a logical volume of several segments, a disk made of
// several files. Empty parts are dropped; no parts give an empty Reader. The sum of the
// sizes must fit in an int64 (ErrRange otherwise).
func Concat(parts ...Reader) (Reader, error) {
	c := &concat{}
	for _, p := range parts {
		if p.Size() == 0 {
			continue
		}
		if c.size > math.MaxInt64-p.Size() {
			return nil, ErrRange
		}
		c.parts = append(c.parts, p)
		c.starts = append(c.starts, c.size)
		c.size += p.Size()
	}
	if len(c.parts) == 1 {
		return c.parts[0], nil
	}
	return c, nil
}

type concat struct {
	parts  []Reader
	starts []int64 // ascending; starts[i] is the offset of parts[i]
	size   int64
}

var _ Reader = (*concat)(nil)

func (c *concat) Size() int64 { return c.size }

// find returns the index of the part that holds off, 0 <= off < size.
func (c *concat) find(off int64) int {
	return sort.Search(len(c.starts), func(i int) bool { return c.starts[i] > off }) - 1
}

func (c *concat) ReadAt(p []byte, off int64) (int, error) {
	n, end := CheckRead(c.size, p, off)
	if n == 0 {
		return 0, end
	}
	done := 0
	for i := c.find(off); done < n; i++ {
		in := off + int64(done) - c.starts[i]
		want := int(min(int64(n-done), c.parts[i].Size()-in))
		got, err := ReadFull(c.parts[i], p[done:done+want], in)
		done += got
		if err != nil {
			return done, err
		}
	}
	return n, end
}

func (c *concat) Extent(off, max int64) (Extent, error) {
	max, err := CheckExtent(c.size, off, max)
	if err != nil {
		return Extent{}, err
	}
	i := c.find(off)
	return c.parts[i].Extent(off-c.starts[i], max)
}
