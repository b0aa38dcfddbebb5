package plan

import (
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Found are Secrets as they are in the cluster.
type Found struct {
	// The session's own, in the session's namespace, by the names of Names; nil: not there.
	Identity, SSH, Browser, TLS *corev1.Secret
	// What the spec refers to (see References); nil: not there, or nothing is referred to.
	SSHRef, BrowserRef, DiskKeysRef *corev1.Secret
}

// References are the Secrets that a spec refers to, with their namespaces; nil: none.
type References struct {
	SSH, Browser, DiskKeys *types.NamespacedName
}

// Material is what is secret in a session. Print it nowhere.
type Material struct {
	Identity Identity
	SSH      *SSHCredentials     // nil: not served
	Browser  *BrowserCredentials // nil: not served
	TLS      *Certificate        // nil: not served, or OpenShift makes it
	DiskKeys map[string][]byte   // nil: none
}

// Identity is what makes holders one session, and the session one SSH server.
type Identity struct {
	JoinKey []byte // session.JoinKeyBytes
	HostKey []byte // an Ed25519 key, OpenSSH's PEM
}

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
}

// Certificate is a serving certificate and its authority, in PEM.
type Certificate struct {
	Cert, Key, CA []byte
}

// CredentialError is a Secret or a field that cannot be used. It never holds a value.
type CredentialError struct {
	Secret types.NamespacedName // empty: a field
	Key    string               // of the Secret, or the field's path; empty: the Secret itself
	Rule   string               // what it must be
}

func (e *CredentialError) Error() string {
	switch {
	case e.Secret.Name == "":
		return fmt.Sprintf("%s: %s", e.Key, e.Rule)
	case e.Key == "":
		return fmt.Sprintf("Secret %s: %s", e.Secret, e.Rule)
	}
	return fmt.Sprintf("Secret %s, key %s: %s", e.Secret, e.Key, e.Rule)
}

// SecretReferences are the Secrets that NewMaterial needs.
func SecretReferences(cfg Config, in Input) References { return References{} }

// NewMaterial reads what was found and makes what is not there yet from random; both at now. What
// was made must be written to the cluster (Build's Secrets) before anything uses it. An error is
// a *CredentialError where a user can mend it.
func NewMaterial(cfg Config, in Input, found Found, now time.Time, random io.Reader) (Material, error) {
	return Material{}, nil
}

// SessionID is the session's id (session.ID).
func (i Identity) SessionID() string { return "" }

// HostKeyLine is the SSH host's public key as in known_hosts, without the host.
func (i Identity) HostKeyLine() (string, error) { return "", nil }

// Fingerprint is the SHA-256 of the first certificate in PEM, in upper-case hex with colons.
func Fingerprint(pem []byte) (string, error) { return "", nil }
