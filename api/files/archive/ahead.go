package archive

import (
	"context"
	"errors"
	"sync"

	"vmfr/agent/extent"
	"vmfr/api/files/walk"
)

// Reading ahead: while one batch of objects is written, the next ones are read and the ones
// behind them found. That is aheadBatches times aheadRoom of memory for one archive.
const (
	aheadBatches = 4
	aheadReaders = 2
	aheadItems   = 64        // objects in a batch
	aheadRoom    = 128 << 10 // bytes for the contents of a batch
	// aheadFile is the largest file whose content is read ahead. With larger ones the time of
	// a read is that of its bytes.
	aheadFile = 32 << 10
)

// ahead says what is read of objects before it is their turn.
type ahead struct{ xattrs, contents bool }

// item is an object on its way into an archive.
type item struct {
	walk.Entry
	asked    bool // for the extended attributes
	xattrs   map[string][]byte
	xattrErr error
	// content is all of a small file without holes; nil: it is to be read when it is written.
	content []byte
	size    int // of content before it is read; 0: it will not be
}

// batch is a run of objects.
type batch struct {
	items []item
	room  []byte        // for contents
	used  int           // of room
	ready chan struct{} // has an element when the batch was read
}

var rooms = sync.Pool{New: func() any { b := make([]byte, aheadRoom); return &b }}

// each calls f for every object in the order of the walk. An error of f or of ctx ends it;
// errStop is not returned. What an item holds is valid until f returns.
func (s *Source) each(ctx context.Context, o walk.Options, a ahead, f func(item) error) error {
	ctx, cancel := context.WithCancel(ctx)
	free := make(chan *batch, aheadBatches)
	work, order := make(chan *batch, aheadBatches), make(chan *batch, aheadBatches) // sending never waits
	var lent []*[]byte
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		for _, r := range lent {
			rooms.Put(r)
		}
	}()
	for range aheadBatches {
		r := rooms.Get().(*[]byte)
		lent = append(lent, r)
		free <- &batch{items: make([]item, 0, aheadItems), room: *r, ready: make(chan struct{}, 1)}
	}
	wg.Go(func() {
		defer close(order)
		defer close(work)
		s.gather(ctx, o, a, free, func(b *batch) { work <- b; order <- b })
	})
	for range aheadReaders {
		wg.Go(func() {
			for b := range work {
				if ctx.Err() == nil {
					s.fetch(b, a)
				}
				b.ready <- struct{}{}
			}
		})
	}
	for b := range order {
		<-b.ready
		for i := range b.items {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := f(b.items[i]); err != nil {
				if errors.Is(err, errStop) {
					return nil
				}
				return err
			}
		}
		free <- b
	}
	return ctx.Err()
}

// gather walks and fills batches. The first are short, so that an archive begins at once.
func (s *Source) gather(ctx context.Context, o walk.Options, a ahead, free <-chan *batch, full func(*batch)) {
	o.Await = s.Await
	w := walk.New(s.Tree, s.Roots, o)
	most := 1
	for {
		var b *batch
		select {
		case b = <-free:
		case <-ctx.Done():
			return
		}
		b.items, b.used = b.items[:0], 0
		for len(b.items) < most && b.used+aheadFile <= len(b.room) {
			e, ok := w.Next()
			if !ok {
				full(b)
				return
			}
			it := item{Entry: e}
			if a.contents && e.Err == nil && e.Attr.IsRegular() && e.Attr.Nlink <= 1 && e.Attr.Size <= aheadFile {
				it.size = int(e.Attr.Size)
				b.used += it.size
			}
			b.items = append(b.items, it)
			if ctx.Err() != nil {
				return
			}
		}
		full(b)
		most = min(4*most, aheadItems)
	}
}

// fetch reads what a batch wants. Errors are left to whoever writes the object, who meets them
// again.
func (s *Source) fetch(b *batch, a ahead) {
	room := b.room
	for i := range b.items {
		it := &b.items[i]
		if a.xattrs && it.Err == nil {
			it.xattrs, it.xattrErr = s.Tree.Xattrs(it.Node)
			it.asked = true
		}
		if it.size == 0 {
			continue
		}
		var p []byte
		p, room = room[:it.size:it.size], room[it.size:]
		r, err := s.Tree.Open(it.Node)
		if err != nil || r.Size() != int64(it.size) {
			continue
		}
		if mayHaveHoles(it.Attr) {
			if segs, err := segments(r); err != nil || !whole(segs, r.Size()) {
				continue
			}
		}
		if _, err := extent.ReadFull(r, p, 0); err == nil {
			it.content = p
		}
	}
}

// took tells the source's owner that a file's content is used that was read ahead.
func (s *Source) took(it *item) {
	if s.Opened != nil {
		s.Opened(it.Path)
	}
	if s.Read != nil {
		s.Read(len(it.content))
	}
}
