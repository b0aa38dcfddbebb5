package plan

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
)

// startLimit bounds what an API server does within a second.
const startLimit = 4 * time.Minute

// policies has everybody try everything in a session's namespace: the real controllers make the
// pods of the controller's Deployment, and nobody else makes, changes or enters one.
func (r rig) policies(t *testing.T) {
	for _, o := range AdmissionPolicies(testController) {
		apply(t, r.admin, o)
	}
	c := goldenCases()["ssh-and-browser"]
	c.in.Restore.UID = "00000000-0000-4000-8000-aaaaaaaaaaaa"
	p := c.plan(t)
	ns := p.Names.Session

	// Roles: the controller's are another matter; tenants are administrators of both namespaces.
	controller := r.account(t, "vmfr", "vmfr-controller")
	tenant := r.as(t, "tenant")
	for _, o := range p.Step(StepNamespaces) {
		apply(t, r.admin, o)
	}
	r.namespace(t, "own", nil)
	r.grant(t, "", "cluster-admin", rbacv1.Subject{Kind: "ServiceAccount", Namespace: "vmfr", Name: "vmfr-controller"})
	for _, n := range []string{ns, "own"} {
		r.grant(t, n, "admin", rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: "tenant"})
	}
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}, RestartPolicy: corev1.RestartPolicyAlways},
	}
	once := *template.DeepCopy()
	once.Spec.RestartPolicy = corev1.RestartPolicyNever
	meta := func(namespace string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: "x", Labels: map[string]string{"a": "b"}}
	}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
	workloads := func(namespace string) []client.Object {
		return []client.Object{
			&corev1.Pod{ObjectMeta: meta(namespace), Spec: template.Spec},
			&corev1.ReplicationController{ObjectMeta: meta(namespace), Spec: corev1.ReplicationControllerSpec{Template: &template}},
			&appsv1.Deployment{ObjectMeta: meta(namespace), Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}},
			&appsv1.ReplicaSet{ObjectMeta: meta(namespace), Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: template}},
			&appsv1.StatefulSet{ObjectMeta: meta(namespace), Spec: appsv1.StatefulSetSpec{Selector: selector, Template: template}},
			&appsv1.DaemonSet{ObjectMeta: meta(namespace), Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}},
			&batchv1.Job{ObjectMeta: meta(namespace), Spec: batchv1.JobSpec{Template: once}},
			&batchv1.CronJob{ObjectMeta: meta(namespace), Spec: batchv1.CronJobSpec{Schedule: "0 0 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: once}}}},
		}
	}
	// Policies and roles work a moment after they were made, each at a time of its own.
	for _, try := range []func() error{
		func() error { return tenant.Create(t.Context(), workloads(ns)[0], client.DryRunAll) },
		func() error {
			return tenant.SubResource("token").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "default"}}, &authenticationv1.TokenRequest{})
		},
		func() error {
			return r.admin.Patch(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, noLabels, client.DryRunAll)
		},
	} {
		cluster.Await(t, startLimit, func() error { return byPolicy(try()) })
	}
	for _, user := range []struct {
		name string
		c    client.Client
	}{{"tenant", tenant}, {"admin", r.admin}} {
		for _, w := range workloads(ns) {
			if err := byPolicy(user.c.Create(t.Context(), w, client.DryRunAll)); err != nil {
				t.Errorf("%s makes a %T: %v", user.name, w, err)
			}
		}
	}
	for _, w := range workloads("own") {
		if err := tenant.Create(t.Context(), w, client.DryRunAll); err != nil {
			t.Errorf("elsewhere a tenant makes no %T: %v", w, err)
		}
	}
	for _, w := range workloads(ns)[:2] {
		if err := byPolicy(controller.Create(t.Context(), w, client.DryRunAll)); err != nil {
			t.Errorf("the controller makes a %T: %v", w, err)
		}
	}

	// The whole session by the controller, its pods by the real controllers.
	for _, o := range p.Objects() {
		apply(t, controller, o)
	}
	pod := r.podIn(t, ns)
	r.changes(t, tenant, controller, p, pod)
	r.access(t, pod)
	r.labels(t, controller, p)
	r.removal(t, controller, p)
}

// byPolicy is nil if one of the policies refused.
func byPolicy(err error) error {
	if apierrors.IsForbidden(err) && strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'vmfr-session-") {
		return nil
	}
	return fmt.Errorf("no policy refused it: %w", errOr(err))
}

func errOr(err error) error {
	if err == nil {
		return errors.New("it was done")
	}
	return err
}

func (r rig) grant(t *testing.T, namespace, role string, who rbacv1.Subject) {
	t.Helper()
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}
	meta := metav1.ObjectMeta{Namespace: namespace, Name: "test-" + role}
	var o client.Object = &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: []rbacv1.Subject{who}}
	if namespace == "" {
		o = &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: []rbacv1.Subject{who}}
	}
	if err := r.admin.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

// podIn waits for the one pod that the controllers make.
func (r rig) podIn(t *testing.T, namespace string) *corev1.Pod {
	t.Helper()
	var pods corev1.PodList
	cluster.Await(t, startLimit, func() error {
		if err := r.admin.List(t.Context(), &pods, client.InNamespace(namespace)); err != nil {
			return err
		}
		if len(pods.Items) != 1 {
			return fmt.Errorf("%d pods in %s", len(pods.Items), namespace)
		}
		return nil
	})
	return &pods.Items[0]
}

// changes tries to change what runs.
func (r rig) changes(t *testing.T, tenant, controller client.Client, p Plan, pod *corev1.Pod) {
	t.Helper()
	merge := func(text string) client.Patch { return client.RawPatch(types.MergePatchType, []byte(text)) }
	strategic := func(text string) client.Patch {
		return client.RawPatch(types.StrategicMergePatchType, []byte(text))
	}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: p.Names.Session, Name: p.Names.Object()}}
	var sets appsv1.ReplicaSetList
	if err := r.admin.List(t.Context(), &sets, client.InNamespace(p.Names.Session)); err != nil || len(sets.Items) != 1 {
		t.Fatalf("%d ReplicaSets: %v", len(sets.Items), err)
	}
	image := strategic(`{"spec":{"template":{"spec":{"containers":[{"name":"holder","image":"evil"}]}}}}`)
	for what, do := range map[string]func() error{
		"the Deployment's image": func() error { return tenant.Patch(t.Context(), d.DeepCopy(), image, client.DryRunAll) },
		"the ReplicaSet's image": func() error { return tenant.Patch(t.Context(), sets.Items[0].DeepCopy(), image, client.DryRunAll) },
		"the pod's image": func() error {
			return tenant.Patch(t.Context(), pod.DeepCopy(), strategic(`{"spec":{"containers":[{"name":"holder","image":"evil"}]}}`), client.DryRunAll)
		},
		"the pod's labels": func() error {
			return tenant.Patch(t.Context(), pod.DeepCopy(), merge(`{"metadata":{"labels":{"vmfr.io/part":"none"}}}`), client.DryRunAll)
		},
		"the pod's owner": func() error {
			return tenant.Patch(t.Context(), pod.DeepCopy(), merge(`{"metadata":{"ownerReferences":null}}`), client.DryRunAll)
		},
		"the scale": func() error {
			return tenant.SubResource("scale").Patch(t.Context(), d.DeepCopy(), merge(`{"spec":{"replicas":2}}`), client.DryRunAll)
		},
	} {
		if err := byPolicy(do()); err != nil {
			t.Errorf("a tenant changes %s: %v", what, err)
		}
	}
	// What network plugins do, and what the controller does.
	if err := tenant.Patch(t.Context(), pod.DeepCopy(), merge(`{"metadata":{"annotations":{"ovn.kubernetes.io/ip_address":"10.16.0.5"}}}`), client.DryRunAll); err != nil {
		t.Errorf("a pod cannot be annotated: %v", err)
	}
	if err := controller.Patch(t.Context(), d.DeepCopy(), image, client.DryRunAll); err != nil {
		t.Errorf("the controller cannot change its Deployment: %v", err)
	}
}

// access tries to get into a pod and at its token.
func (r rig) access(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	for _, user := range []struct {
		name   string
		groups []string
	}{{"tenant", nil}, {"admin", []string{"system:masters"}}} {
		core, err := kubernetes.NewForConfig(r.config(user.name, user.groups...))
		if err != nil {
			t.Fatal(err)
		}
		post := func(sub, query string) error {
			return core.CoreV1().RESTClient().Post().AbsPath("/api/v1/namespaces/"+pod.Namespace+"/pods/"+pod.Name+"/"+sub).
				Param("command", query).Do(t.Context()).Error()
		}
		for _, sub := range []string{"exec", "attach"} {
			if err := byPolicy(post(sub, "id")); err != nil {
				t.Errorf("%s: %s: %v", user.name, sub, err)
			}
		}
		// Not the policies' matter: this pod has no node.
		if err := post("portforward", ""); apierrors.IsForbidden(err) || err == nil {
			t.Errorf("%s: portforward: %v", user.name, err)
		}
		_, err = core.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(t.Context(), pod.Spec.ServiceAccountName, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		if err := byPolicy(err); err != nil {
			t.Errorf("%s: token: %v", user.name, err)
		}
	}
	admin, err := kubernetes.NewForConfig(r.config("admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	debug := []byte(`{"spec":{"ephemeralContainers":[{"name":"debug","image":"i"}]}}`)
	_, err = admin.CoreV1().Pods(pod.Namespace).Patch(t.Context(), pod.Name, types.StrategicMergePatchType, debug, metav1.PatchOptions{}, "ephemeralcontainers")
	if err := byPolicy(err); err != nil {
		t.Errorf("kubectl debug: %v", err)
	}
	const pulls = "system:serviceaccount:openshift-infra:serviceaccount-pull-secrets-controller"
	for _, c := range []struct {
		user, group string
		audiences   []string
		refused     bool
	}{
		{"system:node:n", "system:nodes", []string{session.TokenAudience}, false},
		{"system:node:n", "system:nodes", nil, false},
		{pulls, "system:serviceaccounts", nil, false},
		{pulls, "system:serviceaccounts", []string{"registry", session.TokenAudience}, true},
	} {
		k, err := kubernetes.NewForConfig(r.config(c.user, c.group, "system:masters"))
		if err != nil {
			t.Fatal(err)
		}
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: c.audiences}}
		_, err = k.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(t.Context(), pod.Spec.ServiceAccountName, request, metav1.CreateOptions{})
		// NodeRestriction asks a kubelet for the pod, but that is not the policies' matter.
		if refused := byPolicy(err) == nil; refused != c.refused {
			t.Errorf("%s asks for %v, refused: %v (%v)", c.user, c.audiences, refused, err)
		}
	}
}

// noLabels takes all labels away.
var noLabels = client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":null}}`))

// labels tries to take a namespace out of the policies' reach.
func (r rig) labels(t *testing.T, controller client.Client, p Plan) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.Names.Session}}
	patch := func(c client.Client, label, value string) error {
		return c.Patch(t.Context(), ns.DeepCopy(), client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{%q:%s}}}`, label, value)), client.DryRunAll)
	}
	for _, l := range []string{v1alpha1.LabelTempNamespace, v1alpha1.LabelOriginUUID} {
		for _, value := range []string{"null", `"other"`} {
			if err := byPolicy(patch(r.admin, l, value)); err != nil {
				t.Errorf("label %s=%s: %v", l, value, err)
			}
		}
	}
	if err := byPolicy(r.admin.Patch(t.Context(), ns.DeepCopy(), noLabels, client.DryRunAll)); err != nil {
		t.Errorf("without labels: %v", err)
	}
	if err := patch(r.admin, "team", `"a"`); err != nil {
		t.Errorf("another label: %v", err)
	}
	if err := patch(controller, v1alpha1.LabelOriginUUID, `"other"`); err != nil {
		t.Errorf("the controller: %v", err)
	}
	if err := r.admin.Patch(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "own"}}, noLabels, client.DryRunAll); err != nil {
		t.Errorf("a namespace of somebody else: %v", err)
	}
}

// removal deletes the session: the garbage collector and the namespace controller must get through.
func (r rig) removal(t *testing.T, controller client.Client, p Plan) {
	t.Helper()
	for _, o := range p.Step(StepHolders) {
		if err := controller.Delete(t.Context(), o, client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil {
			t.Errorf("%s: %v", o.GetNamespace(), err)
		}
	}
	for _, o := range p.Step(StepHolders) {
		cluster.Await(t, startLimit, func() error { return cluster.Gone(r.admin, o) })
	}
	for _, o := range p.Step(StepNamespaces) {
		if err := controller.Delete(t.Context(), o); err != nil {
			t.Errorf("%s: %v", o.GetName(), err)
		}
	}
	for _, o := range p.Step(StepNamespaces) {
		cluster.Await(t, startLimit, func() error { return cluster.Gone(r.admin, o) })
	}
}
