package guestfs

import (
	"errors"
	"io/fs"
	"sync/atomic"
	"testing"

	"vmfr/agent/fsys"
)

func newTable(root fsys.Ino, byPath bool) (*table, *atomic.Int64) {
	t, n := &table{}, &atomic.Int64{}
	t.init(n, root, byPath)
	return t, n
}

func TestTable(t *testing.T) {
	tb, _ := newTable(256, false)
	must := func(dir fsys.Ino, name string, vol uint32, ino int64, isDir bool) fsys.Ino {
		t.Helper()
		n, err := tb.number(dir, name, vol, ino, isDir)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	a := must(256, "a", 0, 300, true)
	if a != 300 || must(256, "a", 0, 300, true) != a {
		t.Error("the guest's number is not kept")
	}
	f := must(a, "f", 0, 301, false)
	if g := must(256, "g", 0, 301, false); g != f {
		t.Error("a hard link is another object")
	}
	if p, err := tb.path(f); p != "a/f" || err != nil {
		t.Errorf("path %q, %v", p, err)
	}
	if p, err := tb.path(256); p != "" || err != nil {
		t.Errorf("root's path %q, %v", p, err)
	}
	if _, err := tb.path(999); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unknown: %v", err)
	}
	// Another subvolume below: its numbers repeat the outer's.
	sub := must(256, "sub", foreign, 256, true)
	if sub < firstOwn || must(256, "sub", foreign, 256, true) != sub {
		t.Errorf("subvolume root %d", sub)
	}
	in := must(sub, "f", tb.vol(sub), 301, false)
	if in == f || in < firstOwn || must(sub, "link", tb.vol(sub), 301, false) != in {
		t.Errorf("file in the subvolume: %d", in)
	}
	other := must(256, "snap", foreign, 256, true)
	if must(other, "f", tb.vol(other), 301, false) == in {
		t.Error("two subvolumes share an object")
	}
	if _, err := tb.number(f, "a", 0, 300, true); !errors.Is(err, fsys.ErrCorrupt) {
		t.Errorf("a directory in two places: %v", err)
	}
	for _, name := range []string{"", ".", "..", "a/b", "a\x00"} {
		if _, err := tb.number(256, name, 0, 400, false); !errors.Is(err, fsys.ErrCorrupt) {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

func TestTableByPath(t *testing.T) {
	tb, total := newTable(1, true)
	a, err := tb.number(1, "a", 0, 77, false)
	if err != nil {
		t.Fatal(err)
	}
	b, err := tb.number(1, "b", 0, 77, false) // made-up numbers repeat
	if err != nil || a == b || a == 1 || b == 1 {
		t.Errorf("%d, %d, %v", a, b, err)
	}
	if again, err := tb.number(1, "a", 0, 5, false); err != nil || again != a {
		t.Errorf("%d, %v; want %d", again, err, a)
	}
	total.Store(MaxNodes)
	if _, err := tb.number(1, "c", 0, 1, false); !errors.Is(err, fsys.ErrUnsupported) {
		t.Errorf("past the limit: %v", err)
	}
	if again, err := tb.number(1, "a", 0, 5, false); err != nil || again != a {
		t.Errorf("known past the limit: %d, %v", again, err)
	}
}
