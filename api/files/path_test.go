package files

import (
	"encoding/json"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestLinksStayInTheTree(t *testing.T) {
	img, _, _ := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	for _, p := range []string{"rel", "abs", "absdir/hosts", "climb", "absdir//hosts", "hardlink"} {
		if a := s.get("/files" + disk + "/" + p); string(a.body) != "127.0.0.1 localhost\n" {
			t.Errorf("%s: %d %q", p, a.status, a.body)
		}
	}
	s.get("/files"+disk+"/loop1").problem(t, 400, "link_loop")
	s.get("/files"+disk+"/escape").problem(t, 404, "not_found")
	s.get("/files"+disk+"/dangling").problem(t, 404, "not_found")
	s.get("/files"+disk+"/etc/hosts/").problem(t, 404, "not_a_directory")
	s.get("/files/"+strings.Repeat("a/", 3000)+"a").problem(t, 400, "name_too_long")
	var e entry
	if a := s.get("/files" + disk + "/abs?nofollow=1"); json.Unmarshal(a.body, &e) != nil || e.Type != "symlink" || e.Target != "/etc/hosts" {
		t.Errorf("nofollow: %d %s", a.status, a.body)
	}
}

// TestEscapes sends paths as they are, by the real client, which cleans nothing.
func TestEscapes(t *testing.T) {
	img, _, _ := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	secret, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{
		"/files/../../etc/passwd", "/files/../../../../../../etc/passwd", "/files/%2e%2e/%2e%2e/etc/passwd", "/files/..%2f..%2fetc%2fpasswd",
		"/files/backups%2fnightly", "/files/backups/nightly/root/%2e%2e/root", "/files/./backups", "/files//etc/passwd", "//etc/passwd", "/files/%00", "/../etc/passwd",
		"/files" + disk + "/escape/../../../../etc/passwd", "/files/%5c..%5c..%5cetc%5cpasswd", "/files/%252e%252e/etc/passwd", "/files/..;/etc/passwd", "/files/%c0%ae%c0%ae/etc/passwd",
		"/files/%zz", "/filesx", "/files..",
	} {
		out, err := s.curl("--http1.1", "--path-as-is", "-o", "-", "-w", "\n%{http_code} %{redirect_url}", s.url(p))
		status := out[strings.LastIndex(out, "\n")+1:]
		if err != nil || strings.Contains(out, string(secret)) || status != "400 " && status != "404 " {
			t.Errorf("%s: %v %s", p, err, out)
		}
	}
}

func TestTreePath(t *testing.T) {
	for raw, want := range map[string][]string{
		"/files": nil, "/files/": nil, "/files//": nil, "/files/a/b": {"a", "b"}, "/files/a//b/": {"a", "b"},
		"/files/%ff%0a/x%25y": {"\xff\n", "x%y"}, "/files/a+b": {"a+b"}, "/files/a;b=c": {"a;b=c"}, "/files/...": {"..."}, "/files/%20": {" "},
	} {
		u, err := url.ParseRequestURI(raw)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := treePath(u, filesPrefix)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q %v", raw, got, err)
		}
	}
}

// FuzzTreePath: what is decoded has no separator, no dots and no NUL, and encodes to a URL
// below /files/ that decodes to the same.
func FuzzTreePath(f *testing.F) {
	for _, s := range []string{"/files/a/b", "/files/%2e%2e/x", "/files/a%2Fb", "/files/%ff\"%0a//", "/files//evil.example/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.ParseRequestURI(raw)
		if err != nil || !strings.HasPrefix(u.EscapedPath(), filesPrefix) {
			return
		}
		names, dir, err := treePath(u, filesPrefix)
		if err != nil {
			return
		}
		for _, n := range names {
			if n == "" || n == "." || n == ".." || strings.ContainsAny(n, "/\x00") {
				t.Fatalf("%q gave %q", raw, names)
			}
		}
		again, err := url.ParseRequestURI(fileURL(names, dir))
		if err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		back, dir2, err := treePath(again, filesPrefix)
		if err != nil || !slices.Equal(back, names) || dir2 != (dir || len(names) == 0) || again.Host != "" {
			t.Fatalf("%q: %q, then %q %v", raw, names, back, err)
		}
	})
}
