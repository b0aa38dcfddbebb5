package web_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"vmfr/test/fixture"
)

// screenshots is where pictures for the documentation go: docs/screenshots, when they are wanted.
var screenshots = flag.String("screenshots", "", "write the documentation's screenshots to this `folder`")

// chromium is one running browser.
type chromium struct {
	ctx       context.Context
	address   string
	downloads string
	finished  chan string // files that were downloaded
}

// These only end what hangs: a busy machine may take minutes to build the program that Commands starts, and
// long for a page.
const (
	browserLife = 15 * time.Minute
	browserWait = time.Minute
)

func start(t *testing.T, address string) *chromium {
	t.Helper()
	fixture.Need(t, "chromium")
	ctx, cancel := context.WithTimeout(context.Background(), browserLife)
	t.Cleanup(cancel)
	ctx, stop := chromedp.NewExecAllocator(ctx,
		chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.Headless, chromedp.DisableGPU,
		chromedp.NoSandbox,        // Chromium's own needs another user than root
		chromedp.IgnoreCertErrors, // of this instance: the certificate is the test's own
		chromedp.ExecPath("chromium"), chromedp.WindowSize(1280, 800), chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("disable-background-networking", true))
	t.Cleanup(stop)
	ctx, quit := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx)
		quit()
	})
	c := &chromium{ctx: ctx, address: address, downloads: t.TempDir(), finished: make(chan string, 8)}
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatal(err)
	}
	err := chromedp.ListenBrowser(ctx, func(ev any) {
		if p, ok := ev.(*browser.EventDownloadProgress); ok && p.State == browser.DownloadProgressStateCompleted {
			c.finished <- filepath.Join(c.downloads, p.GUID)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	events := true
	if _, err := chromedp.CallBrowser(ctx, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{
		Behavior: browser.SetDownloadBehaviorBehaviorAllowAndName, DownloadPath: c.downloads, EventsEnabled: &events}); err != nil {
		t.Fatal(err)
	}
	return c
}

// tab is a page of the browser, of one test. What a page complains about fails the test, and so does
// a guest's script.
type tab struct {
	*chromium
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex
	complaints []string
}

func (c *chromium) tab(t *testing.T, setup ...chromedp.Action[chromedp.Void]) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(c.ctx)
	tb := &tab{chromium: c, t: t, ctx: ctx}
	err := chromedp.Listen(ctx, func(ev any) {
		text := ""
		switch e := ev.(type) {
		case *runtime.EventConsoleAPICalled:
			text = fmt.Sprint("console: ", e.Type)
		case *runtime.EventExceptionThrown:
			text = "exception: " + e.ExceptionDetails.Text + fmt.Sprint(e.ExceptionDetails.Exception)
		case *log.EventEntryAdded:
			if e.Entry.Level != log.EntryLevelError && e.Entry.Level != log.EntryLevelWarning {
				return
			}
			text = "log: " + e.Entry.Text + " " + e.Entry.URL
		case *page.EventJavascriptDialogOpening:
			text = "dialog: " + e.Message
		default:
			return
		}
		tb.mu.Lock()
		tb.complaints = append(tb.complaints, text)
		tb.mu.Unlock()
	})
	if err == nil {
		_, err = chromedp.Call(ctx, log.Enable, cdp.Empty{})
	}
	if err == nil {
		err = chromedp.Do(ctx, setup...)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tb.check()
		_ = chromedp.Cancel(ctx)
		cancel()
	})
	return tb
}

// expect takes back complaints that a test provokes.
func (tb *tab) expect(part string) {
	tb.t.Helper()
	tb.mu.Lock()
	defer tb.mu.Unlock()
	for i, c := range tb.complaints {
		if strings.Contains(c, part) {
			tb.complaints = append(tb.complaints[:i], tb.complaints[i+1:]...)
			return
		}
	}
	tb.t.Errorf("no complaint has %q: %q", part, tb.complaints)
}

func (tb *tab) check() {
	tb.t.Helper()
	tb.mu.Lock()
	defer tb.mu.Unlock()
	for _, c := range tb.complaints {
		tb.t.Errorf("the page complains: %s", c)
	}
	tb.complaints = nil
}

func (tb *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	tb.t.Helper()
	if err := chromedp.Do(tb.ctx, steps...); err != nil {
		tb.t.Fatal(err)
	}
}

// open goes to an address of the server and returns the status.
func (tb *tab) open(path string) int64 {
	tb.t.Helper()
	return tb.follow(chromedp.Navigate(tb.address + path))
}

// follow does what leads to another page, and waits for it.
func (tb *tab) follow(steps ...chromedp.Action[chromedp.Void]) int64 {
	tb.t.Helper()
	r, err := chromedp.RunResponse(tb.ctx, steps...)
	if err != nil {
		tb.t.Fatal(err)
	}
	return r.Status
}

func eval[T any](tb *tab, expression string) T {
	tb.t.Helper()
	v, err := chromedp.Run(tb.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		tb.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// until waits for a condition: the page's own clock, not ours, looks again.
func (tb *tab) until(condition string) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, browserWait)
	defer cancel()
	_, err := chromedp.Run(ctx, chromedp.Evaluate[bool](
		`new Promise((done) => { const look = () => (`+condition+`) ? done(true) : setTimeout(look, 10); look(); })`, chromedp.EvalAwaitPromise))
	if err != nil {
		tb.t.Fatalf("waiting for %s: %v; the page is %.2000s", condition, err, eval[string](tb, "document.body.innerText"))
	}
}

// text is what a person sees of an element.
func (tb *tab) text(selector string) string {
	tb.t.Helper()
	return eval[string](tb, fmt.Sprintf("[...document.querySelectorAll(%q)].map((e) => e.innerText).join('\\n')", selector))
}

// has fails unless an element's text contains all parts.
func (tb *tab) has(selector string, parts ...string) {
	tb.t.Helper()
	text := tb.text(selector)
	for _, p := range parts {
		if !strings.Contains(text, p) {
			tb.t.Errorf("%s lacks %q: %.1500q", selector, p, text)
		}
	}
}

// harmless fails if anything of the guest became markup or ran.
func (tb *tab) harmless() {
	tb.t.Helper()
	if eval[bool](tb, "'pwned' in window") {
		tb.t.Error("a guest's script ran")
	}
	if n := eval[int](tb, "document.querySelectorAll('main script, main iframe, main object, main embed, main svg script, main img:not(.picture img), main b, main i').length"); n != 0 {
		tb.t.Errorf("%d elements are the guest's", n)
	}
}

// fits fails if the page is wider than the window.
func (tb *tab) fits() {
	tb.t.Helper()
	if w := eval[[]int](tb, "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"); w[0] > w[1] {
		wide := eval[string](tb, "[...document.querySelectorAll('body *')].filter((e) => !e.closest('.wide, .hidden, .sprite, .skip') && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).slice(0, 5).map((e) => e.outerHTML.slice(0, 100)).join(' | ')")
		tb.t.Errorf("%s: %d pixels wide in a window of %d: %s", eval[string](tb, "location.pathname"), w[0], w[1], wide)
	}
}

func (tb *tab) window(width, height int64) {
	tb.t.Helper()
	tb.do(chromedp.EmulateViewport(width, height))
}

// dark makes the page think that its reader likes it dark.
func (tb *tab) dark() {
	tb.t.Helper()
	if _, err := chromedp.Call(tb.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}}); err != nil {
		tb.t.Fatal(err)
	}
}

// picture writes a screenshot for the documentation when it is wanted.
func (tb *tab) picture(name string) {
	tb.t.Helper()
	if *screenshots == "" {
		return
	}
	b, err := chromedp.Run(tb.ctx, chromedp.CaptureScreenshot())
	var img image.Image
	if err == nil {
		img, err = png.Decode(bytes.NewReader(b))
	}
	var small bytes.Buffer
	if err == nil {
		err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, img)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(*screenshots, name+".png"), small.Bytes(), 0o644)
	}
	if err != nil {
		tb.t.Error(err)
	}
}

// downloaded waits for the next file.
func (c *chromium) downloaded(t *testing.T) string {
	t.Helper()
	select {
	case f := <-c.finished:
		return f
	case <-time.After(browserWait):
		t.Fatal("nothing was downloaded")
		return ""
	}
}
