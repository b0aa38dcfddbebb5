package files

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/zeebo/blake3"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
	"vmfr/api/files/walk"
)

// algorithms are the digests that are offered.
var algorithms = map[string]func() hash.Hash{
	"sha256": sha256.New, "sha512": sha512.New, "blake3": func() hash.Hash { return blake3.New() },
}

// digest reads a whole file.
func (h *handler) digest(ctx context.Context, w *response, n tree.Node, path, algorithm string) ([]byte, error) {
	f, err := h.tree.Open(n)
	h.cfg.Counters.Count(tree.OpOpen)
	if err != nil {
		return nil, err
	}
	record := h.cfg.Audit.Open(w.who, path, f.Size())
	defer record.Close()
	src := &source{f: f, record: record}
	defer src.close()
	buf, release := h.buffers.get()
	defer release()
	d := algorithms[algorithm]()
	// Plain structs, so that no shortcut goes round the buffer.
	_, err = io.CopyBuffer(io.MultiWriter(d, &progress{ctx, h, w}), struct{ io.Reader }{io.NewSectionReader(src, 0, f.Size())}, buf)
	if err != nil {
		return nil, err
	}
	return d.Sum(nil), nil
}

// checksum answers /api/v1/checksum: the digest of one file.
func (h *handler) checksum(w *response, r *http.Request) {
	q := parameters(r, "path", "algorithm")
	path, algorithm := q.path("path"), q.choice("algorithm", "sha256", "sha512", "blake3")
	done, ok := h.job(w, r, q)
	if !ok {
		return
	}
	defer done()
	n, a, err := h.find(w, r, path)
	var sum []byte
	if err == nil {
		sum, err = h.digest(r.Context(), w, n, path, algorithm)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	out := struct {
		Path      string `json:"path"`
		PathBytes []byte `json:"pathBytes,omitempty"`
		Algorithm string `json:"algorithm"`
		Checksum  string `json:"checksum"` // hexadecimal
		Size      int64  `json:"size"`     // bytes
		Mtime     string `json:"mtime,omitempty"`
		ETag      string `json:"etag,omitempty"`
	}{Algorithm: algorithm, Checksum: hex.EncodeToString(sum), Size: a.Size, Mtime: timestamp(a.Mtime)}
	out.Path, out.PathBytes = text(path)
	if out.ETag, err = h.etag(n, a); err != nil {
		h.fail(w, r, err)
		return
	}
	h.json(w, r, out)
}

// knownSize is the memory of a hard-linked file's digest.
const knownSize = 160

// manifest answers /api/v1/manifest: the digests of all files below a folder in sorted order,
// as sha256sum writes and checks them. Lines that begin with # are remarks: what could not be
// read, and at the end how many files there were, without which the list is not whole.
func (h *handler) manifest(w *response, r *http.Request) {
	q := parameters(r, "path", "algorithm")
	path, algorithm := q.path("path"), q.choice("algorithm", "sha256", "sha512", "blake3")
	done, ok := h.job(w, r, q)
	if !ok {
		return
	}
	defer done()
	n, a, err := h.find(w, r, path)
	if err == nil && !a.IsDir() {
		err = fsys.ErrNotDir
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Disposition", disposition(archiveName(path, []string{path})+"."+algorithm))
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", textType)
		w.WriteHeader(http.StatusOK)
		return
	}
	start := time.Now()
	account := h.memory.Account()
	defer account.Close()
	m := &manifestRun{h: h, w: w, ctx: r.Context(), path: path, algorithm: algorithm, known: map[tree.Node][]byte{}}
	m.out = newLines(w, textType)
	err = m.run(walk.New(h.tree, []walk.Root{{Node: n}}, walk.Options{Sorted: true, Once: true, Memory: account, Await: h.await(w, r)}), account.Take)
	h.cfg.Audit.Query(w.who, "manifest "+algorithm, []string{path}, time.Since(start), err)
	if closed := m.out.close(); err != nil || closed != nil {
		panic(http.ErrAbortHandler)
	}
}

type manifestRun struct {
	h         *handler
	w         *response
	ctx       context.Context
	out       *lines
	path      string
	algorithm string
	known     map[tree.Node][]byte // digests of files with several names
	files     int64
	bytes     int64
	errors    int64
}

func (m *manifestRun) run(w *walk.Walker, take func(int64) error) error {
	for {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		e, ok := w.Next()
		if !ok {
			break
		}
		if e.Err == nil && !e.Attr.IsRegular() {
			continue
		}
		sum, err := m.known[e.Node], e.Err
		if err == nil && sum == nil {
			sum, err = m.h.digest(m.ctx, m.w, e.Node, walk.Join(strings.TrimSuffix(m.path, "/"), e.Path), m.algorithm)
			if err == nil && e.Attr.Nlink > 1 && take(knownSize) == nil {
				m.known[e.Node] = sum
			}
		}
		line := checkLine(e.Path, sum)
		switch {
		case err != nil && m.ctx.Err() != nil:
			return m.ctx.Err()
		case err != nil:
			m.errors++
			line = fmt.Sprintf("# NOT READ %q: %s\n", e.Path, strings.ReplaceAll(err.Error(), "\n", " "))
		default:
			m.files++
			m.bytes += e.Attr.Size
		}
		if err := m.out.text(line); err != nil {
			return err
		}
	}
	return m.out.text(fmt.Sprintf("# end: %d files, %d bytes, %d not read\n", m.files, m.bytes, m.errors))
}

// checkName is how sha256sum of GNU coreutils escapes a name with a newline, a return or a
// backslash; the line then begins with a backslash.
var checkName = strings.NewReplacer("\\", `\\`, "\n", `\n`, "\r", `\r`)

// checkLine is a line that sha256sum -c takes.
func checkLine(name string, sum []byte) string {
	mark := ""
	if escaped := checkName.Replace(name); escaped != name {
		mark, name = `\`, escaped
	}
	if name == "-" {
		name = "./-" // alone it would be the standard input
	}
	return mark + hex.EncodeToString(sum) + "  " + name + "\n"
}
