package files

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vmfr/agent/engine"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/ext4"
	"vmfr/agent/tree"
	"vmfr/agent/volume"
	"vmfr/test/fixture"
)

const (
	testUser     = "oadp"
	testPassword = "correct horse battery"
)

// native is the ext4 engine as the worker has it.
type native struct{}

func (native) Name() string { return "ext4" }

func (native) Open(v volume.Volume) (fsys.FS, error) {
	f, err := ext4.Open(v, ext4.Options{})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// openTree makes a tree of one backup, /backups/nightly/<name>, from raw images.
func openTree(t testing.TB, disks map[string]string) *tree.Tree {
	t.Helper()
	b := tree.Backup{Name: "nightly", VM: "web", Timestamp: time.Date(2026, 4, 12, 2, 0, 0, 0, time.UTC)}
	for name, path := range disks {
		b.Disks = append(b.Disks, tree.Disk{Name: name, Source: path, Format: "raw", Reader: openImage(t, path), ModTime: time.Unix(1e9, 0)})
	}
	tr, err := tree.New(context.Background(), tree.Config{Backups: []tree.Backup{b}, Engines: []engine.Engine{native{}}, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

// server is a running Serve.
type server struct {
	t        testing.TB
	addr     string
	caFile   string
	pool     *x509.CertPool
	counters *tree.Counters
	log      *lockedBuffer
	stop     context.CancelFunc
	done     chan error
}

// start serves tr on a free port of 127.0.0.1 until the test ends.
func start(t testing.TB, tr *tree.Tree, change func(*Config)) *server {
	t.Helper()
	ca, pair, err := SelfSigned([]string{"localhost", "127.0.0.1", "::1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, counters: &tree.Counters{}, log: &lockedBuffer{}, done: make(chan error, 1), pool: x509.NewCertPool()}
	s.pool.AppendCertsFromPEM(ca.Cert)
	s.caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(s.caFile, ca.Cert, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		User: testUser, Password: testPassword, Certificate: cert, Counters: s.counters, Version: "test",
		Log:  slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		wait: func(context.Context, time.Duration) {},
	}
	if change != nil {
		change(&cfg)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	go func() { s.done <- Serve(ctx, l, tr, cfg) }()
	t.Cleanup(func() { _ = s.close() })
	return s
}

// close ends the server and returns what Serve returned.
func (s *server) close() error {
	s.stop()
	err := <-s.done
	s.done <- err
	return err
}

// eventually waits for what the server does once a client has its answer.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not reached", what)
		}
	}
}

func (s *server) url(path string) string { return "https://" + s.addr + path }

// client is a Go client that speaks HTTP/1.1 or HTTP/2 only.
func (s *server) client(h1 bool) *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.pool}, DisableCompression: true, Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP1(h1)
	tr.Protocols.SetHTTP2(!h1)
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// answer is a whole response.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error // of reading the body
	proto  string
}

// do sends a request whose path goes out as it is; headers are "Name: value".
func (s *server) do(c *http.Client, method, path string, headers ...string) answer {
	s.t.Helper()
	u, err := url.Parse(s.url(path))
	if err != nil {
		s.t.Fatal(err)
	}
	req := &http.Request{Method: method, URL: u, Header: http.Header{}, Host: u.Host}
	req.SetBasicAuth(testUser, testPassword)
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		if v == "" {
			req.Header.Del(k)
			continue
		}
		req.Header.Set(k, v)
	}
	resp, err := c.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, body, err, resp.Proto}
}

func (s *server) get(path string, headers ...string) answer {
	s.t.Helper()
	return s.do(s.client(false), http.MethodGet, path, headers...)
}

// problem checks that a is an error of this status and kind.
func (a answer) problem(t testing.TB, status int, kind string) problem {
	t.Helper()
	var p problem
	if a.err != nil {
		t.Fatalf("no answer: %v", a.err)
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Fatalf("status %d, not a problem: %v: %.200q", a.status, err, a.body)
	}
	if a.status != status || p.Status != status || p.Kind != kind || a.header.Get("Content-Type") != "application/problem+json" || p.Title == "" || p.Detail == "" {
		t.Fatalf("got %d %+v, want %d %s", a.status, p, status, kind)
	}
	return p
}

// curl runs the real client with the authority and the password.
func (s *server) curl(args ...string) (string, error) {
	s.t.Helper()
	fixture.Need(s.t, "curl")
	cmd := exec.Command("curl", append([]string{"-q", "-sS", "--cacert", s.caFile, "-u", testUser + ":" + testPassword}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = errors.Join(err, errors.New(errs.String()))
	}
	return out.String(), err
}

func (s *server) mustCurl(args ...string) string {
	s.t.Helper()
	out, err := s.curl(args...)
	if err != nil {
		s.t.Fatalf("curl %q: %v", args, err)
	}
	return out
}

func sum(b []byte) string {
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}

func sumFile(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := sha256.New()
	if _, err := io.Copy(d, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(d.Sum(nil))
}
