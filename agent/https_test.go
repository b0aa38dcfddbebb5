package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/test/fixture"
)

// TestOwnCertificateAndAudit: serve uses the certificate that it is given, counts and records who
// comes by HTTPS, and what they read is in the record when the server has ended.
func TestOwnCertificateAndAudit(t *testing.T) {
	fixture.Need(t, "curl", "openssl")
	dir := t.TempDir()
	cert, key, records := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "audit.jsonl")
	fixture.Run(t, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
		"-subj", "/CN=files", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert)
	s := serve(t, "--sample", "--audit-log", records, "--tls-cert", cert, "--tls-key", key)
	password, err := os.ReadFile(s.HTTPS.PasswordFile)
	if err != nil {
		t.Fatal(err)
	}
	curl := func(password, path string) (string, error) {
		out, err := exec.Command("curl", "-sSf", "--cacert", cert, "-u", s.HTTPS.User+":"+password, s.HTTPS.URL+path).CombinedOutput()
		return string(out), err
	}
	secret := strings.TrimSpace(string(password))
	if out, err := curl(secret, "/files/README.txt"); err != nil || !strings.Contains(out, "backups") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := curl("not the password", "/files/README.txt"); err == nil || !strings.Contains(out, "401") {
		t.Errorf("a wrong password: %v: %s", err, out)
	}
	if out, err := curl(secret, "/metrics"); err != nil || !strings.Contains(out, `vmfr_logins_total`) {
		t.Errorf("metrics: %v: %s", err, out)
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	b, err := os.ReadFile(records)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"event":"login"`, `"event":"refused"`, `"event":"read"`, `"via":"https"`, `"path":"/README.txt"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the audit log has no %s:\n%s", want, b)
		}
	}
	if strings.Contains(string(b), secret) {
		t.Error("the audit log holds the password")
	}
}
