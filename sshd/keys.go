package sshd

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// minRSABits is the least that is thought safe today (NIST SP 800-131A).
const minRSABits = 2048

// userKeyTypes are the keys that users and authorities may have.
var userKeyTypes = []string{
	gossh.KeyAlgoED25519, gossh.KeyAlgoSKED25519, gossh.KeyAlgoSKECDSA256,
	gossh.KeyAlgoECDSA256, gossh.KeyAlgoECDSA384, gossh.KeyAlgoECDSA521, gossh.KeyAlgoRSA,
}

// AuthorizedKey is a key that may log in.
type AuthorizedKey struct {
	Key     gossh.PublicKey
	Comment string
	// From are the patterns of the option from=: addresses with * and ?, networks such as
	// 10.0.0.0/8, each excluded by a leading !. None: from everywhere.
	From []string
	// Expires is the time of expiry-time=; zero: never.
	Expires time.Time
}

// ParseAuthorizedKeys reads an authorized_keys file (sshd(8)). Empty lines and comments are
// skipped. Of the options before a key, from= and expiry-time= are honoured. A key with another
// option, or with a value that is not understood, is not among keys, since it would have more
// rights than its owner meant; refused says so for each, with its line. A line that is no key,
// and a file without a usable one, is an error.
func ParseAuthorizedKeys(data []byte) (keys []AuthorizedKey, refused []error, err error) {
	for i, line := range bytes.Split(data, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		k, options, err := parseKeyLine(line)
		if err != nil {
			return nil, nil, fmt.Errorf("authorized keys, line %d: %w", i+1, err)
		}
		if err := k.options(options); err != nil {
			refused = append(refused, fmt.Errorf("authorized keys, line %d: the key is not used: %w", i+1, err))
			continue
		}
		keys = append(keys, k)
	}
	switch {
	case len(keys) > 0:
		return keys, refused, nil
	case len(refused) > 0:
		return nil, nil, refused[0]
	}
	return nil, nil, errors.New("authorized keys: no key found; expected lines such as \"ssh-ed25519 AAAA... name\"")
}

func parseKeyLine(line []byte) (k AuthorizedKey, options []string, err error) {
	if bytes.Contains(line, []byte("PRIVATE KEY")) {
		return k, nil, errors.New("this is a private key; give the file that ends in .pub")
	}
	k.Key, k.Comment, options, _, err = gossh.ParseAuthorizedKey(line)
	if err != nil {
		return k, nil, errors.New("not a public key; expected \"ssh-ed25519 AAAA... name\"")
	}
	return k, options, checkKey(k.Key)
}

// ParseTrustedUserCAs reads the public keys of certificate authorities, one a line, as sshd's
// TrustedUserCAKeys does.
func ParseTrustedUserCAs(data []byte) ([]gossh.PublicKey, error) {
	keys, refused, err := ParseAuthorizedKeys(data)
	if err == nil && len(refused) > 0 {
		err = refused[0]
	}
	if err != nil {
		return nil, fmt.Errorf("trusted authorities: %w", err)
	}
	var cas []gossh.PublicKey
	for _, k := range keys {
		if len(k.From) > 0 || !k.Expires.IsZero() {
			return nil, errors.New("trusted authorities: an authority has no options; a certificate has its own")
		}
		cas = append(cas, k.Key)
	}
	return cas, nil
}

// options honours what stands before a key.
func (k *AuthorizedKey) options(options []string) error {
	for _, o := range options {
		name, value, has := strings.Cut(o, "=")
		if value = strings.TrimSpace(value); len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
			value = strings.ReplaceAll(value[1:len(value)-1], `\"`, `"`)
		}
		var err error
		switch strings.ToLower(name) {
		case "from":
			if k.From != nil {
				return errors.New("option from: it occurs twice")
			}
			k.From, err = parseFrom(value)
		case "expiry-time":
			var t time.Time
			if t, err = parseExpiry(value); err == nil && (k.Expires.IsZero() || t.Before(k.Expires)) {
				k.Expires = t
			}
		case "cert-authority":
			return errors.New("option cert-authority: give authorities with --trusted-user-ca")
		default:
			return fmt.Errorf("option %q is not supported here, only from= and expiry-time= are", name)
		}
		if err != nil || !has {
			return fmt.Errorf("option %q: %w", name, cmpErr(err, errors.New("a value is needed")))
		}
	}
	return nil
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// addressPattern is what parts of addresses and wildcards are made of. Host names are not
// looked up here: a name service must not decide who may log in.
var addressPattern = regexp.MustCompile(`^[0-9A-Fa-f:.*?]+$`)

func parseFrom(value string) ([]string, error) {
	var out []string
	for _, p := range strings.Split(value, ",") {
		p = strings.TrimSpace(p)
		bare := strings.TrimPrefix(p, "!")
		if strings.Contains(bare, "/") {
			if _, err := netip.ParsePrefix(bare); err != nil {
				return nil, fmt.Errorf("%q is no network such as 10.0.0.0/8", bare)
			}
		} else if !addressPattern.MatchString(bare) {
			return nil, fmt.Errorf("%q is no address, network or address with * and ?; names are not looked up", bare)
		}
		out = append(out, p)
	}
	return out, nil
}

// parseExpiry takes sshd's YYYYMMDD[Z] and YYYYMMDDHHMM[SS][Z]; without Z it is local time.
func parseExpiry(value string) (time.Time, error) {
	text, utc := strings.CutSuffix(value, "Z")
	zone := time.Local
	if utc {
		zone = time.UTC
	}
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(text) == len(layout) {
			if t, err := time.ParseInLocation(layout, text, zone); err == nil {
				return t, nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time such as 20270131 or 202701312359Z", value)
}

// allows tells whether the key may be used from addr now, or why not.
func (k AuthorizedKey) allows(addr string, now time.Time) error {
	if !k.Expires.IsZero() && !now.Before(k.Expires) {
		return fmt.Errorf("the key has expired at %s", k.Expires.UTC().Format(time.RFC3339))
	}
	if len(k.From) > 0 && !matchFrom(k.From, addr) {
		return errors.New("the key may not be used from this address")
	}
	return nil
}

// matchFrom is sshd's match of an address with a list: one that matches and none with a ! that does.
func matchFrom(patterns []string, addr string) bool {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return false
	}
	a = a.Unmap().WithZone("")
	found := false
	for _, p := range patterns {
		bare, negated := strings.CutPrefix(p, "!")
		var match bool
		if n, err := netip.ParsePrefix(bare); err == nil {
			match = n.Contains(a)
		} else {
			match, _ = path.Match(strings.ToLower(bare), a.String())
		}
		if match && negated {
			return false
		}
		found = found || match
	}
	return found
}

// checkKey refuses keys that no client could log in with or that are too weak.
func checkKey(k gossh.PublicKey) error {
	if k == nil {
		return errors.New("empty key")
	}
	if !slices.Contains(userKeyTypes, k.Type()) {
		return fmt.Errorf("key type %q is not supported; make one with ssh-keygen -t ed25519", k.Type())
	}
	if ck, ok := k.(gossh.CryptoPublicKey); ok {
		if r, ok := ck.CryptoPublicKey().(*rsa.PublicKey); ok && r.N.BitLen() < minRSABits {
			return fmt.Errorf("RSA key of %d bits; at least %d are needed", r.N.BitLen(), minRSABits)
		}
	}
	return nil
}
