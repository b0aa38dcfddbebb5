// Package authorizedkeys checks lists of public keys before a session is made with them.
//
// Non-goals: nobody is let in here; the node's SSH server reads the lists again. Invariants: what is
// accepted, that server takes to the last key; errors hold nothing of what was read.
package authorizedkeys

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

const (
	// MaxBytes bounds a file of keys: thousands of keys, and far below a Secret's 1 MiB.
	MaxBytes   = 256 << 10
	minRSABits = 2048 // NIST SP 800-131A
)

// keyTypes are those that the node's SSH server accepts.
var keyTypes = []string{
	gossh.KeyAlgoED25519, gossh.KeyAlgoSKED25519, gossh.KeyAlgoSKECDSA256,
	gossh.KeyAlgoECDSA256, gossh.KeyAlgoECDSA384, gossh.KeyAlgoECDSA521, gossh.KeyAlgoRSA,
}

// knownOptions are sshd(8)'s, so that an error may name them; anything else could be a secret in
// the wrong place.
var knownOptions = []string{
	"agent-forwarding", "cert-authority", "command", "environment", "no-agent-forwarding", "no-port-forwarding", "no-pty",
	"no-touch-required", "no-user-rc", "no-x11-forwarding", "permitlisten", "permitopen", "port-forwarding", "principals",
	"pty", "restrict", "tunnel", "user-rc", "verify-required", "x11-forwarding",
}

// Check checks a file in the format of authorized_keys: every line must be a key that the
// node's SSH server accepts as it is meant. With options, from= and expiry-time= may stand before a
// key, and are honoured as sshd(8) does; a key with another option would have more rights than its
// owner meant. Errors tell the line and no content.
func Check(data []byte, options bool) error {
	if len(data) > MaxBytes {
		return fmt.Errorf("%d bytes exceed the limit of %d", len(data), MaxBytes)
	}
	if bytes.Contains(data, []byte("PRIVATE KEY")) {
		return errors.New("this is a private key; give the public one, in the file that ends in .pub")
	}
	keys := 0
	for i, line := range bytes.Split(data, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if err := checkLine(line, options); err != nil {
			return fmt.Errorf("line %d: %w", i+1, err)
		}
		keys++
	}
	if keys == 0 {
		return errors.New("no key found; lines such as \"ssh-ed25519 AAAA... name\" are expected")
	}
	return nil
}

func checkLine(line []byte, allowed bool) error {
	key, _, options, _, err := gossh.ParseAuthorizedKey(line)
	if err != nil {
		return errors.New("no public key; \"ssh-ed25519 AAAA... name\" is expected")
	}
	if !slices.Contains(keyTypes, key.Type()) {
		return errors.New("this type of key is not supported; make one with ssh-keygen -t ed25519")
	}
	if k, ok := key.(gossh.CryptoPublicKey); ok {
		if r, ok := k.CryptoPublicKey().(*rsa.PublicKey); ok && r.N.BitLen() < minRSABits {
			return fmt.Errorf("an RSA key of %d bits is too weak; at least %d are needed", r.N.BitLen(), minRSABits)
		}
	}
	if len(options) > 0 && !allowed {
		return errors.New("an authority has no options; its certificates have")
	}
	from := 0
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		name = strings.ToLower(name)
		value = strings.TrimSpace(value)
		if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
			value = strings.ReplaceAll(value[1:len(value)-1], `\"`, `"`)
		}
		switch {
		case name == "from":
			if from++; from > 1 {
				return errors.New("option from: it occurs twice")
			}
			if !validFrom(value) {
				return errors.New("option from: a list of addresses, networks such as 10.0.0.0/8 and addresses with * and ? is expected; names are not looked up")
			}
		case name == "expiry-time":
			if !validExpiry(value) {
				return errors.New("option expiry-time: a time such as 20270131 or 202701312359Z is expected")
			}
		case slices.Contains(knownOptions, name):
			return fmt.Errorf("option %s is not supported; only from= and expiry-time= are", name)
		default:
			return errors.New("an option that is not supported stands before the key; only from= and expiry-time= are")
		}
	}
	return nil
}

// addressPattern is what addresses and patterns of them are made of.
var addressPattern = regexp.MustCompile(`^[0-9A-Fa-f:.*?]+$`)

func validFrom(value string) bool {
	for _, p := range strings.Split(value, ",") {
		p = strings.TrimPrefix(strings.TrimSpace(p), "!")
		if strings.Contains(p, "/") {
			if _, err := netip.ParsePrefix(p); err != nil {
				return false
			}
		} else if !addressPattern.MatchString(p) {
			return false
		}
	}
	return true
}

// validExpiry takes YYYYMMDD[Z] and YYYYMMDDHHMM[SS][Z].
func validExpiry(value string) bool {
	text := strings.TrimSuffix(value, "Z")
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(text) == len(layout) {
			if _, err := time.Parse(layout, text); err == nil {
				return true
			}
		}
	}
	return false
}
