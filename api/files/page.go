package files

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"

	"vmfr/agent/fsys"
	"vmfr/api/files/web"
)

// style is the listing's only style sheet; the policy allows it by its hash and nothing else.
const style = `body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #e4e7eb;white-space:nowrap}
td:first-child{white-space:normal;overflow-wrap:anywhere}td.n{text-align:right;font-variant-numeric:tabular-nums}
a{color:#0b57d0;text-decoration:none}a:hover{text-decoration:underline}.e{color:#b3261e}.t{color:#5b6570}
@media(prefers-color-scheme:dark){body{background:#14171a;color:#e6e8ea}a{color:#8ab4f8}th,td{border-color:#2b3036}.e{color:#f2b8b5}.t{color:#9aa4ae}}`

var pagePolicy = func() string {
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
}()

var listing = template.Must(template.New("listing").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.Path}}</title>
<style>{{.Style}}</style>
<h1>{{range .Crumbs}}<a href="{{.Href}}">{{.Text}}</a>/{{end}}</h1>
<table><thead><tr><th>Name<th>Size<th>Modified<th>Mode<th>Owner</thead><tbody>
{{range .Rows}}<tr><td>{{if .Href}}<a href="{{.Href}}">{{.Text}}</a>{{else}}{{.Text}}{{end}}{{with .Target}} <span class="t">&rarr; {{.}}</span>{{end}}{{with .Error}} <span class="e">{{.}}</span>{{end}}<td class="n">{{.Size}}<td>{{.Mtime}}<td>{{.Mode}}<td>{{.Owner}}
{{else}}<tr><td>This folder is empty.<td><td><td><td>
{{end}}</tbody></table>
{{with .Next}}<p><a href="{{.}}" rel="next">More entries</a></p>{{end}}
</html>
`))

type crumb struct{ Href, Text string }

type row struct {
	Href, Text, Target, Error string
	Size, Mtime, Mode, Owner  string
}

// html answers with a page for people. It holds no script and no guest byte that is not escaped.
func (h *handler) html(w *response, r *http.Request, names []string, p *page, ents []fsys.Dirent) {
	hdr := w.Header()
	hdr.Set("Content-Type", "text/html; charset=utf-8")
	hdr.Set("Content-Security-Policy", pagePolicy)
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return
	}
	data := struct {
		Path   string
		Style  template.CSS
		Crumbs []crumb
		Rows   []row
		Next   string
	}{Path: "/" + visible(strings.Join(names, "/")), Style: style, Crumbs: []crumb{{fileURL(nil, true), "files"}}}
	for i, n := range names {
		data.Crumbs = append(data.Crumbs, crumb{fileURL(names[:i+1], true), visible(n)})
	}
	limit := p.left + len(ents)
	for len(ents) > 0 {
		for _, d := range ents {
			data.Rows = append(data.Rows, h.row(names, p, d))
		}
		var err error
		if ents, err = p.next(); err != nil {
			h.fail(w, r, err)
			return
		}
	}
	if !p.end {
		data.Next = fileURL(names, true) + "?limit=" + strconv.Itoa(limit) + "&cursor=" + h.cursor(p.dir, p.from)
	}
	var b bytes.Buffer
	if err := listing.Execute(&b, data); err != nil {
		h.fail(w, r, err)
		return
	}
	_, _ = w.Write(b.Bytes())
}

func (h *handler) row(names []string, p *page, d fsys.Dirent) row {
	e := h.direntry(p.dir, d)
	out := row{Text: visible(d.Name), Mode: e.Mode}
	if e.Error != nil {
		out.Error = e.Error.Detail
	}
	if e.Mode == "" { // its attributes could not be read
		return out
	}
	out.Owner = strconv.FormatUint(uint64(e.UID), 10) + ":" + strconv.FormatUint(uint64(e.GID), 10)
	if t, err := time.Parse(time.RFC3339Nano, e.Mtime); err == nil {
		out.Mtime = t.Format("2006-01-02 15:04:05")
	}
	child := append(names[:len(names):len(names)], d.Name)
	switch e.Type {
	case "directory":
		out.Text += "/"
		out.Href = fileURL(child, true)
	case "file":
		out.Href = fileURL(child, false)
		out.Size = strconv.FormatInt(e.Size, 10)
	case "symlink":
		out.Href = fileURL(child, false)
		out.Target = visible(e.Target)
	}
	return out
}

// visible is s for people's eyes.
func visible(s string) string { return web.Visible(s) }
