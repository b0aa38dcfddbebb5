package cache

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func one(int) int64 { return 1 }

func constant(v int) func() (int, error) { return func() (int, error) { return v, nil } }

func TestKeepsAndCounts(t *testing.T) {
	c := New[string](1<<20, one)
	for range 3 {
		if v, err := c.Get("a", constant(7)); v != 7 || err != nil {
			t.Fatal(v, err)
		}
	}
	if st := c.Stats(); st != (Stats{Hits: 2, Misses: 1, Bytes: 1, Entries: 1}) {
		t.Errorf("%+v", st)
	}
	if v, ok := c.Peek("a"); v != 7 || !ok {
		t.Error(v, ok)
	}
	if _, ok := c.Peek("b"); ok {
		t.Error("a key that was never loaded is kept")
	}
}

func TestErrorsAreNotKept(t *testing.T) {
	c := New[int](1<<20, one)
	bad := errors.New("medium error")
	if _, err := c.Get(1, func() (int, error) { return 5, bad }); !errors.Is(err, bad) {
		t.Fatal(err)
	}
	if v, err := c.Get(1, constant(6)); v != 6 || err != nil {
		t.Error(v, err)
	}
}

func TestBound(t *testing.T) {
	for _, shards := range []int{-1, 1, 3, 16, 100} {
		for _, limit := range []int64{0, 1, 100, 1000} {
			c := NewShards[int](limit, shards, func(v int) int64 { return int64(v%50 + 1) })
			for i := range 5000 {
				if v, err := c.Get(i*7919%1500, constant(i)); err != nil || v < 0 {
					t.Fatal(v, err)
				}
				if st := c.Stats(); st.Bytes > limit || st.Bytes < 0 || (st.Bytes == 0) != (st.Entries == 0) {
					t.Fatalf("limit %d, %d shards: %+v", limit, shards, st)
				}
			}
			if limit == 1000 && c.Stats().Bytes < limit/4 {
				t.Errorf("limit %d, %d shards: only %d bytes are used", limit, shards, c.Stats().Bytes)
			}
		}
	}
}

func TestDropsTheLeastRecentlyUsed(t *testing.T) {
	c := NewShards[int](3, 1, one)
	for _, k := range []int{1, 2, 3, 1, 4} {
		if _, err := c.Get(k, constant(k)); err != nil {
			t.Fatal(err)
		}
	}
	for k, want := range map[int]bool{1: true, 2: false, 3: true, 4: true} {
		if _, ok := c.Peek(k); ok != want {
			t.Errorf("key %d kept: %v", k, ok)
		}
	}
	if _, ok := c.Peek(3); !ok { // Peek is no use: 3 goes next
		t.Fatal("3 is gone")
	}
	if _, err := c.Get(5, constant(5)); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Peek(3); ok {
		t.Error("Peek counted as use")
	}
}

func TestTooLargeIsHandedOut(t *testing.T) {
	c := NewShards[int](10, 1, func(v int) int64 { return int64(v) })
	for _, v := range []int{4, 11} {
		if got, err := c.Get(v, constant(v)); got != v || err != nil {
			t.Fatal(got, err)
		}
	}
	if st := c.Stats(); st.Bytes != 4 || st.Entries != 1 {
		t.Errorf("a value over the limit was kept, or drove another out: %+v", st)
	}
}

// waiting counts goroutines that wait in Get for another one's load.
func waiting() int {
	buf := make([]byte, 1<<20)
	n := 0
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "chan receive") && strings.Contains(g, "cache.(*Cache") {
			n++
		}
	}
	return n
}

// TestSingleFlight starts many Gets for one key and lets the load return only when all the
// others wait for it.
func TestSingleFlight(t *testing.T) {
	const others = 20
	bad := errors.New("medium error")
	for name, load := range map[string]func() (int, error){
		"value": constant(9),
		"error": func() (int, error) { return 0, bad },
		"panic": func() (int, error) { panic("defect") },
		"exit":  func() (int, error) { runtime.Goexit(); return 0, nil },
	} {
		t.Run(name, func(t *testing.T) {
			c := New[int](1<<20, one)
			var loads, ok, same, odd atomic.Int64
			var wg sync.WaitGroup
			get := func() {
				defer wg.Done()
				defer func() { _ = recover() }()
				v, err := c.Get(1, func() (int, error) {
					loads.Add(1)
					for waiting() < others {
						runtime.Gosched()
					}
					return load()
				})
				switch {
				case err == nil && v == 9:
					ok.Add(1)
				case errors.Is(err, bad):
					same.Add(1)
				case err != nil && strings.Contains(err.Error(), "did not return"):
					odd.Add(1)
				}
			}
			for range others + 1 {
				wg.Add(1)
				go get()
			}
			wg.Wait()
			got := fmt.Sprint(loads.Load(), ok.Load(), same.Load(), odd.Load())
			if want := map[string]string{"value": "1 21 0 0", "error": "1 0 21 0", "panic": "1 0 0 20", "exit": "1 0 0 20"}[name]; got != want {
				t.Errorf("loads, values, errors, abandoned: %s, want %s", got, want)
			}
			// The key is free again.
			if v, err := c.Get(1, constant(9)); v != 9 || err != nil {
				t.Error(v, err)
			}
			if st := c.Stats(); st.Entries != 1 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestLoadMayUseTheCache: no lock is held across a load.
func TestLoadMayUseTheCache(t *testing.T) {
	c := NewShards[int](100, 1, one)
	v, err := c.Get(1, func() (int, error) {
		w, err := c.Get(2, constant(3))
		return w + 1, err
	})
	if v != 4 || err != nil {
		t.Error(v, err)
	}
}

// TestConcurrent is for the race detector: values always belong to their key.
func TestConcurrent(t *testing.T) {
	c := New[int](64, one)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 5000 {
				k := (i*31 + g) % 200
				if v, err := c.Get(k, constant(k*10)); v != k*10 || err != nil {
					t.Errorf("key %d has %d, %v", k, v, err)
					return
				}
				if v, ok := c.Peek(k); ok && v != k*10 {
					t.Errorf("key %d has %d", k, v)
				}
				if st := c.Stats(); st.Bytes > 64 {
					t.Errorf("%+v", st)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkHit(b *testing.B) {
	c := New[int](1<<20, one)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			_, _ = c.Get(i&1023, constant(1))
		}
	})
}

// TestPut: a load may put its own key, which it must not wait for, and others.
func TestPut(t *testing.T) {
	c := New[int](1<<20, func(string) int64 { return 8 })
	v, err := c.Get(1, func() (string, error) {
		c.Put(1, "early")
		c.Put(2, "beside")
		return "loaded", nil
	})
	if v != "loaded" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	c.Put(1, "late")
	for k, want := range map[int]string{1: "loaded", 2: "beside"} {
		if v, ok := c.Peek(k); !ok || v != want {
			t.Errorf("%d is %q, %v", k, v, ok)
		}
	}
}
