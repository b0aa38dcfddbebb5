package files

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// Validity of what is made here. Browsers accept no server certificate for more than 398
// days; the authority outlives many of them, so that clients need not be told a new one.
const (
	authorityValidity = 10 * 365 * 24 * time.Hour
	serverValidity    = 397 * 24 * time.Hour
	renewBefore       = 30 * 24 * time.Hour
	clockSkew         = time.Hour
)

// Pair is a certificate and its private key, both PEM. The key belongs into a file of mode 0600.
type Pair struct {
	Cert, Key []byte
}

// NewAuthority makes a certificate authority of its own for one installation or session: what
// clients are given as --cacert.
func NewAuthority(now time.Time) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	// The name tells authorities apart where several are imported.
	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		return Pair{}, err
	}
	tmpl := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"vmfr"}, CommonName: "vmfr file restore CA " + hex.EncodeToString(id[:])},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(authorityValidity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	return sign(tmpl, tmpl, key, key)
}

// NewServer makes a server's certificate for hosts (DNS names and IP addresses), signed by ca.
func NewServer(ca Pair, hosts []string, now time.Time) (Pair, error) {
	parent, err := tls.X509KeyPair(ca.Cert, ca.Key)
	if err != nil {
		return Pair{}, fmt.Errorf("certificate authority: %w", err)
	}
	caKey, ok := parent.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !parent.Leaf.IsCA {
		return Pair{}, errors.New("certificate authority: not an ECDSA authority")
	}
	if len(hosts) == 0 {
		return Pair{}, errors.New("server certificate: no host")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	tmpl := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"vmfr"}, CommonName: "vmfr file restore"},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(serverValidity),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if tmpl.NotAfter.After(parent.Leaf.NotAfter) {
		tmpl.NotAfter = parent.Leaf.NotAfter
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	p, err := sign(tmpl, parent.Leaf, key, caKey)
	// Clients that were given the authority do not need it again, but a chain that ends in
	// a known root is easier to diagnose than a lone certificate.
	p.Cert = append(p.Cert, ca.Cert...)
	return p, err
}

// SelfSigned makes an authority and a server certificate in one step.
func SelfSigned(hosts []string, now time.Time) (ca, server Pair, err error) {
	if ca, err = NewAuthority(now); err != nil {
		return Pair{}, Pair{}, err
	}
	server, err = NewServer(ca, hosts, now)
	return ca, server, err
}

func sign(tmpl, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) (Pair, error) {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, parentKey)
	if err != nil {
		return Pair{}, fmt.Errorf("certificate: %w", err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("private key: %w", err)
	}
	return Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}),
	}, nil
}

// TLS parses the pair for Config.Certificate.
func (p Pair) TLS() (tls.Certificate, error) { return tls.X509KeyPair(p.Cert, p.Key) }

// Fingerprint is the SHA-256 of the first certificate, as openssl x509 -fingerprint prints it.
func (p Pair) Fingerprint() (string, error) {
	b, _ := pem.Decode(p.Cert)
	if b == nil {
		return "", errors.New("certificate: no PEM block")
	}
	sum := sha256.Sum256(b.Bytes)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":"), nil
}

// Stale says why the server certificate must be made anew: it is not readable or not of ca,
// it ends soon, or it lacks one of hosts. Empty: it is good.
func Stale(ca, server Pair, hosts []string, now time.Time) string {
	c, err := server.TLS()
	if err != nil {
		return "it cannot be read: " + err.Error()
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca.Cert) {
		return "its authority cannot be read"
	}
	if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now}); err != nil {
		return "it is not valid: " + err.Error()
	}
	if now.Add(renewBefore).After(c.Leaf.NotAfter) {
		return "it ends on " + c.Leaf.NotAfter.UTC().Format(time.DateOnly)
	}
	for _, h := range hosts {
		if err := c.Leaf.VerifyHostname(h); err != nil {
			return "it is not for " + h
		}
	}
	return ""
}

// StaleAuthority says why the authority must be made anew; all clients then need the new one.
func StaleAuthority(ca Pair, now time.Time) string {
	c, err := ca.TLS()
	switch {
	case err != nil:
		return "it cannot be read: " + err.Error()
	case !c.Leaf.IsCA:
		return "it is not an authority"
	case now.Before(c.Leaf.NotBefore):
		return "it is of the future"
	case now.Add(renewBefore).After(c.Leaf.NotAfter):
		return "it ends on " + c.Leaf.NotAfter.UTC().Format(time.DateOnly)
	}
	return ""
}

// Hosts is what a server certificate is for: localhost, the host of the listen address, the
// extra names (a Service, a Route) and, where it listens on all addresses, this machine's
// name and addresses. Sorted, each once.
func Hosts(listen string, extra ...string) ([]string, error) {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, fmt.Errorf("listen address %q: %w", listen, err)
	}
	hosts := append([]string{"localhost", "127.0.0.1", "::1"}, extra...)
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "" || err == nil && ip.IsUnspecified():
		if name, err := os.Hostname(); err == nil && name != "" {
			hosts = append(hosts, name)
		}
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return nil, fmt.Errorf("addresses of this machine: %w", err)
		}
		for _, a := range addrs {
			// Link-local addresses need a zone, which a certificate cannot hold.
			if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
				hosts = append(hosts, n.IP.String())
			}
		}
	case err == nil:
		hosts = append(hosts, ip.WithZone("").String())
	default:
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts), nil
}
