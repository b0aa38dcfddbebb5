package web

import (
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
)

const (
	// textPiece is how much of a text a page shows, in bytes; hexPiece of other bytes.
	textPiece = 256 << 10
	hexPiece  = 4 << 10
	// maxImage is the largest file that is shown as an image: a browser decodes it whole.
	maxImage = 32 << 20
)

// rasters are the images that are shown in place: they hold nothing that runs. SVG is text.
var rasters = map[string]bool{".png": true, ".jpg": true, ".jpeg": true, ".gif": true, ".webp": true, ".avif": true, ".bmp": true, ".ico": true}

// file is the data of its page.
type file struct {
	entry
	Raw       string // the last name as the guest has it
	Path      string // percent-encoded
	Stream    string // of NTFS; empty: the file itself
	Download  string
	View      string // "text", "image", "hex", "none"
	Image     string // its address
	Text      *preview
	Hex       *dump
	Notice    string
	AsText    string // addresses of the other views
	AsHex     string
	Next      string
	First     string
	From, To  int64 // of what is shown, in bytes
	Whole     int64 // bytes in all
	Checksum  string
	Sum       string // address that gives the checksum
	SumAPI    string
	Versions  string
	Others    []other
	Attribute []attribute
	Streams   []streamLink
	Folder    string // percent-encoded, for the commands
	Value     string
}

type streamLink struct {
	Name, Href string
	Size       int64
}

func (s *Site) file(v *visit, p string, e entry) error {
	q := v.r.URL.Query()
	f := file{entry: e, Raw: base(p), Path: encodePath(p), Stream: q.Get("stream"), View: "none", Folder: encodePath(parent(p)), Value: encode(base(p))}
	f.Attribute = attributes(e.Xattrs)
	page := browseURL(p)
	for _, st := range e.Streams {
		n := exact(st.Name, st.NameBytes)
		f.Streams = append(f.Streams, streamLink{n, page + "?stream=" + encode(n), st.Size})
	}
	f.Whole = e.Size
	from := url.Values{}
	if f.Stream != "" {
		from.Set("stream", f.Stream)
		for _, st := range e.Streams {
			if exact(st.Name, st.NameBytes) == f.Stream {
				f.Whole = st.Size
			}
		}
	}
	address := func(more url.Values) string {
		all := url.Values{}
		for _, part := range []url.Values{from, more} {
			for k, vs := range part {
				all[k] = vs
			}
		}
		if len(all) == 0 {
			return page
		}
		return page + "?" + all.Encode()
	}
	f.AsText, f.AsHex = address(url.Values{"view": {"text"}}), address(url.Values{"view": {"hex"}})
	if _, rest, ok := split(p); ok && rest != "" && e.Error == nil {
		f.Versions = versionsURL(p)
	}
	var err error
	if f.Others, err = s.others(v, p); err != nil {
		return err
	}
	if e.Type == "file" || f.Stream != "" {
		more := url.Values{"download": {"1"}}
		if f.Stream != "" {
			more.Set("stream", f.Stream)
		}
		f.Download = fileURL(p) + "?" + more.Encode()
		if f.Stream == "" {
			f.Sum = address(url.Values{"checksum": {"1"}})
			f.SumAPI = "/api/v1/checksum?path=" + encodePath(p)
		}
		if err := s.content(v, p, &f, address); err != nil {
			return err
		}
		if q.Get("checksum") != "" && f.Stream == "" {
			var got struct {
				Checksum string `json:"checksum"`
			}
			if err := s.get(v, "/api/v1/checksum", url.Values{"path": {p}}, &got); err != nil {
				return err
			}
			f.Checksum = got.Checksum
		}
	}
	return s.show(v, http.StatusOK, "file", view{Title: title(p), Crumbs: s.crumbs(p), Up: s.up(p), Path: encodePath(parent(p)), Data: f})
}

// content decides how a file is shown, and reads what is.
func (s *Site) content(v *visit, p string, f *file, address func(url.Values) string) error {
	q := v.r.URL.Query()
	want, ext := q.Get("view"), strings.ToLower(path.Ext(p))
	if ext == ".pdf" && f.Stream == "" {
		f.Notice = s.texts.get("file.pdf")
	}
	if want == "" && f.Stream == "" && rasters[ext] && f.Whole > 0 && f.Whole <= maxImage {
		f.View, f.Image = "image", fileURL(p)
		return nil
	}
	off, _ := strconv.ParseInt(q.Get("offset"), 10, 64)
	if off < 0 || off > f.Whole {
		off = 0
	}
	if off > 0 {
		f.First = address(url.Values{"view": {q.Get("view")}})
	}
	b, err := s.read(v, p, f, off, textPiece)
	if err != nil {
		f.Notice = s.texts.get("file.unread", err.Error()) // the attributes can still be read
		return nil
	}
	enc := detect(b, off+int64(len(b)) < f.Whole)
	if want == "text" && enc == nil {
		enc = latin1
	}
	if want == "hex" || enc == nil {
		f.View = "hex"
		b = b[:min(len(b), hexPiece)]
		f.Hex = hexDump(b, off)
	} else {
		f.View = "text"
		var used int
		f.Text, used = s.preview(base(p), b, enc, off+int64(len(b)) < f.Whole)
		b = b[:used]
	}
	f.From, f.To = off, off+int64(len(b))
	if f.To < f.Whole && len(b) > 0 {
		f.Next = address(url.Values{"view": {f.View}, "offset": {strconv.FormatInt(f.To, 10)}})
	}
	return nil
}

// read returns up to n bytes at off.
func (s *Site) read(v *visit, p string, f *file, off int64, n int) ([]byte, error) {
	if f.Whole == 0 || off >= f.Whole {
		return nil, nil
	}
	q := url.Values{}
	if f.Stream != "" {
		q.Set("stream", f.Stream)
	}
	rec, err := s.ask(v.ctx, v, fileURL(p), q, n, "Range", "bytes="+strconv.FormatInt(off, 10)+"-"+strconv.FormatInt(off+int64(n)-1, 10))
	if err != nil {
		return nil, err
	}
	if rec.broken {
		return nil, &problem{Detail: s.texts.get("error.broken")}
	}
	return rec.body.Bytes(), nil
}
