package archive

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/api/files/limit"
	"vmfr/api/files/walk"
)

// TarVersion names the form of the tar archives that this package writes. It changes whenever
// the same tree would give other bytes, so that no download is resumed with those.
const TarVersion = "vmfr-tar-1"

const (
	// linkSize is the memory of a remembered hard link without its name.
	linkSize = 72
	// outBuffer joins headers and small files to large writes, which fill TLS records.
	outBuffer = 128 << 10
)

// tarWriter writes one archive, or measures it.
type tarWriter struct {
	s        *Source
	ctx      context.Context
	out      io.Writer
	strict   bool              // the first error ends the archive
	digest   hash.Hash         // set: nothing is written, all but contents goes here
	skip     int64             // bytes that are not written
	pos      int64             // in the archive
	links    map[uint64]string // the first name of an object with several, by ID
	copies   bool              // the memory for links was used up
	problems problems
	result   Result
	enc      encoder
}

// Tar writes an archive in the order of the folders. What cannot be read is named in a text at
// its end. Errors are w's and ctx's.
func Tar(ctx context.Context, w io.Writer, s *Source) (Result, error) {
	out := bufio.NewWriterSize(w, outBuffer)
	t := &tarWriter{s: s, ctx: ctx, out: out, links: map[uint64]string{}}
	err := t.run(walk.Options{Memory: s.Memory})
	if err == nil {
		err = out.Flush()
	}
	return t.result, err
}

// Plan is what is known of an archive before its contents are read.
type Plan struct {
	Size   int64    // bytes
	Digest [32]byte // of all headers, the objects' numbers and TarVersion
}

// Measure walks all metadata in sorted order and tells what TarFrom will write. It fails where
// anything cannot be described.
func Measure(ctx context.Context, s *Source) (Plan, error) {
	t := &tarWriter{s: s, ctx: ctx, strict: true, digest: sha256.New(), links: map[uint64]string{}}
	_, _ = io.WriteString(t.digest, TarVersion+"\x00")
	if err := t.run(walk.Options{Sorted: true, Memory: s.Memory}); err != nil {
		return Plan{}, err
	}
	return Plan{t.pos, [32]byte(t.digest.Sum(nil))}, nil
}

// TarFrom writes the archive that Measure measured, from byte off of it on. Everything that
// cannot be read ends it with an error.
func TarFrom(ctx context.Context, w io.Writer, s *Source, off int64) (Result, error) {
	out := bufio.NewWriterSize(w, outBuffer)
	t := &tarWriter{s: s, ctx: ctx, out: out, strict: true, skip: off, links: map[uint64]string{}}
	err := t.run(walk.Options{Sorted: true, Memory: s.Memory})
	if err == nil {
		err = out.Flush()
	}
	return t.result, err
}

func (t *tarWriter) run(o walk.Options) error {
	// What is skipped, or only measured, is not read.
	a := ahead{xattrs: true, contents: t.digest == nil && t.skip == 0}
	if err := t.s.each(t.ctx, o, a, t.member); err != nil {
		return err
	}
	if t.problems.count > 0 {
		t.result.Problems = t.problems.count
		text := t.problems.text()
		h := header{name: t.s.errorsName(), flag: typeRegular, size: int64(len(text)), attr: fsys.Attr{Mode: fsys.ModeRegular | 0o444, Mtime: t.s.Now}}
		if err := t.raw(append(t.enc.encode(&h), text...)); err != nil {
			return err
		}
		if err := t.pad(h.size); err != nil {
			return err
		}
	}
	return t.raw(make([]byte, 2*block)) // the end of an archive
}

// member writes one object.
func (t *tarWriter) member(it item) error {
	e := it.Entry
	name := e.Path
	if name == "" {
		name = "."
	}
	if e.Err != nil {
		switch {
		case t.strict:
			return fmt.Errorf("%q: %w", name, e.Err)
		case e.List:
			t.problems.add(name, "not all of this folder is here: %v. %s", e.Err, tree.KindOf(e.Err).Advice())
		default:
			t.problems.fail(name, e.Err)
		}
		return nil
	}
	h := header{name: name, attr: e.Attr}
	if first, ok := t.links[t.s.Tree.ID(e.Node)]; ok && !e.Attr.IsDir() {
		h.flag, h.link = typeLink, first
		return t.head(&h, e)
	}
	var err error
	switch e.Attr.Mode & fsys.ModeFmt {
	case fsys.ModeRegular:
		h.flag = typeRegular
	case fsys.ModeDir:
		h.flag = typeDir
		h.name += "/"
	case fsys.ModeSymlink:
		h.flag = typeSymlink
		if h.link, err = t.s.Tree.Readlink(e.Node); err != nil {
			return t.missing(name, err)
		}
	case fsys.ModeChar:
		h.flag = typeChar
	case fsys.ModeBlock:
		h.flag = typeBlock
	case fsys.ModeFIFO:
		h.flag = typeFIFO
	default: // sockets are made by programs and hold nothing; no tar can tell of them
		if !t.strict {
			t.problems.add(name, "a tar archive cannot hold a %s", kindWord(e.Attr.Mode))
		}
		return nil
	}
	if h.xattrs, err = it.xattrs, it.xattrErr; err != nil {
		if t.strict {
			return fmt.Errorf("%q: %w", name, err)
		}
		t.problems.add(name, "it is here without its extended attributes: %v", err)
	}
	if h.flag == typeRegular {
		err = t.file(&h, &it)
	} else {
		err = t.head(&h, e)
	}
	if errors.Is(err, errMissing) {
		return nil
	}
	if err == nil && e.Attr.Nlink > 1 && !e.Attr.IsDir() {
		err = t.remember(t.s.Tree.ID(e.Node), name)
	}
	return err
}

// errMissing tells that a member is left out and noted.
var errMissing = errors.New("missing")

func (t *tarWriter) missing(name string, err error) error {
	if t.strict {
		return fmt.Errorf("%q: %w", name, err)
	}
	t.problems.fail(name, err)
	return nil
}

// remember keeps the name that further links of an object refer to.
func (t *tarWriter) remember(id uint64, name string) error {
	err := t.s.Memory.Take(linkSize + int64(len(name)))
	switch {
	case err == nil:
		t.links[id] = name
	case !errors.Is(err, limit.ErrMemory) || t.strict:
		return err
	case !t.copies:
		t.copies = true
		t.problems.add(name, "from here on hard links are copies: %v", err)
	}
	return nil
}

func (t *tarWriter) head(h *header, e walk.Entry) error {
	t.result.Files++
	if t.digest != nil {
		var b [12]byte
		binary.BigEndian.PutUint64(b[:], t.s.Tree.ID(e.Node))
		binary.BigEndian.PutUint32(b[8:], e.Attr.Generation)
		t.digest.Write(b[:])
	}
	return t.raw(t.enc.encode(h))
}

// file writes a regular file.
func (t *tarWriter) file(h *header, it *item) error {
	e := it.Entry
	h.size = e.Attr.Size
	if it.content != nil {
		t.s.took(it)
		if err := t.head(h, e); err != nil {
			return err
		}
		t.result.Bytes += h.size
		if err := t.raw(it.content); err != nil {
			return err
		}
		return t.pad(h.size)
	}
	segs := []segment{{0, h.size}}
	holes := mayHaveHoles(e.Attr)
	if t.digest != nil && !holes { // the content is not needed
		if err := t.head(h, e); err != nil {
			return err
		}
		t.pos += h.size + padding(h.size)
		return nil
	}
	r := extent.Zeros(0)
	var err error
	if h.size > 0 {
		if r, err = t.s.openFile(e.Path, e.Node); err == nil && r.Size() != h.size {
			err = fsys.Corrupt("tree", "inode", e.Attr.Ino, -1, "its content has %d bytes, not %d", r.Size(), h.size)
		}
		if err == nil && holes {
			segs, err = segments(r)
		}
	}
	if err != nil {
		if t.strict {
			return fmt.Errorf("%q: %w", e.Path, err)
		}
		t.problems.fail(e.Path, err)
		return errMissing
	}
	var smap []byte
	if h.size > 0 && !whole(segs, h.size) {
		h.sparse, h.real = true, h.size
		smap = sparseMap(segs, h.size)
		h.size = int64(len(smap))
		for _, s := range segs {
			h.size += s.end - s.off
		}
	}
	return t.content(h, e, r, smap, segs)
}

// content writes the header, the map and the segments of a file.
func (t *tarWriter) content(h *header, e walk.Entry, r extent.Reader, smap []byte, segs []segment) error {
	var first []byte
	if !t.strict && len(segs) > 0 && segs[0].end > 0 {
		// The header promises a length, so the first piece is read before it.
		first = t.s.Buffer[:min(int64(len(t.s.Buffer)), segs[0].end-segs[0].off)]
		if err := t.s.read(r, first, segs[0].off); err != nil {
			t.problems.fail(e.Path, err)
			return errMissing
		}
		segs[0].off += int64(len(first))
	}
	if err := t.head(h, e); err != nil {
		return err
	}
	if err := t.raw(smap); err != nil {
		return err
	}
	t.result.Bytes += int64(len(first))
	if err := t.raw(first); err != nil {
		return err
	}
	bad := 0
	for _, s := range segs {
		if err := t.segment(e.Path, r, s, &bad); err != nil {
			return err
		}
	}
	return t.pad(h.size)
}

func (t *tarWriter) segment(path string, r extent.Reader, s segment, bad *int) error {
	n := s.end - s.off
	if t.digest != nil {
		t.pos += n
		return nil
	}
	if k := min(t.skip, n); k > 0 {
		t.skip -= k
		t.pos += k
		s.off += k
	}
	t.result.Bytes += s.end - s.off
	if !t.strict {
		return t.s.salvage(t.ctx, r, s.off, s.end, bad, func(off, end int64, err error) {
			t.problems.add(path, "its bytes %d to %d could not be read and are zeros here: %v. %s", off, end-1, err, tree.KindOf(err).Advice())
		}, t.raw)
	}
	for s.off < s.end {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		p := t.s.Buffer[:min(int64(len(t.s.Buffer)), s.end-s.off)]
		if err := t.s.read(r, p, s.off); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		if err := t.raw(p); err != nil {
			return err
		}
		s.off += int64(len(p))
	}
	return nil
}

var zeros [block]byte

func (t *tarWriter) pad(size int64) error {
	return t.raw(zeros[:padding(size)])
}

// raw writes bytes of the archive.
func (t *tarWriter) raw(b []byte) error {
	t.pos += int64(len(b))
	if t.digest != nil {
		t.digest.Write(b)
		return nil
	}
	if k := min(t.skip, int64(len(b))); k > 0 {
		t.skip -= k
		b = b[k:]
	}
	if len(b) == 0 {
		return nil
	}
	_, err := t.out.Write(b)
	return err
}
