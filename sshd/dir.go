package sshd

import (
	"io"
	"os"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
)

// dir reads a directory in pieces.
type dir struct {
	v    *view
	n    tree.Node
	path string
	next fsys.Cookie
	end  bool

	listed int64 // entries
	failed error
}

// ListAt returns the next entries; it is called in order only.
func (d *dir) ListAt(out []os.FileInfo, _ int64) (int, error) {
	if d.end {
		return 0, io.EOF
	}
	ents := make([]fsys.Dirent, len(out))
	k, err := d.v.s.readDir(d.v.ctx, d.n, d.next, ents)
	d.listed += int64(k)
	if err != nil && err != io.EOF {
		d.failed = err
		return 0, status(err)
	}
	d.end = err == io.EOF
	for i, e := range ents[:k] {
		d.next = e.Next
		a := fsys.Attr{Ino: e.Ino, Mode: e.Type, Nlink: 1}
		if n, ok := d.v.s.tree.ByID(uint64(e.Ino)); ok {
			if got, err := d.v.s.tree.Attr(n); err == nil {
				a = got
			}
		}
		out[i] = info{e.Name, a}
	}
	if k == 0 {
		return 0, io.EOF
	}
	return k, nil
}

func (d *dir) Close() error {
	d.v.s.cfg.Audit.List(d.v.c.who, d.path, d.listed, d.failed)
	d.v.release()
	return nil
}
