package files

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"vmfr/agent/tree"
)

const (
	readHeaderTimeout = 10 * time.Second // also for the TLS handshake
	idleTimeout       = time.Minute
	maxHeaderBytes    = 32 << 10 // a path of 4096 bytes, all percent-encoded, is 12 KiB
	maxStreams        = 100      // requests at once on one HTTP/2 connection
	// drain is how long Serve waits for requests whose connections it has closed: they only
	// finish the read that they are in.
	drain = time.Second
)

// ErrBusy reports requests that did not end although their connections were closed: the
// device does not answer. The tree must not be closed then.
var ErrBusy = errors.New("requests are still reading from the image")

// Serve answers on l, which it closes, until ctx ends: then it accepts no more, lets requests
// under way finish for cfg.Limits.Grace, and closes the rest. It returns when no request uses
// the tree any more, nil if ctx ended it, or ErrBusy.
func Serve(ctx context.Context, l net.Listener, t *tree.Tree, cfg Config) error {
	h, err := newHandler(t, cfg)
	if err == nil && cfg.GetCertificate == nil && len(cfg.Certificate.Certificate) == 0 {
		err = errors.New("files: no certificate")
	}
	if err != nil {
		_ = l.Close()
		return err
	}
	limits := h.cfg.Limits
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	srv := &http.Server{
		Handler:           h,
		TLSConfig:         tlsConfig(cfg),
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		BaseContext:       func(net.Listener) context.Context { return base },
		// Failed handshakes and the like: any scanner makes them.
		ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(newLimitListener(l, limits, cfg.Counters), "", "") }()

	select {
	case err = <-served:
		_ = srv.Close()
		err = fmt.Errorf("files: %w", err)
	case <-ctx.Done():
		grace, stop := context.WithTimeout(base, limits.Grace)
		if srv.Shutdown(grace) != nil {
			_ = srv.Close()
		}
		stop()
		if e := <-served; !errors.Is(e, http.ErrServerClosed) {
			h.log.Warn("https: the listener failed while it was being closed", "err", e)
		}
	}
	cancel()
	if !h.close(drain) {
		return errors.Join(err, ErrBusy)
	}
	return err
}

// close refuses further requests and waits for those under way, at most for d.
func (h *handler) close(d time.Duration) bool {
	done := make(chan struct{})
	go func() {
		h.running.Lock()
		h.closed = true
		h.running.Unlock()
		close(done)
	}()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// tlsConfig allows TLS 1.3 and, of TLS 1.2, what has forward secrecy and authenticated encryption.
func tlsConfig(cfg Config) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		// A client that offers both gets HTTP/1.1: its bodies need no frames of 16 KiB, which halve
		// the speed of archives and downloads. Several transfers have a connection each.
		NextProtos:     []string{"http/1.1", "h2"},
		GetCertificate: cfg.GetCertificate,
	}
	if cfg.GetCertificate == nil {
		c.Certificates = []tls.Certificate{cfg.Certificate}
	}
	return c
}
