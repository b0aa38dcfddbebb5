package cluster_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"vmfr/test/cluster"
)

var ctx = context.Background()

// limit is for what takes a second on a quiet machine.
const limit = 4 * time.Minute

// hold makes TestHold run.
var hold = flag.Bool("hold", false, "start a cluster with Velero and keep it until interrupted (TestHold)")

func TestMain(m *testing.M) {
	log.SetLogger(logr.Discard())
	flag.Parse()
	os.Exit(m.Run())
}

// TestCluster starts everything once; when it has ended, nothing may be left of it.
func TestCluster(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var servers []string
	t.Run("running", func(t *testing.T) {
		began := time.Now()
		after := func(what string) { t.Logf("%s after %s", what, time.Since(began).Round(10*time.Millisecond)) }
		cp := cluster.Start(t)
		after("a control plane")
		cp.StartControllers(t)
		after("its controllers")
		v := cluster.StartVelero(t, cp)
		after("Velero")
		servers = append(servers, cp.Config.Host, v.Default.URL)

		t.Run("parts", func(t *testing.T) {
			for _, x := range []struct {
				name string
				test func(*testing.T, cluster.ControlPlane, *cluster.Velero)
			}{
				{"admission", admission}, {"workload", workload}, {"access", access}, {"another", another},
				{"backup and restore", backupAndRestore}, {"locations", locations}, {"phases", phases},
			} {
				t.Run(x.name, func(t *testing.T) {
					t.Parallel()
					x.test(t, cp, v)
				})
			}
		})
		after("all")
	})
	for _, server := range servers {
		u, err := url.Parse(server)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := net.Dial("tcp", u.Host); err == nil {
			_ = c.Close()
			t.Errorf("somebody listens on %s", u.Host)
		}
		if err := cluster.Running(u.Hostname(), 0); err != nil {
			t.Errorf("left: %v", err)
		}
	}
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) > 0 {
		t.Errorf("left in %s: %v, %v", os.TempDir(), left, err)
	}
}

// TestHold is for people: see docs/development.md.
func TestHold(t *testing.T) {
	if !*hold {
		t.Skip("it waits for an interrupt: run it with -hold -timeout 0 -v")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cp := cluster.Start(t)
	v := cluster.StartVelero(t, cp)
	fmt.Printf("export KUBECONFIG=%s PATH=%s:$PATH\nbucket: %s\nstop with ^C\n", cp.Kubeconfig, cp.Programs(), v.Default.Bucket)
	<-ctx.Done()
}

// admission: Pod Security, admission policies and service accounts are enforced.
func admission(t *testing.T, cp cluster.ControlPlane, v *cluster.Velero) {
	cp.CreateNamespace(t, "restricted", "pod-security.kubernetes.io/enforce", "restricted")
	pod := func(account string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "restricted"},
			Spec: corev1.PodSpec{ServiceAccountName: account, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	}
	cluster.Await(t, limit, func() error {
		return v.Client.Get(ctx, client.ObjectKey{Namespace: "restricted", Name: "default"}, &corev1.ServiceAccount{})
	})
	for account, refusal := range map[string]string{"default": "violates PodSecurity", "nobody": `serviceaccount "nobody" not found`} {
		if err := v.Client.Create(ctx, pod(account)); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), refusal) {
			t.Errorf("a Pod of the account %s: %v, want %q", account, err, refusal)
		}
	}
	var root corev1.ConfigMap
	cluster.Await(t, limit, func() error {
		return v.Client.Get(ctx, client.ObjectKey{Namespace: "restricted", Name: "kube-root-ca.crt"}, &root)
	})

	fail := admissionv1.Fail
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "no-maps"}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		FailurePolicy: &fail,
		MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Create},
			Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}}}},
		Validations: []admissionv1.Validation{{Expression: "!object.metadata.name.startsWith('refused')", Message: "such a name"}},
	}}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "no-maps"},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: policy.Name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}}}
	if err := errors.Join(v.Client.Create(ctx, policy), v.Client.Create(ctx, binding)); err != nil {
		t.Fatal(err)
	}
	n := 0
	cluster.Await(t, limit, func() error { // the server learns of a policy in its own time
		n++
		err := v.Client.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("refused-%d", n), Namespace: "restricted"}})
		switch {
		case err == nil:
			return errors.New("not refused")
		case strings.Contains(err.Error(), "such a name"):
			return nil
		}
		return err
	})
}

// workload: a Deployment gets a Pod, by the replica set controller's own account, which waits for
// a node; and it takes its Pod along.
func workload(t *testing.T, cp cluster.ControlPlane, v *cluster.Velero) {
	cp.CreateNamespace(t, "workload")
	labels := map[string]string{"app": "holder"}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "holder", Namespace: "workload"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}}
	if err := v.Client.Create(ctx, d); err != nil {
		t.Fatal(err)
	}
	pods := func(n int) error {
		var list corev1.PodList
		if err := v.Client.List(ctx, &list, client.InNamespace("workload")); err != nil {
			return err
		}
		if len(list.Items) != n {
			return fmt.Errorf("%d Pods", len(list.Items))
		}
		for _, p := range list.Items {
			if p.Status.Phase != corev1.PodPending || p.Spec.ServiceAccountName != "default" {
				return fmt.Errorf("the Pod is %s, of %q", p.Status.Phase, p.Spec.ServiceAccountName)
			}
		}
		return nil
	}
	cluster.Await(t, limit, func() error { return pods(1) })
	if err := v.Client.Delete(ctx, d, client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, limit, func() error { return pods(0) })
}

// access: RBAC is enforced, and roles are aggregated.
func access(t *testing.T, cp cluster.ControlPlane, v *cluster.Velero) {
	cp.CreateNamespace(t, "access")
	config := rest.CopyConfig(cp.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "alice"}
	alice := cluster.ControlPlane{Config: config}.Client(t)
	if err := alice.List(ctx, &corev1.ConfigMapList{}, client.InNamespace("access")); !apierrors.IsForbidden(err) {
		t.Errorf("alice lists: %v", err)
	}
	for _, o := range []client.Object{
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "part", Labels: map[string]string{"part-of": "whole"}},
			Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list"}}}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "whole"},
			AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"part-of": "whole"}}}}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "alice", Namespace: "access"}, Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "alice"}},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "whole"}},
	} {
		if err := v.Client.Create(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	cluster.Await(t, limit, func() error { return alice.List(ctx, &corev1.ConfigMapList{}, client.InNamespace("access")) })
}

// another control plane runs beside the first.
func another(t *testing.T, cp cluster.ControlPlane, v *cluster.Velero) {
	second := cluster.Start(t)
	if second.Config.Host == cp.Config.Host {
		t.Fatalf("both are %s", cp.Config.Host)
	}
	if out, err := second.Kubectl("", "get", "namespaces", "-o", "name"); err != nil || strings.Contains(out, cluster.VeleroNamespace) || !strings.Contains(out, "kube-system") {
		t.Errorf("kubectl: %v: %s", err, out)
	}
}
