package sshd

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
)

// keyExchanges, ciphers and macs are what the server offers, best first. The first ciphers
// authenticate on their own; CTR, for clients such as paramiko that know no other, has the MACs,
// which are of the kind that is computed over what was encrypted.
var (
	keyExchanges = []string{gossh.KeyExchangeMLKEM768X25519, gossh.KeyExchangeCurve25519}
	ciphers      = []string{gossh.CipherAES128GCM, gossh.CipherAES256GCM, gossh.CipherChaCha20Poly1305, gossh.CipherAES256CTR, gossh.CipherAES128CTR}
	macs         = []string{gossh.HMACSHA256ETM, gossh.HMACSHA512ETM}
	userKeyAlgos = []string{
		gossh.KeyAlgoED25519, gossh.KeyAlgoSKED25519, gossh.KeyAlgoSKECDSA256,
		gossh.KeyAlgoECDSA256, gossh.KeyAlgoECDSA384, gossh.KeyAlgoECDSA521,
		gossh.KeyAlgoRSASHA512, gossh.KeyAlgoRSASHA256,
	}
)

// authorize decides whether key, a plain key or a certificate, may log in as user from addr, and
// says why not; that is for the administrator, the client learns only that. That the client
// holds the private key is proven afterwards by x/crypto/ssh.
func (s *server) authorize(user, addr string, key gossh.PublicKey, now time.Time) error {
	if user != s.cfg.User {
		return errors.New("unknown user")
	}
	if cert, ok := key.(*gossh.Certificate); ok {
		return s.checkCertificate(cert, user, addr, now)
	}
	why := errors.New("unknown key")
	for _, k := range s.cfg.AuthorizedKeys {
		if !ssh.KeysEqual(k.Key, key) {
			continue
		}
		if why = k.allows(addr, now); why == nil {
			return nil
		}
	}
	return why
}

// sourceAddress is the only critical option of certificates that is implemented (OpenSSH's
// PROTOCOL.certkeys). What is not implemented refuses the certificate, as force-command does.
const sourceAddress = "source-address"

// checkCertificate accepts a user certificate of a trusted authority that is valid now, from here,
// for this user by name: one without principals, which would be valid for everybody, is not.
func (s *server) checkCertificate(cert *gossh.Certificate, user, addr string, now time.Time) error {
	authority := func(k gossh.PublicKey) bool {
		return slices.ContainsFunc(s.cfg.TrustedUserCAs, func(ca gossh.PublicKey) bool { return ssh.KeysEqual(ca, k) })
	}
	switch {
	case cert.CertType != gossh.UserCert:
		return errors.New("certificate: it is not a user's")
	case !authority(cert.SignatureKey):
		return errors.New("certificate: its authority is not trusted")
	case cert.Signature == nil || !slices.Contains(userKeyAlgos, cert.Signature.Format):
		return errors.New("certificate: it is signed with an old algorithm")
	case len(cert.ValidPrincipals) == 0:
		return errors.New("certificate: it names no principal; make one with ssh-keygen -n " + s.cfg.User)
	}
	if err := checkKey(cert.Key); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	checker := gossh.CertChecker{
		IsUserAuthority: authority, SupportedCriticalOptions: []string{sourceAddress}, Clock: func() time.Time { return now },
	}
	if err := checker.CheckCert(user, cert); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	if list, ok := cert.CriticalOptions[sourceAddress]; ok {
		from, err := parseFrom(list)
		if err != nil || !matchFrom(from, addr) {
			return errors.New("certificate: it may not be used from this address")
		}
	}
	return nil
}

// fingerprint names a key in the audit log: a certificate by its key, id, serial number and authority.
func fingerprint(key gossh.PublicKey) string {
	cert, ok := key.(*gossh.Certificate)
	if !ok {
		return gossh.FingerprintSHA256(key)
	}
	return fmt.Sprintf("%s certificate %q serial %d of %s", gossh.FingerprintSHA256(cert.Key), strings.ToValidUTF8(cert.KeyId, "?"),
		cert.Serial, gossh.FingerprintSHA256(cert.SignatureKey))
}

// sshConfig is the protocol's configuration for one connection; in tells it who logs in.
func (s *server) sshConfig(in *login) *gossh.ServerConfig {
	return &gossh.ServerConfig{
		Config:                    gossh.Config{KeyExchanges: keyExchanges, Ciphers: ciphers, MACs: macs},
		PublicKeyAuthAlgorithms:   userKeyAlgos,
		MaxAuthTries:              maxAuthTries,
		AuthLogCallback:           in.tried,
		VerifiedPublicKeyCallback: in.verified,
	}
}
