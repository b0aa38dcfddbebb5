package pull

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// URL is the address of a path below the server's root, percent-encoded name by name.
func (s Server) URL(path string) string {
	u := url.URL{Scheme: "https", Host: s.Host + ":" + s.port(), Path: path}
	return u.String()
}

func (s Server) port() string {
	_, port, _ := net.SplitHostPort(s.HTTPS)
	return port
}

// Curl asks for a URL of this server, with more options, and returns the body.
func (s Server) Curl(ctx context.Context, t testing.TB, address string, options ...string) (string, error) {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, []byte(s.CA), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"-sS", "--fail-with-body", "--connect-timeout", "15", "--cacert", ca, "-u", s.Login + ":" + s.Password,
		"--connect-to", s.Host + ":" + s.port() + ":" + s.HTTPS}, options...)
	var errs strings.Builder
	cmd := exec.CommandContext(ctx, "curl", append(args, address)...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("curl %s: %w: %s%.500s", address, err, errs.String(), out)
	}
	return string(out), err
}

// File is the content of one file.
func (s Server) File(t testing.TB, path string) string {
	t.Helper()
	out, err := s.Curl(t.Context(), t, s.URL("/files"+path))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Zip downloads folders as one archive and unpacks it into a new directory.
func (s Server) Zip(t testing.TB, paths ...string) string {
	t.Helper()
	dir := t.TempDir()
	archive := filepath.Join(t.TempDir(), "archive.zip")
	args := []string{"-G", "-o", archive, "--data", "format=zip"}
	for _, p := range paths {
		args = append(args, "--data-urlencode", "path="+p)
	}
	if _, err := s.Curl(t.Context(), t, s.URL("/api/v1/archive"), args...); err != nil {
		t.Fatal(err)
	}
	run(t, "unzip", "-q", "-d", dir, archive)
	return dir
}

// Tar downloads a folder as an archive with all attributes and unpacks it into a new directory.
func (s Server) Tar(t testing.TB, path string) string {
	t.Helper()
	dir := t.TempDir()
	archive := filepath.Join(t.TempDir(), "archive.tar")
	if _, err := s.Curl(t.Context(), t, s.URL("/api/v1/archive"), "-G", "-o", archive, "--data", "format=tar", "--data-urlencode", "path="+path); err != nil {
		t.Fatal(err)
	}
	run(t, "tar", "-C", dir, "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-xpf", archive)
	return dir
}

// Fingerprint connects as a client that knows the authority alone, and returns the SHA-256 of the
// server's certificate, in hex with colons, and the pin of its key by which a browser can be told
// to accept it (RFC 7469, section 2.4).
func (s Server) Fingerprint(t testing.TB) (certificate, pin string) {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(s.CA)) {
		t.Fatal("the authority is no certificate")
	}
	c, err := tls.Dial("tcp", s.HTTPS, &tls.Config{RootCAs: roots, ServerName: s.Host})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	leaf := c.ConnectionState().PeerCertificates[0]
	sum, key := sha256.Sum256(leaf.Raw), sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return strings.ReplaceAll(strings.ToUpper(fmt.Sprintf("% x", sum)), " ", ":"), base64.StdEncoding.EncodeToString(key[:])
}

// sum is the SHA-256 of a text, as a manifest has it.
func sum(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }
