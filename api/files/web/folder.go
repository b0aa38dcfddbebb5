package web

import (
	"errors"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// pageRows is how many entries a page of a folder has: as many as a browser lays out at once
// without anybody noticing.
const pageRows = 200

// columns are what a folder can be sorted by.
var columns = []string{"name", "size", "time"}

// folder is the data of its page.
type folder struct {
	Path    string // percent-encoded
	Rows    []row
	Total   int // 0: unknown
	Columns []column
	First   string // address of the first page, empty on it
	Next    string
	Notice  string
	Others  []other
	URL     string // of this page without its position
}

// Count is Total for templates.
func (f folder) Count() int64 { return int64(f.Total) }

type column struct{ Key, Href, Aria string }

// row is an entry of a folder.
type row struct {
	entry
	Raw    string // the name as the guest has it
	Value  string // the name percent-encoded, for forms: bytes and line ends survive
	Href   string
	Icon   string
	Target string
}

// kinds are icons by a name's extension.
var kinds = func() map[string]string {
	m := map[string]string{}
	for icon, exts := range map[string]string{
		"image":   ".png .jpg .jpeg .gif .webp .avif .bmp .ico .svg .tif .tiff",
		"archive": ".zip .gz .tgz .bz2 .xz .zst .tar .7z .rar .deb .rpm .iso .cab .jar",
		"code":    ".go .c .h .cc .cpp .py .sh .js .ts .java .rb .rs .php .pl .html .css .json .yaml .yml .toml .xml .sql .ps1 .bat .conf .cfg .ini",
		"text":    ".txt .md .log .csv .tsv .rst .pdf .doc .docx .odt .rtf .xls .xlsx .ods .ppt .pptx .odp",
		"media":   ".mp3 .ogg .flac .wav .m4a .mp4 .webm .mkv .avi .mov",
	} {
		for _, e := range strings.Fields(exts) {
			m[e] = icon
		}
	}
	return m
}()

func iconOf(kind, name string) string {
	switch kind {
	case "directory", "symlink":
		return kind
	case "file":
		if k := kinds[strings.ToLower(path.Ext(name))]; k != "" {
			return k
		}
		return "file"
	}
	return "device"
}

// browse shows a folder or a file.
func (s *Site) browse(v *visit, escaped string) error {
	p, err := treePath(escaped)
	if err != nil {
		return &problem{Status: http.StatusBadRequest, Title: http.StatusText(http.StatusBadRequest), Detail: s.texts.get("error.address")}
	}
	// As the address was sent: what the API refuses in it is refused.
	address := "/files" + escaped
	var e entry
	if err := s.get(v, address, url.Values{"stat": {"1"}}, &e); err != nil {
		return s.broken(v, address, p, err)
	}
	if e.Type == "directory" && v.r.URL.Query().Get("stream") == "" {
		return s.folder(v, p, e)
	}
	return s.file(v, p, e)
}

// broken explains a link that leads nowhere by what it says; other errors stay as they are.
func (s *Site) broken(v *visit, address, p string, err error) error {
	var e entry
	var why *problem
	if !errors.As(err, &why) || s.get(v, address, url.Values{"nofollow": {"1"}}, &e) != nil || e.Type != "symlink" {
		return err
	}
	e.Error = why
	return s.file(v, p, e)
}

func (s *Site) folder(v *visit, p string, e entry) error {
	q := v.r.URL.Query()
	f := folder{Path: encodePath(p)}
	by, order := q.Get("sort"), q.Get("order")
	ask := url.Values{"path": {p}, "limit": {strconv.Itoa(pageRows)}}
	switch {
	case by == "none":
		order = ""
	case by != "size" && by != "time":
		by = "name"
	}
	if order != "desc" {
		order = "asc"
	}
	own := url.Values{"sort": {by}, "order": {order}}
	f.URL = browseURL(p) + "?" + own.Encode()
	ask.Set("sort", by)
	if by != "none" {
		ask.Set("order", order)
	}
	if c := q.Get("cursor"); c != "" {
		ask.Set("cursor", c)
		f.First = f.URL
	}
	var got struct {
		Total   int     `json:"total"`
		Entries []entry `json:"entries"`
		Next    string  `json:"next"`
	}
	err := s.get(v, "/api/v1/entries", ask, &got)
	var no *problem
	if by == "name" && errors.As(err, &no) && no.Status == http.StatusServiceUnavailable {
		// Too large to be sorted in the memory there is: as it lies on the disk.
		by, f.Notice = "none", s.texts.get("folder.unsorted")
		f.URL = browseURL(p) + "?sort=none"
		ask.Set("sort", "none")
		ask.Del("order")
		err = s.get(v, "/api/v1/entries", ask, &got)
	}
	if err != nil {
		return err
	}
	f.Total = got.Total
	if got.Next != "" {
		f.Next = f.URL + "&cursor=" + url.QueryEscape(got.Next)
	}
	for _, c := range columns {
		col := column{Key: c, Aria: "none"}
		next := "asc"
		if c == by {
			col.Aria = map[string]string{"asc": "ascending", "desc": "descending"}[order]
			if order == "asc" {
				next = "desc"
			}
		}
		col.Href = browseURL(p) + "?" + url.Values{"sort": {c}, "order": {next}}.Encode()
		f.Columns = append(f.Columns, col)
	}
	for _, e := range got.Entries {
		n := e.name()
		f.Rows = append(f.Rows, row{entry: e, Raw: n, Value: encode(n), Href: browseURL(join(p, n)), Icon: iconOf(e.Type, n), Target: e.LinkTarget()})
	}
	if f.Others, err = s.others(v, p); err != nil {
		return err
	}
	return s.show(v, http.StatusOK, "folder", view{Title: title(p), Crumbs: s.crumbs(p), Up: s.up(p), Path: f.Path, Data: f})
}

func title(p string) string { return Visible(p) }

// up is the address of the folder above: the start page above the root.
func (s *Site) up(p string) string {
	if above := parent(p); above != "" {
		return browseURL(above)
	}
	return "/"
}
