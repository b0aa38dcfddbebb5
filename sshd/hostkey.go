package sshd

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"

	gossh "golang.org/x/crypto/ssh"
)

// NewKey makes an ed25519 key pair: the private key in OpenSSH's PEM form, to be kept with
// mode 0600, and the public key as a line of authorized_keys or known_hosts (without a host),
// ending in a newline.
func NewKey(comment string) (private, public []byte, err error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("ssh key: %w", err)
	}
	block, err := gossh.MarshalPrivateKey(priv, comment)
	if err != nil {
		return nil, nil, fmt.Errorf("ssh key: %w", err)
	}
	sshPub, err := gossh.NewPublicKey(pub)
	if err != nil {
		return nil, nil, fmt.Errorf("ssh key: %w", err)
	}
	return pem.EncodeToMemory(block), gossh.MarshalAuthorizedKey(sshPub), nil
}
