package plan

import (
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"vmfr/api/v1alpha1"
)

// Found are Secrets as they are in the cluster.
type Found struct {
	// The session's own, in the session's namespace, by the names of Names; nil: not there. Where
	// the identity is missing there, but is in a backup's namespace, that one may be given.
	Identity, SSH, Browser, TLS *corev1.Secret
	// What the spec refers to (see SecretReferences); nil: not there, or nothing is referred to.
	SSHRef, BrowserRef, DiskKeysRef *corev1.Secret
	// The Secrets that the holders' image is pulled with, in the order of References.Pull; nil: not there.
	Pull []*corev1.Secret
}

// References are the Secrets that a spec and the controller's flags refer to, with their namespaces;
// nil: none.
type References struct {
	SSH, Browser, DiskKeys *types.NamespacedName
	Pull                   []types.NamespacedName
}

// Material is what is secret in a session. Print it nowhere.
type Material struct {
	Identity Identity
	SSH      *SSHCredentials     // nil: not served
	Browser  *BrowserCredentials // nil: not served
	TLS      *Certificate        // nil: not served, or OpenShift makes it
	DiskKeys map[string][]byte   // nil: none
	Pull     []PullSecret
}

// String keeps secrets out of logs, whatever prints a Material.
func (m Material) String() string { return "(secret)" }

// GoString is String.
func (m Material) GoString() string { return m.String() }

// CredentialError is a Secret or a field that cannot be used. It never holds a value.
type CredentialError struct {
	Secret types.NamespacedName // empty: a field
	Key    string               // of the Secret, or the field's path; empty: the Secret itself
	Rule   string               // what is wrong and what to do
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

// broken is the error for a Secret that we made ourselves and somebody changed.
func broken(s *corev1.Secret, key, rule string) error {
	return &CredentialError{Secret: types.NamespacedName{Namespace: s.Namespace, Name: s.Name}, Key: key,
		Rule: rule + "; it was changed after it was made: delete this file restore and make another"}
}

// SecretReferences are the Secrets that NewMaterial needs.
func SecretReferences(cfg Config, in Input) References {
	name := func(r *v1alpha1.SecretReference) *types.NamespacedName {
		if r == nil {
			return nil
		}
		n := types.NamespacedName{Namespace: r.Namespace, Name: r.Name}
		if n.Namespace == "" {
			n.Namespace = cfg.Namespace
		}
		return &n
	}
	refs := References{DiskKeys: name(in.Restore.Spec.DiskKeysSecretRef), Pull: cfg.pullReferences()}
	if s := in.SSH(); s != nil {
		refs.SSH = name(s.CredentialsSecretRef)
	}
	if b := in.Browser(); b != nil {
		refs.Browser = name(b.CredentialsSecretRef)
	}
	return refs
}

// NewMaterial reads what was found and makes what is not there yet from random, valid from now on.
// What was made must be written to the cluster before anything uses it: apply the steps in their
// order. An error that a user can mend is a *CredentialError; a host that cannot be computed is
// left out of the certificate, since Build tells.
func NewMaterial(cfg Config, in Input, found Found, now time.Time, random io.Reader) (m Material, err error) {
	refs := SecretReferences(cfg, in)
	if found.Identity != nil {
		m.Identity, err = readIdentity(found.Identity)
	} else {
		m.Identity, err = newIdentity(random)
	}
	if err != nil {
		return Material{}, err
	}
	if s := in.SSH(); s != nil {
		if m.SSH, err = sshCredentials(s, refs.SSH, found, random); err != nil {
			return Material{}, err
		}
	}
	if in.Browser() != nil {
		if m.Browser, err = browserCredentials(refs.Browser, found, random); err != nil {
			return Material{}, err
		}
		if !cfg.OpenShift {
			if m.TLS, err = servingCertificate(servingHosts(cfg, in), found.TLS, now, random); err != nil {
				return Material{}, err
			}
		}
	}
	if refs.DiskKeys != nil {
		if m.DiskKeys, err = diskKeys(*refs.DiskKeys, found.DiskKeysRef); err != nil {
			return Material{}, err
		}
	}
	if m.Pull, err = pullSecrets(refs.Pull, found.Pull); err != nil {
		return Material{}, err
	}
	return m, nil
}
