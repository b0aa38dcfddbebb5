package files

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"vmfr/agent/audit"
	"vmfr/agent/tree"
	"vmfr/api/files/archive"
	"vmfr/api/files/walk"
)

const (
	// zstdWindow keeps the memory of one compressed archive at about zstdMemory, which is of the
	// account that long requests share.
	zstdWindow = 1 << 20
	zstdMemory = 6 << 20
	// maxPlans is how many measured archives are remembered, so that resuming one needs no
	// second walk.
	maxPlans = 64
)

// archiveTypes are the formats and their media types.
var archiveTypes = map[string]string{"zip": "application/zip", "tar": "application/x-tar", "tar.zst": "application/zstd"}

// archive answers /api/v1/archive: files and folders as one stream.
func (h *handler) archive(w *response, r *http.Request) {
	q := parameters(r, "path", "format", "resumable", "name")
	paths := q.paths("path")
	format := q.choice("format", "zip", "tar", "tar.zst")
	resumable := q.flag("resumable")
	name := q.one("name")
	if resumable && format != "tar" {
		q.fail(badParameter("resumable", "only format=tar can be resumed"))
	}
	done, ok := h.job(w, r, q)
	if !ok {
		return
	}
	defer done()
	base, kept := archive.Names(paths)
	s := &archive.Source{Tree: h.tree, Now: h.cfg.now(), Memory: h.memory.Account(), Await: h.await(w, r)}
	defer s.Memory.Close()
	for _, p := range kept {
		n, err := h.resolve(w, r, p, false)
		if err != nil {
			h.fail(w, r, err)
			return
		}
		s.Roots = append(s.Roots, walk.Root{Path: strings.TrimPrefix(strings.TrimPrefix(p, base), "/"), Node: n})
	}
	if name == "" {
		name = archiveName(base, kept)
	}
	hdr := w.Header()
	hdr.Set("Content-Type", archiveTypes[format])
	hdr.Set("Content-Disposition", disposition(name+"."+format))
	hdr.Set("Cache-Control", noStore)
	var release func()
	s.Buffer, release = h.buffers.get()
	defer release()
	s.Read = func(n int) {
		h.cfg.Counters.Read(n)
		w.extend(time.Now())
	}
	s.Opened = func(string) { h.cfg.Counters.Count(tree.OpOpen) }
	if resumable {
		h.resumable(w, r, s, kept)
		return
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return
	}
	h.stream(w, r, s, kept, format)
}

// archiveName is what an archive is called: by its only root, or by the folder of all.
func archiveName(base string, kept []string) string {
	name := path.Base(base)
	if len(kept) == 1 {
		name = path.Base(kept[0])
	}
	if name == "/" {
		return "backups"
	}
	return name
}

// stream sends an archive that ends with a text about what is missing.
func (h *handler) stream(w *response, r *http.Request, s *archive.Source, paths []string, format string) {
	start := time.Now()
	var res archive.Result
	var err error
	switch format {
	case "zip":
		res, err = archive.Zip(r.Context(), w, s)
	case "tar":
		res, err = archive.Tar(r.Context(), w, s)
	default:
		res, err = h.zstd(r.Context(), w, s)
	}
	h.recordArchive(w, paths, format, res, start, err)
	if err != nil {
		if w.bytes == 0 && r.Context().Err() == nil {
			h.fail(w, r, err)
			return
		}
		h.log.WarnContext(r.Context(), "archive broken off", "sent", w.bytes, "error", err.Error())
		panic(http.ErrAbortHandler)
	}
	if res.Problems > 0 {
		h.log.WarnContext(r.Context(), "an archive lacks something", "problems", res.Problems, "files", res.Files)
	}
}

func (h *handler) recordArchive(w *response, paths []string, format string, res archive.Result, start time.Time, err error) {
	if err == nil && res.Problems > 0 {
		err = fmt.Errorf("%d problems are named in the archive", res.Problems)
	}
	h.cfg.Audit.Archive(w.who, audit.Archive{Paths: paths, Format: format, Files: res.Files, Bytes: w.bytes, Duration: time.Since(start), Err: err})
}

func (h *handler) zstd(ctx context.Context, w *response, s *archive.Source) (archive.Result, error) {
	if err := s.Memory.Take(zstdMemory); err != nil {
		return archive.Result{}, err
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return archive.Result{}, err
	}
	res, err := archive.Tar(ctx, z, s)
	if err != nil {
		return res, err // without an end, so that no program takes it for whole
	}
	return res, z.Close()
}

// resumable sends an archive of known length, any part of it, and breaks the connection where
// something cannot be read.
func (h *handler) resumable(w *response, r *http.Request, s *archive.Source, paths []string) {
	start := time.Now()
	report, err := h.report()
	if err != nil {
		h.fail(w, r, err)
		return
	}
	d := sha256.New()
	_, _ = io.WriteString(d, archive.TarVersion+"\x00"+strings.Join(paths, "\x00")+"\x00")
	d.Write(report)
	query := string(d.Sum(nil))
	var plan archive.Plan
	for {
		plan, err = h.plans.Get(query, func() (archive.Plan, error) { return archive.Measure(r.Context(), s) })
		if !errors.Is(err, context.Canceled) || r.Context().Err() != nil {
			break // else the client that measured has gone, and not this one
		}
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	d.Write(plan.Digest[:])
	hdr := w.Header()
	hdr.Set("ETag", `"`+base64.RawURLEncoding.EncodeToString(d.Sum(nil)[:18])+`"`)
	hdr.Set("Cache-Control", revalidate)
	if !h.rangeOf(w, r, plan.Size) {
		return
	}
	src := &tarReader{ctx: r.Context(), s: s, size: plan.Size}
	b := &body{h: h, w: w, uncounted: true}
	http.ServeContent(b, r, "", time.Time{}, src)
	res, err := src.close()
	if b.err == nil && err != nil {
		b.err = err
	}
	h.recordArchive(w, paths, "tar", res, start, b.err)
	b.finish(r)
}

// tarReader is a resumable archive as an io.ReadSeeker: a goroutine writes it from where it is
// read on.
type tarReader struct {
	ctx  context.Context
	s    *archive.Source
	size int64
	off  int64

	mu     sync.Mutex // net/http reads several ranges in a goroutine of its own, which can outlive it
	closed bool
	pipe   *io.PipeReader
	cancel context.CancelFunc
	done   chan struct{}
	result archive.Result
	err    error
}

var _ io.ReadSeeker = (*tarReader)(nil)

// Seek moves the position. It ends what is being written for the old one.
func (t *tarReader) Seek(off int64, whence int) (int64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		off += t.off
	case io.SeekEnd:
		off += t.size
	}
	if off < 0 {
		return 0, errors.New("a position before the archive")
	}
	if off != t.off {
		t.stop()
	}
	t.off = off
	return off, nil
}

// Read reads on. An archive that ends before its size is an error.
func (t *tarReader) Read(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return 0, errClosed
	}
	if t.off >= t.size {
		return 0, io.EOF
	}
	if t.pipe == nil {
		t.start()
	}
	n, err := t.pipe.Read(p)
	t.off += int64(n)
	if err == io.EOF && t.off < t.size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (t *tarReader) start() {
	ctx, cancel := context.WithCancel(t.ctx)
	pr, pw := io.Pipe()
	done, off := make(chan struct{}), t.off
	t.pipe, t.cancel, t.done = pr, cancel, done
	go func() {
		defer close(done)
		res, err := archive.TarFrom(ctx, pw, t.s, off)
		t.result.Files += res.Files
		t.result.Bytes += res.Bytes
		_ = pw.CloseWithError(err)
	}()
}

// stop ends the writer and waits for it.
func (t *tarReader) stop() {
	if t.pipe == nil {
		return
	}
	t.cancel()
	_ = t.pipe.CloseWithError(errClosed)
	<-t.done
	t.pipe = nil
}

// close ends the reader; nothing uses the source afterwards.
func (t *tarReader) close() (archive.Result, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stop()
	t.closed = true
	return t.result, t.err
}
