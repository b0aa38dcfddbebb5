package guestfs

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"golang.org/x/sys/unix"

	"vmfr/agent/fsys"
	"vmfr/agent/guestfs/wire"
)

// Limits of one object's attributes: Linux' own for names and values, and for the sum what one
// of libguestfs' messages holds.
const (
	maxXattrName  = 255
	maxXattrValue = 64 << 10
)

func xattrsSize(m map[string][]byte) int64 {
	n := int64(160)
	for k, v := range m {
		n += int64(64 + len(k) + len(v))
	}
	return n
}

// Xattrs implements fsys.Xattrer. The attributes of names near by come with the first.
func (f *FS) Xattrs(ino fsys.Ino) (map[string][]byte, error) {
	m, err := f.a.xattrs.Get(objectKey{f.index, ino}, func() (map[string][]byte, error) {
		dir, name, err := f.table.where(ino)
		if err != nil {
			return nil, err
		}
		var mine map[string][]byte
		err = f.near(wire.Xattrs, dir, name, func(dir fsys.Ino, _ uint32, e *wire.Entry) error {
			m, err := xattrsOf(e)
			if string(e.Name) == name {
				mine = m
				return err
			}
			if err == nil {
				f.keepXattrs(dir, string(e.Name), m)
			}
			return nil
		})
		var ae *applianceError
		switch {
		case errors.As(err, &ae) && ae.wire.Errno == int(unix.ENOTSUP):
			return map[string][]byte{}, nil // a format without them
		case err == nil && mine == nil:
			err = fmt.Errorf("%w: no answer about attributes", wire.ErrFrame)
		}
		return mine, err
	})
	return maps.Clone(m), err
}

// keepXattrs puts a neighbour's attributes into the cache.
func (f *FS) keepXattrs(dir fsys.Ino, name string, m map[string][]byte) {
	l, ok := f.a.dirs.Peek(objectKey{f.index, dir})
	if !ok {
		return
	}
	if i, ok := l.find(name); ok {
		f.a.xattrs.Put(objectKey{f.index, l.entries[i].Ino}, m)
	}
}

// xattrsOf checks the attributes of one entry.
func xattrsOf(e *wire.Entry) (map[string][]byte, error) {
	if e.Errno == int(unix.E2BIG) {
		return nil, fmt.Errorf("libguestfs: %w: extended attributes of more than 4 MiB", fsys.ErrUnsupported)
	}
	if e.Errno != 0 {
		return nil, &applianceError{op: wire.Xattrs, wire: wire.Error{Errno: e.Errno, Message: string(e.Name)}}
	}
	m := make(map[string][]byte, len(e.Xattrs))
	for _, x := range e.Xattrs {
		if x.Name == "" || len(x.Name) > maxXattrName || strings.Contains(x.Name, "\x00") || len(x.Value) > maxXattrValue {
			return nil, corrupt("extended attribute", 0, "name of %d bytes, value of %d", len(x.Name), len(x.Value))
		}
		m[x.Name] = x.Value
	}
	return m, nil
}
