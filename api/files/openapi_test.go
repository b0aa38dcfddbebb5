package files

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// description loads and validates openapi.json.
func description(t testing.TB) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(openapiJSON)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background(), openapi3.IsOpenAPI31OrLater()); err != nil {
		t.Fatal(err)
	}
	return doc
}

// conforms holds one answer against the description: its status, its type and its body.
func conforms(doc *openapi3.T, template, method, path string, a answer) error {
	op := doc.Paths.Find(template).GetOperation(method)
	if op == nil {
		return fmt.Errorf("%s %s is not described", method, template)
	}
	u, err := url.Parse(path)
	if err != nil {
		return err
	}
	for name := range u.Query() {
		if op.Parameters.GetByInAndName("query", name) == nil && a.status < 400 {
			return fmt.Errorf("the parameter %q is not described", name)
		}
	}
	r := op.Responses.Value(fmt.Sprint(a.status))
	if r == nil {
		return fmt.Errorf("status %d is not described: %.300s", a.status, a.body)
	}
	if len(a.body) == 0 {
		return nil
	}
	mediaType, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
	m := r.Value.Content.Get(mediaType)
	if r.Value.Content[mediaType] == nil {
		return fmt.Errorf("the type %q of status %d is not described", mediaType, a.status)
	}
	if m.Schema == nil || !strings.Contains(mediaType, "json") {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(a.body))
	for n := 0; d.More(); n++ {
		var v any
		if err := d.Decode(&v); err != nil {
			return err
		}
		if err := m.Schema.Value.VisitJSON(v, openapi3.EnableJSONSchema2020()); err != nil {
			return fmt.Errorf("value %d: %w", n, err)
		}
	}
	return nil
}

// TestAnswersConformToTheDescription asks every address for what it gives and for its errors.
func TestAnswersConformToTheDescription(t *testing.T) {
	doc := description(t)
	s := start(t, openBackups(t, threeBackups(t)...), func(c *Config) {
		c.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = w.Write([]byte("up 1\n"))
		})
	})
	c := s.client(false)
	const b1, b3 = "/backups/b1/root", "/backups/b3/root"
	seen, params := map[string]bool{}, map[string]bool{}
	for _, q := range []struct {
		template, query string
		status          int
	}{
		{"/files/{path}", "/files" + b1 + "/etc/hosts?download=1", 200}, {"/files/{path}", "/files" + b1 + "/odd?list=1&limit=7", 200}, {"/files/{path}", "/files" + b1 + "/abs?nofollow=1", 200},
		{"/files/{path}", "/files" + b1 + "?stat=1", 200}, {"/files/{path}", "/files" + b1 + "/", 200}, {"/files/{path}", "/files/nothing", 404}, {"/files/{path}", "/files" + b1 + "/etc/hosts?stream=x", 404},
		{"/files/{path}", "/files" + b1 + "/odd?list=1&cursor=x", 400}, {"/dav/{path}", "/dav" + b1 + "/etc/hosts", 200}, {"/dav/{path}", "/dav/nothing", 404},
		{"/api/v1/backups", "/api/v1/backups", 200}, {"/api/v1/openapi.json", "/api/v1/openapi.json", 200},
		{"/api/v1/entries", "/api/v1/entries?path=" + b1 + "/odd&limit=9&sort=size&order=desc&xattrs=1", 200}, {"/api/v1/entries", "/api/v1/entries?path=" + b1, 200},
		{"/api/v1/entries", "/api/v1/entries?path=" + b1 + "/odd&cursor=x", 400}, {"/api/v1/entries", "/api/v1/entries?path=/nothing", 404}, {"/api/v1/entries", "/api/v1/entries", 400},
		{"/api/v1/archive", "/api/v1/archive?path=" + b1 + "/etc&path=" + b3 + "/odd&format=zip&name=x", 200}, {"/api/v1/archive", "/api/v1/archive?path=" + b1 + "/etc&format=tar.zst", 200},
		{"/api/v1/archive", "/api/v1/archive?path=" + b1 + "/etc&format=tar&resumable=1", 200}, {"/api/v1/archive", "/api/v1/archive?path=/nothing", 404}, {"/api/v1/archive", "/api/v1/archive?format=x", 400},
		{"/api/v1/search", "/api/v1/search?name=*&ignoreCase=1&regex=.&backup=b1&type=file&type=symlink&minSize=0&maxSize=999999999&after=1970-01-01&before=2100-01-01", 200},
		{"/api/v1/search", "/api/v1/search?name=hosts&group=1", 200}, {"/api/v1/search", "/api/v1/search?limit=2&path=" + b1, 200}, {"/api/v1/search", "/api/v1/search?name=[", 400}, {"/api/v1/search", "/api/v1/search?path=/nothing", 404},
		{"/api/v1/versions", "/api/v1/versions?path=root/text&hash=1", 200}, {"/api/v1/versions", "/api/v1/versions?path=root/new/file", 200}, {"/api/v1/versions", "/api/v1/versions", 400},
		{"/api/v1/diff", "/api/v1/diff?from=" + b1 + "&to=" + b3 + "&content=1", 200}, {"/api/v1/diff", "/api/v1/diff?from=" + b1 + "/text&to=" + b3 + "/text", 200},
		{"/api/v1/diff", "/api/v1/diff?from=" + b1 + "/big.bin&to=" + b3 + "/sparse", 200}, {"/api/v1/diff", "/api/v1/diff?from=" + b1 + "&to=" + b3 + "/text", 400}, {"/api/v1/diff", "/api/v1/diff?from=/x&to=/y", 404},
		{"/api/v1/checksum", "/api/v1/checksum?path=" + b1 + "/text&algorithm=blake3", 200}, {"/api/v1/checksum", "/api/v1/checksum?path=" + b1, 400}, {"/api/v1/checksum", "/api/v1/checksum?path=/nothing", 404},
		{"/api/v1/manifest", "/api/v1/manifest?path=" + b1 + "/etc&algorithm=sha512", 200}, {"/api/v1/manifest", "/api/v1/manifest?path=/nothing", 404},
		{"/healthz", "/healthz", 200}, {"/readyz", "/readyz", 200}, {"/metrics", "/metrics", 200}, {"/login", "/login?next=/x", 200},
	} {
		a := s.do(c, "GET", q.query)
		if a.err != nil || a.status != q.status {
			t.Errorf("%s: %d, want %d: %v %.300s", q.query, a.status, q.status, a.err, a.body)
			continue
		}
		if err := conforms(doc, q.template, "GET", q.query, a); err != nil {
			t.Errorf("%s: %v", q.query, err)
		}
		if op := doc.Paths.Find(q.template).Get; op.Security == nil && q.status == 200 {
			no := s.do(c, "GET", q.query, "Authorization: ")
			if err := conforms(doc, q.template, "GET", q.query, no); err != nil || no.status != 401 {
				t.Errorf("%s without a password: %d %v", q.query, no.status, err)
			}
		}
		if h := s.do(c, "HEAD", q.query); h.status != a.status || len(h.body) > 0 || h.header.Get("Content-Type") != a.header.Get("Content-Type") {
			t.Errorf("HEAD %s: %d %v, want %d %v", q.query, h.status, h.header, a.status, a.header)
		}
		seen[q.template] = true
		u, _ := url.Parse(q.query)
		for name := range u.Query() {
			params[q.template+" "+name] = true
		}
	}
	// Nothing is described that was not asked for, and nothing answers that is not described.
	for template, item := range doc.Paths.Map() {
		if item.Get != nil && !seen[template] {
			t.Errorf("%s was not tried", template)
		}
		if item.Get == nil {
			continue
		}
		for _, p := range item.Get.Parameters {
			if p.Value.In == "query" && !params[template+" "+p.Value.Name] {
				t.Errorf("%s?%s was not tried", template, p.Value.Name)
			}
		}
	}
	for path := range routes {
		if path != "/" && doc.Paths.Find(path) == nil {
			t.Errorf("%s is not described", path)
		}
	}
	for path := range open {
		if doc.Paths.Find(path) == nil {
			t.Errorf("%s is not described", path)
		}
	}
	// The check can fail.
	a := s.get("/api/v1/checksum?path=" + b1 + "/text")
	a.body = bytes.Replace(a.body, []byte(`"size"`), []byte(`"sise"`), 1)
	if conforms(doc, "/api/v1/checksum", "GET", "/api/v1/checksum", a) == nil {
		t.Error("a wrong answer conforms")
	}
}
