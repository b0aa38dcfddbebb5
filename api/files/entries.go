package files

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/api/files/limit"
	"vmfr/api/files/walk"
)

// maxSorted bounds the sorted listings that are kept between pages, in bytes: five folders of
// 100,000 entries, or many of the usual size.
const maxSorted = 48 << 20

// sortKey is a listing in one order.
type sortKey struct {
	dir tree.Node
	by  string // "name", "size", "time"
}

// sortedList is a whole folder in order.
type sortedList struct {
	items []sortedItem
	bytes int64
}

type sortedItem struct {
	name string
	id   uint64
	kind uint32 // fsys.Mode*; 0: unknown
	key  int64
	frac int32 // nanoseconds of a time
}

func (l *sortedList) size() int64 { return l.bytes }

// entries answers /api/v1/entries: a page of a folder.
func (h *handler) entries(w *response, r *http.Request) {
	q := parameters(r, "path", "limit", "cursor", "sort", "order", "xattrs")
	path, cursor := q.path("path"), q.one("cursor")
	p := page{h: h, full: true, xattrs: q.flag("xattrs"), await: h.await(w, r), left: int(q.number("limit", defaultLimit, 1, maxLimit))}
	p.key.by = q.choice("sort", "none", "name", "size", "time")
	p.desc = q.choice("order", "asc", "desc") == "desc"
	if q.err != nil {
		h.fail(w, r, q.err)
		return
	}
	var err error
	p.dir, err = h.resolve(w, r, path, true)
	if err == nil {
		p.key.dir = p.dir
		err = p.open(cursor)
	}
	h.cfg.Counters.Count(tree.OpList)
	var ents []fsys.Dirent
	if err == nil {
		ents, err = p.next() // before the answer begins: its error is an answer of its own
	}
	if err != nil {
		h.cfg.Audit.List(w.who, path, 0, err)
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", noStore)
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return
	}
	err = h.listJSON(w, namesOf(path), &p, ents)
	h.cfg.Audit.List(w.who, path, p.sent, err)
	if err != nil {
		h.log.ErrorContext(r.Context(), "listing broken off", "path", quotePath(path), "error", err.Error())
		panic(http.ErrAbortHandler)
	}
}

// open goes to the cursor, and sorts the folder if an order is asked for.
func (p *page) open(cursor string) error {
	bad := &refusal{http.StatusBadRequest, "bad_cursor", "The cursor does not belong to this folder and order.", "Begin the listing again without a cursor."}
	if p.key.by == "none" {
		if p.desc {
			return badParameter("order", "there is none without sort")
		}
		if cursor != "" {
			at, err := p.h.openCursor(p.dir, cursor)
			if err != nil {
				return bad
			}
			p.from = at
		}
		return nil
	}
	if cursor != "" {
		at, err := p.h.unseal(p.dir, p.kind(), cursor)
		if err != nil {
			return bad
		}
		p.at = int(at)
	}
	// Waited for here and not below, where who comes later waits with the one who came first.
	if err := p.await(p.dir); err != nil {
		return err
	}
	var err error
	p.list, err = p.h.sorted.Get(p.key, func() (*sortedList, error) { return p.h.sort(p.key) })
	if err == nil && p.at > len(p.list.items) {
		return bad
	}
	return err
}

// sort reads a whole folder and, if the order needs them, the attributes of all that is in it.
func (h *handler) sort(k sortKey) (*sortedList, error) {
	account := h.memory.Account()
	defer account.Close()
	children, err := walk.List(h.tree, k.dir, nil, account)
	if err != nil {
		return nil, err
	}
	l, err := h.items(children, k, account)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(l.items, func(a, b sortedItem) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.frac, b.frac), strings.Compare(a.name, b.name))
	})
	return l, nil
}

// itemSize is the memory of a sortedItem without its name.
const itemSize = 48

func (h *handler) items(children []walk.Child, k sortKey, account *limit.Account) (*sortedList, error) {
	if err := account.Take(itemSize * int64(len(children))); err != nil {
		return nil, err
	}
	l := &sortedList{items: make([]sortedItem, len(children)), bytes: itemSize}
	for i, c := range children {
		l.items[i] = sortedItem{name: c.Name, id: h.tree.ID(c.Node), kind: c.Type}
		l.bytes += itemSize + int64(len(c.Name))
	}
	if k.by == "name" {
		return l, nil
	}
	// In the order of the inodes, which is the order on the disk.
	slices.SortFunc(l.items, func(a, b sortedItem) int { return cmp.Compare(a.id, b.id) })
	for i := range l.items {
		it := &l.items[i]
		n, ok := h.tree.ByID(it.id)
		if !ok {
			continue
		}
		a, err := h.tree.Attr(n)
		switch { // what cannot be described comes first
		case err != nil:
		case k.by == "size":
			it.key = a.Size
		default:
			it.key, it.frac = a.Mtime.Unix(), int32(a.Mtime.Nanosecond())
		}
	}
	return l, nil
}
