package pull

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/chromedp"
)

// browserPatience is for all that a test does with the browser.
const browserPatience = 3 * time.Minute

// Browser is Chromium at the server's file browser. It accepts the server's own key and no other.
type Browser struct {
	s        Server
	ctx      context.Context
	finished chan string
}

// Browse starts Chromium, which ends with the test.
func (s Server) Browse(t testing.TB) *Browser {
	t.Helper()
	_, pin := s.Fingerprint(t)
	ctx, cancel := context.WithTimeout(t.Context(), browserPatience)
	t.Cleanup(cancel)
	ctx, stop := chromedp.NewExecAllocator(ctx,
		chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.Headless, chromedp.DisableGPU,
		chromedp.NoSandbox, // Chromium's own needs another user than root
		chromedp.ExecPath("chromium"), chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("ignore-certificate-errors-spki-list", pin), chromedp.Flag("host-resolver-rules", "MAP "+s.Host+":"+s.port()+" "+s.HTTPS),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("disable-background-networking", true))
	t.Cleanup(stop)
	ctx, quit := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx)
		quit()
	})
	b := &Browser{s: s, ctx: ctx, finished: make(chan string, 1)}
	b.do(t, chromedp.Navigate("about:blank"))
	downloads := t.TempDir()
	err := chromedp.ListenBrowser(ctx, func(ev any) {
		if p, ok := ev.(*browser.EventDownloadProgress); ok && p.State == browser.DownloadProgressStateCompleted {
			b.finished <- filepath.Join(downloads, p.GUID)
		}
	})
	if err == nil {
		events := true
		_, err = chromedp.CallBrowser(ctx, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{
			Behavior: browser.SetDownloadBehaviorBehaviorAllowAndName, DownloadPath: downloads, EventsEnabled: &events})
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *Browser) do(t testing.TB, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

// follow does what leads to another page, and returns the status of the answer.
func (b *Browser) follow(t testing.TB, steps ...chromedp.Action[chromedp.Void]) int64 {
	t.Helper()
	r, err := chromedp.RunResponse(b.ctx, steps...)
	if err != nil {
		t.Fatal(err)
	}
	return r.Status
}

// Open goes to a path of the server and returns the status of the answer.
func (b *Browser) Open(t testing.TB, path string) int64 {
	t.Helper()
	return b.follow(t, chromedp.Navigate(b.s.URL(path)))
}

// Login enters the server's user and a password, and returns the status of the answer.
func (b *Browser) Login(t testing.TB, password string) int64 {
	t.Helper()
	return b.follow(t, chromedp.SetValue(chromedp.CSS("input[name=user]"), b.s.Login),
		chromedp.SetValue(chromedp.CSS("input[name=password]"), password), chromedp.Click(chromedp.CSS(".login button")))
}

// Enter clicks on the entry of that name in the folder that is shown.
func (b *Browser) Enter(t testing.TB, name string) int64 {
	t.Helper()
	return b.follow(t, chromedp.Click(chromedp.Search(`//tbody//a[contains(@class,"item")][normalize-space()="`+name+`"]`)))
}

// Text is what a person sees of the page.
func (b *Browser) Text(t testing.TB) string {
	t.Helper()
	text, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.body.innerText"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Download clicks on what an expression of CSS selects and returns the file that arrives.
func (b *Browser) Download(t testing.TB, selector string) string {
	t.Helper()
	b.do(t, chromedp.Click(chromedp.CSS(selector)))
	select {
	case f := <-b.finished:
		return f
	case <-b.ctx.Done():
		t.Fatalf("nothing was downloaded: %v", b.ctx.Err())
		return ""
	}
}
