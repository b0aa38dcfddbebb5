package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
)

// testAdrift: a file restore ends although Velero's namespace is deleted around it, and with it the controller's rights
// there and Velero, whose Restores nobody takes the finalizer off. A controller that was started since then needs
// docs/troubleshooting.md's commands.
func (e *env) testAdrift(t *testing.T) {
	t.Run("running", func(t *testing.T) { e.adrift(t, "adrift", false) })
	t.Run("restarted", func(t *testing.T) { e.adrift(t, "astray", true) })
}

func (e *env) adrift(t *testing.T, namespace string, restarted bool) {
	ctx := context.Background()
	const stuck = "example.com/stuck"
	session := namespace + "-session"
	e.CreateNamespace(t, namespace)
	// As docs/install.md has it for a Velero elsewhere: the Role and its binding that have Velero's label.
	roles := slices.DeleteFunc(regexp.MustCompile(`(?m)^---$`).Split(read(t, "../deploy/install.yaml"), -1), func(text string) bool {
		return !strings.Contains(text, "\n    vmfr.io/namespace: velero\n")
	})
	if len(roles) != 2 {
		t.Fatalf("%d objects with Velero's label", len(roles))
	}
	text := strings.ReplaceAll(strings.Join(roles, "---\n"), "\n  namespace: velero\n", "\n  namespace: "+namespace+"\n")
	if out, err := e.Kubectl(text, "apply", "--server-side", "-f", "-"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	args := []string{"--velero-namespace=" + namespace, "--leader-elect=false"}
	p := startController(t, e.kubeconfig, args...)
	p.awaitReady(t)

	v := &v1alpha1.VirtualMachineFileRestore{ObjectMeta: metav1.ObjectMeta{Name: "adrift", Namespace: namespace},
		Spec: v1alpha1.VirtualMachineFileRestoreSpec{BackupsDiscoveryRef: "none"}}
	if err := e.admin.Create(ctx, v); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, waitLimit, func() error {
		if err := e.admin.Get(ctx, client.ObjectKeyFromObject(v), v); err != nil {
			return err
		}
		if v.Status.Phase != v1alpha1.FileRestoreFailed {
			return fmt.Errorf("it is %q", v.Status.Phase)
		}
		return nil
	})
	// What a session leaves to remove.
	labels := map[string]string{v1alpha1.LabelOriginUUID: string(v.UID)}
	e.CreateNamespace(t, session, v1alpha1.LabelOriginUUID, string(v.UID), v1alpha1.LabelTempNamespace, "true")
	restore := &velerov1.Restore{ObjectMeta: metav1.ObjectMeta{Name: "vmfr-adrift-1", Namespace: namespace, Labels: labels, Finalizers: []string{stuck}}}
	held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Namespace: session, Finalizers: []string{stuck}}}
	for _, o := range []client.Object{restore, held} {
		if err := e.admin.Create(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	if restarted {
		p.stop(syscall.SIGKILL)
	}
	if err := e.admin.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
		t.Fatal(err)
	}
	gone := func(o client.Object) {
		t.Helper()
		key := client.ObjectKeyFromObject(o)
		cluster.Await(t, waitLimit, func() error {
			if err := e.admin.Get(ctx, key, o); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%T %s is there: %w", o, key, err)
			}
			return nil
		})
	}
	free := func(o client.Object) {
		t.Helper()
		if err := e.admin.Patch(ctx, o, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))); err != nil {
			t.Fatal(err)
		}
	}
	gone(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "vmfr-controller", Namespace: namespace}})
	var end func()
	if restarted {
		startController(t, e.kubeconfig, args...)
		end = e.rescue(t, namespace)
	}
	free(held) // the deletion had to wait for it
	if restarted {
		end()
	}
	gone(v)
	gone(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: session}})
	free(restore)
	gone(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
}

// rescue has the controller's rights lent as docs/troubleshooting.md says; end waits for the file restore's end and
// takes them back.
func (e *env) rescue(t *testing.T, namespace string) (end func()) {
	t.Helper()
	_, script, ok := strings.Cut(read(t, "../docs/troubleshooting.md"), "\n    kubectl create clusterrole vmfr-rescue ")
	script, _, found := strings.Cut(script, "\n\n")
	lend, takeBack, cut := strings.Cut("kubectl create clusterrole vmfr-rescue "+script, "\n    kubectl -n velero wait ")
	if !ok || !found || !cut {
		t.Fatal("docs/troubleshooting.md has no such commands")
	}
	e.shell(t, lend)
	return func() {
		t.Helper()
		e.shell(t, "kubectl -n "+namespace+" wait "+takeBack)
	}
}
