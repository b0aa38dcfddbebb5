package plan

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vmfr/api/v1alpha1"
	"vmfr/test/fixture"
)

func TestCertificate(t *testing.T) {
	in := testInput(nil)
	c := material(t, testConfig(), in, Found{}, rand.Reader).TLS
	if bytes.Contains(c.CA, []byte("PRIVATE KEY")) {
		t.Fatal("the authority's key is kept")
	}
	pair, err := tls.X509KeyPair(c.Cert, c.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.CA)
	n := in.Names()
	for _, host := range []string{n.Object(), n.Object() + "." + n.Session, n.Object() + "." + n.Session + ".svc", ClusterHost(n), "localhost", "127.0.0.1", "[::1]"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, CurrentTime: testNow, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if err := pair.Leaf.VerifyHostname("example.com"); err == nil {
		t.Error("the certificate is for every host")
	}
	if d := pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore); d > 825*24*time.Hour {
		t.Errorf("valid for %s, longer than clients accept", d)
	}
	if pair.Leaf.IsCA || pair.Leaf.KeyUsage&x509.KeyUsageCertSign != 0 {
		t.Error("the serving certificate signs others")
	}
}

// TestOpenSSL lets openssl verify the chain and tell the fingerprint.
func TestOpenSSL(t *testing.T) {
	fixture.Need(t, "openssl")
	in := testInput(nil)
	c, err := newCertificate(servingHosts(testConfig(), in), time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, b := range map[string][]byte{"ca": c.CA, "crt": c.Cert} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	openssl := func(args ...string) string {
		cmd := exec.Command("openssl", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("openssl %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	openssl("verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", ClusterHost(in.Names()), "-CAfile", "ca", "crt")
	want, err := Fingerprint(c.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if out := openssl("x509", "-noout", "-fingerprint", "-sha256", "-in", "crt"); !strings.HasSuffix(strings.TrimSpace(out), "="+want) {
		t.Errorf("the fingerprint is %q, not %s", out, want)
	}
	for _, bad := range []string{"", "x", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}))} {
		if f, err := Fingerprint([]byte(bad)); err == nil {
			t.Errorf("Fingerprint(%q) = %s", bad, f)
		}
	}
}

func TestCertificateIsRenewed(t *testing.T) {
	in := testInput(nil)
	f := found(t, testConfig(), in, material(t, testConfig(), in, Found{}, rand.Reader))
	same := func(cfg Config, in Input, f Found, now time.Time) bool {
		t.Helper()
		m, err := NewMaterial(cfg, in, f, now, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Equal(m.TLS.Cert, f.TLS.Data["tls.crt"])
	}
	if !same(testConfig(), in, f, testNow.Add(certificateValidity-renewBefore-time.Hour)) {
		t.Error("a valid certificate was replaced")
	}
	if same(testConfig(), in, f, testNow.Add(certificateValidity-renewBefore+time.Hour)) {
		t.Error("a certificate was kept that ends soon")
	}
	external := testInput(func(s *v1alpha1.VirtualMachineFileRestoreSpec) { s.FileAccess.FileBrowser.ExposeExternally = true })
	if same(ingressConfig(), external, f, testNow) {
		t.Error("a certificate was kept that lacks the public host")
	}
	for _, key := range []string{"tls.crt", "tls.key", "ca.crt"} {
		broken := f
		broken.TLS = f.TLS.DeepCopy()
		broken.TLS.Data[key] = []byte("x")
		if same(testConfig(), in, broken, testNow) {
			t.Errorf("a certificate with a broken %s was kept", key)
		}
	}
}
