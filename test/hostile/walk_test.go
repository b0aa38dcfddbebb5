package hostile

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"vmfr/agent/engine"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/tree"
)

// Budgets of one walk. Damage can turn a file into one of 2^60 bytes and a folder into a loop;
// a client that reads all of it gets to choose how much, so does the test.
const (
	maxObjects   = 20_000
	maxDepth     = 64
	maxFileBytes = 8 << 20
	maxAllBytes  = 96 << 20
	maxExtents   = 20_000
)

// answer is all that a tree says of an image, as a sum.
type answer struct {
	sum     [sha256.Size]byte
	objects int
	errors  int
	reports []tree.BackupReport
}

// ask opens the disks, walks the tree, reads everything and closes it.
func ask(t testing.TB, disks []tree.Disk) answer {
	t.Helper()
	tr, err := tree.New(context.Background(), tree.Config{
		Backups: []tree.Backup{{Name: "b", Disks: disks}}, Engines: engine.Native(), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	w := walker{t: t, tree: tr, h: sha256.New(), seen: map[tree.Node]bool{}, buf: make([]byte, 256<<10)}
	w.dir(tr.Root(), "", 0)
	a := answer{objects: w.objects, errors: w.errors, reports: tr.Backups()}
	report, err := json.Marshal(a.reports)
	if err != nil {
		t.Fatal(err)
	}
	w.h.Write(report)
	w.h.Sum(a.sum[:0])
	if n := tr.Stats().Panics; n > 0 {
		t.Errorf("%d panics", n)
	}
	if strings.Contains(string(report), "engine stopped") { // engine.PanicError
		t.Errorf("an engine panicked when it was opened: %s", report)
	}
	if err := tr.Close(); err != nil {
		t.Error(err)
	}
	return a
}

type walker struct {
	t       testing.TB
	tree    *tree.Tree
	h       hash.Hash
	seen    map[tree.Node]bool
	buf     []byte
	objects int
	errors  int
	bytes   int64
}

// note adds to the answer; an error is part of it and must be of a known kind.
func (w *walker) note(what string, err error, args ...any) bool {
	_, _ = fmt.Fprintf(w.h, "%s %v", what, args)
	if err == nil {
		return true
	}
	w.errors++
	_, _ = fmt.Fprintf(w.h, " %v\n", err)
	var p *tree.PanicError
	if errors.As(err, &p) {
		w.t.Errorf("%s: %v\n%s", what, err, p.Stack)
	}
	if tree.KindOf(err) == tree.KindIO { // the image is whole: nothing here is the device's fault
		w.t.Errorf("%s: an error of no known kind: %v", what, err)
	}
	return false
}

func (w *walker) dir(n tree.Node, path string, depth int) {
	if w.seen[n] || depth > maxDepth {
		return
	}
	w.seen[n] = true
	var from fsys.Cookie
	out := make([]fsys.Dirent, 64)
	for {
		k, err := w.tree.ReadDir(n, from, out)
		for _, e := range out[:k] {
			if w.objects++; w.objects > maxObjects {
				return
			}
			if e.Name == "" || strings.ContainsAny(e.Name, "/\x00") || e.Name == "." || e.Name == ".." {
				w.t.Errorf("%s holds the name %q", path, e.Name)
			}
			from = e.Next
			w.object(n, path+"/"+e.Name, e, depth)
		}
		if errors.Is(err, io.EOF) || !w.note("list "+path, err) {
			return
		}
		if k == 0 {
			w.t.Errorf("%s: no entry and no end", path)
			return
		}
	}
}

func (w *walker) object(dir tree.Node, path string, e fsys.Dirent, depth int) {
	if strings.HasPrefix(path, "/disks/") && e.Type != fsys.ModeDir {
		return // the image itself
	}
	n, err := w.tree.Lookup(dir, e.Name)
	if !w.note("lookup "+path, err) {
		return
	}
	a, err := w.tree.Attr(n)
	if !w.note("stat "+path, err, a) {
		return
	}
	xs, err := w.tree.Xattrs(n)
	if w.note("xattrs "+path, err) {
		for _, name := range slices.Sorted(maps.Keys(xs)) {
			_, _ = fmt.Fprintf(w.h, "%q %x\n", name, xs[name])
		}
	}
	switch {
	case a.IsDir():
		w.dir(n, path, depth+1)
	case a.IsSymlink():
		target, err := w.tree.Readlink(n)
		w.note("link "+path, err, target)
	case a.IsRegular():
		f, err := w.tree.Open(n)
		if w.note("open "+path, err) {
			w.read(path, f)
		}
	}
}

// read reads what is data, up to the budgets; holes are only counted.
func (w *walker) read(path string, f extent.Reader) {
	size, left := f.Size(), int64(maxFileBytes)
	if size < 0 {
		w.t.Errorf("%s: size %d", path, size)
		return
	}
	for off, steps := int64(0), 0; off < size && left > 0 && w.bytes < maxAllBytes && steps < maxExtents; steps++ {
		x, err := f.Extent(off, size-off)
		if !w.note("extent "+path, err, off, x.Len, x.Zero, x.HostOff) {
			return
		}
		if x.Len <= 0 || x.Len > size-off {
			w.t.Errorf("%s: an extent of %d bytes at %d of %d", path, x.Len, off, size)
			return
		}
		if x.Zero {
			off += x.Len
			continue
		}
		p := w.buf[:min(int64(len(w.buf)), x.Len)]
		n, err := extent.ReadFull(f, p, off)
		if !w.note("read "+path, err, off, n) {
			return
		}
		w.h.Write(p[:n])
		off += int64(n)
		left -= int64(n)
		w.bytes += int64(n)
	}
}
