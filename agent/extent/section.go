package extent

import "fmt"

// Section returns the n bytes of r from off on as a Reader: a partition, a single extent.
// The range must lie inside r (ErrRange otherwise).
func Section(r Reader, off, n int64) (Reader, error) {
	if off < 0 || n < 0 || off > r.Size() || n > r.Size()-off {
		return nil, fmt.Errorf("%w: %d bytes at %d of %d", ErrRange, n, off, r.Size())
	}
	if s, ok := r.(*section); ok { // sections of sections stay one level deep
		return &section{s.r, s.off + off, n}, nil
	}
	return &section{r, off, n}, nil
}

type section struct {
	r      Reader
	off, n int64
}

var _ Reader = (*section)(nil)

func (s *section) Size() int64 { return s.n }

func (s *section) ReadAt(p []byte, off int64) (int, error) {
	n, end := CheckRead(s.n, p, off)
	if n == 0 {
		return 0, end
	}
	if got, err := ReadFull(s.r, p[:n], s.off+off); err != nil {
		return got, err
	}
	return n, end
}

func (s *section) Extent(off, max int64) (Extent, error) {
	max, err := CheckExtent(s.n, off, max)
	if err != nil {
		return Extent{}, err
	}
	return s.r.Extent(s.off+off, max)
}

// Zeros returns a hole of n bytes.
func Zeros(n int64) Reader { return zeros(n) }

type zeros int64

func (z zeros) Size() int64 { return int64(z) }

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	n, err := CheckRead(int64(z), p, off)
	clear(p[:n])
	return n, err
}

func (z zeros) Extent(off, max int64) (Extent, error) {
	max, err := CheckExtent(int64(z), off, max)
	return Extent{Len: max, Zero: true}, err
}

// Bytes returns b, which must not change any more, as a Reader.
func Bytes(b []byte) Reader { return memory(b) }

type memory []byte

func (m memory) Size() int64 { return int64(len(m)) }

func (m memory) ReadAt(p []byte, off int64) (int, error) {
	n, err := CheckRead(int64(len(m)), p, off)
	if n > 0 {
		copy(p[:n], m[off:])
	}
	return n, err
}

func (m memory) Extent(off, max int64) (Extent, error) {
	max, err := CheckExtent(int64(len(m)), off, max)
	return Extent{Len: max}, err
}
