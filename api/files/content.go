package files

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"vmfr/agent/audit"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/tree"
)

// maxRanges bounds the ranges of one request; more than a resuming or seeking client ever
// asks for, few enough that part headers cannot outweigh the content.
const maxRanges = 64

// content answers with the bytes of a file or, with ?stream=, of one of its named streams.
// Ranges and conditions are net/http's; what is added here: an error before the first byte is
// an answer of its own, a later one breaks the connection.
func (h *handler) content(w *response, r *http.Request, names []string, n tree.Node, a fsys.Attr, q url.Values) {
	stream := q.Get("stream")
	f, err := h.open(n, stream)
	h.cfg.Counters.Count(tree.OpOpen)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.cfg.Counters.Files(1)
	defer h.cfg.Counters.Files(-1)

	etag, err := h.etag(n, a)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if stream != "" {
		sum := sha256.Sum256([]byte(stream))
		etag = etag[:len(etag)-1] + "." + base64.RawURLEncoding.EncodeToString(sum[:9]) + `"`
	}
	hdr := w.Header()
	hdr.Set("ETag", etag)
	hdr.Set("Cache-Control", revalidate)
	mediaType, inline := typeOf(names)
	if stream != "" {
		mediaType, inline = binaryType, false // a stream's name says nothing about its type
	}
	hdr.Set("Content-Type", mediaType)
	switch {
	case flag(q, "download"):
		name := "backup"
		if len(names) > 0 {
			name = names[len(names)-1]
		}
		if stream != "" {
			name += "_" + stream
		}
		hdr.Set("Content-Disposition", disposition(name))
	case !inline:
		// No file name: the client takes the last name of the URL, which needs no quoting.
		hdr.Set("Content-Disposition", "attachment")
	}
	if !h.rangeOf(w, r, f.Size()) {
		return
	}
	record := h.cfg.Audit.Open(w.who, treeName(names, stream), f.Size())
	defer record.Close()
	src := &source{f: f, record: record}
	defer src.close()
	b := &body{h: h, w: w}
	http.ServeContent(b, r, "", lastModified(a.Mtime, h.cfg.now()), io.NewSectionReader(src, 0, f.Size()))
	b.finish(r)
}

// treeName is a file's path for the audit log.
func treeName(names []string, stream string) string {
	p := "/" + strings.Join(names, "/")
	if stream != "" {
		p += ":" + stream
	}
	return p
}

// open opens a file, or a stream of it.
func (h *handler) open(n tree.Node, stream string) (*tree.File, error) {
	if stream == "" {
		return h.tree.Open(n)
	}
	return h.tree.OpenStream(n, stream)
}

// rangeOf checks the Range header for net/http; false: the request is answered.
func (h *handler) rangeOf(w *response, r *http.Request, size int64) bool {
	if rg := r.Header.Get("Range"); rg != "" && !strings.HasPrefix(rg, "bytes=") {
		r.Header.Del("Range") // an unknown unit is to be ignored (RFC 9110, 14.2); net/http refuses it
	} else if strings.Count(rg, ",") >= maxRanges {
		w.Header().Set("Content-Range", "bytes */"+strconv.FormatInt(size, 10))
		h.refuse(w, r, http.StatusRequestedRangeNotSatisfiable, "bad_range", fmt.Sprintf("More than %d ranges were asked for.", maxRanges), "Ask for them in several requests.")
		return false
	}
	return true
}

// lastModified is t where HTTP can say it: not the future (RFC 9110, 8.8.2.1), not before 1970.
func lastModified(t, now time.Time) time.Time {
	if t.After(now) || t.Before(time.Unix(0, 0)) {
		return time.Time{}
	}
	return t
}

// etag is a strong validator that is the same after a restart: for a guest's file what the
// guest's kernel changes with the content, and the file system it lies in; for the tree's own
// files the report that they are made of.
func (h *handler) etag(n tree.Node, a fsys.Attr) (string, error) {
	info, static, err := h.tree.Info(n)
	if err != nil {
		return "", err
	}
	d := sha256.New()
	var b []byte
	for _, v := range []uint64{
		h.tree.ID(n), uint64(a.Size), uint64(a.Generation),
		uint64(a.Mtime.Unix()), uint64(a.Mtime.Nanosecond()), uint64(a.Ctime.Unix()), uint64(a.Ctime.Nanosecond()),
	} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	d.Write(b)
	if static {
		report, err := h.report()
		if err != nil {
			return "", err
		}
		d.Write(report)
	} else {
		_, _ = io.WriteString(d, info.Type+"\x00"+info.UUID)
	}
	return `"` + base64.RawURLEncoding.EncodeToString(d.Sum(nil)[:18]) + `"`, nil
}

// source reads a file without asking the device for holes. close waits for reads under way:
// for several ranges net/http reads in a goroutine that can outlive the handler.
type source struct {
	f      extent.Reader
	record *audit.File
	mu     sync.RWMutex
	closed bool
}

var errClosed = errors.New("the request has ended")

func (s *source) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
}

// ReadAt reads as io.ReaderAt does.
func (s *source) ReadAt(p []byte, off int64) (int, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return 0, errClosed
	}
	n, err := s.read(p, off)
	if err == io.EOF {
		s.record.Read(off, n, nil)
	} else {
		s.record.Read(off, n, err)
	}
	return n, err
}

func (s *source) read(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		x, err := s.f.Extent(off+int64(done), int64(len(p)-done))
		if err != nil {
			return done, err
		}
		if !x.Zero {
			// The rest in one call, with whatever holes are in it: mapping each small
			// extent twice would cost more than it saves.
			n, err := s.f.ReadAt(p[done:], off+int64(done))
			return done + n, err
		}
		clear(p[done : done+int(x.Len)])
		done += int(x.Len)
	}
	return done, nil
}

// body is where http.ServeContent writes to. It holds the status back until the first bytes
// of the content are there, and notices a body that is not whole.
type body struct {
	h       *handler
	w       *response
	status  int
	started bool  // the status is sent
	written int64 // bytes of the body
	err     error // of reading the content

	uncounted bool // what is read from the tree is counted elsewhere
}

var _ io.ReaderFrom = (*body)(nil)

func (b *body) Header() http.Header { return b.w.Header() }

func (b *body) WriteHeader(status int) {
	if b.status == 0 {
		b.status = status
	}
}

func (b *body) start() {
	if !b.started {
		b.started = true
		if b.status == 0 {
			b.status = http.StatusOK
		}
		b.w.WriteHeader(b.status)
	}
}

// Write is for the texts of net/http's own errors, which finish replaces.
func (b *body) Write(p []byte) (int, error) {
	if b.status >= 400 {
		return len(p), nil
	}
	b.start()
	n, err := b.w.Write(p)
	b.written += int64(n)
	return n, err
}

// ReadFrom copies the content.
func (b *body) ReadFrom(src io.Reader) (int64, error) {
	buf, release := b.h.buffers.get()
	defer release()
	total := int64(0)
	for {
		n, rerr := src.Read(buf)
		if n > 0 {
			if !b.uncounted {
				b.h.cfg.Counters.Read(n)
			}
			b.start()
			k, err := b.w.Write(buf[:n])
			b.written += int64(k)
			total += int64(k)
			if err != nil {
				return total, err
			}
		}
		if rerr == io.EOF {
			return total, nil
		}
		if rerr != nil {
			b.err = rerr
			return total, rerr
		}
	}
}

// finish ends the answer. A body shorter than announced must look broken to the client.
func (b *body) finish(r *http.Request) {
	switch {
	case b.err != nil && !b.started:
		b.h.fail(b.w, r, b.err)
	case b.status == http.StatusRequestedRangeNotSatisfiable:
		b.h.refuse(b.w, r, b.status, "bad_range", "The range asked for does not lie in the file.", "HEAD tells the file's size.")
	case b.status == http.StatusPreconditionFailed:
		b.h.refuse(b.w, r, b.status, "precondition_failed", "The file is not the one that the request names in If-Match or If-Unmodified-Since.", "Download it anew.")
	case b.status >= 400:
		b.h.refuse(b.w, r, b.status, "internal", "The file could not be sent.", "Please report it with the log.")
	case b.err != nil || b.short(r):
		if b.err != nil {
			b.h.log.ErrorContext(r.Context(), "download broken off", "path", quotePath(r.URL.Path), "sent", b.written,
				"kind", tree.KindOf(b.err).String(), "error", b.err.Error())
		}
		panic(http.ErrAbortHandler)
	default:
		b.start()
	}
}

func (b *body) short(r *http.Request) bool {
	if r.Method == http.MethodHead || b.status == http.StatusNotModified {
		return false
	}
	want, err := strconv.ParseInt(b.Header().Get("Content-Length"), 10, 64)
	return err != nil || b.written != want
}
