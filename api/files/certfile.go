package files

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

const (
	// certificateCheck is how long a certificate is used without looking whether its files changed.
	certificateCheck = 5 * time.Second
	// maxCertificate bounds what is read of a file, in bytes: a chain has a few KiB.
	maxCertificate = 1 << 20
)

// CertificateFiles returns a Config.GetCertificate for a certificate chain and its key in PEM
// files. They are read again when they have changed, as cert-manager and ACME clients change
// them; a pair that does not fit, as while they are being replaced, is logged and the last good
// one stays. The error is that of the first read.
func CertificateFiles(cert, key string, log *slog.Logger) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	c := &certificateFiles{cert: cert, key: key, log: log, now: time.Now}
	if err := c.load(); err != nil {
		return nil, err
	}
	c.checked = c.now()
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(), nil }, nil
}

type certificateFiles struct {
	cert, key string
	log       *slog.Logger
	now       func() time.Time

	mu      sync.Mutex
	checked time.Time
	pem     [2][]byte
	pair    *tls.Certificate
	failed  string // the last error that was logged
}

func (c *certificateFiles) get() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if now.Sub(c.checked) < certificateCheck {
		return c.pair
	}
	c.checked = now
	switch err := c.load(); {
	case err == nil:
		c.failed = ""
	case err.Error() != c.failed:
		c.failed = err.Error()
		c.log.Error("the new certificate cannot be used; the old one stays", "error", c.failed)
	}
	return c.pair
}

// load reads the files and takes the pair if it is another one. Their contents are compared and
// not their times: a mounted Secret is exchanged by a link.
func (c *certificateFiles) load() error {
	var pem [2][]byte
	for i, path := range []string{c.cert, c.key} {
		st, err := os.Stat(path)
		if err == nil && (!st.Mode().IsRegular() || st.Size() > maxCertificate) {
			err = fmt.Errorf("%s is not a file of at most %d bytes", path, maxCertificate)
		}
		if err == nil {
			pem[i], err = os.ReadFile(path)
		}
		if err != nil {
			return err
		}
	}
	if bytes.Equal(pem[0], c.pem[0]) && bytes.Equal(pem[1], c.pem[1]) {
		return nil
	}
	pair, err := tls.X509KeyPair(pem[0], pem[1])
	if err != nil {
		return fmt.Errorf("%s and %s: %w", c.cert, c.key, err)
	}
	if c.pair != nil && c.log != nil {
		c.log.Info("the certificate was renewed", "until", pair.Leaf.NotAfter.UTC().Format(time.DateOnly))
	}
	c.pem, c.pair = pem, &pair
	return nil
}
