package sshd

import (
	"io"
	"testing"
	"time"
)

// readOn reads the n bytes at off with one request outstanding, and checks them.
func (x *raw) readOn(h string, g *gated, off, n uint64) {
	x.t.Helper()
	x.send(readRequest(9, h, off, uint32(n)))
	if p := x.next(); !isData(p, 9, g.content[off:off+n]) {
		x.t.Fatalf("at %d: %.100q", off, p)
	}
}

// wait waits for a read that was not asked for.
func (g *gated) wait(t testing.TB) {
	t.Helper()
	select {
	case <-g.entered:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing is read ahead")
	}
}

func TestReadAhead(t *testing.T) {
	tr, g := gatedTree(t)
	r := serve(t, tr, nil)
	x, c := r.raw()
	h, other := x.open(gatedPath), x.open(gatedPath)
	// A first read is no sequence, so the second one's end is where it begins.
	const size = 32 << 10
	from := uint64(slowAt - 3*size)
	x.readOn(h, g, from, size)
	x.readOn(h, g, from+size, size)
	g.wait(t)
	// What lies before the slow place comes with it; meanwhile other reads go on.
	x.send(readRequest(10, h, from+2*size, size))
	x.send(readRequest(11, other, 5000, 1000))
	if p := x.next(); !isData(p, 11, g.content[5000:6000]) {
		t.Fatalf("%.100q", p)
	}
	if n := r.counters.Snapshot().Bytes; n != 2*size+1000 {
		t.Errorf("%d bytes are counted", n)
	}
	x.send(closeRequest(12, h))
	x.next()
	close(g.gate)
	if p := x.next(); !isData(p, 10, g.content[from+2*size:from+3*size]) {
		t.Fatalf("%.100q", p)
	}
	c.Close()
	eventually(t, "the connection's end", func() bool { return r.counters.Snapshot().Connections == 0 })
	if n := r.counters.Snapshot().Bytes; n != 3*size+1000 {
		t.Errorf("%d bytes are counted", n)
	}
}

// TestReadAheadOfErrors: what fails ahead of time fails again, or not, when it is asked for.
func TestReadAheadOfErrors(t *testing.T) {
	tr, g := gatedTree(t)
	close(g.gate)
	x, _ := serve(t, tr, nil).raw()
	h := x.open(gatedPath)
	for _, bad := range []uint64{brokenAt, panicAt} {
		const size = 16 << 10
		for off := bad - 8*size; off < bad; off += size {
			x.readOn(h, g, off, size)
		}
		x.send(readRequest(9, h, bad, size))
		if p := x.next(); p[0] != fxpStatus || p[8] != fxFailure {
			t.Errorf("%.100q", p)
		}
		x.readOn(h, g, bad+size, size)
	}
}

// TestReadAheadSizes reads to the end in steps of many sizes, some of which change on the way.
func TestReadAheadSizes(t *testing.T) {
	tr, g := gatedTree(t)
	close(g.gate)
	g.armed.Store(false)
	x, _ := serve(t, tr, nil).raw()
	for name, step := range map[string]func(i int) int{
		"odd":          func(int) int { return 1<<16 + 1 },
		"32 KiB":       func(int) int { return 32 << 10 },
		"longest":      func(int) int { return maxRead },
		"half":         func(int) int { return maxRead/2 + 1 },
		"alternating":  func(i int) int { return 4096 << (i % 2) },
		"growing":      func(i int) int { return 1000 * (i + 1) },
		"now and then": func(i int) int { return 65536 - i%7/6 },
		"none":         func(i int) int { return 20_000 * (i % 5 / 2) },
	} {
		h := x.open(gatedPath)
		off := 0
		for i := 0; ; i++ {
			n := min(step(i), maxRead)
			x.send(readRequest(9, h, uint64(off), uint32(n)))
			p := x.next()
			if off == gatedSize && n > 0 {
				if p[0] != fxpStatus || p[8] != fxEOF {
					t.Errorf("%s: at the end: %.100q", name, p)
				}
				break
			}
			if want := g.content[off:min(off+n, gatedSize)]; !isData(p, 9, want) {
				t.Fatalf("%s: at %d: %.100q", name, off, p)
			}
			off = min(off+n, gatedSize)
		}
		x.send(closeRequest(9, h))
		x.next()
	}
}

// TestReadAheadIsBounded opens many files in one session and leaves each after two reads.
func TestReadAheadIsBounded(t *testing.T) {
	tr, g := gatedTree(t)
	r := serve(t, tr, nil)
	x, c := r.raw()
	const files, size = 20, 1000
	for range files {
		h := x.open(gatedPath)
		x.readOn(h, g, slowAt-2*size, size)
		x.readOn(h, g, slowAt-size, size)
	}
	for range maxAhead / maxRead {
		g.wait(t)
	}
	select {
	case <-g.entered:
		t.Error("more is read ahead than may be")
	case <-time.After(100 * time.Millisecond):
	}
	c.Close()
	close(g.gate)
	eventually(t, "the connection's end", func() bool { return r.counters.Snapshot().Connections == 0 })
}

// asks is a client that asks for something else as soon as an answer reaches it.
type asks func()

func (a asks) Write(p []byte) (int, error) { a(); return len(p), nil }

// TestReadAheadAtOnce: a client that reads on the moment it has its answer has one request outstanding.
func TestReadAheadAtOnce(t *testing.T) {
	tr, g := gatedTree(t)
	close(g.gate)
	f := openGated(t, tr)
	const size = 1000
	answers, ahead := 0, false
	var w *wire
	var opened *file
	w = newWire(script{nil, asks(func() {
		if answers++; answers == 1 {
			w.startRead(opened, 2, size, size)
			opened.ahead.mu.Lock()
			ahead = opened.ahead.piece != nil
			opened.ahead.mu.Unlock()
		}
	})}, &view{ctx: t.Context(), s: newServer(tr, complete(t)), c: &conn{}})
	opened = &file{v: w.v, f: f}
	w.startRead(opened, 1, 0, size)
	w.reads.Wait()
	if !ahead || answers != 2 {
		t.Errorf("%d answers; read ahead: %v", answers, ahead)
	}
	if p := opened.ahead.close(); p != nil {
		w.drop(p)
	}
	w.reads.Wait()
}

// TestReadAheadEnds: a client that never wants what is read ahead is left alone.
func TestReadAheadEnds(t *testing.T) {
	tr, g := gatedTree(t)
	f := openGated(t, tr)
	g.armed.Store(false)
	s := newServer(tr, complete(t))
	w := newWire(script{nil, io.Discard}, &view{ctx: t.Context(), s: s, c: &conn{}})
	opened := &file{v: w.v, f: f}
	pieces := 0
	for i := range int64(50) {
		for k := range int64(2) {
			w.startRead(opened, 1, (50-i)*50_000+k*1000, 1000)
			w.reads.Wait()
		}
		if opened.ahead.piece != nil {
			pieces++
		}
	}
	if pieces != maxMisses {
		t.Errorf("%d pieces, want %d", pieces, maxMisses)
	}
	if p := opened.ahead.close(); p != nil {
		w.drop(p)
	}
	w.reads.Wait()
	if !w.room.TryAcquire(maxReading) || !w.aheadRoom.TryAcquire(maxAhead) {
		t.Error("something is held")
	}
}
