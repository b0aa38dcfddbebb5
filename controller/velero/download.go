package velero

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
)

// Limits of a download. Each is generous for a slow object store and finite for a broken one.
const (
	dialLimit     = 15 * time.Second
	headerLimit   = 60 * time.Second // until the store begins to answer
	idleLimit     = 30 * time.Second // a connection that nobody uses is closed
	maxRedirects  = 5
	maxHeader     = 64 << 10
	maxProblem    = 4 << 10 // how much of an error's body is looked at
	maxTransports = 32      // locations with settings of their own; more are forgotten and made again
)

// errRefused is an address that the store no longer accepts: it may have expired.
var errRefused = errors.New("the object store refuses the signed address")

// httpClient returns the client for a location. Connections are kept, since a discovery reads
// thousands of small objects of one store.
func (r *Reader) httpClient(l Location) (*http.Client, error) {
	key := sha256.Sum256(fmt.Appendf(nil, "%t\x00%s", l.insecure, l.ca))
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.clients[key]; c != nil {
		return c, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // an image without certificates: only the location's count
	}
	if len(l.ca) > 0 && !roots.AppendCertsFromPEM(l.ca) {
		return nil, fmt.Errorf("%w: the CA of the BackupStorageLocation %q holds no PEM certificate: correct spec.objectStorage.caCert", ErrUnreachable, l.Name)
	}
	if len(r.clients) >= maxTransports {
		for k, c := range r.clients {
			c.CloseIdleConnections()
			delete(r.clients, k)
		}
	}
	c := &http.Client{
		Transport: &http.Transport{
			// As Velero's own client: a cluster-wide proxy is in the environment, and so are the
			// hosts that it is not for.
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: dialLimit}).DialContext,
			TLSHandshakeTimeout:    dialLimit,
			ResponseHeaderTimeout:  headerLimit,
			IdleConnTimeout:        idleLimit,
			MaxIdleConnsPerHost:    16,
			MaxResponseHeaderBytes: maxHeader,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true, // the objects are compressed; nothing is to be undone on the way
			TLSClientConfig:        &tls.Config{RootCAs: roots, InsecureSkipVerify: l.insecure, MinVersion: tls.VersionTLS12},
		},
		CheckRedirect: redirect,
	}
	r.clients[key] = c
	return c, nil
}

// redirect bounds redirections, and keeps the signature from the next host and from an open
// connection.
func redirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirections", maxRedirects)
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return errors.New("a redirection from https to http")
	}
	req.Header.Del("Referer")
	return nil
}

// get opens a signed address. Reading the body counts for progress: a body that stands still for
// StallTimeout fails. All errors are ErrUnreachable, ErrNotStored, errRefused or the context's,
// those of reading too, so that what else fails while the body is read is of its content.
func (r *Reader) get(ctx context.Context, l Location, address string) (io.ReadCloser, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("%w: Velero's address for %q is not of HTTP", ErrUnreachable, l.Name)
	}
	client, err := r.httpClient(l)
	if err != nil {
		return nil, err
	}
	own, cancel := context.WithCancelCause(ctx)
	b := &body{ctx: ctx, own: own, host: u.Host, cancel: cancel, stall: r.o.StallTimeout, count: r.o.OnBytes}
	req, err := http.NewRequestWithContext(own, http.MethodGet, address, nil)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("%w: Velero's address for %q is malformed", ErrUnreachable, l.Name)
	}
	resp, err := client.Do(req)
	if err != nil {
		err = b.explain(err)
		cancel(nil)
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		problem, _ := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
		_ = resp.Body.Close()
		cancel(nil)
		return nil, status(u.Host, resp.StatusCode, problem)
	}
	b.body = resp.Body
	b.timer = time.AfterFunc(b.stall, func() { cancel(fmt.Errorf("no data for %s", b.stall)) })
	return b, nil
}

// status explains an answer that is not the object. Stores answer to an expired signature with
// 400, 401 or 403.
func status(host string, code int, problem []byte) error {
	text := fmt.Sprintf("%s answers %d %s", host, code, http.StatusText(code))
	if c := element(problem, "Code"); c != "" {
		text += " (" + c + ")"
	}
	switch code {
	case http.StatusNotFound, http.StatusGone:
		return fmt.Errorf("%w: %s", ErrNotStored, text)
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: %s", errRefused, text)
	}
	return fmt.Errorf("%w: %s", ErrUnreachable, text)
}

// element returns the text of an XML element of a store's error, if it is a plain word.
func element(b []byte, name string) string {
	_, rest, ok := strings.Cut(string(b), "<"+name+">")
	if !ok {
		return ""
	}
	word, _, ok := strings.Cut(rest, "</"+name+">")
	if !ok || len(word) > 64 || strings.ContainsFunc(word, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		return ""
	}
	return word
}

// body is an open download.
type body struct {
	ctx, own context.Context // the caller's, and that of this download
	cancel   context.CancelCauseFunc
	host     string
	body     io.ReadCloser
	timer    *time.Timer
	stall    time.Duration
	count    func(int)
	err      error // why reading failed, if it was not the end
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.timer.Reset(b.stall)
	if b.count != nil && n > 0 {
		b.count(n)
	}
	if err != nil && err != io.EOF {
		err = b.explain(err)
		b.err = err
	}
	return n, err
}

// Close ends the download; what was not read is not fetched.
func (b *body) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	return b.body.Close()
}

// explain removes the signed address from an error of HTTP and says what to do.
func (b *body) explain(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	if b.own.Err() != nil {
		err = context.Cause(b.own)
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("%w: %s: %w: put its CA into spec.objectStorage.caCert of the BackupStorageLocation", ErrUnreachable, b.host, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnreachable, b.host, err)
}
