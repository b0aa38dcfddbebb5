package guestfs

import (
	"fmt"
	"io"
	"io/fs"
	"sort"

	"vmfr/agent/fsys"
	"vmfr/agent/guestfs/wire"
)

const (
	// nearBy is how many names' attributes are asked for together where one is missing.
	nearBy = 256
	// entryBytes is what one entry of a listing takes beside its name.
	entryBytes = 72
)

// listing is a directory's entries in the order of their names; a Cookie is the
// index of the next one. It has no attributes, which are kept on their own.
type listing struct {
	entries []fsys.Dirent
	names   int64 // bytes of all names
}

func (l *listing) size() int64 { return 128 + int64(len(l.entries))*entryBytes + l.names }

func (l *listing) find(name string) (int, bool) {
	i := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].Name >= name })
	return i, i < len(l.entries) && l.entries[i].Name == name
}

// list returns a directory's entries and keeps their attributes.
func (f *FS) list(dir fsys.Ino) (*listing, error) {
	o, err := f.object(dir)
	if err != nil {
		return nil, err
	}
	if !o.attr.IsDir() {
		return nil, fsys.ErrNotDir
	}
	return f.a.dirs.Get(objectKey{f.index, dir}, func() (*listing, error) {
		path, err := f.table.path(dir)
		if err != nil {
			return nil, err
		}
		l := &listing{}
		b := batch{f: f, dir: dir}
		err = f.ask(&wire.Request{Op: wire.ReadD}, path, func(r *wire.Reply, _ []byte) error {
			for i := range r.Entries {
				e := &r.Entries[i]
				vol, skip, err := b.entry(e)
				if err != nil {
					return err
				}
				if skip {
					continue
				}
				o, err := f.learn(dir, vol, e)
				if err != nil {
					return fmt.Errorf("entry %.80q: %w", e.Name, err)
				}
				f.keep(o)
				l.entries = append(l.entries, fsys.Dirent{Name: string(e.Name), Ino: o.attr.Ino, Type: o.attr.Mode & fsys.ModeFmt})
				l.names += int64(len(e.Name))
				if l.size() > listingBytes {
					return fmt.Errorf("libguestfs: %w: a directory of more than %d entries", fsys.ErrUnsupported, len(l.entries))
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		sort.Slice(l.entries, func(i, j int) bool { return l.entries[i].Name < l.entries[j].Name })
		for i := range l.entries {
			if i > 0 && l.entries[i].Name == l.entries[i-1].Name {
				return nil, corrupt("directory", dir, "the name %.80q is there twice", l.entries[i].Name)
			}
			l.entries[i].Next = fsys.Cookie(i + 1)
		}
		return l, nil
	})
}

// ReadDir implements fsys.FS.
func (f *FS) ReadDir(dir fsys.Ino, from fsys.Cookie, out []fsys.Dirent) (int, error) {
	l, err := f.list(dir)
	if err != nil {
		return 0, err
	}
	if from > fsys.Cookie(len(l.entries)) {
		return 0, fmt.Errorf("%w: position %d in a directory of %d entries", fs.ErrInvalid, from, len(l.entries))
	}
	n := copy(out, l.entries[from:])
	if int(from)+n == len(l.entries) {
		return n, io.EOF
	}
	return n, nil
}

// Lookup implements fsys.FS. Where the directory has been listed, that answers; else the one
// name is asked for.
func (f *FS) Lookup(dir fsys.Ino, name string) (fsys.Ino, error) {
	o, err := f.object(dir)
	switch {
	case err != nil:
		return 0, err
	case !o.attr.IsDir():
		return 0, fsys.ErrNotDir
	case !validName(name) || len(name) > 765:
		return 0, fs.ErrNotExist
	}
	if l, ok := f.a.dirs.Peek(objectKey{f.index, dir}); ok {
		if i, ok := l.find(name); ok {
			return l.entries[i].Ino, nil
		}
		return 0, fs.ErrNotExist
	}
	path, err := f.table.path(dir)
	if err != nil {
		return 0, err
	}
	var ino fsys.Ino
	b := batch{f: f, dir: dir}
	err = f.ask(&wire.Request{Op: wire.Stat, Names: [][]byte{[]byte("."), []byte(name)}}, path, func(r *wire.Reply, _ []byte) error {
		for i := range r.Entries {
			e := &r.Entries[i]
			vol, skip, err := b.entry(e)
			if err != nil {
				return err
			}
			if skip || string(e.Name) != name {
				continue
			}
			o, err := f.learn(dir, vol, e)
			if err != nil {
				return err
			}
			f.keep(o)
			ino = o.attr.Ino
		}
		return nil
	})
	if err == nil && ino == 0 {
		err = fs.ErrNotExist
	}
	return ino, err
}

// batch follows the entries of one directory that the appliance sends. The first is ".", which
// tells the directory's device, so that roots of other subvolumes among its entries show.
type batch struct {
	f    *FS
	dir  fsys.Ino
	dev  int64
	seen bool
}

// entry returns the subvolume that e is in; skip: it is "." itself.
func (b *batch) entry(e *wire.Entry) (vol uint32, skip bool, err error) {
	if string(e.Name) == "." {
		if e.Attr == nil {
			return 0, false, &applianceError{op: wire.Stat, wire: wire.Error{Errno: e.Errno, Message: "."}}
		}
		b.dev, b.seen = e.Attr.Dev, true
		return 0, true, nil
	}
	if !b.seen {
		return 0, false, fmt.Errorf("%w: a directory without itself", wire.ErrFrame)
	}
	if e.Attr != nil && e.Attr.Dev != b.dev {
		return foreign, false, nil
	}
	return b.f.table.vol(b.dir), false, nil
}

// near asks for name in dir and for its neighbours, where the directory's listing is known.
func (f *FS) near(op wire.Op, dir fsys.Ino, name string, each func(dir fsys.Ino, vol uint32, e *wire.Entry) error) error {
	path, err := f.table.path(dir)
	if err != nil {
		return err
	}
	names := [][]byte{[]byte(".")}
	if name != "." {
		if l, ok := f.a.dirs.Peek(objectKey{f.index, dir}); ok {
			// The block of names that this one is in, so that any order of asking is served.
			if i, ok := l.find(name); ok {
				i -= i % nearBy
				for _, d := range l.entries[i:min(i+nearBy, len(l.entries))] {
					names = append(names, []byte(d.Name))
				}
			}
		}
		if len(names) == 1 {
			names = append(names, []byte(name))
		}
	}
	asked := make(map[string]bool, len(names))
	for _, n := range names {
		asked[string(n)] = true
	}
	b := batch{f: f, dir: dir}
	return f.ask(&wire.Request{Op: op, Names: names}, path, func(r *wire.Reply, _ []byte) error {
		for i := range r.Entries {
			e := &r.Entries[i]
			if !asked[string(e.Name)] {
				return fmt.Errorf("%w: an answer about %.80q", wire.ErrFrame, e.Name)
			}
			delete(asked, string(e.Name))
			if op == wire.Xattrs {
				if err := each(dir, 0, e); err != nil {
					return err
				}
				continue
			}
			vol, _, err := b.entry(e)
			if err == nil && (string(e.Name) != "." || name == ".") {
				err = each(dir, vol, e)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
