package extent

import (
	"fmt"
	"sort"
)

// Patch replaces Data.Size() bytes of a device at Off, as a journal's replay does.
type Patch struct {
	Off  int64
	Data Reader
}

// Overlay returns base with the patches laid over it; base itself is never written. Patches
// must lie inside base and must not overlap one another (ErrRange otherwise); they are
// sorted here, so any order will do. Memory: one index entry for each patch; the bytes stay
// where Data has them.
func Overlay(base Reader, patches []Patch) (Reader, error) {
	if len(patches) == 0 {
		return base, nil
	}
	ps := make([]Patch, len(patches))
	copy(ps, patches)
	sort.Slice(ps, func(i, j int) bool { // of equal offsets the empty patch first: it overlaps nothing
		if ps[i].Off != ps[j].Off {
			return ps[i].Off < ps[j].Off
		}
		return ps[i].Data.Size() < ps[j].Data.Size()
	})
	end := int64(0)
	for _, p := range ps {
		if p.Off < end || p.Data.Size() > base.Size()-p.Off {
			return nil, fmt.Errorf("%w: patch of %d bytes at %d overlaps another or leaves the device of %d bytes",
				ErrRange, p.Data.Size(), p.Off, base.Size())
		}
		end = p.Off + p.Data.Size()
	}
	return &overlay{base, ps}, nil
}

type overlay struct {
	base    Reader
	patches []Patch // sorted by Off, disjoint
}

var _ Reader = (*overlay)(nil)

func (o *overlay) Size() int64 { return o.base.Size() }

// at returns the source of the bytes at off, the offset in that source, and for how many
// bytes that holds.
func (o *overlay) at(off int64) (Reader, int64, int64) {
	i := sort.Search(len(o.patches), func(i int) bool { return o.patches[i].Off > off })
	if i > 0 {
		p := o.patches[i-1]
		if in := off - p.Off; in < p.Data.Size() {
			return p.Data, in, p.Data.Size() - in
		}
	}
	end := o.base.Size()
	if i < len(o.patches) {
		end = o.patches[i].Off
	}
	return o.base, off, end - off
}

func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	n, end := CheckRead(o.Size(), p, off)
	done := 0
	for done < n {
		r, in, span := o.at(off + int64(done))
		want := int(min(int64(n-done), span))
		got, err := ReadFull(r, p[done:done+want], in)
		done += got
		if err != nil {
			return done, err
		}
	}
	return n, end
}

func (o *overlay) Extent(off, max int64) (Extent, error) {
	max, err := CheckExtent(o.Size(), off, max)
	if err != nil {
		return Extent{}, err
	}
	r, in, span := o.at(off)
	return r.Extent(in, min(max, span))
}
