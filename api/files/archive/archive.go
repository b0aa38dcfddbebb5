// Package archive writes files and folders of the tree as one stream: tar with everything that
// the guest recorded, or zip for desktops.
//
//	tar      POSIX pax: nanoseconds, extended attributes, ACLs, sparse files (GNU 1.0), hard links
//	zip      zip64, UTF-8 names, Unix modes, owners and symbolic links
//
// Non-goals: no compression of tar (the caller's writer does that), no temporary file.
// Invariants: names in an archive are relative and lead nowhere else; memory does not grow with
// sizes, only with the number of hard-linked files (tar) or of all files (zip), from an account
// that has a limit; an archive that lacks something says so in its last file, or is broken off.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/api/files/limit"
	"vmfr/api/files/walk"
)

// Source is what an archive is made of.
type Source struct {
	Tree   *tree.Tree
	Roots  []walk.Root // their paths are the names in the archive, "" only if it is the only one
	Memory *limit.Account
	Await  walk.Await
	Buffer []byte            // for reading, at least one block; a larger one is faster
	Read   func(n int)       // told of content that was read; may be nil
	Now    time.Time         // of the text about problems
	Opened func(path string) // told of each file whose content is read; may be nil
}

// Result is what an archive holds.
type Result struct {
	Files    int64 // members
	Bytes    int64 // of content
	Problems int   // named in ERRORS.txt
}

// Names returns the roots of an archive of paths, which are absolute and clean: their names
// are relative to the deepest folder that has them all, and what lies below another of them is
// left out.
func Names(paths []string) (base string, kept []string) {
	paths = slices.Clone(paths)
	// A folder sorts directly before what is in it when the slash is the least character.
	slices.SortFunc(paths, func(a, b string) int { return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/")) })
	for _, p := range paths {
		if n := len(kept); n > 0 && (kept[n-1] == p || strings.HasPrefix(p, strings.TrimSuffix(kept[n-1], "/")+"/")) {
			continue
		}
		kept = append(kept, p)
	}
	base = path.Dir(kept[0])
	for _, p := range kept {
		for base != "/" && !strings.HasPrefix(p, base+"/") {
			base = path.Dir(base)
		}
	}
	return base, kept
}

// errorsName is the name of the text about problems: one that no root has.
func (s *Source) errorsName() string {
	for i := 0; ; i++ {
		name := "ERRORS.txt"
		if i > 0 {
			name = "ERRORS-" + strconv.Itoa(i) + ".txt"
		}
		if !slices.ContainsFunc(s.Roots, func(r walk.Root) bool { return r.Path == name || strings.HasPrefix(r.Path, name+"/") }) {
			return name
		}
	}
}

// openFile opens a file's content.
func (s *Source) openFile(path string, n tree.Node) (extent.Reader, error) {
	f, err := s.Tree.Open(n)
	if err != nil {
		return nil, err
	}
	if s.Opened != nil {
		s.Opened(path)
	}
	return f, nil
}

func (s *Source) read(r extent.Reader, p []byte, off int64) error {
	n, err := extent.ReadFull(r, p, off)
	if s.Read != nil {
		s.Read(n)
	}
	return err
}

// errStop ends a walk early.
var errStop = errors.New("stop")

// Bounds of reading on behind damage: how many pieces of a file are tried after the first that
// cannot be read, so that a dying disk does not hold an archive for days.
const maxBadPieces = 64

// salvage reads the ranges of r and gives them to emit, piece by piece. What cannot be read is
// zeros and is reported. Errors are emit's and ctx's.
func (s *Source) salvage(ctx context.Context, r extent.Reader, off, end int64, bad *int, report func(off, end int64, err error), emit func([]byte) error) error {
	for off < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := s.Buffer[:min(int64(len(s.Buffer)), end-off)]
		err := errTooBad
		if *bad < maxBadPieces {
			err = s.read(r, p, off)
		}
		if err != nil {
			*bad++
			clear(p)
			if *bad <= maxBadPieces {
				report(off, off+int64(len(p)), err)
			} else if *bad == maxBadPieces+1 {
				report(off, r.Size(), err)
			}
		}
		if err := emit(p); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}

var errTooBad = fmt.Errorf("more than %d pieces could not be read", maxBadPieces)

// kindWord names a type of object that an archive cannot hold.
func kindWord(mode uint32) string {
	switch mode & fsys.ModeFmt {
	case fsys.ModeSocket:
		return "socket"
	case fsys.ModeFIFO:
		return "FIFO"
	case fsys.ModeBlock, fsys.ModeChar:
		return "device node"
	}
	return "object of an unknown type"
}

var _ io.Writer = (*counter)(nil)

// counter counts what goes to w.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
