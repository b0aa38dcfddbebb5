package archive

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zip"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/api/files/limit"
	"vmfr/api/files/walk"
)

// zipEntrySize is the memory of a member without its name: the archive's directory, which
// stands at its end, has a line for each.
const zipEntrySize = 480

// The times that a zip archive can tell: MS-DOS begins in 1980, and 32 bits end in 2038.
var (
	zipFirst = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	zipLast  = time.Unix(1<<31-1, 0)
)

// stored are the extensions of what is compressed already.
var stored = map[string]bool{
	".7z": true, ".bz2": true, ".gz": true, ".jpg": true, ".jpeg": true, ".mkv": true, ".mp3": true, ".mp4": true, ".png": true, ".rpm": true, ".deb": true,
	".tgz": true, ".webm": true, ".webp": true, ".xz": true, ".zip": true, ".zst": true, ".docx": true, ".xlsx": true, ".pptx": true, ".jar": true, ".qcow2": true,
}

type zipWriter struct {
	s        *Source
	ctx      context.Context
	z        *zip.Writer
	problems problems
	result   Result
}

// Zip writes a zip archive in the order of the folders. What cannot be read, and what zip
// cannot say, is named in a text at its end. Errors are w's and ctx's.
func Zip(ctx context.Context, w io.Writer, s *Source) (Result, error) {
	z := &zipWriter{s: s, ctx: ctx, z: zip.NewWriter(w)}
	// One compressor for all members: its tables cost more to make than a small file to compress.
	var fw *flate.Writer
	z.z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) {
		if fw == nil {
			var err error
			fw, err = flate.NewWriter(w, flate.BestSpeed)
			return fw, err
		}
		fw.Reset(w)
		return fw, nil
	})
	if err := s.each(ctx, walk.Options{Memory: s.Memory}, ahead{contents: true}, z.member); err != nil {
		return z.result, err
	}
	if z.problems.count > 0 {
		z.result.Problems = z.problems.count
		m, err := z.z.CreateHeader(&zip.FileHeader{Name: s.errorsName(), Method: zip.Deflate, Modified: s.Now.UTC(), CreatorVersion: 3 << 8,
			ExternalAttrs: (fsys.ModeRegular | 0o444) << 16})
		if err != nil {
			return z.result, err
		}
		if _, err := io.WriteString(m, z.problems.text()); err != nil {
			return z.result, err
		}
	}
	return z.result, z.z.Close()
}

func (z *zipWriter) member(it item) error {
	e := it.Entry
	if e.Err != nil {
		if e.List {
			z.problems.add(e.Path, "not all of this folder is here: %v. %s", e.Err, tree.KindOf(e.Err).Advice())
		} else {
			z.problems.fail(e.Path, e.Err)
		}
		return nil
	}
	if e.Path == "" {
		return nil // the folder of the whole archive
	}
	if err := z.s.Memory.Take(zipEntrySize + 2*int64(len(e.Path))); err != nil {
		if !errors.Is(err, limit.ErrMemory) {
			return err
		}
		z.problems.add(e.Path, "it and ALL THAT WOULD FOLLOW IS MISSING: %v. Ask for tar, which needs no memory for each file, or for fewer folders at once", err)
		return errStop
	}
	h := &zip.FileHeader{
		Name: zipName(e.Path), Modified: zipTime(e.Attr.Mtime), CreatorVersion: 3 << 8, // Unix
		ExternalAttrs: e.Attr.Mode << 16, Extra: zipOwner(e.Attr),
	}
	if h.Name != e.Path {
		z.problems.add(e.Path, "it is here as %q, since zip has no safe way to write its name", h.Name)
	}
	switch e.Attr.Mode & fsys.ModeFmt {
	case fsys.ModeDir:
		h.Name += "/"
		h.ExternalAttrs |= 0x10 // a folder, for MS-DOS
		_, err := z.z.CreateHeader(h)
		z.result.Files++
		return err
	case fsys.ModeSymlink:
		target, err := z.s.Tree.Readlink(e.Node)
		if err != nil {
			z.problems.fail(e.Path, err)
			return nil
		}
		m, err := z.z.CreateHeader(h) // stored
		if err == nil {
			_, err = io.WriteString(m, target)
		}
		z.result.Files++
		return err
	case fsys.ModeRegular:
		return z.file(h, &it)
	}
	z.problems.add(e.Path, "a zip archive cannot hold a %s", kindWord(e.Attr.Mode))
	return nil
}

func (z *zipWriter) file(h *zip.FileHeader, it *item) error {
	e := it.Entry
	r := extent.Zeros(0)
	if it.content != nil {
		r = extent.Bytes(it.content)
	} else if e.Attr.Size > 0 {
		var err error
		if r, err = z.s.openFile(e.Path, e.Node); err != nil {
			z.problems.fail(e.Path, err)
			return nil
		}
	}
	first := it.content
	if first != nil {
		z.s.took(it)
	} else {
		first = z.s.Buffer[:min(int64(len(z.s.Buffer)), r.Size())]
		if err := z.s.read(r, first, 0); err != nil && len(first) > 0 {
			z.problems.fail(e.Path, err)
			return nil
		}
	}
	if r.Size() > 0 && !stored[strings.ToLower(path.Ext(e.Path))] {
		h.Method = zip.Deflate
	}
	m, err := z.z.CreateHeader(h)
	if err != nil {
		return err
	}
	z.result.Files++
	z.result.Bytes += r.Size()
	write := func(p []byte) error {
		_, err := m.Write(p)
		return err
	}
	if err := write(first); err != nil {
		return err
	}
	bad := 0
	return z.s.salvage(z.ctx, r, int64(len(first)), r.Size(), &bad, func(off, end int64, err error) {
		z.problems.add(e.Path, "its bytes %d to %d could not be read and are zeros here: %v. %s", off, end-1, err, tree.KindOf(err).Advice())
	}, write)
}

// zipName is the name of a member. Zip's names are UTF-8, and programs on Windows take a
// backslash for a slash and would leave the folder with it: such bytes are percent-encoded. So
// is a percent sign that looks like one of those, or two files could get one name.
func zipName(p string) string {
	safe := true
	for i, r := range p {
		safe = safe && !encoded(p, i, r)
	}
	if safe {
		return p
	}
	var b strings.Builder
	for i := 0; i < len(p); {
		r, n := utf8.DecodeRuneInString(p[i:])
		if encoded(p, i, r) {
			for k := range n {
				fmt.Fprintf(&b, "%%%02X", p[i+k])
			}
		} else {
			b.WriteString(p[i : i+n])
		}
		i += n
	}
	return b.String()
}

// encoded tells what is not written as it is: the rune r at byte i of p.
func encoded(p string, i int, r rune) bool {
	switch {
	case r == '\\', unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r):
		return true
	case r == utf8.RuneError:
		return !strings.HasPrefix(p[i:], "\uFFFD")
	case r == '%':
		return i+2 < len(p) && hex(p[i+1]) && hex(p[i+2])
	}
	return false
}

func hex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'F' || c >= 'a' && c <= 'f'
}

func zipTime(t time.Time) time.Time {
	t = t.UTC()
	if t.Before(zipFirst) {
		return zipFirst
	}
	if t.After(zipLast) {
		return zipLast.UTC()
	}
	return t
}

// zipOwner is Info-ZIP's extra field "ux" (0x7875): version 1, the owner's and the group's
// number, each with its length.
func zipOwner(a fsys.Attr) []byte {
	b := binary.LittleEndian.AppendUint16(nil, 0x7875)
	b = binary.LittleEndian.AppendUint16(b, 11)
	b = binary.LittleEndian.AppendUint32(append(b, 1, 4), a.UID)
	return binary.LittleEndian.AppendUint32(append(b, 4), a.GID)
}
