package plan

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"vmfr/api/session"
)

// Validity of a session's certificates. Apple's clients refuse a server's certificate of more
// than 825 days, also of an authority that a user trusts himself; the limit of 398 days is for
// public authorities. A shorter time gains nothing: the authority's key is thrown away, so a new
// certificate has a new authority, which clients would have to be told.
const (
	certificateValidity = 824 * 24 * time.Hour
	renewBefore         = 30 * 24 * time.Hour
	clockSkew           = time.Hour // of clients behind
	serialBits          = 127       // RFC 5280: positive, at most 20 bytes
)

// Certificate is a serving certificate and its authority, in PEM.
type Certificate struct {
	Cert, Key, CA []byte
}

// Fingerprint is the SHA-256 of the first certificate in PEM, in upper-case hex with colons, as
// browsers and openssl x509 -fingerprint show it.
func Fingerprint(text []byte) (string, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return "", errors.New("there is no certificate in PEM")
	}
	sum := sha256.Sum256(block.Bytes)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":"), nil
}

// servingHosts are the names that clients use: the Service's, the end of a port-forward, and the
// public host where there is one.
func servingHosts(cfg Config, in Input) []string {
	n := in.Names()
	service := n.Object()
	hosts := []string{ClusterHost(n), service + "." + n.Session + ".svc", service + "." + n.Session, service, "localhost", "127.0.0.1", "::1"}
	if host, err := PublicHost(cfg, in); err == nil && host != "" {
		hosts = append(hosts, host)
	}
	return hosts
}

// servingCertificate keeps what was found as long as it is valid for all hosts, and makes another
// with an authority of its own otherwise.
func servingCertificate(hosts []string, found *corev1.Secret, now time.Time, random io.Reader) (*Certificate, error) {
	if found != nil {
		c := &Certificate{Cert: found.Data[session.KeyCertificate], Key: found.Data[session.KeyPrivateKey], CA: found.Data[session.KeyCA]}
		if c.serves(hosts, now) {
			return c, nil
		}
	}
	return newCertificate(hosts, now, random)
}

// serves tells whether clients that know the authority accept the certificate for all hosts, now
// and for a while.
func (c *Certificate) serves(hosts []string, now time.Time) bool {
	pair, err := tls.X509KeyPair(c.Cert, c.Key)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(c.CA) {
		return false
	}
	for _, at := range []time.Time{now, now.Add(renewBefore)} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at}); err != nil {
			return false
		}
	}
	for _, h := range hosts {
		if pair.Leaf.VerifyHostname(h) != nil {
			return false
		}
	}
	return true
}

// newCertificate makes an authority, lets it sign one certificate and forgets its key, so that
// nobody can sign another.
func newCertificate(hosts []string, now time.Time, random io.Reader) (*Certificate, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	ca := &x509.Certificate{
		Subject:      pkix.Name{Organization: []string{"vmfr"}, CommonName: "vmfr file restore authority"},
		KeyUsage:     x509.KeyUsageCertSign,
		IsCA:         true,
		MaxPathLen:   0,
		SubjectKeyId: nil, // made from the key
	}
	ca.MaxPathLenZero = true
	leaf := &x509.Certificate{
		Subject:     pkix.Name{Organization: []string{"vmfr"}, CommonName: "vmfr file restore"},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, t := range []*x509.Certificate{ca, leaf} {
		t.NotBefore, t.NotAfter, t.BasicConstraintsValid = now.Add(-clockSkew), now.Add(certificateValidity), true
		serial := make([]byte, (serialBits+7)/8)
		if _, err := io.ReadFull(random, serial); err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		t.SerialNumber = new(big.Int).SetBytes(serial)
		t.SerialNumber.SetBit(t.SerialNumber, serialBits, 0)
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, h)
		}
	}
	caDER, err := x509.CreateCertificate(random, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	parent, err := x509.ParseCertificate(caDER)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	der, err := x509.CreateCertificate(random, leaf, parent, key.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	block := func(kind string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}) }
	return &Certificate{Cert: block("CERTIFICATE", der), Key: block("PRIVATE KEY", keyDER), CA: block("CERTIFICATE", caDER)}, nil
}
