package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/tree"
)

const (
	// readSize is one read of content, in bytes: a few clusters of an image.
	readSize = 256 << 10
	// aheadObjects bounds the objects that wait for a worker or for their turn in the listing.
	aheadObjects = 1024
	// listBatch is how many entries one call to the tree lists.
	listBatch = 512
)

// walkLimits end a walk that a hostile disk could make endless.
type walkLimits struct {
	objects int64
	bytes   int64 // of content, holes included; 0: no limit
}

// object is one name on its way through the walk.
type object struct {
	path   string // below /backups, without a slash at the start
	node   tree.Node
	attr   fsys.Attr
	xattrs map[string][]byte
	target string
	sum    string // sha256 of a file's content, in hex
	holes  int64
	err    error
	same   *object       // an earlier name of the same file
	done   chan struct{} // closed when a worker has read it
}

// walker reads every object of a tree once. One goroutine lists directories in order, several
// read objects, and one writes the listing in the order of the first.
type walker struct {
	t       *tree.Tree
	limits  walkLimits
	listing io.Writer // nil: none
	todo    chan *object
	ordered chan *object
	dirs    map[tree.Node]bool    // seen, since damaged directories can contain each other
	linked  map[tree.Node]*object // files with several names

	objects, bytes atomic.Int64 // for progress and limits
}

func newWalker(t *tree.Tree, limits walkLimits, listing io.Writer) *walker {
	return &walker{t: t, limits: limits, listing: listing,
		todo: make(chan *object, aheadObjects), ordered: make(chan *object, aheadObjects),
		dirs: map[tree.Node]bool{}, linked: map[tree.Node]*object{}}
}

// run walks all file systems. Errors are ctx's end, a limit, or of the listing's writer; what
// cannot be read is in the report.
func (w *walker) run(ctx context.Context) (walkReport, error) {
	var r walkReport
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(w.ordered)
		defer close(w.todo)
		return w.list(ctx, &r.FileSystems)
	})
	for range max(2, runtime.GOMAXPROCS(0)) {
		g.Go(func() error {
			buf := make([]byte, readSize)
			for o := range w.todo {
				err := w.read(ctx, o, buf)
				close(o.done)
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error { return w.collect(ctx, &r) })
	err := g.Wait()
	return r, err
}

// list emits all file systems in the order of their paths.
func (w *walker) list(ctx context.Context, count *int64) error {
	var roots []string
	for _, b := range w.t.Backups() {
		for _, d := range b.Disks {
			for _, v := range d.Volumes {
				roots = append(roots, v.Roots()...)
			}
		}
	}
	sort.Strings(roots)
	for _, p := range roots {
		*count++
		n, err := w.t.Resolve(p, false)
		o := &object{path: strings.TrimPrefix(p, "/backups/"), node: n, err: err}
		if err := w.descend(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// descend emits root and everything below it in the same file system: a directory before its
// entries, the entries of a directory by name, byte by byte.
func (w *walker) descend(ctx context.Context, root *object) error {
	stack := []*object{root}
	for len(stack) > 0 {
		o := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if w.objects.Add(1) > w.limits.objects {
			return fmt.Errorf("more than %d objects; raise --max-objects if the disk is trusted to end", w.limits.objects)
		}
		if o.err == nil {
			o.attr, o.err = w.t.Attr(o.node)
		}
		var entries []*object
		if o.err == nil && o.attr.IsDir() {
			if w.dirs[o.node] {
				o.err = fsys.Corrupt("tree", "directory", o.attr.Ino, -1, "it is reached by two paths")
			} else {
				w.dirs[o.node] = true
				entries, o.err = w.entries(o)
			}
		}
		if err := w.emit(ctx, o); err != nil {
			return err
		}
		for i := len(entries) - 1; i >= 0; i-- {
			stack = append(stack, entries[i])
		}
	}
	return nil
}

// entries lists a directory, sorted, without what is mounted there: that is a root of its own,
// or one shown a second time. With an error it returns what was listed before.
func (w *walker) entries(dir *object) ([]*object, error) {
	var all []*object
	batch := make([]fsys.Dirent, listBatch)
	for from := fsys.Cookie(0); ; {
		k, err := w.t.ReadDir(dir.node, from, batch)
		for _, e := range batch[:k] {
			o := &object{path: dir.path + "/" + e.Name}
			var ok bool
			if o.node, ok = w.t.ByID(uint64(e.Ino)); !ok {
				o.err = fmt.Errorf("inode %d: %w", e.Ino, fsys.ErrCorrupt)
			}
			if o.err != nil || w.t.SameFS(dir.node, o.node) {
				all = append(all, o)
			}
			from = e.Next
		}
		if err == nil && k == 0 {
			err = fmt.Errorf("directory listing does not advance: %w", fsys.ErrCorrupt)
		}
		if err == nil && int64(len(all)) > w.limits.objects {
			err = io.EOF // descend reports the limit
		}
		if err != nil {
			sort.SliceStable(all, func(i, j int) bool { return all[i].path < all[j].path })
			if err == io.EOF {
				err = nil
			}
			return all, err
		}
	}
}

// emit hands o to the workers and to the listing.
func (w *walker) emit(ctx context.Context, o *object) error {
	o.done = make(chan struct{})
	queue := w.todo
	if o.err == nil && o.attr.IsRegular() && o.attr.Nlink > 1 {
		if o.same = w.linked[o.node]; o.same == nil {
			w.linked[o.node] = o
		}
	}
	if o.same != nil {
		close(o.done)
		queue = nil
	}
	if queue != nil {
		select {
		case queue <- o:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case w.ordered <- o:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// read reads all of one object. Its own errors stay in it; the returned one ends the walk.
func (w *walker) read(ctx context.Context, o *object, buf []byte) error {
	if o.err != nil {
		return ctx.Err()
	}
	if o.xattrs, o.err = w.t.Xattrs(o.node); o.err != nil {
		return ctx.Err()
	}
	switch o.attr.Mode & fsys.ModeFmt {
	case fsys.ModeSymlink:
		o.target, o.err = w.t.Readlink(o.node)
	case fsys.ModeRegular:
		f, err := w.t.Open(o.node)
		if err != nil {
			o.err = err
			return ctx.Err()
		}
		return w.digest(ctx, o, f, buf)
	}
	return ctx.Err()
}

var zeros [readSize]byte

// digest hashes a file's content. Holes are hashed as zeros, without reading them.
func (w *walker) digest(ctx context.Context, o *object, f *tree.File, buf []byte) error {
	h := sha256.New()
	for off := int64(0); off < f.Size(); {
		x, err := f.Extent(off, f.Size()-off)
		if err != nil {
			o.err = err
			return nil
		}
		if x.Zero {
			o.holes += x.Len
		}
		for end := off + x.Len; off < end; {
			n := min(end-off, readSize)
			if w.bytes.Add(n) > w.limits.bytes && w.limits.bytes > 0 {
				return fmt.Errorf("more than %d bytes of content; raise --max-bytes", w.limits.bytes)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if o.err = piece(h, f, x.Zero, buf[:n], off); o.err != nil {
				return nil
			}
			off += n
		}
	}
	o.sum = hex.EncodeToString(h.Sum(nil))
	return nil
}

func piece(h hash.Hash, f *tree.File, zero bool, buf []byte, off int64) error {
	if zero {
		_, err := h.Write(zeros[:len(buf)])
		return err
	}
	if k, err := extent.ReadFull(f, buf, off); err != nil {
		return fmt.Errorf("at byte %d: %w", off+int64(k), err)
	}
	_, err := h.Write(buf)
	return err
}

// collect writes the listing in order and sums up.
func (w *walker) collect(ctx context.Context, r *walkReport) error {
	h := sha256.New()
	out := io.Writer(h)
	if w.listing != nil {
		out = io.MultiWriter(h, w.listing)
	}
	var line bytes.Buffer
	line.WriteString(listingHeader)
	for o := range w.ordered {
		select {
		case <-o.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		r.add(o)
		writeLine(&line, o)
		if _, err := out.Write(line.Bytes()); err != nil {
			return fmt.Errorf("listing: %w", err)
		}
		line.Reset()
	}
	if _, err := out.Write(line.Bytes()); err != nil { // only the header, where there was nothing
		return fmt.Errorf("listing: %w", err)
	}
	r.SHA256 = hex.EncodeToString(h.Sum(nil))
	return ctx.Err()
}

// watched prints a walk's progress at intervals until stop is called.
func (w *walker) watched(print func(objects, bytes int64), ticks <-chan time.Time) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			select {
			case <-done:
				return
			case <-ticks:
				print(w.objects.Load(), w.bytes.Load())
			}
		}
	}()
	return func() { close(done); wg.Wait() }
}

var errInterrupted = errors.New("interrupted")
