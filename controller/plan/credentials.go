package plan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"unicode"
	"unicode/utf8"

	gossh "golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/controller/plan/authorizedkeys"
)

const (
	// keyPrivate is where a generated pair's private key is, for the user; the holder does not get it.
	keyPrivate = "privateKey"
	// annotationGenerated is on Secrets whose content was drawn here: it is kept as long as nothing
	// is given instead, while a copy follows what it was copied from.
	annotationGenerated = "vmfr.io/generated"

	// passwordAlphabet has no characters that are taken for others (0O1lIio): 55, so that
	// 24 of them are worth 138 bits.
	passwordAlphabet = "23456789abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"
	passwordLen      = 24
	maxPassword      = 1024 // bytes
	maxUsername      = 64   // bytes, of the file browser's
	// maxDiskKeys bounds all disk keys together, in bytes: a holder hands its agent at most 1 MiB of
	// credentials, of which keys of SSH take twice as much.
	maxDiskKeys = 256 << 10
)

// sshUsername is what the CRD allows.
var sshUsername = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

// SSHCredentials are who may log in by SSH.
type SSHCredentials struct {
	Username       string
	AuthorizedKeys []byte
	TrustedCA      []byte // nil: none
	PrivateKey     []byte // OpenSSH's PEM; nil: it was not generated here
}

// BrowserCredentials are who may log in by HTTPS.
type BrowserCredentials struct {
	Username, Password string
	Generated          bool
}

// secretReader reads one Secret that a user made; its errors name the Secret and the key.
type secretReader struct {
	name types.NamespacedName
	data map[string][]byte
}

func readSecret(name types.NamespacedName, s *corev1.Secret) (secretReader, error) {
	if s == nil {
		return secretReader{}, &CredentialError{Secret: name, Rule: "it does not exist: make it, or correct the reference"}
	}
	return secretReader{name, s.Data}, nil
}

func (r secretReader) errorf(key, format string, args ...any) error {
	return &CredentialError{Secret: r.name, Key: key, Rule: fmt.Sprintf(format, args...)}
}

// line is a value without the line's end that editors and echo append.
func (r secretReader) line(key string) string {
	return string(bytes.TrimSuffix(bytes.TrimSuffix(r.data[key], []byte("\n")), []byte("\r")))
}

// sshCredentials: the Secret wins over the inline fields; with neither a Secret nor a public key a
// pair is generated, once.
func sshCredentials(spec *v1alpha1.SSHAccess, ref *types.NamespacedName, found Found, random io.Reader) (*SSHCredentials, error) {
	const field = "spec.fileAccess.ssh."
	c := &SSHCredentials{Username: spec.Username}
	if c.Username == "" {
		c.Username = v1alpha1.DefaultUsername
	}
	if spec.TrustedUserCA != "" {
		if err := authorizedkeys.Check([]byte(spec.TrustedUserCA), false); err != nil {
			return nil, &CredentialError{Key: field + "trustedUserCA", Rule: err.Error()}
		}
		c.TrustedCA = []byte(spec.TrustedUserCA)
	}
	switch {
	case ref != nil:
		return c, c.fromSecret(*ref, found.SSHRef)
	case spec.PublicKey != "":
		if err := authorizedkeys.Check([]byte(spec.PublicKey), true); err != nil {
			return nil, &CredentialError{Key: field + "publicKey", Rule: err.Error()}
		}
		c.AuthorizedKeys = []byte(spec.PublicKey)
		return c, nil
	case found.SSH != nil && len(found.SSH.Data[keyPrivate]) > 0:
		c.PrivateKey = found.SSH.Data[keyPrivate]
		signer, err := gossh.ParsePrivateKey(c.PrivateKey)
		if err != nil {
			return nil, broken(found.SSH, keyPrivate, "it must hold a private key")
		}
		c.AuthorizedKeys = keyLine(signer.PublicKey())
		return c, nil
	}
	public, private, err := newKeyPair(random, "vmfr")
	if err != nil {
		return nil, err
	}
	c.AuthorizedKeys, c.PrivateKey = keyLine(public), private
	return c, nil
}

func keyLine(k gossh.PublicKey) []byte { return []byte(publicLine(k) + " vmfr\n") }

// fromSecret takes what a user's Secret holds.
func (c *SSHCredentials) fromSecret(name types.NamespacedName, s *corev1.Secret) error {
	r, err := readSecret(name, s)
	if err != nil {
		return err
	}
	if _, ok := r.data[session.KeyUsername]; ok {
		if c.Username = r.line(session.KeyUsername); !sshUsername.MatchString(c.Username) {
			return r.errorf(session.KeyUsername, "it must be 1 to 32 lower-case letters, digits, - and _, beginning with a letter or _")
		}
	}
	if ca := r.data[session.KeyTrustedCA]; len(ca) > 0 {
		if err := authorizedkeys.Check(ca, false); err != nil {
			return r.errorf(session.KeyTrustedCA, "%v", err)
		}
		c.TrustedCA = ca
	}
	if c.AuthorizedKeys = r.data[session.KeyAuthorizedKeys]; c.AuthorizedKeys == nil {
		return r.errorf(session.KeyAuthorizedKeys, "the key is missing: it must hold lines such as \"ssh-ed25519 AAAA... name\"")
	}
	if err := authorizedkeys.Check(c.AuthorizedKeys, true); err != nil {
		return r.errorf(session.KeyAuthorizedKeys, "%v", err)
	}
	return nil
}

// browserCredentials: a Secret's, or generated once.
func browserCredentials(ref *types.NamespacedName, found Found, random io.Reader) (*BrowserCredentials, error) {
	c := &BrowserCredentials{Username: v1alpha1.DefaultUsername}
	if ref != nil {
		r, err := readSecret(*ref, found.BrowserRef)
		if err != nil {
			return nil, err
		}
		if _, ok := r.data[session.KeyUsername]; ok {
			c.Username = r.line(session.KeyUsername)
		}
		// A colon ends the user name in HTTP's Basic scheme (RFC 7617).
		if c.Username == "" || len(c.Username) > maxUsername || bytes.ContainsRune([]byte(c.Username), ':') || !printable(c.Username) {
			return nil, r.errorf(session.KeyUsername, "it must be 1 to %d printable bytes without a colon", maxUsername)
		}
		if c.Password, err = r.password(); err != nil {
			return nil, err
		}
		return c, nil
	}
	c.Generated = true
	if s := found.Browser; s != nil && s.Annotations[annotationGenerated] != "" {
		r := secretReader{types.NamespacedName{Namespace: s.Namespace, Name: s.Name}, s.Data}
		p, err := r.password()
		if err != nil {
			return nil, broken(s, session.KeyPassword, "it must be a password")
		}
		c.Password = p
		return c, nil
	}
	var err error
	c.Password, err = newPassword(random)
	return c, err
}

func (r secretReader) password() (string, error) {
	p := r.line(session.KeyPassword)
	switch _, ok := r.data[session.KeyPassword]; {
	case !ok:
		return "", r.errorf(session.KeyPassword, "the key is missing: it must hold a password of at least %d characters", v1alpha1.MinPasswordBytes)
	case len(p) < v1alpha1.MinPasswordBytes:
		return "", r.errorf(session.KeyPassword, "the password is too short: at least %d characters are needed", v1alpha1.MinPasswordBytes)
	case len(p) > maxPassword || !printable(p):
		return "", r.errorf(session.KeyPassword, "it must be one line of at most %d printable bytes", maxPassword)
	}
	return p, nil
}

// printable tells whether people can type s.
func printable(s string) bool {
	for _, c := range s {
		if !unicode.IsPrint(c) {
			return false
		}
	}
	return utf8.ValidString(s)
}

// newPassword draws each character with the same chance: bytes beyond the last whole multiple of
// the alphabet are drawn again.
func newPassword(random io.Reader) (string, error) {
	const whole = 256 - 256%len(passwordAlphabet)
	out := make([]byte, 0, passwordLen)
	for b := make([]byte, 1); len(out) < passwordLen; {
		if _, err := io.ReadFull(random, b); err != nil {
			return "", fmt.Errorf("password: %w", err)
		}
		if int(b[0]) < whole {
			out = append(out, passwordAlphabet[int(b[0])%len(passwordAlphabet)])
		}
	}
	return string(out), nil
}

// diskKeys copies a Secret's values as they are: a key file may end in a newline that counts.
func diskKeys(name types.NamespacedName, s *corev1.Secret) (map[string][]byte, error) {
	r, err := readSecret(name, s)
	if err != nil {
		return nil, err
	}
	if len(r.data) == 0 {
		return nil, &CredentialError{Secret: name, Rule: "it is empty: each of its values must be a key or passphrase of a LUKS volume"}
	}
	total := 0
	for _, key := range slices.Sorted(maps.Keys(r.data)) {
		if len(r.data[key]) == 0 {
			return nil, r.errorf(key, "it is empty: it must hold a key or passphrase of a LUKS volume")
		}
		if total += len(r.data[key]); total > maxDiskKeys {
			return nil, &CredentialError{Secret: name, Rule: fmt.Sprintf("its values have more than %d bytes together", maxDiskKeys)}
		}
	}
	return maps.Clone(r.data), nil
}

// credentials are the Secrets of the session's namespace.
func (b *builder) credentials() (out []client.Object) {
	add := func(name string, kind corev1.SecretType, generated bool, data map[string][]byte) {
		maps.DeleteFunc(data, func(_ string, v []byte) bool { return len(v) == 0 })
		s := &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: b.meta(b.names.Session, name), Type: kind, Data: data}
		if generated {
			s.Annotations[annotationGenerated] = "true"
		}
		out = append(out, s)
	}
	if c := b.m.SSH; c != nil {
		add(b.names.SSH(), corev1.SecretTypeOpaque, c.PrivateKey != nil, map[string][]byte{
			session.KeyUsername: []byte(c.Username), session.KeyAuthorizedKeys: c.AuthorizedKeys,
			session.KeyTrustedCA: c.TrustedCA, keyPrivate: c.PrivateKey,
		})
	}
	if c := b.m.Browser; c != nil {
		add(b.names.Browser(), corev1.SecretTypeOpaque, c.Generated, map[string][]byte{
			session.KeyUsername: []byte(c.Username), session.KeyPassword: []byte(c.Password),
		})
	}
	if c := b.m.TLS; c != nil {
		add(b.names.TLS(), corev1.SecretTypeTLS, true, map[string][]byte{
			session.KeyCertificate: c.Cert, session.KeyPrivateKey: c.Key, session.KeyCA: c.CA,
		})
	}
	if b.m.DiskKeys != nil {
		add(b.names.DiskKeys(), corev1.SecretTypeOpaque, false, maps.Clone(b.m.DiskKeys))
	}
	if b.cfg.OpenShift && b.in.Browser() != nil {
		// OpenShift writes its authority's certificate into it.
		cm := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: b.meta(b.names.Session, b.names.ServiceCA())}
		cm.Annotations["service.beta.openshift.io/inject-cabundle"] = "true"
		out = append(out, cm)
	}
	return out
}

// checkMaterial checks that the secrets are those that the spec needs.
func (b *builder) checkMaterial() error {
	m := b.m
	if len(m.Identity.JoinKey) != session.JoinKeyBytes || (m.SSH == nil) != (b.in.SSH() == nil) || (m.Browser == nil) != (b.in.Browser() == nil) ||
		len(m.Pull) != len(b.cfg.ImagePullSecrets) {
		return errors.New("plan: the secrets are not this file restore's")
	}
	return nil
}
