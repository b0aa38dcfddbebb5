package xlog

import (
	"encoding/binary"
	"fmt"
	"slices"

	"vmfr/agent/fsys"
)

// Types of log items. Those of intents are even: the next number is that of the item that says
// it is done.
const (
	itemEFI      = 0x1236 // free an extent
	itemEFD      = 0x1237
	itemInode    = 0x123b
	itemBuffer   = 0x123c
	itemDquot    = 0x123d
	itemQuotaOff = 0x123e
	itemICreate  = 0x123f // initialise a chunk of inodes
	itemRUI      = 0x1240 // update the reverse map
	itemRUD      = 0x1241
	itemCUI      = 0x1242 // update a reference count
	itemCUD      = 0x1243
	itemBUI      = 0x1244 // map or unmap an extent of a file
	itemBUD      = 0x1245
	itemAttrI    = 0x1246 // set or remove an attribute
	itemAttrD    = 0x1247
	itemXMI      = 0x1248 // exchange mappings of two files
	itemXMD      = 0x1249
	itemEFIRT    = 0x124a // the realtime device's
	itemEFDRT    = 0x124b
	itemRUIRT    = 0x124c
	itemRUDRT    = 0x124d
	itemCUIRT    = 0x124e
	itemCUDRT    = 0x124f
)

// visible are the intents that change what a reader sees, and what they do.
var visible = []visibleIntent{{itemBUI, "mapping an extent"}, {itemAttrI, "changing an extended attribute"}, {itemXMI, "exchanging the contents of two files"}}

type visibleIntent struct {
	kind uint16
	what string
}

// rank is the order in which items of one transaction are applied: buffers and new inodes first,
// as inodes are written into them; the lists of unlinked inodes last, when the inodes are free.
func rank(it *item) (int, error) {
	switch kind := it.kind(); kind {
	case itemBuffer:
		f, err := parseBuffer(it)
		switch {
		case err != nil:
			return 0, err
		case f.flags&bufferCancel != 0:
			return 3, nil
		case f.flags&bufferInodes != 0:
			return 2, nil
		}
		return 0, nil
	case itemICreate:
		return 0, nil
	case itemInode, itemDquot, itemQuotaOff, itemEFI, itemEFD, itemRUI, itemRUD, itemCUI, itemCUD, itemBUI, itemBUD,
		itemAttrI, itemAttrD, itemXMI, itemXMD, itemEFIRT, itemEFDRT, itemRUIRT, itemRUDRT, itemCUIRT, itemCUDRT:
		return 1, nil
	default:
		return 0, fmt.Errorf("xfs: %w: log items of type %#x", fsys.ErrUnsupported, kind)
	}
}

// order sorts the items of a transaction for recovery. Items of one rank stay in log order, but
// for unlinked lists, whose order is reversed, as the kernel does.
func order(items []*item) ([]*item, error) {
	var lists [4][]*item
	for _, it := range items {
		r, err := rank(it)
		if err != nil {
			return nil, err
		}
		lists[r] = append(lists[r], it)
	}
	out := append(lists[0], lists[1]...)
	for i := len(lists[2]) - 1; i >= 0; i-- {
		out = append(out, lists[2][i])
	}
	return append(out, lists[3]...), nil
}

// intent is one deferred operation, by the type and number of its intent item.
type intent struct {
	kind uint16
	id   uint64
}

// maxIntents bounds the deferred operations that are pending at once; each costs the log 60
// bytes or more, and memory about as much.
const maxIntents = 1 << 20

// trackIntent notes an intent, or that one is done. The done item of an intent before the tail
// has nothing to undo.
func (p *replay) trackIntent(it *item) error {
	b := it.regions[0]
	if len(b) < 16 {
		return p.log.corrupt("log item", p.at, "an intent of %d bytes", len(b))
	}
	i := intent{it.kind(), binary.LittleEndian.Uint64(b[8:])}
	if i.kind%2 != 0 {
		i.kind--
		delete(p.intents, i)
		return nil
	}
	if len(p.intents) >= maxIntents {
		return fmt.Errorf("xfs: %w: more than %d deferred operations in the log", fsys.ErrUnsupported, maxIntents)
	}
	seen := slices.ContainsFunc(visible, func(v visibleIntent) bool { return v.kind == i.kind })
	p.intents[i] = seen && !ofParent(it)
	return nil
}

// ofParent tells whether an intent is to change a parent pointer: an attribute that points to a
// directory, for the guest's own checks, and that no reader is shown.
func ofParent(it *item) bool {
	const operationAt, parentSet, parentReplace = 24, 4, 6
	b := it.regions[0]
	return it.kind() == itemAttrI && len(b) > operationAt && b[operationAt] >= parentSet && b[operationAt] <= parentReplace
}

// pendingIntents refuses a log whose deferred operations recovery would have to finish for a
// reader to see what the guest would.
func (p *replay) pendingIntents() error {
	for _, v := range visible {
		for i, seen := range p.intents {
			if seen && i.kind == v.kind {
				return fmt.Errorf("xfs: %w: the log has an unfinished operation (%s)", fsys.ErrUnsupported, v.what)
			}
		}
	}
	p.report.Intents = len(p.intents)
	return nil
}
