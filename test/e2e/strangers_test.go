package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
	"vmfr/test/cluster"
	"vmfr/test/e2e/guest"
)

// attack is a pod that mounts the agent's folder and asks for a part of somebody else's session.
type attack struct {
	name   string
	key    []byte // the join key that it has; nil: the session's own
	token  string // that it has; empty: its own, which the kubelet gives it for the agent
	answer string // what the agent says to it
}

// strangers: whoever can mount the agent's folder, and run our own holder there, gets no part of a
// session: neither with a token that is none, nor without the session's key, nor with both.
func (f *fault) strangers(t *testing.T) {
	if f.c.w.image == "" {
		t.Skip("the image is not known: say which it is with -image")
	}
	ctx := t.Context()
	const namespace = "mallory"
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "privileged"}}}
	f.c.w.create(t, ns)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "mallory"}}
	if err := f.c.w.admin.Create(ctx, account); err != nil {
		t.Fatal(err)
	}
	token := func(audience string) string {
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}}}
		if err := f.c.w.admin.SubResource("token").Create(ctx, account, request); err != nil {
			t.Fatal(err)
		}
		return request.Status.Token
	}
	good := token(session.TokenAudience)
	header, rest, _ := strings.Cut(good, ".")
	attacks := []attack{
		{name: "forged", token: header + "." + strings.ToUpper(rest), answer: "not valid"},
		{name: "audience", token: token("https://kubernetes.default.svc"), answer: "not valid"},
		{name: "no-pod", token: good, answer: "not valid"},
		// Our own holder does not even ask with a key that the document's session has not; what the
		// agent answers to one that does is tested with its own package.
		{name: "foreign-key", key: []byte(strings.Repeat("k", session.JoinKeyBytes)), answer: "do not belong together"},
		{name: "leaked-key", answer: "this part is held by"},
	}
	for _, a := range attacks {
		f.attack(t, namespace, a)
	}
	for _, a := range attacks {
		cluster.Await(t, serveLimit, func() error {
			out, err := f.c.w.kubectl(ctx, "-n", namespace, "logs", a.name)
			if err != nil {
				return err
			}
			if !strings.Contains(out, a.answer) {
				return fmt.Errorf("the agent does not answer %s with %q:\n%s", a.name, a.answer, out)
			}
			return nil
		})
	}
	if got := f.s.File(t, f.path(guest.Created)); got != "an idea\n" {
		t.Errorf("beside strangers: %q", got)
	}
	if r, err := f.shop.report(); err != nil || r.State != session.Serving || r.Restarts != 0 {
		t.Errorf("beside strangers: %+v, %v", r, err)
	}
}

// attack starts the pod of an attack: a holder of the backup that is served.
func (f *fault) attack(t *testing.T, namespace string, a attack) {
	t.Helper()
	var document corev1.ConfigMap
	var identity corev1.Secret
	for _, x := range []struct {
		o    client.Object
		name string
	}{{&document, f.shop.names.SessionConfig()}, {&identity, f.shop.names.Identity()}} {
		if err := f.c.w.admin.Get(t.Context(), client.ObjectKey{Namespace: f.shop.names.Session, Name: x.name}, x.o); err != nil {
			t.Fatal(err)
		}
	}
	key := a.key
	if key == nil {
		key = identity.Data[session.KeyJoin]
	}
	own := metav1.ObjectMeta{Namespace: namespace, Name: a.name}
	expires := int64(600)
	tokens := corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: session.TokenAudience, ExpirationSeconds: &expires, Path: session.FileToken}}}}}
	secret := &corev1.Secret{ObjectMeta: own, Data: map[string][]byte{session.KeyJoin: key}}
	if a.token != "" {
		tokens = corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: a.name, Items: []corev1.KeyToPath{{Key: session.FileToken, Path: session.FileToken}}}}
		secret.Data[session.FileToken] = []byte(a.token)
	}
	pod := &corev1.Pod{ObjectMeta: own, Spec: corev1.PodSpec{
		ServiceAccountName: "mallory", RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64),
		Containers: []corev1.Container{{Name: "holder", Image: f.c.w.image, ImagePullPolicy: corev1.PullIfNotPresent,
			Command: []string{"/vmfr-agent", "hold", "--backup", snapshot}, SecurityContext: &corev1.SecurityContext{RunAsUser: new(int64)},
			VolumeMounts: []corev1.VolumeMount{
				{Name: "session", MountPath: session.DirSession}, {Name: "identity", MountPath: session.DirIdentity},
				{Name: "token", MountPath: session.DirToken}, {Name: "agent", MountPath: session.DirAgent, ReadOnly: true}}}},
		Volumes: []corev1.Volume{
			{Name: "session", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: a.name}}}},
			{Name: "identity", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: a.name, Items: []corev1.KeyToPath{{Key: session.KeyJoin, Path: session.KeyJoin}}}}},
			{Name: "token", VolumeSource: tokens},
			{Name: "agent", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: session.DirAgent}}},
		},
	}}
	for _, o := range []client.Object{&corev1.ConfigMap{ObjectMeta: own, Data: document.Data}, secret, pod} {
		if err := f.c.w.admin.Create(context.Background(), o); err != nil {
			t.Fatal(err)
		}
	}
}
