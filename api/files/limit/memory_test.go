package limit

import (
	"errors"
	"sync"
	"testing"
)

func TestAccounts(t *testing.T) {
	m := NewMemory(100)
	a, b := m.Account(), m.Account()
	if a.Take(60) != nil || !errors.Is(b.Take(41), ErrMemory) || m.Used() != 60 {
		t.Fatalf("used %d: a refused request must take nothing", m.Used())
	}
	if b.Take(40) != nil || m.Used() != 100 {
		t.Errorf("used %d, want all", m.Used())
	}
	a.Give(10)
	if b.Take(10) != nil || a.Take(1) == nil {
		t.Error("what one gives back another can take, and no more")
	}
	a.Close()
	a.Close()
	if m.Used() != 50 {
		t.Errorf("used %d after one was closed, want the other's 50", m.Used())
	}
	b.Close()
	if m.Used() != 0 {
		t.Errorf("used %d in the end", m.Used())
	}
}

func TestConcurrentAccounts(t *testing.T) {
	m := NewMemory(1000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				a := m.Account()
				for a.Take(7) == nil {
				}
				if m.Used() > 1000+8*7 { // each of the others may be about to be refused
					t.Error("more than there is")
				}
				a.Give(7)
				a.Close()
			}
		})
	}
	wg.Wait()
	if m.Used() != 0 {
		t.Errorf("used %d in the end", m.Used())
	}
}

// TestNone: without an account nothing is limited.
func TestNone(t *testing.T) {
	var m *Memory
	var a *Account
	if m.Account().Take(1<<60) != nil || a.Take(1<<60) != nil || m.Used() != 0 {
		t.Error("nothing has a limit")
	}
	a.Give(1)
	a.Close()
}
