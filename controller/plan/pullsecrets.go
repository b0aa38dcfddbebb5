package plan

import (
	"bytes"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// PullSecret is what a kubelet gets the holders' image with.
type PullSecret struct {
	Type corev1.SecretType
	Data []byte // of the one key that the type has
}

// pullKeys are the keys of Secrets that a kubelet pulls with, by type.
var pullKeys = map[corev1.SecretType]string{
	corev1.SecretTypeDockerConfigJson: corev1.DockerConfigJsonKey,
	corev1.SecretTypeDockercfg:        corev1.DockerConfigKey,
}

// pullReferences are the Secrets to copy.
func (c Config) pullReferences() (refs []types.NamespacedName) {
	for _, name := range c.ImagePullSecrets {
		refs = append(refs, types.NamespacedName{Namespace: c.Namespace, Name: name})
	}
	return refs
}

// pullSecrets reads what is to be copied; found has the Secrets of refs in their order, nil: not there.
func pullSecrets(refs []types.NamespacedName, found []*corev1.Secret) (out []PullSecret, err error) {
	for i, ref := range refs {
		var s *corev1.Secret
		if i < len(found) {
			s = found[i]
		}
		if s == nil {
			return nil, &CredentialError{Secret: ref, Rule: "it does not exist, and the controller's --holder-image-pull-secret names it: make it there, or correct the flag"}
		}
		key, ok := pullKeys[s.Type]
		if !ok {
			return nil, &CredentialError{Secret: ref, Rule: "its type is " + string(s.Type) + ", not " + string(corev1.SecretTypeDockerConfigJson) +
				", and the controller's --holder-image-pull-secret names it: make it by `kubectl create secret docker-registry`"}
		}
		out = append(out, PullSecret{s.Type, bytes.Clone(s.Data[key])})
	}
	return out, nil
}

// PullSecret is a Secret that the holders' image is pulled with, in each temporary namespace; i from 1.
func (n Names) PullSecret(i int) string { return n.Object() + "-pull-" + strconv.Itoa(i) }

// temporary tells whether a namespace was made for the session.
func (b *builder) temporary(p place) bool { return p.backup != nil || b.names.Temporary }

// pulls are the copies of the installation's pull secrets. A namespace that is made for a session has no
// Secrets yet; one that somebody chose has its own, and is not given the installation's.
func (b *builder) pulls() (out []client.Object) {
	for _, p := range b.places() {
		if !b.temporary(p) {
			continue
		}
		for i, s := range b.m.Pull {
			out = append(out, &corev1.Secret{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: b.metaAt(p, b.names.PullSecret(i+1)),
				Type: s.Type, Data: map[string][]byte{pullKeys[s.Type]: slices.Clone(s.Data)},
			})
		}
	}
	return out
}

// pullWith are the names of those Secrets as a pod in p refers to them.
func (b *builder) pullWith(p place) (refs []corev1.LocalObjectReference) {
	for i, name := range b.cfg.ImagePullSecrets {
		if b.temporary(p) {
			name = b.names.PullSecret(i + 1)
		}
		refs = append(refs, corev1.LocalObjectReference{Name: name})
	}
	return refs
}
