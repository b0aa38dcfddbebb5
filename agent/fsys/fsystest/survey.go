package fsystest

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// Bounds of Survey: what the images of engines' testdata have is far below.
const (
	surveyNames   = 5000
	surveyExtents = 5000
	surveyBytes   = 16 << 20
)

// Survey reads everything of a damaged file system that can be reached, each inode once, within
// the bounds above. It returns the first error that is of no known kind, or of any kind where that
// is all there is. flags are the bits of a cookie that are no position.
func Survey(fs fsys.FS, known func(error) bool, flags fsys.Cookie) error {
	names := ondisk.NewBudget("survey: names", surveyNames)
	extents := ondisk.NewBudget("survey: extents", surveyExtents)
	left := int64(surveyBytes)
	seen := map[fsys.Ino]bool{}
	todo := []fsys.Ino{fs.Root()}
	var first error
	note := func(err error) error {
		if err == nil || err == io.EOF {
			return nil
		}
		if !known(err) {
			return fmt.Errorf("an error of no kind: %w", err)
		}
		if first == nil {
			first = err
		}
		return nil
	}
	_ = fs.Info()
	for len(todo) > 0 {
		ino := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		a, err := fs.Stat(ino)
		if err != nil {
			if err := note(err); err != nil {
				return err
			}
			continue
		}
		if x, ok := fs.(fsys.Xattrer); ok {
			if _, err := x.Xattrs(ino); note(err) != nil {
				return note(err)
			}
		}
		switch a.Mode & fsys.ModeFmt {
		case fsys.ModeSymlink:
			if _, err := fs.Readlink(ino); note(err) != nil {
				return note(err)
			}
		case fsys.ModeRegular:
			r, err := fs.Open(ino)
			if err == nil {
				err = surveyFile(r, extents, &left)
			}
			if note(err) != nil {
				return note(err)
			}
		case fsys.ModeDir:
			buf := make([]fsys.Dirent, 64)
			from := fsys.Cookie(0)
			for err = nil; err == nil; {
				var n int
				n, err = fs.ReadDir(ino, from, buf)
				if n == 0 && err == nil {
					return fmt.Errorf("directory %d at %d: no entry and no error", ino, from)
				}
				if names.Spend(int64(n)) != nil {
					return nil
				}
				for i, d := range buf[:n] {
					if d.Name == "" || strings.ContainsAny(d.Name, "/\x00") {
						return fmt.Errorf("directory %d: name %q", ino, d.Name)
					}
					if d.Next&^flags <= from&^flags {
						return fmt.Errorf("directory %d: the cookie goes from %d to %d", ino, from, d.Next)
					}
					from = d.Next
					if i < 3 {
						if _, err := fs.Lookup(ino, d.Name); note(err) != nil {
							return note(err)
						}
					}
					if !seen[d.Ino] {
						seen[d.Ino] = true
						todo = append(todo, d.Ino)
					}
				}
			}
			if note(err) != nil {
				return note(err)
			}
		}
	}
	return first
}

// surveyFile walks the extents of a file and reads the start of each.
func surveyFile(r extent.Reader, extents *ondisk.Budget, left *int64) error {
	buf := make([]byte, 64<<10)
	for off := int64(0); off < r.Size(); {
		if extents.Spend(1) != nil || *left <= 0 {
			return nil
		}
		x, err := r.Extent(off, r.Size()-off)
		if err != nil {
			return err
		}
		if x.Len <= 0 || x.Len > r.Size()-off {
			return fmt.Errorf("extent of %d bytes at %d of %d", x.Len, off, r.Size())
		}
		n := min(x.Len, int64(len(buf)))
		if got, err := r.ReadAt(buf[:n], off); int64(got) < n {
			return err
		}
		*left -= n
		off += x.Len
	}
	return nil
}

// List does what find -ls does below dir, and returns the number of names.
func List(t testing.TB, fs fsys.FS, dir fsys.Ino) int {
	todo, names := []fsys.Ino{dir}, 0
	buf := make([]fsys.Dirent, 100)
	for len(todo) > 0 {
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for from, more := fsys.Cookie(0), true; more; {
			n, err := fs.ReadDir(dir, from, buf)
			more = err == nil
			for _, d := range buf[:n] {
				a, err := fs.Stat(d.Ino)
				if err != nil {
					t.Fatal(err)
				}
				if names++; a.IsDir() {
					todo = append(todo, d.Ino)
				}
				from = d.Next
			}
		}
	}
	return names
}
