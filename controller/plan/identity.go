package plan

import (
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"

	gossh "golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
)

// Identity is what makes holders one session, and the session one SSH server.
type Identity struct {
	JoinKey []byte // session.JoinKeyBytes
	HostKey []byte // an Ed25519 key, OpenSSH's PEM
}

// SessionID is the session's id (session.ID).
func (i Identity) SessionID() string { return session.ID(i.JoinKey) }

// HostKeyLine is the SSH host's public key as in known_hosts, without the host.
func (i Identity) HostKeyLine() (string, error) {
	signer, err := gossh.ParsePrivateKey(i.HostKey)
	if err != nil {
		return "", errors.New("the SSH host key cannot be read")
	}
	return publicLine(signer.PublicKey()), nil
}

// publicLine is a key without a comment and without a line's end.
func publicLine(k gossh.PublicKey) string {
	return strings.TrimSpace(string(gossh.MarshalAuthorizedKey(k)))
}

// newIdentity draws both keys.
func newIdentity(random io.Reader) (Identity, error) {
	join := make([]byte, session.JoinKeyBytes)
	if _, err := io.ReadFull(random, join); err != nil {
		return Identity{}, fmt.Errorf("join key: %w", err)
	}
	_, host, err := newKeyPair(random, "")
	return Identity{JoinKey: join, HostKey: host}, err
}

// readIdentity reads the session's own Secret.
func readIdentity(s *corev1.Secret) (Identity, error) {
	i := Identity{JoinKey: s.Data[session.KeyJoin], HostKey: s.Data[session.KeyHostKey]}
	if len(i.JoinKey) != session.JoinKeyBytes {
		return i, broken(s, session.KeyJoin, fmt.Sprintf("it must hold %d bytes", session.JoinKeyBytes))
	}
	signer, err := gossh.ParsePrivateKey(i.HostKey)
	if err != nil || signer.PublicKey().Type() != gossh.KeyAlgoED25519 {
		return i, broken(s, session.KeyHostKey, "it must hold an Ed25519 private key")
	}
	return i, nil
}

// newKeyPair draws an Ed25519 pair: the public key and the private one in OpenSSH's PEM.
func newKeyPair(random io.Reader, comment string) (gossh.PublicKey, []byte, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, nil, fmt.Errorf("SSH key: %w", err)
	}
	key := ed25519.NewKeyFromSeed(seed)
	block, err := gossh.MarshalPrivateKey(key, comment)
	if err != nil {
		return nil, nil, fmt.Errorf("SSH key: %w", err)
	}
	public, err := gossh.NewPublicKey(key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("SSH key: %w", err)
	}
	return public, pem.EncodeToMemory(block), nil
}

// identities are the Secrets that every namespace of the session has.
func (b *builder) identities() (out []client.Object) {
	for _, p := range b.places() {
		out = append(out, &corev1.Secret{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: b.metaAt(p, b.names.Identity()),
			Type: corev1.SecretTypeOpaque,
			Data: map[string][]byte{session.KeyJoin: b.m.Identity.JoinKey, session.KeyHostKey: b.m.Identity.HostKey},
		})
	}
	return out
}
