package plan

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"vmfr/api/v1alpha1"
)

func pullSecret(namespace, name string) *corev1.Secret {
	s := secret(namespace, name, corev1.DockerConfigJsonKey, `{"auths":{"registry.example.com":{"auth":"YTpi"}}}`, "other", "not for kubelets")
	s.Type = corev1.SecretTypeDockerConfigJson
	return s
}

func TestPullSecrets(t *testing.T) {
	cfg := testConfig()
	cfg.ImagePullSecrets = []string{"first", "second"}
	first, second := pullSecret(cfg.Namespace, "first"), pullSecret(cfg.Namespace, "second")
	for _, c := range []struct {
		name   string
		found  []*corev1.Secret
		change func()
		want   string
	}{
		{"none looked for", nil, nil, "Secret openshift-adp/first: it does not exist"},
		{"one is missing", []*corev1.Secret{first, nil}, nil, "Secret openshift-adp/second: it does not exist"},
		{"of another type", []*corev1.Secret{first, second}, func() { second.Type = corev1.SecretTypeOpaque }, "its type is Opaque"},
		{"of the old type", []*corev1.Secret{first, second}, func() {
			second.Type, second.Data = corev1.SecretTypeDockercfg, map[string][]byte{corev1.DockerConfigKey: []byte(`{}`)}
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.change != nil {
				c.change()
			}
			in := testInput(nil)
			m, err := NewMaterial(cfg, in, Found{Pull: c.found}, testNow, fixed(1))
			var wrong *CredentialError
			if c.want != "" {
				if !errors.As(err, &wrong) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "--holder-image-pull-secret") {
					t.Errorf("%v, want %s and the flag", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := copies(t, cfg, in, m); got != len(in.Backups)*2+2 {
				t.Errorf("%d copies for %d backups' namespaces and the session's", got, len(in.Backups))
			}
			// A namespace of somebody else is given nothing, and its pods take the Secret that it has.
			there := testInput(func(s *v1alpha1.VirtualMachineFileRestoreSpec) { s.RestoreNamespace = "team-a" })
			if got := copies(t, cfg, there, m); got != len(there.Backups)*2 {
				t.Errorf("%d copies for %d backups' namespaces", got, len(there.Backups))
			}
		})
	}
	if _, err := Build(cfg, testInput(nil), Material{}); err == nil {
		t.Error("a session without the Secrets that its pods refer to")
	}
}

// copies counts the copied Secrets and checks that they hold nothing else.
func copies(t *testing.T, cfg Config, in Input, m Material) (n int) {
	t.Helper()
	p, err := Build(cfg, in, m)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range p.Step(StepCredentials) {
		s, ok := o.(*corev1.Secret)
		if !ok || !strings.Contains(s.Name, "-pull-") {
			continue
		}
		if len(s.Data) != 1 || len(s.Data[pullKeys[s.Type]]) == 0 || s.Namespace == in.Restore.Spec.RestoreNamespace {
			t.Errorf("%s/%s of type %s has %d keys", s.Namespace, s.Name, s.Type, len(s.Data))
		}
		n++
	}
	return n
}
