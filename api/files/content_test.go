package files

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"vmfr/test/fixture"
)

func TestRanges(t *testing.T) {
	img, _, mnt := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	want, err := os.ReadFile(filepath.Join(mnt, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	size := len(want)
	u := "/files" + disk + "/sparse"
	etag := s.get(u).header.Get("ETag")
	for _, c := range []struct {
		ranges, condition string
		status, from, to  int
	}{
		{"bytes=0-0", "", 206, 0, 1},
		{"bytes=8990-9010", "", 206, 8990, 9011}, // data, then a hole
		{"bytes=-1", "", 206, size - 1, size},
		{"bytes=-99999999999", "", 206, 0, size},
		{"bytes=5242000-", "", 206, 5242000, size},
		{fmt.Sprintf("bytes=%d-", size-1), "", 206, size - 1, size},
		{"bytes=4-2", "", 416, 0, 0},
		{fmt.Sprintf("bytes=%d-", size), "", 416, 0, 0},
		{"bytes=9223372036854775807-", "", 416, 0, 0},
		{"bytes=99999999999999999999-", "", 416, 0, 0},
		{"lines=1-2", "", 200, 0, size},
		{"bytes=10-19", "If-Range: " + etag, 206, 10, 20},
		{"bytes=10-19", `If-Range: "other"`, 200, 0, size},
		{"bytes=10-19", `If-Range: W/` + etag, 200, 0, size},
	} {
		a := s.get(u, "Range: "+c.ranges, c.condition)
		if c.status == 416 {
			a.problem(t, 416, "bad_range")
			continue
		}
		if a.status != c.status || !bytes.Equal(a.body, want[c.from:c.to]) {
			t.Errorf("%s %s: status %d, %d bytes", c.ranges, c.condition, a.status, len(a.body))
		}
	}
	s.get(u, "Range: bytes="+strings.Repeat("1-2,", maxRanges)+"5-6").problem(t, 416, "bad_range")

	a := s.get(u, "Range: bytes=0-99,5242880-5243000,-7")
	_, params, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err != nil || a.status != 206 {
		t.Fatalf("status %d, %v", a.status, err)
	}
	parts := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
	for _, r := range [][2]int{{0, 100}, {5242880, 5243001}, {size - 7, size}} {
		p, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(p)
		if err != nil || !bytes.Equal(got, want[r[0]:r[1]]) || p.Header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/%d", r[0], r[1]-1, size) {
			t.Errorf("part %v: %d bytes, %v, %v", r, len(got), err, p.Header)
		}
	}
}

func TestCurlRangesAndResume(t *testing.T) {
	img, _, mnt := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	want, err := os.ReadFile(filepath.Join(mnt, "big.bin"))
	if err != nil {
		t.Fatal(err)
	}
	u := s.url("/files" + disk + "/big.bin")
	if got := s.mustCurl("--fail", "-r", "1000000-1000099", u); got != string(want[1000000:1000100]) {
		t.Errorf("curl -r: %d bytes", len(got))
	}
	part := filepath.Join(t.TempDir(), "part")
	if err := os.WriteFile(part, want[:1234567], 0o600); err != nil {
		t.Fatal(err)
	}
	s.mustCurl("--fail", "-C", "-", "-o", part, u)
	if sumFile(t, part) != sum(want) {
		t.Error("the resumed download differs")
	}
	head := s.mustCurl("--fail", "-I", "--http1.1", u)
	if !strings.Contains(head, fmt.Sprintf("Content-Length: %d\r\n", len(want))) || !strings.Contains(head, "Accept-Ranges: bytes\r\n") {
		t.Error(head)
	}
}

func TestConditions(t *testing.T) {
	img, _, _ := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	u := "/files" + disk + "/etc/hosts"
	a := s.get(u)
	etag, modified := a.header.Get("ETag"), a.header.Get("Last-Modified")
	if len(etag) < 20 || strings.HasPrefix(etag, "W/") || modified == "" {
		t.Fatalf("ETag %q, Last-Modified %q", etag, modified)
	}
	for cond, status := range map[string]int{
		"If-None-Match: " + etag: 304, "If-None-Match: \"x\"": 200, "If-Modified-Since: " + modified: 304,
		"If-Modified-Since: Mon, 01 Jan 2001 00:00:00 GMT": 200, "If-Match: " + etag: 200, "If-None-Match: *": 304,
	} {
		if a := s.get(u, cond); a.status != status || (status == 304) != (len(a.body) == 0) {
			t.Errorf("%s: %d", cond, a.status)
		}
	}
	s.get(u, `If-Match: "x"`).problem(t, 412, "precondition_failed")

	// Another process on the same input gives the same validators; hard links are one file.
	other := start(t, openTree(t, map[string]string{"root": img}), nil)
	for _, p := range []string{disk + "/etc/hosts", disk + "/hardlink", disk + "/rel", disk + "/abs"} {
		if b := other.get("/files" + p); b.header.Get("ETag") != etag {
			t.Errorf("%s: %q, want %q", p, b.header.Get("ETag"), etag)
		}
	}
	if other.get("/files"+disk+"/big.bin").header.Get("ETag") == etag {
		t.Error("two files have one ETag")
	}
	for _, p := range []string{"/METADATA.json", "/disks/nightly/root.raw"} {
		x, y := s.do(s.client(false), "HEAD", "/files"+p), other.do(other.client(false), "HEAD", "/files"+p)
		if x.header.Get("ETag") == "" || (x.header.Get("ETag") != y.header.Get("ETag")) {
			t.Errorf("%s: %q and %q", p, x.header.Get("ETag"), y.header.Get("ETag"))
		}
	}
}

// TestSparseFile: the ends of 10 GiB without data are there at once, and a hole costs the
// device nothing.
func TestSparseFile(t *testing.T) {
	fixture.NeedRoot(t)
	img := fixture.Ext4(t, "", 64<<20)
	mnt := fixture.Mount(t, img, "ext4", "rw", 0, 0)
	fixture.Run(t, "truncate", "-s", "10G", mnt+"/huge")
	f, err := os.OpenFile(mnt+"/huge", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("the end"), 10<<30-7); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	fixture.Unmount(t, mnt)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	u := "/files" + disk + "/huge"
	if a := s.do(s.client(false), "HEAD", u); a.status != 200 || a.header.Get("Content-Length") != "10737418240" {
		t.Errorf("HEAD: %+v", a)
	}
	if a := s.get(u, "Range: bytes=-9"); string(a.body) != "\x00\x00the end" {
		t.Errorf("tail: %q", a.body)
	}
	if a := s.get(u, "Range: bytes=5000000000-5008388607"); len(a.body) != 8388608 || len(bytes.Trim(a.body, "\x00")) != 0 {
		t.Errorf("hole: %d bytes", len(a.body))
	}
}

func TestConcurrentRanges(t *testing.T) {
	img, _, mnt := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	want, err := os.ReadFile(filepath.Join(mnt, "big.bin"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, c := range []*http.Client{s.client(true), s.client(false)} {
		for i := range 16 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for j := range 8 {
					from := (i*7919 + j*104729) % (len(want) - 200000)
					a := s.do(c, "GET", "/files"+disk+"/big.bin", fmt.Sprintf("Range: bytes=%d-%d", from, from+199999))
					if a.err != nil || !bytes.Equal(a.body, want[from:from+200000]) {
						t.Errorf("range at %d: status %d, %v", from, a.status, a.err)
					}
				}
			}()
		}
	}
	wg.Wait()
	eventually(t, "no open file", func() bool { return s.counters.Snapshot().OpenFiles == 0 })
}

func TestTypesAndHeaders(t *testing.T) {
	img, _, _ := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	for path, want := range map[string]struct{ mediaType, disposition string }{
		"/README.txt":        {textType, ""},
		"/METADATA.json":     {"application/json", ""},
		disk + "/index.html": {binaryType, "attachment"},
		disk + "/image.svg":  {binaryType, "attachment"},
		disk + "/etc/hosts":  {binaryType, "attachment"},
	} {
		a := s.get("/files" + path)
		if a.header.Get("Content-Type") != want.mediaType || a.header.Get("Content-Disposition") != want.disposition ||
			a.header.Get("Content-Security-Policy") != sandbox || a.header.Get("Cache-Control") != revalidate {
			t.Errorf("%s: %v", path, a.header)
		}
	}
	for _, path := range []string{"/", "/healthz", "/files/", "/files/nothing", "/files" + disk + "/etc/hosts", "/api/v1/backups", "/nothing"} {
		h := s.get(path).header
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Strict-Transport-Security": "max-age=86400",
			"Cross-Origin-Resource-Policy": "same-origin", "Access-Control-Allow-Origin": "",
		} {
			if h.Get(name) != want {
				t.Errorf("%s: %s is %q", path, name, h.Get(name))
			}
		}
		if !strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'none'; ") || !strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
			t.Errorf("%s: %s", path, h.Get("Content-Security-Policy"))
		}
	}
}

func TestLastModified(t *testing.T) {
	now := time.Unix(1e9, 0)
	if !lastModified(now.Add(time.Second), now).IsZero() || !lastModified(time.Unix(-5, 0), now).IsZero() || lastModified(now, now) != now {
		t.Error("a time that HTTP cannot say was not left out, or one that it can was")
	}
}
