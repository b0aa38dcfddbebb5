package web

import (
	"net/http"
	"net/url"
	"time"
)

// version is one state of a path, see /api/v1/versions.
type version struct {
	Backups   []string   `json:"backups"`
	Timestamp *time.Time `json:"timestamp"`
	Last      *time.Time `json:"lastTimestamp"`
	State     string     `json:"state"`
	Entry     *entry     `json:"entry"`
	SHA256    string     `json:"sha256"`
	Changes   []string   `json:"changes"`
	Error     *problem   `json:"error"`

	Where   []place
	Compare string // with the version before that was there
}

type place struct{ Backup, Href string }

// When is the version's first backup's time in UTC.
func (v version) When() string { return backup{Timestamp: v.Timestamp}.When() }

// Until is its last backup's.
func (v version) Until() string { return backup{Timestamp: v.Last}.When() }

func (s *Site) versions(v *visit) error {
	q := v.r.URL.Query()
	p := q.Get("path")
	_, rest, ok := split(p)
	if !ok || rest == "" {
		return &problem{Status: http.StatusBadRequest, Title: http.StatusText(http.StatusBadRequest), Detail: s.texts.get("versions.where"), Advice: s.texts.get("versions.how")}
	}
	ask := url.Values{"path": {rest}}
	if q.Get("hash") != "" {
		ask.Set("hash", "1")
	}
	data := struct {
		Raw, Hash string
		Hashed    bool
		Versions  []*version
	}{Raw: rest, Hash: versionsURL(p) + "&hash=1", Hashed: q.Get("hash") != ""}
	if err := s.get(v, "/api/v1/versions", ask, &data); err != nil {
		return err
	}
	last := ""
	for _, ver := range data.Versions {
		at := ""
		for _, b := range ver.Backups {
			at = "/backups/" + b + "/" + rest
			ver.Where = append(ver.Where, place{b, browseURL(at)})
		}
		if ver.State != "present" {
			continue
		}
		if last != "" && ver.Entry != nil && (ver.Entry.Type == "file" || ver.Entry.Type == "directory") {
			ver.Compare = compareURL(last, "/backups/"+ver.Backups[0]+"/"+rest)
		}
		last = at
	}
	return s.show(v, http.StatusOK, "versions", view{Title: s.texts.get("versions.title"), Crumbs: s.crumbs(p), Up: s.up(p), Path: encodePath(parent(p)), Data: data})
}
