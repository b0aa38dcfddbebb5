package web_test

import (
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
)

var viewer = flag.Bool("pdfviewer", false, "look at what this Chromium's PDF viewer does in frames")

// TestPDFViewer is what docs/decisions/010-pdf.md says of Chromium. It holds of one version of a
// program that is not ours, so it runs when it is wanted only.
func TestPDFViewer(t *testing.T) {
	if !*viewer {
		t.Skip("look at it with -pdfviewer")
	}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/paper.pdf" {
			if policy := r.URL.Query().Get("policy"); policy != "" {
				w.Header().Set("Content-Security-Policy", policy)
			}
			w.Header().Set("Content-Type", "application/pdf")
			_, _ = w.Write(paper())
			return
		}
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, `<!doctype html><link rel=icon href="data:,"><iframe width=400 height=400 src="/paper.pdf?policy=%s" %s></iframe>`, r.URL.Query().Get("policy"), r.URL.Query().Get("attribute"))
	}))
	defer srv.Close()
	c := start(t, srv.URL)
	for query, want := range map[string]string{
		"":                                  "viewer, dialog",
		"policy=sandbox":                    "viewer, dialog", // the header does not keep the file's script from running
		"policy=sandbox&attribute=sandbox":  "nothing",
		"attribute=sandbox":                 "nothing",
		"attribute=sandbox%3Dallow-scripts": "nothing",
	} {
		tb := c.tab(t)
		tb.do(chromedp.Navigate(tb.address + "/?" + query))
		got := "nothing"
		for end := time.Now().Add(3 * time.Second); got != "viewer, dialog" && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			res, err := chromedp.CallBrowser(tb.ctx, target.GetTargets, target.GetTargetsParams{})
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range res.TargetInfos {
				if strings.HasPrefix(x.URL, "chrome-extension://") {
					got = "viewer"
				}
			}
			tb.mu.Lock()
			if strings.Contains(strings.Join(tb.complaints, " "), "dialog: pwned") {
				got += ", dialog"
			}
			tb.mu.Unlock()
		}
		tb.mu.Lock()
		tb.complaints = nil
		tb.mu.Unlock()
		if got != want {
			t.Errorf("%q: %s, want %s", query, got, want)
		}
		_ = chromedp.Cancel(tb.ctx)
	}
}
