package worker

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vmfr/agent/image"
	"vmfr/agent/sample"
	"vmfr/agent/tree"
	"vmfr/api/files"
	"vmfr/sshd"
	"vmfr/test/fixture"
)

// sampleBackups opens the embedded sample, and beside it an image that cannot be read.
func sampleBackups(t *testing.T) []Backup {
	t.Helper()
	m, err := sample.Load()
	if err != nil {
		t.Fatal(err)
	}
	var out []Backup
	for _, i := range m.Images {
		f, err := i.Open()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		out = append(out, Backup{Name: i.Backup, VM: m.VM, Timestamp: i.Timestamp, Disks: []Disk{{Name: i.Disk, File: f, Format: image.Format(i.Format)}}})
	}
	bad, err := os.Create(filepath.Join(t.TempDir(), "bad.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bad.Close() })
	out[0].Disks = append(out[0].Disks, Disk{Name: "bad", File: bad, Format: image.FormatQCOW2})
	return out
}

// frontEnds returns listeners and credentials on free ports, and a client that trusts them.
func frontEnds(t *testing.T) (*SSH, *HTTPS, *http.Client) {
	t.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := gossh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	ca, server, err := files.SelfSigned([]string{"127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := server.TLS()
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Cert)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	return &SSH{Listener: listen(), User: "u", AuthorizedKeys: []sshd.AuthorizedKey{{Key: key.PublicKey()}}, HostKey: key},
		&HTTPS{Listener: listen(), User: "u", Password: "a long password", Certificate: cert}, client
}

// running starts Run and waits for Ready.
func running(ctx context.Context, t *testing.T, cfg Config) <-chan error {
	t.Helper()
	ready, done := make(chan *tree.Tree, 1), make(chan error, 1)
	cfg.Ready = func(t *tree.Tree) error { ready <- t; return nil }
	go func() { done <- Run(ctx, cfg) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("Run ended: %v", err)
	}
	return done
}

func get(t *testing.T, c *http.Client, h *HTTPS, path string) (int, string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+h.Listener.Addr().String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth(h.User, h.Password)
	resp, err := c.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// TestRun serves, and ends with its context: no port answers then.
func TestRun(t *testing.T) {
	ssh, https, client := frontEnds(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := running(ctx, t, Config{Backups: sampleBackups(t), Version: "test", SSH: ssh, HTTPS: https})
	for path, want := range map[string]string{
		"/files/backups/nightly-0413/rootdisk/etc/hostname": "webshop\n",
		"/files/backups/nightly-0412/bad/ERROR.txt":         "What to do",
		"/readyz":  "ready",
		"/metrics": `vmfr_disks{state="unreadable"} 1`,
	} {
		if code, body, err := get(t, client, https, path); err != nil || code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d, %v, want %q in\n%.500s", path, code, err, want, body)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	for _, l := range []net.Listener{ssh.Listener, https.Listener} {
		if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
			_ = c.Close()
			t.Errorf("%s still accepts", l.Addr())
		}
	}
}

// TestFailureEndsAll: a front end whose socket fails ends the others with its error.
func TestFailureEndsAll(t *testing.T) {
	ssh, https, client := frontEnds(t)
	done := running(t.Context(), t, Config{Backups: sampleBackups(t), SSH: ssh, HTTPS: https})
	_ = ssh.Listener.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run: %v, want the closed listener", err)
	}
	if _, _, err := get(t, client, https, "/healthz"); err == nil {
		t.Error("HTTPS still answers")
	}
}

// TestMountFailure: Run returns the mount's error and gives the sockets back.
func TestMountFailure(t *testing.T) {
	ssh, https, _ := frontEnds(t)
	err := Run(t.Context(), Config{Backups: sampleBackups(t), SSH: ssh, HTTPS: https, Mount: &Mount{Dir: filepath.Join(t.TempDir(), "missing")}})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Run: %v", err)
	}
	if c, err := net.Dial("tcp", ssh.Listener.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("the SSH port is still open")
	}
}

// TestReadyError ends everything, the mount too.
func TestReadyError(t *testing.T) {
	fixture.NeedRoot(t)
	ssh, https, _ := frontEnds(t)
	dir, want := t.TempDir(), errors.New("nobody listens")
	err := Run(t.Context(), Config{Backups: sampleBackups(t), SSH: ssh, HTTPS: https, Mount: &Mount{Dir: dir},
		Ready: func(*tree.Tree) error { return want }})
	if !errors.Is(err, want) {
		t.Errorf("Run: %v", err)
	}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), dir) {
		t.Errorf("still mounted (%v)", err)
	}
}

func TestOpenErrors(t *testing.T) {
	b := sampleBackups(t)
	for name, change := range map[string]func(){
		"bad name":        func() { b[0].Name = "a/b" },
		"duplicate":       func() { b[0].Name = b[1].Name },
		"twice on a disk": func() { b[0].Name = "x"; b[0].Disks[1].Name = b[0].Disks[0].Name },
	} {
		change()
		if d, err := Open(t.Context(), Config{Backups: b, Version: "test"}); err == nil {
			t.Errorf("%s: no error", name)
			_ = d.Close()
		}
	}
	if err := Run(t.Context(), Config{}); err == nil {
		t.Error("Run without a front end: no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ssh, _, _ := frontEnds(t)
	if err := Run(ctx, Config{Backups: sampleBackups(t), SSH: ssh}); err != nil {
		t.Errorf("Run of an ended context: %v, want nil", err)
	}
}
