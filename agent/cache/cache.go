// Package cache is a sharded, byte-bounded, single-flight cache: inflated clusters, metadata
// blocks, inodes.
//
// Invariants: the sum of the sizes of kept values never exceeds the limit; one key is loaded
// by one goroutine at a time while others wait for its result; no lock is held across a load;
// errors are not kept. Standard library only.
package cache

import (
	"container/list"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// maxShards spreads contention: more than twice the cores of a large node make no difference.
const maxShards = 16

// Cache maps keys to values that cost something to make. It is safe for concurrent use.
type Cache[K comparable, V any] struct {
	seed   maphash.Seed
	size   func(V) int64
	hits   atomic.Uint64
	misses atomic.Uint64
	shard  []shard[K, V]
}

type shard[K comparable, V any] struct {
	mu      sync.Mutex
	limit   int64
	used    int64
	entries map[K]*list.Element // of *entry[K, V]
	lru     list.List           // front: used last
	flights map[K]*flight[V]
}

type entry[K comparable, V any] struct {
	key  K
	val  V
	size int64
}

type flight[V any] struct {
	done chan struct{}
	val  V
	err  error
}

// New returns a cache that keeps at most limit bytes as told by size, which must be constant
// for a value and positive. A value larger than limit/16 is handed out but not kept.
func New[K comparable, V any](limit int64, size func(V) int64) *Cache[K, V] {
	return NewShards[K](limit, maxShards, size)
}

// NewShards is New with n shards (1 to 16; brought into that range): few large values need
// few shards, since each keeps at most limit/n bytes and drops values on its own.
func NewShards[K comparable, V any](limit int64, n int, size func(V) int64) *Cache[K, V] {
	n = max(1, min(n, maxShards))
	c := &Cache[K, V]{seed: maphash.MakeSeed(), size: size, shard: make([]shard[K, V], n)}
	for i := range c.shard {
		c.shard[i].limit = limit / int64(n)
		c.shard[i].entries = make(map[K]*list.Element)
		c.shard[i].flights = make(map[K]*flight[V])
		c.shard[i].lru.Init()
	}
	return c
}

func (c *Cache[K, V]) of(k K) *shard[K, V] {
	return &c.shard[maphash.Comparable(c.seed, k)%uint64(len(c.shard))]
}

// Get returns the value of k, calling load where it is not kept. Concurrent calls for one key
// share one load and its error. A panic in load reaches its caller; waiters get an error.
func (c *Cache[K, V]) Get(k K, load func() (V, error)) (V, error) {
	s := c.of(k)
	s.mu.Lock()
	if e, ok := s.entries[k]; ok {
		s.lru.MoveToFront(e)
		v := e.Value.(*entry[K, V]).val
		s.mu.Unlock()
		c.hits.Add(1)
		return v, nil
	}
	if f, ok := s.flights[k]; ok {
		s.mu.Unlock()
		<-f.done
		c.hits.Add(1)
		return f.val, f.err
	}
	f := &flight[V]{done: make(chan struct{}), err: fmt.Errorf("cache: load of %v did not return", k)}
	s.flights[k] = f
	s.mu.Unlock()
	c.misses.Add(1)

	defer func() {
		s.mu.Lock()
		delete(s.flights, k)
		if f.err == nil {
			s.put(k, f.val, c.size(f.val))
		}
		s.mu.Unlock()
		close(f.done)
	}()
	f.val, f.err = load()
	return f.val, f.err
}

// Peek returns the value of k if it is kept, without counting it as used.
func (c *Cache[K, V]) Peek(k K) (V, bool) {
	s := c.of(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.entries[k]; ok {
		return e.Value.(*entry[K, V]).val, true
	}
	var zero V
	return zero, false
}

// Put keeps v under k, unless k is kept or being loaded: then that value stays. It never waits,
// so a load may put other values that came with its own.
func (c *Cache[K, V]) Put(k K, v V) {
	s := c.of(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.entries[k]; ok {
		return
	}
	if _, ok := s.flights[k]; !ok {
		s.put(k, v, c.size(v))
	}
}

// put keeps v under k and drops the least recently used values until the limit holds.
// The shard is locked.
func (s *shard[K, V]) put(k K, v V, size int64) {
	if size > s.limit {
		return
	}
	s.entries[k] = s.lru.PushFront(&entry[K, V]{k, v, size})
	s.used += size
	for s.used > s.limit {
		e := s.lru.Remove(s.lru.Back()).(*entry[K, V])
		delete(s.entries, e.key)
		s.used -= e.size
	}
}

// Stats is a snapshot of a cache's counters. Bytes is what is kept now.
type Stats struct {
	Hits, Misses uint64
	Bytes        int64
	Entries      int
}

// Stats returns the counters. Joining a load under way counts as a hit.
func (c *Cache[K, V]) Stats() Stats {
	st := Stats{Hits: c.hits.Load(), Misses: c.misses.Load()}
	for i := range c.shard {
		s := &c.shard[i]
		s.mu.Lock()
		st.Bytes += s.used
		st.Entries += len(s.entries)
		s.mu.Unlock()
	}
	return st
}
