package files

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"vmfr/agent/engine"
	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/image"
	"vmfr/agent/tree"
	"vmfr/agent/volume"
	"vmfr/test/fixture"
)

func TestTLS(t *testing.T) {
	img, _, _ := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	dial := func(c *tls.Config) (*tls.Conn, error) {
		c.RootCAs, c.ServerName = s.pool, "localhost"
		return tls.Dial("tcp", s.addr, c)
	}
	for v, ok := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		c, err := dial(&tls.Config{MinVersion: v, MaxVersion: v})
		if (err == nil) != ok {
			t.Errorf("%s: %v", tls.VersionName(v), err)
		}
		if err == nil {
			_ = c.Close()
		}
	}
	for _, id := range []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA} {
		if c, err := dial(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{id}}); err == nil {
			_ = c.Close()
			t.Errorf("%s is accepted", tls.CipherSuiteName(id))
		}
	}
	if c, err := dial(&tls.Config{NextProtos: []string{"h2", "http/1.1"}}); err != nil || c.ConnectionState().NegotiatedProtocol != "http/1.1" {
		t.Errorf("a client that knows both protocols: %v", err)
	} else {
		_ = c.Close()
	}
	if out, err := s.curl("--tls-max", "1.1", s.url("/healthz")); err == nil {
		t.Errorf("curl with TLS 1.1: %s", out)
	}
	if out := s.mustCurl("--fail", "--tls-max", "1.2", s.url("/healthz")); out != "ok\n" {
		t.Errorf("curl with TLS 1.2: %s", out)
	}
	if resp, err := http.Get(s.url("/healthz")); err == nil {
		_ = resp.Body.Close()
		t.Error("a client without the authority trusts the certificate")
	}
}

func TestMethods(t *testing.T) {
	img, _, _ := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), nil)
	for _, m := range []string{"POST", "PUT", "DELETE", "PATCH", "PROPFIND", "MKCOL", "TRACE", "BREW"} {
		a := s.do(s.client(false), m, "/files"+disk+"/etc/hosts")
		a.problem(t, 405, "method_not_allowed")
		if a.header.Get("Allow") != "GET, HEAD, OPTIONS" {
			t.Errorf("%s: %v", m, a.header)
		}
	}
	if a := s.do(s.client(false), "OPTIONS", "/files/"); a.status != 204 || a.header.Get("Allow") == "" {
		t.Errorf("OPTIONS: %+v", a)
	}
	if out, err := s.curl("-T", s.caFile, s.url("/files/upload")); err != nil || !strings.Contains(out, "read-only") {
		t.Errorf("upload: %v %s", err, out)
	}
	for _, p := range []string{"/files/", "/files/?list=1", "/files" + disk + "/big.bin", "/files/nothing", "/files" + disk + "?stat=1"} {
		if a := s.do(s.client(true), "HEAD", p); a.err != nil || len(a.body) != 0 || a.status != s.do(s.client(true), "GET", p).status {
			t.Errorf("HEAD %s: %+v", p, a)
		}
	}
}

// faulty wraps a file system: before a read that reaches up to end, fail of the file's name is
// asked; it may return an error, panic or wait.
type faulty struct {
	fsys.FS
	fail  map[string]func(end int64) error
	list  error    // of reading on in a folder
	names sync.Map // Ino -> name
}

func (f *faulty) Lookup(dir fsys.Ino, name string) (fsys.Ino, error) {
	i, err := f.FS.Lookup(dir, name)
	if err == nil {
		f.names.Store(i, name)
	}
	return i, err
}

// ReadDir fails behind the first entries of a folder.
func (f *faulty) ReadDir(dir fsys.Ino, from fsys.Cookie, out []fsys.Dirent) (int, error) {
	if from != 0 && f.list != nil {
		return 0, f.list
	}
	return f.FS.ReadDir(dir, from, out)
}

func (f *faulty) Open(i fsys.Ino) (extent.Reader, error) {
	r, err := f.FS.Open(i)
	if err != nil {
		return nil, err
	}
	name, _ := f.names.Load(i)
	return faultyFile{r, f.fail[fmt.Sprint(name)]}, nil
}

type faultyFile struct {
	extent.Reader
	fail func(int64) error
}

func (f faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if f.fail != nil {
		if err := f.fail(off + int64(len(p))); err != nil {
			return 0, err
		}
	}
	return f.Reader.ReadAt(p, off)
}

// faultyTree is a tree of an ext4 image read through f.
func faultyTree(t *testing.T, f *faulty, img string) *tree.Tree {
	t.Helper()
	tr, err := tree.New(context.Background(), tree.Config{
		Backups: []tree.Backup{{Name: "nightly", Disks: []tree.Disk{{Name: "root", Reader: openImage(t, img)}}}},
		Engines: []engine.Engine{faultyEngine{f}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

func openImage(t testing.TB, path string) *image.Image {
	t.Helper()
	f := openFile(t, path)
	img, err := image.Open(image.Source{File: f, Format: image.FormatRaw}, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = img.Close() })
	return img
}

type faultyEngine struct{ f *faulty }

func (e faultyEngine) Name() string { return "ext4" }

func (e faultyEngine) Open(v volume.Volume) (fsys.FS, error) {
	fs, err := native{}.Open(v)
	e.f.FS = fs
	return e.f, err
}

// TestDamagedFiles: an error before the first byte is an answer, a later one breaks the
// connection, on both protocols, also for several ranges.
func TestDamagedFiles(t *testing.T) {
	corrupt := fsys.Corrupt("ext4", "extent tree", 12, 4096, "for the test")
	f := &faulty{fail: map[string]func(int64) error{
		"first": func(int64) error { return corrupt },
		"later": func(end int64) error {
			if end > 2<<20 {
				return corrupt
			}
			return nil
		},
		"panic": func(int64) error { panic("for the test") },
	}}
	src := t.TempDir()
	for _, n := range []string{"first", "later", "panic", "good"} {
		writeFile(t, filepath.Join(src, n), random(4<<20))
	}
	s := start(t, faultyTree(t, f, fixture.Ext4(t, src, 64<<20)), nil)
	for _, h1 := range []bool{true, false} {
		c := s.client(h1)
		p := s.do(c, "GET", "/files"+disk+"/first").problem(t, 500, "corrupt")
		if !strings.Contains(p.Detail, "inode 12") || p.Advice == "" {
			t.Errorf("%+v", p)
		}
		s.do(c, "GET", "/files"+disk+"/panic").problem(t, 500, "internal")
		if a := s.do(c, "GET", "/files"+disk+"/later"); a.err == nil || a.status != 200 || len(a.body) > 2<<20 {
			t.Errorf("h1 %v: a broken body ended as if it were whole: status %d, %d bytes, %v", h1, a.status, len(a.body), a.err)
		}
		if a := s.do(c, "GET", "/files"+disk+"/later", "Range: bytes=0-99,3000000-3000099"); a.err == nil {
			t.Errorf("h1 %v: several ranges: status %d, %d bytes", h1, a.status, len(a.body))
		}
		if a := s.do(c, "GET", "/files"+disk+"/later", "Range: bytes=0-99"); a.status != 206 || a.err != nil {
			t.Errorf("h1 %v: the good part: %d %v", h1, a.status, a.err)
		}
		if a := s.do(c, "GET", "/files"+disk+"/good"); sum(a.body) != sum(random(4<<20)) {
			t.Errorf("h1 %v: the file beside it: %d %v", h1, a.status, a.err)
		}
	}
	if _, err := s.curl("-o", "/dev/null", s.url("/files"+disk+"/later")); err == nil {
		t.Error("curl thinks that the broken download is whole")
	}
	if !strings.Contains(s.log.String(), "download broken off") {
		t.Error("the log does not tell of it")
	}
}

// TestDamagedFolder: a listing that breaks off never looks whole; its length is not announced,
// so nothing else than the connection can tell.
func TestDamagedFolder(t *testing.T) {
	src := t.TempDir()
	for i := range listBatch + 50 {
		writeFile(t, filepath.Join(src, fmt.Sprint("file", i)), nil)
	}
	f := &faulty{list: fsys.Corrupt("ext4", "directory block", 2, 4096, "for the test")}
	s := start(t, faultyTree(t, f, fixture.Ext4(t, src, 64<<20)), nil)
	u := "/files" + disk
	for _, h1 := range []bool{true, false} {
		c := s.client(h1)
		if a := s.do(c, "GET", u+"?list=1"); a.err == nil {
			t.Errorf("h1 %v: status %d, %.50q ... %q", h1, a.status, a.body, a.body[max(0, len(a.body)-50):])
		}
		s.do(c, "GET", u).problem(t, 500, "corrupt") // a page for people is made before it is sent
		if a := s.do(c, "GET", u+"?list=1&limit=10"); a.err != nil || a.status != 200 {
			t.Errorf("h1 %v: the good part: %d %v", h1, a.status, a.err)
		}
	}
}

// TestShutdown: when ctx ends, a download under way finishes within the grace and no new
// connection is accepted; after the grace it is cut off.
func TestShutdown(t *testing.T) {
	for name, finish := range map[string]bool{"finishes": true, "is cut off": false} {
		t.Run(name, func(t *testing.T) {
			reached, release := make(chan struct{}, 100), make(chan struct{})
			f := &faulty{fail: map[string]func(int64) error{"slow": func(end int64) error {
				if end > 1<<20 {
					reached <- struct{}{}
					<-release
				}
				return nil
			}}}
			src := t.TempDir()
			writeFile(t, filepath.Join(src, "slow"), random(4<<20))
			s := start(t, faultyTree(t, f, fixture.Ext4(t, src, 64<<20)), func(c *Config) {
				if !finish {
					c.Limits.Grace = time.Millisecond
				} else {
					c.Limits.Grace = time.Minute
				}
			})
			got := make(chan answer, 1)
			c := s.client(true)
			go func() { got <- s.do(c, "GET", "/files"+disk+"/slow") }()
			<-reached
			s.stop()
			if finish {
				for { // the listener closes
					c, err := net.Dial("tcp", s.addr)
					if err != nil {
						break
					}
					_ = c.Close()
				}
				close(release)
				if a := <-got; a.err != nil || sum(a.body) != sum(random(4<<20)) {
					t.Errorf("status %d, %d bytes, %v", a.status, len(a.body), a.err)
				}
				if err := s.close(); err != nil {
					t.Error(err)
				}
				return
			}
			if a := <-got; a.err == nil {
				t.Error("the download was not cut off")
			}
			// The device does not answer: Serve returns all the same, and says so.
			if err := s.close(); !errors.Is(err, ErrBusy) {
				t.Errorf("Serve returned %v", err)
			}
			close(release)
		})
	}
}

func TestLimits(t *testing.T) {
	img, _, _ := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), func(c *Config) { c.Limits.ConnectionsPerAddr = 2 })
	var conns []*tls.Conn
	for range 2 {
		c, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: s.pool})
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if c, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: s.pool}); err == nil {
		_ = c.Close()
		t.Error("a third connection of one address is served")
	}
	if n := s.counters.Snapshot().Connections; n != 2 {
		t.Errorf("%d connections are counted", n)
	}
	for _, c := range conns {
		if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != 200 {
			t.Errorf("%v", err)
		}
		if err == nil {
			_ = resp.Body.Close()
		}
		_, _ = io.Copy(io.Discard, c) // until the server has closed it
		_ = c.Close()
	}
	eventually(t, "the place comes back", func() bool { return s.counters.Snapshot().Connections == 0 })
	if a := s.get("/healthz"); a.status != 200 {
		t.Errorf("after they were closed: %+v", a)
	}
}

// TestStalledClient: who takes nothing for the stall limit is cut off.
func TestStalledClient(t *testing.T) {
	src := t.TempDir()
	writeFile(t, filepath.Join(src, "big"), random(32<<20))
	s := start(t, openTree(t, map[string]string{"root": fixture.Ext4(t, src, 96<<20)}), func(c *Config) { c.Limits.Stall = 200 * time.Millisecond })
	c, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: s.pool})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "GET /files"+disk+"/big HTTP/1.1\r\nHost: x\r\nAuthorization: Basic b2FkcDpjb3JyZWN0IGhvcnNlIGJhdHRlcnk=\r\n\r\n")
	// It may be open and closed while nobody looks.
	eventually(t, "a read", func() bool { return s.counters.Snapshot().Bytes > 0 })
	eventually(t, "the end of what is sent", func() bool { return s.counters.Snapshot().OpenFiles == 0 })
	if n, err := io.Copy(io.Discard, c); err == nil || n >= 32<<20 {
		t.Errorf("%d bytes came, %v", n, err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	img, _, _ := guest(t)
	tr := openTree(t, map[string]string{"root": img})
	for _, c := range []Config{{}, {User: "u"}, {Password: "p"}, {User: "u:v", Password: "p"}} {
		if _, err := NewHandler(tr, c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
	if _, err := NewHandler(nil, Config{User: "u", Password: "p"}); err == nil {
		t.Error("a handler without a tree")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := Serve(context.Background(), l, tr, Config{User: "u", Password: "p"}); err == nil {
		t.Error("a server without a certificate")
	}
	if _, err := l.Accept(); err == nil {
		t.Error("the listener is open")
	}
}
