// Package limit bounds what the long requests of the file API (archives, searches, comparisons)
// use together, whatever many clients ask for at the same time.
//
// Non-goal: what a request needs for its connection and its copy buffer is bounded elsewhere.
package limit

import (
	"errors"
	"sync/atomic"
)

// ErrMemory is the error of a request for which no memory is left.
var ErrMemory = errors.New("the server's memory for archives, searches and comparisons is used up")

// Memory is a number of bytes that requests share. A nil *Memory has no limit. The methods are
// safe for concurrent use.
type Memory struct {
	limit int64
	used  atomic.Int64
}

// NewMemory returns a Memory of limit bytes.
func NewMemory(limit int64) *Memory { return &Memory{limit: limit} }

// Used is the number of bytes in use.
func (m *Memory) Used() int64 {
	if m == nil {
		return 0
	}
	return m.used.Load()
}

// Account returns an account of m for one request. It is to be closed.
func (m *Memory) Account() *Account { return &Account{of: m} }

// Account is what one request has taken of a Memory.
type Account struct {
	of   *Memory
	held atomic.Int64
}

// Take takes n bytes or returns ErrMemory.
func (a *Account) Take(n int64) error {
	if a == nil || a.of == nil {
		return nil
	}
	if a.of.used.Add(n) > a.of.limit {
		a.of.used.Add(-n)
		return ErrMemory
	}
	a.held.Add(n)
	return nil
}

// Give gives n bytes back.
func (a *Account) Give(n int64) {
	if a == nil || a.of == nil {
		return
	}
	a.held.Add(-n)
	a.of.used.Add(-n)
}

// Close gives everything back. The account must not be used any more.
func (a *Account) Close() {
	if a != nil && a.of != nil {
		a.of.used.Add(-a.held.Swap(0))
	}
}
