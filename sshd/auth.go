package sshd

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
)

// minRSABits is the least that is thought safe today (NIST SP 800-131A).
const minRSABits = 2048

// keyExchanges, ciphers and macs are what the server offers, best first. The ciphers
// authenticate on their own; the MACs only complete the negotiation (RFC 5647, section 5.1).
var (
	keyExchanges = []string{gossh.KeyExchangeMLKEM768X25519, gossh.KeyExchangeCurve25519}
	ciphers      = []string{gossh.CipherAES128GCM, gossh.CipherAES256GCM, gossh.CipherChaCha20Poly1305}
	macs         = []string{gossh.HMACSHA256ETM, gossh.HMACSHA512ETM}
	userKeyAlgos = []string{
		gossh.KeyAlgoED25519, gossh.KeyAlgoSKED25519, gossh.KeyAlgoSKECDSA256,
		gossh.KeyAlgoECDSA256, gossh.KeyAlgoECDSA384, gossh.KeyAlgoECDSA521,
		gossh.KeyAlgoRSASHA512, gossh.KeyAlgoRSASHA256,
	}
	userKeyTypes = []string{
		gossh.KeyAlgoED25519, gossh.KeyAlgoSKED25519, gossh.KeyAlgoSKECDSA256,
		gossh.KeyAlgoECDSA256, gossh.KeyAlgoECDSA384, gossh.KeyAlgoECDSA521, gossh.KeyAlgoRSA,
	}
)

// ParseAuthorizedKeys reads an authorized_keys file (sshd(8)). Empty lines and comments are
// skipped, keys that occur twice are kept once. Every error tells its line. Options before a
// key restrict it in ways that this server does not implement, so a line with options is an
// error rather than a key with more rights than its owner meant.
func ParseAuthorizedKeys(data []byte) ([]gossh.PublicKey, error) {
	var keys []gossh.PublicKey
	seen := map[string]bool{}
	for i, line := range bytes.Split(data, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		k, err := parseKeyLine(line)
		if err != nil {
			return nil, fmt.Errorf("authorized keys, line %d: %w", i+1, err)
		}
		if !seen[string(k.Marshal())] {
			seen[string(k.Marshal())] = true
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("authorized keys: no key found; expected lines such as \"ssh-ed25519 AAAA... name\"")
	}
	return keys, nil
}

func parseKeyLine(line []byte) (gossh.PublicKey, error) {
	if bytes.Contains(line, []byte("PRIVATE KEY")) {
		return nil, errors.New("this is a private key; give the file that ends in .pub")
	}
	k, _, options, _, err := gossh.ParseAuthorizedKey(line)
	if err != nil {
		return nil, errors.New("not a public key; expected \"ssh-ed25519 AAAA... name\"")
	}
	if len(options) > 0 {
		name, _, _ := strings.Cut(options[0], "=")
		return nil, fmt.Errorf("option %q: options before a key are not supported; remove them or use another key", name)
	}
	return k, checkKey(k)
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

// authorize decides whether key may log in as the context's user. That the client holds the
// private key is proven afterwards by x/crypto/ssh. All keys have the same rights, so it does
// not matter which of several offered keys is used in the end.
func (s *server) authorize(ctx ssh.Context, key ssh.PublicKey) bool {
	if ctx.User() != s.cfg.User {
		return false
	}
	return slices.ContainsFunc(s.cfg.AuthorizedKeys, func(k gossh.PublicKey) bool { return ssh.KeysEqual(k, key) })
}

// sshConfig is the protocol's configuration for one connection; in tells it who logs in.
func (s *server) sshConfig(in *login) *gossh.ServerConfig {
	return &gossh.ServerConfig{
		Config:                  gossh.Config{KeyExchanges: keyExchanges, Ciphers: ciphers, MACs: macs},
		PublicKeyAuthAlgorithms: userKeyAlgos,
		MaxAuthTries:            maxAuthTries,
		AuthLogCallback:         in.tried,
	}
}
