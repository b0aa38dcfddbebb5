package files

import (
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"vmfr/agent/audit"
)

// person is a browser: it keeps cookies and says what browsers say.
func (s *server) person() *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	c := s.client(false)
	c.Jar = jar
	return c
}

func (s *server) browse(c *http.Client, method, path string, form url.Values, headers ...string) reply {
	s.t.Helper()
	req, err := http.NewRequest(method, s.url(path), strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Set(k, v)
	}
	resp, err := c.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = resp.Body.Close()
	return reply{resp.StatusCode, resp.Header, resp.Cookies(), req.URL}
}

// reply is an answer without its body.
type reply struct {
	StatusCode int
	Header     http.Header
	cookies    []*http.Cookie
	url        *url.URL
}

// TestSession is a person's day: sent to the login, let in, idle, sent away.
func TestSession(t *testing.T) {
	img, _, _ := guest(t)
	cl := &clock{t: time.Unix(1e9, 0)}
	logins := &Logins{}
	var record lockedBuffer
	log := audit.New(&record)
	s := start(t, openTree(t, map[string]string{"root": img}), func(c *Config) { c.now, c.Logins, c.Audit = cl.now, logins, log })
	c := s.person()
	r := s.browse(c, "GET", "/files/?limit=3", nil)
	if r.StatusCode != 303 || r.Header.Get("Location") != "/login?next=%2Ffiles%2F%3Flimit%3D3" || r.Header.Get("WWW-Authenticate") != "" {
		t.Fatalf("%d %v", r.StatusCode, r.Header)
	}
	if r := s.browse(c, "GET", "/api/v1/backups", nil, "Sec-Fetch-Mode: cors", "Sec-Fetch-Site: same-origin"); r.StatusCode != 401 || r.Header.Get("WWW-Authenticate") != "" {
		t.Errorf("a script's request: %d %v", r.StatusCode, r.Header)
	}
	right := url.Values{"user": {testUser}, "password": {testPassword}, "next": {"/files/?limit=3"}}
	if r := s.browse(c, "POST", "/login", url.Values{"user": {testUser}, "password": {"wrong"}}); r.StatusCode != 401 || len(r.cookies) != 0 {
		t.Errorf("a wrong password: %d %v", r.StatusCode, r.Header)
	}
	for _, h := range []string{"Origin: https://evil.example", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"} {
		if r := s.browse(c, "POST", "/login", right, h); r.StatusCode != 403 || len(r.cookies) != 0 {
			t.Errorf("%s: %d", h, r.StatusCode)
		}
	}
	r = s.browse(c, "POST", "/login", right, "Sec-Fetch-Site: same-origin", "Origin: https://"+s.addr)
	if r.StatusCode != 303 || r.Header.Get("Location") != "/files/?limit=3" {
		t.Fatalf("login: %d %v", r.StatusCode, r.Header)
	}
	set := r.Header.Get("Set-Cookie")
	for _, part := range []string{"__Host-vmfr=", "; Path=/", "; HttpOnly", "; Secure", "; SameSite=Strict"} {
		if !strings.Contains(set, part) {
			t.Errorf("%s lacks %s", set, part)
		}
	}
	if strings.Contains(set, "Domain") || strings.Contains(set, "Max-Age") {
		t.Error(set)
	}
	for range 3 {
		cl.move(sessionIdle - time.Minute)
		if r := s.browse(c, "GET", "/files/", nil); r.StatusCode != 200 {
			t.Fatalf("with the cookie: %d", r.StatusCode)
		}
	}
	if r := s.browse(c, "GET", "/login?next=/api/v1/backups", nil); r.StatusCode != 303 || r.Header.Get("Location") != "/api/v1/backups" {
		t.Errorf("logged in already: %d %v", r.StatusCode, r.Header)
	}
	cl.move(sessionIdle + time.Second)
	if r := s.browse(c, "GET", "/files/", nil); r.StatusCode != 303 {
		t.Errorf("after 12 idle hours: %d", r.StatusCode)
	}
	s.browse(c, "POST", "/login", right)
	if r := s.browse(c, "POST", "/logout", nil, "Sec-Fetch-Site: cross-site"); r.StatusCode != 403 {
		t.Errorf("a foreign page logs people out: %d", r.StatusCode)
	}
	if r := s.browse(c, "GET", "/logout", nil); r.StatusCode != 405 {
		t.Errorf("GET /logout: %d", r.StatusCode)
	}
	old := c.Jar.Cookies(r.url)
	if r := s.browse(c, "POST", "/logout", nil, "Sec-Fetch-Site: same-origin"); r.StatusCode != 303 || !strings.Contains(r.Header.Get("Clear-Site-Data"), "cache") {
		t.Errorf("logout: %d", r.StatusCode)
	}
	c.Jar.SetCookies(r.url, old)
	if r := s.browse(c, "GET", "/files/", nil); r.StatusCode != 303 {
		t.Errorf("the cookie of an ended session: %d", r.StatusCode)
	}
	if granted, wrong, _ := logins.Snapshot(); granted != 2 || wrong != 1 {
		t.Errorf("%d logins, %d wrong", granted, wrong)
	}
	s.get("/files" + disk + "/etc/hosts")
	_ = s.close()
	_ = log.Close()
	for event, n := range map[string]int{`"event":"login"`: 3, `"event":"refused"`: 1, `"event":"logout"`: 1, `"event":"read"`: 1, `"event":"list"`: 3} {
		if got := strings.Count(record.String(), event); got != n {
			t.Errorf("%d times %s, want %d:\n%s", got, event, n, record.String())
		}
	}
	if strings.Contains(record.String()+s.log.String(), testPassword) || strings.Contains(record.String()+s.log.String(), strings.TrimPrefix(strings.Split(set, ";")[0], "__Host-vmfr=")) {
		t.Error("a log holds the password or the cookie")
	}
}

func TestLocalPath(t *testing.T) {
	for in, want := range map[string]string{
		"/files/a?b=c": "/files/a?b=c", "": "/", "https://evil.example/": "/", "//evil.example": "/", "/\\evil.example": "/", "\\\\evil": "/", "javascript:alert(1)": "/",
		"/%2f/evil": "/%2f/evil", "/\t/evil": "/", "files": "/", "/a#b": "/a", "///evil.example": "/", "http:evil": "/", "/a\r\nSet-Cookie: x=y": "/",
	} {
		if got := localPath(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestSessionsAreBounded: many logins do not grow memory, and the oldest ends.
func TestSessionsAreBounded(t *testing.T) {
	s := newSessions(time.Now)
	first, _ := s.begin()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range maxSessions / 4 {
				s.begin()
			}
		})
	}
	wg.Wait()
	if len(s.all) != maxSessions || s.lru.Len() != maxSessions {
		t.Errorf("%d sessions", len(s.all))
	}
	r, _ := http.NewRequest("GET", "https://x/", nil)
	r.AddCookie(&http.Cookie{Name: cookieName, Value: first})
	if s.ofCookie(r) != nil {
		t.Error("the oldest session did not end")
	}
}

// TestFullAuditLog: who cannot be recorded is not let in.
func TestFullAuditLog(t *testing.T) {
	img, _, _ := guest(t)
	log := audit.New(fullDisk{})
	s := start(t, openTree(t, map[string]string{"root": img}), func(c *Config) { c.Audit = log })
	for log.Err() == nil {
		log.Refused(audit.Who{}, "x", "y")
	}
	s.get("/files/").problem(t, 503, "audit")
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, http.ErrContentLength }
