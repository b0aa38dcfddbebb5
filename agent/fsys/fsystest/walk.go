package fsystest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// WalkFS reads everything of fs through its interface: attributes, xattrs, links, directory
// contents and every byte of every file. The error names the path that it belongs to.
func WalkFS(fs fsys.FS) (Manifest, error) {
	m := Manifest{}
	var errs []error
	todo := []struct {
		path string
		ino  fsys.Ino
	}{{".", fs.Root()}}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		e, err := describe(fs, n.path, n.ino)
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", n.path, err))
			continue
		}
		m[n.path] = e
		if e.Mode&fsys.ModeFmt != fsys.ModeDir {
			continue
		}
		ents, err := ReadAll(fs, n.ino, 100)
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", n.path, err))
		}
		for _, d := range ents {
			todo = append(todo, struct {
				path string
				ino  fsys.Ino
			}{path.Join(n.path, d.Name), d.Ino})
		}
	}
	return m, errors.Join(errs...)
}

// ReadAll lists a whole directory, asking for batch entries at a time.
func ReadAll(fs fsys.FS, dir fsys.Ino, batch int) ([]fsys.Dirent, error) {
	var all []fsys.Dirent
	buf := make([]fsys.Dirent, batch)
	from := fsys.Cookie(0)
	for {
		n, err := fs.ReadDir(dir, from, buf)
		all = append(all, buf[:n]...)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		if n == 0 {
			return all, errors.New("ReadDir returned no entry and no error")
		}
		from = buf[n-1].Next
	}
}

func describe(fs fsys.FS, p string, ino fsys.Ino) (Entry, error) {
	a, err := fs.Stat(ino)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{
		Path: p, Ino: uint64(a.Ino), Mode: a.Mode, Nlink: a.Nlink, UID: a.UID, GID: a.GID, Size: a.Size, Blocks: a.Blocks,
		Mtime: a.Mtime.UnixNano(), Atime: a.Atime.UnixNano(), Ctime: a.Ctime.UnixNano(), Major: a.Major, Minor: a.Minor,
	}
	if x, ok := fs.(fsys.Xattrer); ok {
		xs, err := x.Xattrs(ino)
		if err != nil {
			return e, err
		}
		e.Xattrs = map[string]string{}
		for k, v := range xs {
			e.Xattrs[k] = string(v)
		}
	}
	switch a.Mode & fsys.ModeFmt {
	case fsys.ModeSymlink:
		e.Target, err = fs.Readlink(ino)
	case fsys.ModeRegular:
		var r extent.Reader
		if r, err = fs.Open(ino); err != nil {
			return e, err
		}
		e.SHA256, e.Data, err = digest(r)
	}
	return e, err
}

// digest hashes all bytes of r and lists its data ranges, adjacent ones joined.
func digest(r extent.Reader) (string, []Range, error) {
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, io.NewSectionReader(r, 0, r.Size()), make([]byte, 256<<10)); err != nil {
		return "", nil, err
	}
	data := []Range{}
	for off := int64(0); off < r.Size(); {
		x, err := r.Extent(off, r.Size()-off)
		if err != nil {
			return "", nil, fmt.Errorf("extent at %d: %w", off, err)
		}
		if x.Len <= 0 || x.Len > r.Size()-off {
			return "", nil, fmt.Errorf("extent at %d has length %d of %d left", off, x.Len, r.Size()-off)
		}
		if !x.Zero {
			if n := len(data); n > 0 && data[n-1].End == off {
				data[n-1].End += x.Len
			} else {
				data = append(data, Range{off, off + x.Len})
			}
		}
		off += x.Len
	}
	return hex.EncodeToString(h.Sum(nil)), data, nil
}
