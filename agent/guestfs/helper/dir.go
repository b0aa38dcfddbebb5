//go:build guestfs

package helper

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vmfr/agent/guestfs/wire"
)

// maxEntries is above what the engine keeps of one directory, and bounds what it is sent.
const maxEntries = 2_000_000

// list lists a directory with its entries' attributes, in several replies. readdir streams, so
// that a directory of any size arrives; the rest goes by the batch.
func (h *helper) list(r wire.Request) error {
	ents, err := h.g.Readdir(string(r.Path))
	if err != nil {
		return err
	}
	if len(*ents) > maxEntries {
		return fmt.Errorf("a directory of %d entries, of at most %d", len(*ents), maxEntries)
	}
	names := append(make([][]byte, 0, wire.MaxNames), []byte("."))
	flush := func() error {
		if len(names) == 0 {
			return nil
		}
		entries, err := h.stat(string(r.Path), names)
		if err != nil {
			return err
		}
		names = names[:0]
		return h.send(r.ID, entries)
	}
	for _, e := range *ents {
		if e.Name == "." || e.Name == ".." {
			continue
		}
		if names = append(names, []byte(e.Name)); len(names) == wire.MaxNames {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// batch answers a request for some names of a directory.
func (h *helper) batch(r wire.Request, ask func(dir string, names [][]byte) ([]wire.Entry, error)) error {
	if len(r.Names) == 0 || len(r.Names) > wire.MaxNames {
		return errors.New("the number of names is out of range")
	}
	entries, err := ask(string(r.Path), r.Names)
	if err != nil {
		return err
	}
	return h.send(r.ID, entries)
}

// send sends entries with More set, in as many replies as their size needs.
func (h *helper) send(id uint64, entries []wire.Entry) error {
	err := h.conn.Send(&wire.Reply{ID: id, More: true, Entries: entries}, nil)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, wire.ErrTooLarge):
		return &connError{err}
	case len(entries) == 1:
		return h.send(id, []wire.Entry{{Name: entries[0].Name, Errno: int(unix.E2BIG)}})
	}
	half := len(entries) / 2
	if err := h.send(id, entries[:half]); err != nil {
		return err
	}
	return h.send(id, entries[half:])
}

// stat returns attributes and link targets.
func (h *helper) stat(dir string, names [][]byte) ([]wire.Entry, error) {
	list := toStrings(names)
	stats, err := h.g.Lstatnslist(dir, list)
	if err != nil {
		return nil, err
	}
	if len(*stats) != len(list) {
		return nil, errors.New("lstatnslist: the appliance answered for other names")
	}
	entries := make([]wire.Entry, len(list))
	var links []int
	for i := range list {
		entries[i].Name = names[i]
		s := &(*stats)[i]
		if s.St_ino == -1 {
			entries[i].Errno = int(unix.ENOENT)
			continue
		}
		entries[i].Attr = attr(s)
		if s.St_mode&unix.S_IFMT == unix.S_IFLNK {
			links = append(links, i)
		}
	}
	return entries, h.targets(dir, list, links, entries)
}

// targets fills in where the symbolic links of entries lead.
func (h *helper) targets(dir string, list []string, links []int, entries []wire.Entry) error {
	if len(links) == 0 {
		return nil
	}
	names := make([]string, len(links))
	for k, i := range links {
		names[k] = list[i]
	}
	targets, err := h.g.Readlinklist(dir, names)
	if err != nil {
		return err
	}
	if len(targets) != len(links) {
		return errors.New("readlinklist: the appliance answered for other names")
	}
	for k, i := range links {
		entries[i].Target = []byte(targets[k])
	}
	return nil
}

// xattrs returns extended attributes. A batch whose reply would be larger than libguestfs'
// messages fails as a whole, and is asked for in halves.
func (h *helper) xattrs(dir string, names [][]byte) ([]wire.Entry, error) {
	list, err := h.g.Lxattrlist(dir, toStrings(names))
	if err != nil {
		if ready, e := h.g.Is_ready(); e != nil || !ready {
			return nil, err
		}
		if len(names) == 1 {
			return []wire.Entry{{Name: names[0], Errno: int(unix.E2BIG)}}, nil
		}
		half := len(names) / 2
		first, err := h.xattrs(dir, names[:half])
		if err != nil {
			return nil, err
		}
		second, err := h.xattrs(dir, names[half:])
		return append(first, second...), err
	}
	// For each name comes an attribute without a name, whose value is how many follow, or is
	// empty where they could not be read.
	all := *list
	entries := make([]wire.Entry, len(names))
	at := 0
	for i, name := range names {
		if at >= len(all) || all[at].Attrname != "" {
			return nil, errors.New("lxattrlist: the appliance's answer has another shape")
		}
		entries[i].Name = name
		n := 0
		if count := strings.TrimRight(string(all[at].Attrval), "\x00"); count == "" {
			entries[i].Errno = int(unix.EIO)
		} else if n, err = strconv.Atoi(count); err != nil || n < 0 || n > len(all)-at-1 {
			return nil, errors.New("lxattrlist: the appliance's count is wrong")
		}
		at++
		for range n {
			entries[i].Xattrs = append(entries[i].Xattrs, wire.Xattr{Name: all[at].Attrname, Value: all[at].Attrval})
			at++
		}
	}
	return entries, nil
}

func toStrings(names [][]byte) []string {
	list := make([]string, len(names))
	for i, n := range names {
		list[i] = string(n)
	}
	return list
}
