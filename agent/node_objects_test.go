package main

import (
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	api "vmfr/api/session"
)

// connect makes the client of whoever sets the cell up, without its usual limit of five requests
// in a second.
func (c *cell) connect() {
	c.t.Helper()
	cfg := rest.CopyConfig(c.cp.Config)
	cfg.QPS = -1
	var err error
	if c.client, err = kubernetes.NewForConfig(cfg); err != nil {
		c.t.Fatal(err)
	}
}

// holderNamespace makes a namespace with the service account of holders.
func (c *cell) holderNamespace(name string) {
	c.t.Helper()
	ctx := c.t.Context()
	_, err := c.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err == nil {
		_, err = c.client.CoreV1().ServiceAccounts(name).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "holder"}}, metav1.CreateOptions{})
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// reportObjects are the ConfigMap of a session's report and the right to change it.
func (c *cell) reportObjects(namespace, name string) {
	c.t.Helper()
	ctx := c.t.Context()
	meta := metav1.ObjectMeta{Name: "report"}
	_, err := c.client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err == nil {
		_, err = c.client.RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta,
			Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{name}, Verbs: []string{"patch"}}}}, metav1.CreateOptions{})
	}
	if err == nil {
		_, err = c.client.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta,
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "report"},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "holder", Namespace: namespace}}}, metav1.CreateOptions{})
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// token makes a pod and a token bound to it.
func (c *cell) token(namespace, node, audience string) string {
	c.t.Helper()
	c.pods++
	pod, err := c.client.CoreV1().Pods(namespace).Create(c.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("holder-%d", c.pods)},
		Spec:       corev1.PodSpec{ServiceAccountName: "holder", NodeName: node, Containers: []corev1.Container{{Name: "hold", Image: "none"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return c.accountToken(namespace, "holder", authenticationv1.TokenRequestSpec{Audiences: []string{audience},
		BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}})
}

// accountToken is a token of a service account.
func (c *cell) accountToken(namespace, account string, spec authenticationv1.TokenRequestSpec) string {
	c.t.Helper()
	t, err := c.client.CoreV1().ServiceAccounts(namespace).CreateToken(c.t.Context(), account, &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return t.Status.Token
}

// report is the ConfigMap that the controller reads.
func (r *restore) report() (*api.Report, error) {
	r.c.t.Helper()
	m, err := r.c.client.CoreV1().ConfigMaps(r.namespace("")).Get(r.c.t.Context(), api.ReportName(r.doc.UID), metav1.GetOptions{})
	if err != nil {
		r.c.t.Fatal(err)
	}
	return api.DecodeReport([]byte(m.Data[api.KeyReport]), r.doc.ID)
}
