package web_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// TestBrowser uses every page in Chromium, one instance for all.
func TestBrowser(t *testing.T) {
	first, second := backups(t)
	c := start(t, serve(t, first, second))
	t.Run("Login", c.login)
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"Start", c.startPage}, {"Folder", c.folder}, {"Preview", c.preview}, {"Details", c.details}, {"Compare", c.compare}, {"Versions", c.versions},
		{"Search", c.search}, {"Download", c.download}, {"Hostile", c.hostile}, {"LargeFolder", c.large}, {"Narrow", c.narrow}, {"Keyboard", c.keyboard},
		{"WithoutScript", c.withoutScript}, {"Commands", func(t *testing.T) { c.commands(t, first) }}, {"Logout", c.logout},
	} {
		t.Run(test.name, test.run)
	}
}

func (c *chromium) enter(tb *tab, password string) int64 {
	return tb.follow(chromedp.SetValue(chromedp.CSS("input[name=user]"), testUser), chromedp.SetValue(chromedp.CSS("input[name=password]"), password),
		chromedp.Click(chromedp.CSS(".login button")))
}

func (c *chromium) login(t *testing.T) {
	tb := c.tab(t)
	tb.open("/browse" + disk1 + "/etc")
	if l := eval[string](tb, "location.pathname"); l != "/login" {
		t.Fatalf("not sent to the login but to %s", l)
	}
	if s := c.enter(tb, "wrong"); s != 401 {
		t.Errorf("a wrong password: %d", s)
	}
	tb.expect("401")
	tb.has("[role=alert]", "wrong")
	if s := c.enter(tb, testPassword); s != 200 || eval[string](tb, "location.pathname") != "/browse"+disk1+"/etc" {
		t.Fatalf("login: %d %s", s, eval[string](tb, "location.href"))
	}
}

func (c *chromium) logout(t *testing.T) {
	tb := c.tab(t)
	tb.open("/")
	tb.follow(chromedp.Click(chromedp.CSS("form[action='/logout'] button")))
	tb.open("/browse/")
	if l := eval[string](tb, "location.pathname"); l != "/login" {
		t.Errorf("still in after the logout: %s", l)
	}
}

func (c *chromium) startPage(t *testing.T) {
	tb := c.tab(t)
	tb.open("/")
	tb.has("main", "b1", "b2", "2026-04-12 02:00", "Debian <b>12</b>", "not readable", "damaged", "96.0 MiB")
	if got := eval[[]string](tb, "[...document.querySelectorAll('.timeline h2')].map((e) => e.innerText)"); strings.Join(got, " ") != "b3 b2 b1" {
		t.Errorf("the time line: %q", got)
	}
	tb.harmless()
	tb.picture("start")
}

func (c *chromium) folder(t *testing.T) {
	tb := c.tab(t)
	tb.open("/browse" + disk1 + "/docs")
	names := func() []string {
		return eval[[]string](tb, "[...document.querySelectorAll('tbody a.item')].map((e) => e.innerText)")
	}
	all := names()
	if len(all) != 12 || all[0] != "big.log" {
		t.Errorf("by name: %q", all)
	}
	tb.has("tbody", "→ ../etc/app.conf", "-rw-r-----", "0:0")
	tb.follow(chromedp.Click(chromedp.CSS(".c-size a")))
	tb.follow(chromedp.Click(chromedp.CSS(".c-size a")))
	if by := names(); by[0] != "big.log" || len(by) != len(all) || eval[string](tb, "document.querySelector('th.c-size').ariaSort") != "descending" {
		t.Errorf("by size, largest first: %q", by)
	}
	tb.follow(chromedp.Click(chromedp.CSS(".crumbs li:nth-last-child(2) a")))
	if p := eval[string](tb, "location.pathname"); p != "/browse"+disk1 {
		t.Errorf("one up: %s", p)
	}
	if s := tb.open("/browse/backups/b1/root/nothing"); s != 404 {
		t.Errorf("nothing: %d", s)
	}
	tb.expect("404")
	tb.has("main", "To the backups")
	for _, bad := range []string{"/browse/%2e%2e/%2e%2e/etc", "/browse" + disk1 + "/a%00b", "/browse" + disk1 + "/a%2Fb", "/browse" + disk1 + "/%ff%zz"} {
		if s := tb.open(bad); s != 400 && s != 404 {
			t.Errorf("%s: %d", bad, s)
		}
		tb.expect("Failed to load")
	}
}

func (c *chromium) preview(t *testing.T) {
	tb := c.tab(t)
	for path, parts := range map[string][]string{
		"/src/main.go":      {"<script>window.pwned=1</script>", "Go", "UTF-8"},
		"/docs/bom16.txt":   {"Größe: 10 €", "zweite Zeile", "UTF-16LE"},
		"/docs/nobom16.reg": {"Windows Registry Editor", "UTF-16LE"},
		"/docs/latin1.txt":  {"café crème", "Windows-1252"},
		"/docs/page.html":   {"<h1>owned</h1>", "HTML"},
		"/docs/pic.svg":     {"onload="},
		"/docs/paper.pdf":   {"Download it", "%PDF-1.4"},
		"/docs/data.bin":    {"00 01 02 fe 41", "....A", "bytes 0 to 4,096 of 10,000"},
		"/docs/empty":       {"This file is empty."},
		"/docs/link":        {"port = 80"},
	} {
		tb.open("/browse" + disk1 + path)
		tb.has("main", parts...)
		tb.harmless()
	}
	tb.open("/browse" + disk1 + "/src/main.go")
	if k := eval[string](tb, "[...document.querySelectorAll('.text .k')].map((e) => e.textContent).join(' ')"); !strings.Contains(k, "func") {
		t.Errorf("keywords: %q", k)
	}
	tb.open("/browse" + disk1 + "/docs/data.bin")
	tb.follow(chromedp.Click(chromedp.CSS("a[rel=next]")))
	tb.has("main", "00001000", "bytes 4,096 to 8,192")
	tb.open("/browse" + disk1 + "/docs/big.log")
	tb.follow(chromedp.Click(chromedp.CSS("a[rel=next]")))
	tb.has(".text .l:first-child", "a line of a log")
	tb.open("/browse" + disk1 + "/docs/pic.png")
	tb.until("document.querySelector('.picture img').complete")
	if w := eval[int](tb, "document.querySelector('.picture img').naturalWidth"); w != 64 {
		t.Errorf("the image is %d wide", w)
	}
	if s := tb.open("/browse" + disk1 + "/docs/dangling"); s != 200 {
		t.Errorf("a link to nowhere: %d", s)
	}
	tb.has("main", "/nowhere/<b>", "Symbolic link")
	tb.harmless()
}

func (c *chromium) details(t *testing.T) {
	tb := c.tab(t)
	tb.open("/browse" + disk1 + "/etc/app.conf")
	tb.has(".details", "-rwsrw----", "user 107, group 3000000000", "user:1234:rw-", "mask::rw-", "<i>hello</i>")
	tb.harmless()
	tb.do(chromedp.Click(chromedp.CSS("[data-sum]")))
	tb.until("document.querySelector('#sum code')")
	// sha256sum of the three lines that backups writes.
	tb.has("#sum", "2c19bb16")
	tb.picture("file")
}

func (c *chromium) compare(t *testing.T) {
	tb := c.tab(t)
	tb.open("/browse" + disk2 + "/etc/app.conf")
	tb.do(chromedp.SetValue(chromedp.CSS("select[name=from]"), disk1+"/etc/app.conf"))
	tb.follow(chromedp.Click(chromedp.CSS("form[action='/compare'] button")))
	tb.has(".diff .d-changed .old", "port = 80")
	tb.has(".diff .d-changed .new", "port = 8080")
	tb.has(".diff .d-added .new", "new = <b>")
	tb.has("#verdict", "differ", "content", "size")
	tb.harmless()
	tb.picture("compare")
	tb.open("/compare?from=" + disk1 + "/src&to=" + disk2 + "/src")
	tb.has("#verdict", "added: 1, removed: 1")
	tb.has("tbody", "main.go", "other.go")
	tb.open("/compare?from=" + disk1 + "/docs/data.bin&to=" + disk2 + "/docs/data.bin")
	tb.has("#verdict", "the same")
}

func (c *chromium) versions(t *testing.T) {
	tb := c.tab(t)
	tb.open("/browse" + disk1 + "/src/main.go")
	tb.follow(chromedp.Click(chromedp.CSS("a[href^='/versions']")))
	tb.has("main", "Present", "Not there", "gone", "b1", "b2")
	tb.open("/versions?hash=1&path=" + disk1 + "/etc/app.conf")
	tb.has("main", "content", "size", "Compare with the version before")
}

func (c *chromium) search(t *testing.T) {
	tb := c.tab(t)
	tb.open("/")
	tb.do(chromedp.Focus(chromedp.CSS("#find")))
	tb.follow(chromedp.SendKeys(chromedp.CSS("#find"), "APP.conf"+kb.Enter))
	tb.until("document.querySelector('#results').dataset.done")
	tb.has("#results", disk1+"/etc/app.conf", disk2+"/etc/app.conf")
	tb.has("#found", "Matches: 2.")
	tb.open("/search?live=1&name=*&path=" + disk1 + "/hostile")
	tb.until("document.querySelector('#results').dataset.done")
	tb.harmless()
	if n := eval[int](tb, "document.querySelectorAll('#results tbody tr').length"); n != len(hostile) {
		t.Errorf("%d matches, want %d", n, len(hostile))
	}
	live := eval[[]string](tb, "[...document.querySelectorAll('#results a')].map((a) => a.getAttribute('href'))")
	tb.open("/browse" + disk1 + "/hostile")
	listed := eval[[]string](tb, "[...document.querySelectorAll('tbody a.item')].map((a) => a.getAttribute('href'))")
	slices.Sort(live)
	slices.Sort(listed)
	if !slices.Equal(live, listed) {
		t.Errorf("the script's addresses differ from the folder's:\n%q\n%q", live, listed)
	}
	tb.open("/search?live=1&name=entry-0[0-4]*&path=" + disk1 + "/many")
	tb.until("document.querySelector('#results').dataset.done")
	tb.has("#found", fmt.Sprintf("Matches: %d.", many/2), "first 1000")
	if n := eval[int](tb, "document.querySelectorAll('#results tbody tr').length"); n != 1000 {
		t.Errorf("%d rows", n)
	}
	tb.open("/search?name=%5B") // an unfinished pattern
	tb.has("[role=alert]", "name")
}

func (c *chromium) download(t *testing.T) {
	tb := c.tab(t)
	tb.open("/browse" + disk1 + "/docs")
	for _, n := range []string{"latin1.txt", "pic.png"} {
		tb.do(chromedp.Click(chromedp.CSS("input[value='" + n + "']")))
	}
	tb.has("#chosen", "Selected: 2")
	tb.do(chromedp.Click(chromedp.CSS("button[value=zip]")))
	got := unzip(t, c.downloaded(t))
	if len(got) != 2 || got["latin1.txt"] != "caf\xe9 cr\xe8me\n" || !strings.HasPrefix(got["pic.png"], "\x89PNG") {
		t.Errorf("the archive: %.300q", got)
	}
	tb.until("document.querySelector('#progress output').textContent.startsWith('Done')")
	tb.picture("folder")
	tb.follow(chromedp.Click(chromedp.CSS("button[formaction='/commands']")))
	tb.has("main", "rsync", "--secluded-args", disk1+"/docs/latin1.txt", "scp", "curl")
}

func (c *chromium) hostile(t *testing.T) {
	tb := c.tab(t)
	tb.open("/browse" + disk1 + "/hostile")
	tb.harmless()
	tb.fits()
	if n := eval[int](tb, "document.querySelectorAll('tbody tr').length"); n != len(hostile) {
		t.Errorf("%d rows, want %d", n, len(hostile))
	}
	tb.has("tbody", `line\nbreak`, `evil\u202egpj.exe`, `bad-\xff\xfe`, `\x1b[31mred`, `"><script>`)
	if strings.ContainsAny(tb.text("tbody"), "\u202e\u2066\x1b\a") {
		t.Error("a control character is shown as it is")
	}
	if h := eval[int](tb, "Math.max(...[...document.querySelectorAll('tbody tr')].map((r) => r.offsetHeight))"); h > 200 {
		t.Errorf("a row is %d pixels high", h)
	}
	links := eval[[]string](tb, "[...document.querySelectorAll('tbody a.item')].map((a) => a.getAttribute('href'))")
	found := map[string]bool{}
	for _, h := range links {
		if s := tb.open(h); s != 200 {
			t.Errorf("%s: %d", h, s)
		}
		tb.harmless()
		tb.fits()
		name, err := url.PathUnescape(h[strings.LastIndexByte(h, '/')+1:])
		if err != nil {
			t.Fatal(err)
		}
		found[name] = true
		tb.has(".text", "content of "+fmt.Sprintf("%q", name))
	}
	for _, n := range hostile {
		if !found[n] {
			t.Errorf("%q has no link", n)
		}
	}
	// All of them, through the form, into one archive.
	tb.open("/browse" + disk1 + "/hostile")
	tb.do(chromedp.Click(chromedp.CSS("#all")), chromedp.Click(chromedp.CSS("button[value=zip]")))
	// Eight names are told as they are in ERRORS.txt, because zip cannot say them safely.
	if got := unzip(t, c.downloaded(t)); len(got) != len(hostile)+1 || !strings.Contains(got["ERRORS.txt"], "in 8 places") {
		t.Errorf("%d files in the archive, want %d: %q", len(got), len(hostile)+1, got["ERRORS.txt"])
	}
	tb.follow(chromedp.Click(chromedp.CSS("button[formaction='/commands']")))
	tb.harmless()
	tb.fits()
}

func (c *chromium) large(t *testing.T) {
	tb := c.tab(t)
	tb.open("/browse" + disk1 + "/many") // sorted once, then kept
	from := time.Now()
	tb.open("/browse" + disk1 + "/many")
	t.Logf("a page of %d entries: %v", many, time.Since(from))
	tb.has(".pages", "100,000 entries")
	if n := eval[int](tb, "document.querySelectorAll('tbody tr').length"); n != 200 {
		t.Errorf("%d rows on a page", n)
	}
	if n := eval[int](tb, "document.querySelectorAll('*').length"); n > 8000 {
		t.Errorf("%d elements", n)
	}
	tb.has("tbody tr:first-child", "entry-000000.log")
	tb.follow(chromedp.Click(chromedp.CSS("a[rel=next]")))
	tb.has("tbody tr:first-child", "entry-000200.log")
}

func (c *chromium) narrow(t *testing.T) {
	tb := c.tab(t)
	tb.window(360, 740)
	for _, p := range []string{"/", "/browse" + disk1 + "/docs", "/browse" + disk1 + "/hostile", "/browse" + disk1 + "/docs/data.bin", "/browse" + disk1 + "/etc/app.conf", "/browse" + disk1 + "/docs/big.log",
		"/browse" + disk1 + "/docs/pic.png", "/compare?from=" + disk1 + "/etc/app.conf&to=" + disk2 + "/etc/app.conf", "/compare?from=" + disk1 + "&to=" + disk2, "/versions?hash=1&path=" + disk1 + "/etc/app.conf", "/search?name=app",
		"/commands?dir=" + disk1 + "/docs&n=latin1.txt", "/help"} {
		tb.open(p)
		tb.fits()
	}
	tb.dark()
	tb.open("/browse" + disk1 + "/docs")
	if bg := eval[string](tb, "getComputedStyle(document.body).backgroundColor"); bg != "rgb(20, 23, 26)" {
		t.Errorf("dark is %s", bg)
	}
	tb.picture("narrow-dark")
}

func (c *chromium) keyboard(t *testing.T) {
	tb := c.tab(t)
	tb.open("/browse" + disk1 + "/docs")
	focused := func(want string) {
		t.Helper()
		if got := eval[string](tb, "document.activeElement.innerText"); got != want {
			t.Errorf("the focus is on %q, want %q", got, want)
		}
	}
	tb.do(chromedp.KeyEvent("j"))
	focused("big.log")
	tb.do(chromedp.KeyEvent("j"), chromedp.KeyEvent(kb.ArrowDown))
	focused("dangling")
	tb.do(chromedp.KeyEvent("k"), chromedp.KeyEvent("x"))
	focused("bom16.txt")
	tb.has("#chosen", "Selected: 1")
	tb.follow(chromedp.KeyEvent(kb.Enter))
	tb.has("main", "Größe")
	tb.follow(chromedp.KeyEvent(kb.Backspace))
	if p := eval[string](tb, "location.pathname"); p != "/browse"+disk1+"/docs" {
		t.Errorf("backspace leads to %s", p)
	}
	tb.do(chromedp.KeyEvent("?"))
	tb.until("document.querySelector('#help-dialog').open")
	tb.do(chromedp.KeyEvent(kb.Escape))
	tb.until("!document.querySelector('#help-dialog').open")
	// As a keyboard does it: the letter comes with the key, and not if the page took the key.
	for _, kind := range []input.DispatchKeyEventType{input.DispatchKeyEventTypeKeyDown, input.DispatchKeyEventTypeKeyUp} {
		p := input.DispatchKeyEventParams{Type: kind, Key: "/", Code: "Slash"}
		if kind == input.DispatchKeyEventTypeKeyDown {
			p.Text = "/"
		}
		if _, err := chromedp.Call(tb.ctx, input.DispatchKeyEvent, p); err != nil {
			t.Fatal(err)
		}
	}
	if id := eval[string](tb, "document.activeElement.id"); id != "find" {
		t.Errorf("/ leads to %q", id)
	}
	tb.do(chromedp.KeyEvent("j"))
	if v := eval[string](tb, "document.activeElement.value"); v != "j" {
		t.Errorf("a letter in the field became %q", v)
	}
	// Everything that can be used has a name for a screen reader.
	tb.open("/browse" + disk1 + "/docs")
	if n := eval[[]string](tb, "[...document.querySelectorAll('button, a, input:not([type=hidden]), select')].filter((e) => !(e.innerText || e.ariaLabel || e.labels && e.labels.length)).map((e) => e.outerHTML)"); len(n) > 0 {
		t.Errorf("without a label: %q", n)
	}
}

func (c *chromium) withoutScript(t *testing.T) {
	tb := c.tab(t)
	if _, err := chromedp.Call(tb.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	page := func() string {
		t.Helper()
		h, err := chromedp.Run(tb.ctx, chromedp.OuterHTML(chromedp.CSS("main")))
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	tb.open("/")
	tb.follow(chromedp.Click(chromedp.CSS(".timeline li:last-child h2 a")))
	tb.follow(chromedp.Click(chromedp.CSS("tbody a.item")))
	tb.follow(chromedp.Click(chromedp.CSS("tbody a[href$='/docs']")))
	tb.follow(chromedp.Click(chromedp.CSS("tbody a[href$='/bom16.txt']")))
	if !strings.Contains(page(), "Größe") {
		t.Error("no preview")
	}
	tb.open("/browse" + disk1 + "/etc/app.conf?checksum=1")
	if !strings.Contains(page(), "2c19bb16") {
		t.Error("no checksum")
	}
	tb.open("/search?name=app.conf")
	if p := page(); !strings.Contains(p, disk2+"/etc/app.conf") || !strings.Contains(p, "Matches: 2.") {
		t.Errorf("no matches: %.2000s", p)
	}
	tb.open("/browse" + disk1 + "/docs")
	tb.do(chromedp.Click(chromedp.CSS("input[value='latin1.txt']")), chromedp.Click(chromedp.CSS("button[value=zip]")))
	if got := unzip(t, c.downloaded(t)); got["latin1.txt"] != "caf\xe9 cr\xe8me\n" {
		t.Errorf("the archive: %.300q", got)
	}
}
