package ondisk

import (
	"errors"
	"fmt"
)

// ErrBudget reports a structure that needs more steps than any sane one of its kind:
// a cycle or a decompression-bomb-like layout made by hand.
var ErrBudget = errors.New("structure exceeds its step limit")

// Budget counts the steps of one walk over guest data down to zero. One step is one
// unit of bounded work (a block read, an entry decoded). It is owned by one goroutine.
type Budget struct {
	what  string
	limit int64
	left  int64
}

// NewBudget allows n steps; what names the walk in the error.
func NewBudget(what string, n int64) *Budget {
	return &Budget{what: what, limit: n, left: n}
}

// Spend takes n steps, or returns an error that wraps ErrBudget.
func (b *Budget) Spend(n int64) error {
	if n < 0 || n > b.left {
		b.left = 0
		return fmt.Errorf("%w: %s needs more than %d steps", ErrBudget, b.what, b.limit)
	}
	b.left -= n
	return nil
}

// Left is the number of steps that remain.
func (b *Budget) Left() int64 { return b.left }
