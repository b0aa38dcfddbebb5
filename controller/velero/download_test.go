package velero

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestGet reads signed addresses from real servers of HTTP, well-behaved and not.
func TestGet(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	defer close(release)
	var referer atomic.Value
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "" {
			http.Error(w, "compressed objects are not to be compressed again", http.StatusTeapot)
		}
		referer.Store(r.Referer())
		_, _ = io.WriteString(w, "content")
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok?Signature=x", http.StatusFound) })
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.String(), http.StatusFound) })
	mux.HandleFunc("/plain", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+r.Host+"/ok", http.StatusFound)
	})
	mux.HandleFunc("/expired", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")
	})
	mux.HandleFunc("/busy", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "con")
	})
	mux.HandleFunc("/stall", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "con")
		w.(http.Flusher).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	plain, tls := httptest.NewServer(mux), httptest.NewTLSServer(mux)
	defer plain.Close()
	defer tls.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tls.Certificate().Raw})

	var counted atomic.Int64
	count := func(n int) { counted.Add(int64(n)) }
	r, hasty := NewReader(nil, ReaderOptions{OnBytes: count}), NewReader(nil, ReaderOptions{StallTimeout: 300 * time.Millisecond, OnBytes: count})
	defer r.Close()
	defer hasty.Close()
	for name, c := range map[string]struct {
		location Location
		address  string
		is       error
		text     string // the content, or a part of the error
	}{
		"plain":           {Location{}, plain.URL + "/ok", nil, "content"},
		"an unknown CA":   {Location{}, tls.URL + "/ok", ErrUnreachable, "put its CA into spec.objectStorage.caCert"},
		"a CA":            {Location{ca: ca}, tls.URL + "/ok", nil, "content"},
		"no check":        {Location{insecure: true}, tls.URL + "/ok", nil, "content"},
		"no CA":           {Location{Name: "l", ca: []byte("x")}, tls.URL + "/ok", ErrUnreachable, `the CA of the BackupStorageLocation "l" holds no PEM certificate`},
		"moved":           {Location{}, plain.URL + "/moved?Signature=secret", nil, "content"},
		"a loop":          {Location{}, plain.URL + "/loop?Signature=secret", ErrUnreachable, "more than 5 redirections"},
		"to plain HTTP":   {Location{ca: ca}, tls.URL + "/plain?Signature=secret", ErrUnreachable, "from https to http"},
		"missing":         {Location{}, plain.URL + "/nothing?Signature=secret", ErrNotStored, "404"},
		"expired":         {Location{}, plain.URL + "/expired?Signature=secret", errRefused, "403 Forbidden (AccessDenied)"},
		"busy":            {Location{}, plain.URL + "/busy?Signature=secret", ErrUnreachable, "503"},
		"cut":             {Location{}, plain.URL + "/cut?Signature=secret", ErrUnreachable, "unexpected EOF"},
		"stalled":         {Location{}, plain.URL + "/stall?Signature=secret", ErrUnreachable, "no data for 300ms"},
		"nobody":          {Location{}, "http://127.0.0.1:1/x?Signature=secret", ErrUnreachable, "connection refused"},
		"a file":          {Location{}, "file:///etc/passwd", ErrUnreachable, "not of HTTP"},
		"nonsense":        {Location{}, "://?Signature=secret", ErrUnreachable, "not of HTTP"},
		"a relative path": {Location{}, "/ok", ErrUnreachable, "not of HTTP"},
	} {
		t.Run(name, func(t *testing.T) {
			reader := r
			if name == "stalled" {
				reader = hasty // than which a busy machine may be slower where nothing stands still
			}
			in, err := reader.get(context.Background(), c.location, c.address)
			var content []byte
			if err == nil {
				content, err = io.ReadAll(in)
				if broken := in.(*body).err; (broken == nil) != (err == nil) {
					t.Errorf("the download says %v, reading %v", broken, err)
				}
				in.Close()
			}
			switch {
			case c.is == nil && (err != nil || string(content) != c.text):
				t.Errorf("%q, %v", content, err)
			case c.is != nil && (!errors.Is(err, c.is) || !strings.Contains(err.Error(), c.text)):
				t.Errorf("%v, want %v: %s", err, c.is, c.text)
			case err != nil && strings.Contains(err.Error(), "secret"):
				t.Errorf("the signature is in %q", err)
			}
		})
	}
	if got := referer.Load(); got != "" {
		t.Errorf("the next host learnt %q", got)
	}
	if counted.Load() < 4*7 {
		t.Errorf("counted %d bytes", counted.Load())
	}
	// The caller's end is no fault of the location.
	ctx, cancel := context.WithCancelCause(context.Background())
	stopped := errors.New("stopped")
	in, err := r.get(ctx, Location{}, plain.URL+"/stall")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cancel(stopped)
	if _, err := io.ReadAll(in); !errors.Is(err, stopped) || errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
}

// Locations with the same settings share connections; many others do not pile up.
func TestHTTPClients(t *testing.T) {
	t.Parallel()
	r := NewReader(nil, ReaderOptions{})
	a, _ := r.httpClient(Location{Name: "a"})
	b, _ := r.httpClient(Location{Name: "b"})
	c, _ := r.httpClient(Location{insecure: true})
	if a != b || a == c {
		t.Error("clients are not shared by settings")
	}
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	one := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for i := range 3 * maxTransports {
		if _, err := r.httpClient(Location{ca: append(bytes.Repeat([]byte("\n"), i), one...)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.clients) > maxTransports {
		t.Errorf("%d clients", len(r.clients))
	}
}

// What decompresses without end ends.
func TestBounded(t *testing.T) {
	t.Parallel()
	zeros := readerFunc(func(p []byte) (int, error) { return len(p), nil })
	n, err := io.Copy(io.Discard, &bounded{r: zeros, left: 1 << 20})
	if n != 1<<20 || !errors.Is(err, ErrUnreadable) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := contentsVM(&bounded{r: bytes.NewReader(archiveOf(t, pvcFile("shop", "a", "{}"))), left: 600}, guest); !errors.Is(err, ErrUnreadable) {
		t.Error(err)
	}
	if got := fmt.Sprint(element([]byte("<Code>No<Such</Code>"), "Code"), element([]byte("<Code>NoSuchKey</Code>"), "Code"), element([]byte("<Code>x"), "Code")); got != "NoSuchKey" {
		t.Errorf("%q", got)
	}
}
