package files

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCertificateIsReloaded: a new pair is served to the next connection, a broken one is not.
func TestCertificateIsReloaded(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	put := func() *x509.Certificate {
		_, p, err := SelfSigned([]string{"localhost"}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, cert, p.Cert)
		writeFile(t, key, p.Key)
		c, err := p.TLS()
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf
	}
	if _, err := CertificateFiles(cert, key, slog.Default()); err == nil {
		t.Error("missing files are accepted")
	}
	first := put()
	var log lockedBuffer
	cl := &clock{t: time.Unix(1e9, 0)}
	c := &certificateFiles{cert: cert, key: key, log: slog.New(slog.NewTextHandler(&log, nil)), now: cl.now}
	if err := c.load(); err != nil {
		t.Fatal(err)
	}
	img, _, _ := guest(t)
	s := start(t, openTree(t, map[string]string{"root": img}), func(cfg *Config) {
		cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(), nil }
	})
	served := func() *x509.Certificate {
		conn, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0]
	}
	if !served().Equal(first) {
		t.Error("another certificate is served")
	}
	cl.move(certificateCheck)
	second := put()
	if !served().Equal(second) {
		t.Error("the new certificate is not served")
	}
	cl.move(certificateCheck)
	if err := os.Truncate(key, 10); err != nil {
		t.Fatal(err)
	}
	if !served().Equal(second) || strings.Count(log.String(), "the old one stays") != 1 {
		t.Errorf("a broken key: %s", log.String())
	}
	cl.move(certificateCheck)
	if third := put(); !served().Equal(third) {
		t.Error("the repaired pair is not served")
	}
}
