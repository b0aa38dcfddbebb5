package files

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vmfr/test/fixture"
)

func TestCertificates(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	hosts := []string{"localhost", "127.0.0.1", "::1", "restore.example.org"}
	ca, pair, err := SelfSigned(hosts, now)
	if err != nil {
		t.Fatal(err)
	}
	if why := Stale(ca, pair, hosts, now); why != "" {
		t.Error(why)
	}
	if why := StaleAuthority(ca, now); why != "" {
		t.Error(why)
	}
	other, err := NewAuthority(now)
	if err != nil {
		t.Fatal(err)
	}
	for name, why := range map[string]string{
		"another host":      Stale(ca, pair, []string{"10.0.0.1"}, now),
		"another DNS name":  Stale(ca, pair, []string{"a.example.org"}, now),
		"soon over":         Stale(ca, pair, hosts, now.Add(serverValidity-renewBefore+time.Hour)),
		"over":              Stale(ca, pair, hosts, now.Add(serverValidity+time.Hour)),
		"before":            Stale(ca, pair, hosts, now.Add(-48*time.Hour)),
		"another authority": Stale(other, pair, hosts, now),
		"no certificate":    Stale(ca, Pair{}, hosts, now),
		"no authority":      Stale(Pair{}, pair, hosts, now),
		"CA over":           StaleAuthority(ca, now.Add(authorityValidity)),
		"not a CA":          StaleAuthority(pair, now),
		"no CA":             StaleAuthority(Pair{Cert: []byte("x")}, now),
		"the wrong key":     Stale(ca, Pair{pair.Cert, ca.Key}, hosts, now),
	} {
		if why == "" {
			t.Errorf("%s: not noticed", name)
		}
	}
	if _, err := NewServer(pair, hosts, now); err == nil {
		t.Error("a server certificate signs another")
	}
	c, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	if c.Leaf.IsCA || c.Leaf.NotAfter.Sub(c.Leaf.NotBefore) > 398*24*time.Hour || !slices.Equal(c.Leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
		t.Errorf("%+v", c.Leaf)
	}
}

// TestCertificatesByOpenSSL: the reference tool accepts the chain and prints our fingerprint.
func TestCertificatesByOpenSSL(t *testing.T) {
	fixture.Need(t, "openssl")
	ca, pair, err := SelfSigned([]string{"localhost", "::1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, b := range map[string][]byte{"ca": ca.Cert, "cert": pair.Cert} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fixture.Run(t, "openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "localhost", "-CAfile", dir+"/ca", dir+"/cert")
	fixture.Run(t, "openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_ip", "::1", "-CAfile", dir+"/ca", dir+"/cert")
	got, err := pair.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	if out := fixture.Run(t, "openssl", "x509", "-noout", "-sha256", "-fingerprint", "-in", dir+"/cert"); !strings.Contains(out, got) {
		t.Errorf("%s, openssl says %s", got, out)
	}
}

func TestHosts(t *testing.T) {
	local := []string{"127.0.0.1", "::1", "localhost"}
	for listen, want := range map[string][]string{
		"127.0.0.1:8443": local, "localhost:0": local, "[::1]:1": local,
		"10.1.2.3:8443": {"10.1.2.3", "127.0.0.1", "::1", "localhost"}, "a.example:1": {"127.0.0.1", "::1", "a.example", "localhost"},
	} {
		if got, err := Hosts(listen); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v %v", listen, got, err)
		}
	}
	if got, err := Hosts("[::]:8443", "svc.ns"); err != nil || !slices.Contains(got, "svc.ns") || len(got) < 5 || slices.Contains(got, "::") {
		t.Errorf("all addresses: %v %v", got, err)
	}
	if _, err := Hosts("8443"); err == nil {
		t.Error("an address without a port")
	}
}
