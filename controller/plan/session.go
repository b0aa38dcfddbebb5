package plan

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
)

// document is what all holders are told. It is what session.Decode accepts, or an error that tells
// the field.
func (b *builder) document() (*session.Session, error) {
	if err := b.checkMaterial(); err != nil {
		return nil, err
	}
	s := &session.Session{
		Version: session.Version, ID: b.m.Identity.SessionID(),
		UID: string(b.in.Restore.UID), Name: b.in.Restore.Name, Namespace: b.in.Restore.Namespace,
		VM: b.in.VM,
	}
	for _, bk := range b.in.Backups {
		out := session.Backup{Name: bk.Name, Timestamp: bk.Timestamp.UTC()}
		for _, d := range bk.Disks {
			out.Disks = append(out.Disks, session.Disk{Name: d.Name, PVCUID: string(d.PVCUID), Mode: d.Mode, Bus: d.Bus})
		}
		s.Backups = append(s.Backups, out)
	}
	if b.in.SSH() != nil {
		s.SSH = new(session.SSH)
	}
	if b.in.Browser() != nil {
		s.Browser = new(session.Browser)
	}
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	return s, nil
}

// documents are session.json in every namespace, and the empty report. The report's content is not
// part of the plan: it is the front holder's, and server-side apply leaves it alone.
func (b *builder) documents(doc *session.Session) (out []client.Object, err error) {
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	if len(text) > session.MaxSessionBytes {
		return nil, fmt.Errorf("plan: the session's document has %d bytes, more than %d: select fewer backups", len(text), session.MaxSessionBytes)
	}
	configMap := func(p place, name string, data map[string]string) {
		out = append(out, &corev1.ConfigMap{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: b.metaAt(p, name), Data: data,
		})
	}
	for _, p := range b.places() {
		configMap(p, b.names.SessionConfig(), map[string]string{session.KeySession: string(text) + "\n"})
	}
	configMap(b.places()[0], b.names.Report(), nil)
	return out, nil
}

// accounts are the holders' service accounts and what they may do: the front holder may read and
// write the report; disk holders may do nothing.
func (b *builder) accounts() (out []client.Object) {
	name := b.names.Object()
	for _, p := range b.places() {
		out = append(out, &corev1.ServiceAccount{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: b.metaAt(p, name),
			AutomountServiceAccountToken: new(false),
		})
		if b.cfg.OpenShift && b.cfg.SCCRole != "" {
			out = append(out, b.binding(p, name+"-scc", "ClusterRole", b.cfg.SCCRole))
		}
	}
	front := b.places()[0]
	return append(out,
		&rbacv1.Role{
			TypeMeta: metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "Role"}, ObjectMeta: b.metaAt(front, name),
			Rules: []rbacv1.PolicyRule{{
				APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{b.names.Report()},
				Verbs: []string{"get", "update", "patch"},
			}},
		},
		b.binding(front, name, "Role", name))
}

// binding gives a namespace's holder a role.
func (b *builder) binding(p place, name, kind, role string) client.Object {
	return &rbacv1.RoleBinding{
		TypeMeta: metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"}, ObjectMeta: b.metaAt(p, name),
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: p.namespace, Name: b.names.Object()}},
	}
}
