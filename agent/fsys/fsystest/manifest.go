// Package fsystest is the conformance suite of the engines: one set of checks that every
// fsys.FS passes against a manifest that the kernel or a reference tool made, never our code.
package fsystest

import (
	"fmt"
	"sort"
)

// Entry is what the oracle says of one object.
type Entry struct {
	Path     string // relative to the root, "." for the root itself, bytes as they are
	Ino      uint64 // 0: do not compare
	Mode     uint32 // S_IFMT and permissions
	Nlink    uint32 // 0: do not compare
	UID, GID uint32
	Size     int64  // -1: do not compare (directories of another format)
	Blocks   int64  // 512-byte units, -1: do not compare
	Mtime    int64  // nanoseconds since the epoch
	Atime    int64  // nanoseconds since the epoch
	Ctime    int64  // nanoseconds since the epoch
	Major    uint32 // of a device node
	Minor    uint32
	Target   string            // of a symbolic link
	Xattrs   map[string]string // name -> value, bytes as they are; nil: do not compare
	SHA256   string            // of a regular file, hex
	Data     []Range           // of a regular file: ranges that the oracle says hold data; nil: do not compare
}

// Range is a byte range of a file, [Off, End).
type Range struct{ Off, End int64 }

// Manifest maps a path to its entry.
type Manifest map[string]Entry

// Paths returns the sorted paths.
func (m Manifest) Paths() []string {
	ps := make([]string, 0, len(m))
	for p := range m {
		ps = append(ps, p)
	}
	sort.Strings(ps)
	return ps
}

// Diff lists the differences between what was expected and what was found, at most 50 lines,
// each naming the path and the field.
func Diff(want, got Manifest) []string {
	var out []string
	add := func(path, format string, args ...any) {
		if len(out) < 50 {
			out = append(out, fmt.Sprintf("%q: ", path)+fmt.Sprintf(format, args...))
		}
	}
	for _, p := range want.Paths() {
		w := want[p]
		g, ok := got[p]
		if !ok {
			add(p, "missing")
			continue
		}
		for _, f := range []struct {
			name      string
			skip      bool
			want, got any
		}{
			{"inode", w.Ino == 0 || g.Ino == 0, w.Ino, g.Ino},
			{"mode", false, fmt.Sprintf("%o", w.Mode), fmt.Sprintf("%o", g.Mode)},
			{"link count", w.Nlink == 0 || g.Nlink == 0, w.Nlink, g.Nlink},
			{"uid", false, w.UID, g.UID},
			{"gid", false, w.GID, g.GID},
			{"size", w.Size < 0 || g.Size < 0, w.Size, g.Size},
			{"blocks", w.Blocks < 0 || g.Blocks < 0, w.Blocks, g.Blocks},
			{"mtime", false, w.Mtime, g.Mtime},
			{"atime", w.Atime == 0 || g.Atime == 0, w.Atime, g.Atime},
			{"ctime", w.Ctime == 0 || g.Ctime == 0, w.Ctime, g.Ctime},
			{"device", false, [2]uint32{w.Major, w.Minor}, [2]uint32{g.Major, g.Minor}},
			{"target", false, w.Target, g.Target},
			{"sha256", w.SHA256 == "" && g.SHA256 == "", w.SHA256, g.SHA256},
			{"data ranges", w.Data == nil || g.Data == nil, fmt.Sprint(w.Data), fmt.Sprint(g.Data)},
		} {
			if !f.skip && f.want != f.got {
				add(p, "%s: want %v, got %v", f.name, f.want, f.got)
			}
		}
		if w.Xattrs != nil && g.Xattrs != nil {
			for k, v := range w.Xattrs {
				if gv, ok := g.Xattrs[k]; !ok {
					add(p, "xattr %q missing", k)
				} else if gv != v {
					add(p, "xattr %q: want %q, got %q", k, v, gv)
				}
			}
			for k := range g.Xattrs {
				if _, ok := w.Xattrs[k]; !ok {
					add(p, "xattr %q was not expected", k)
				}
			}
		}
	}
	for _, p := range got.Paths() {
		if _, ok := want[p]; !ok {
			add(p, "was not expected")
		}
	}
	return out
}
