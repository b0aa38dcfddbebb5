package files

import "sync"

const (
	// copySize is one read of the file and one write to the client. 256 KiB is 16 TLS
	// records; larger ones gained nothing measurable and fall out of the L2 cache.
	copySize = 256 << 10
	// smallCopy is used when largeCopies downloads run already: slower, but memory stays
	// bounded however many clients there are.
	smallCopy   = 32 << 10
	largeCopies = 32
)

// buffers lends the memory for copies.
type buffers struct {
	large chan struct{} // one token for each large buffer in use
	pools [2]sync.Pool  // of *[]byte: large, small
}

func newBuffers() *buffers {
	b := &buffers{large: make(chan struct{}, largeCopies)}
	for i, size := range []int{copySize, smallCopy} {
		b.pools[i].New = func() any {
			p := make([]byte, size)
			return &p
		}
	}
	return b
}

// get returns a buffer and the function that gives it back.
func (b *buffers) get() ([]byte, func()) {
	select {
	case b.large <- struct{}{}:
		p := b.pools[0].Get().(*[]byte)
		return *p, func() { b.pools[0].Put(p); <-b.large }
	default:
		p := b.pools[1].Get().(*[]byte)
		return *p, func() { b.pools[1].Put(p) }
	}
}
