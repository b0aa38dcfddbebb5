package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
)

// exports is nil if the metrics match.
func (p *controller) exports(what string) error {
	text, err := fetch("http://" + p.numbers + "/metrics")
	if err == nil && !regexp.MustCompile(what).MatchString(text) {
		err = fmt.Errorf("%s is not among the metrics", what)
	}
	return err
}

// testLeaderElection: of two controllers one works, both are ready, and the other one goes on
// where the first was killed.
func (e *env) testLeaderElection(t *testing.T) {
	ctx := context.Background()
	// So long that no busy machine costs a leader its Lease; of one that was killed it is shortened.
	args := []string{"--leader-elect-namespace=vmfr-system", "--leader-elect-lease-duration=5m", "--leader-elect-renew-deadline=4m", "--leader-elect-retry-period=500ms"}
	first := startController(t, e.kubeconfig, args...)
	holder := func() string {
		var l coordinationv1.Lease
		if err := e.admin.Get(ctx, client.ObjectKey{Namespace: "vmfr-system", Name: "vmfr-controller-velero"}, &l); err != nil || l.Spec.HolderIdentity == nil {
			return ""
		}
		return *l.Spec.HolderIdentity
	}
	works := func(name string) {
		t.Helper()
		d := &v1alpha1.VirtualMachineBackupsDiscovery{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "velero"},
			Spec: v1alpha1.VirtualMachineBackupsDiscoverySpec{VirtualMachineName: "none", VirtualMachineNamespace: "none"}}
		if err := e.admin.Create(ctx, d); err != nil {
			t.Fatal(err)
		}
		cluster.Await(t, waitLimit, func() error {
			if err := e.admin.Get(ctx, client.ObjectKeyFromObject(d), d); err != nil {
				return err
			}
			if d.Status.Phase != v1alpha1.DiscoveryFailed { // no backup holds such a machine
				return fmt.Errorf("the discovery is %q", d.Status.Phase)
			}
			return nil
		})
		if err := e.admin.Delete(ctx, d); err != nil {
			t.Error(err)
		}
	}
	first.awaitReady(t)
	works("by-the-first")
	leader := holder()
	if leader == "" {
		t.Fatal("nobody holds the Lease")
	}
	// Of a file restore that both see, the one that leads tells.
	v := &v1alpha1.VirtualMachineFileRestore{ObjectMeta: metav1.ObjectMeta{Name: "counted", Namespace: "velero"},
		Spec: v1alpha1.VirtualMachineFileRestoreSpec{BackupsDiscoveryRef: "none"}}
	if err := e.admin.Create(ctx, v); err != nil {
		t.Fatal(err)
	}
	const one = `vmfr_file_restores\{phase="Failed"\} 1`
	cluster.Await(t, waitLimit, func() error { return first.exports(one) })
	second := startController(t, e.kubeconfig, args...)
	second.awaitReady(t)                                                                                                         // it stands by with full caches
	cluster.Await(t, waitLimit, func() error { return second.exports(`workqueue_adds_total\{[^}]*"filerestore"[^}]*\} [1-9]`) }) // it has seen it
	if err := second.exports("vmfr_file_restores"); err == nil {
		t.Error("who stands by counts file restores, too")
	}
	if h := holder(); h != leader {
		t.Fatalf("%s leads instead of %s, which lives", h, leader)
	}
	if err := second.logged("Starting workers"); err == nil {
		t.Error("the second one works although the first one leads")
	}
	first.stop(syscall.SIGKILL)
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "vmfr-system", Name: "vmfr-controller-velero"}}
	if err := e.admin.Patch(ctx, lease, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"leaseDurationSeconds":3}}`))); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, waitLimit, func() error {
		if h := holder(); h == leader || h == "" {
			return fmt.Errorf("%q leads", h)
		}
		return nil
	})
	works("by-the-second")
	cluster.Await(t, waitLimit, func() error { return second.exports(one) })
	if err := e.admin.Delete(ctx, v); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, waitLimit, func() error { return second.exports(`vmfr_file_restores\{phase="Failed"\} 0`) })
	metrics, err := fetch("http://" + second.numbers + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`vmfr_build_info{`, `version="test"`, "controller_runtime_reconcile_total", "leader_election_master_status", "workqueue_depth"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("%s is not among the metrics", want)
		}
	}
	if code := second.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("SIGTERM: exit code %d", code)
	}
	if h := holder(); h != "" {
		t.Errorf("who was asked to end still holds the Lease: %s", h)
	}
}
