package v1alpha1_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
)

const (
	discovery = "VirtualMachineBackupsDiscovery"
	restore   = "VirtualMachineFileRestore"
)

// object makes an object of a kind from its spec in YAML.
func object(t *testing.T, kind, name, spec string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	text := fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s, namespace: default}\nspec: {%s}\n", v1alpha1.GroupVersion, kind, name, spec)
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return u
}

const (
	vm  = "virtualMachineName: vm, virtualMachineNamespace: ns"
	ref = "backupsDiscoveryRef: d"
	key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJPhHZzU4QxY0oTQ2zqPqXn6bNvFq0G8qkqJ6h0m3l2b user@host"
)

// admission is one object and the message that refuses it; empty: it is accepted.
var admission = []struct{ name, kind, spec, refused string }{
	{"a discovery", discovery, vm, ""},
	{"no name", discovery, "virtualMachineNamespace: ns", "spec.virtualMachineName: Required"},
	{"an empty name", discovery, `virtualMachineName: "", virtualMachineNamespace: ns`, "spec.virtualMachineName"},
	{"days", discovery, vm + ", startTime: '2026-04-01', endTime: '2026-04-12'", ""},
	{"one day", discovery, vm + ", startTime: '2026-04-12', endTime: '2026-04-12'", ""},
	{"RFC 3339", discovery, vm + ", startTime: '2026-04-01T10:00:00Z', endTime: '2026-04-12T22:00:00.5+02:00'", ""},
	{"mixed", discovery, vm + ", startTime: '2026-04-12', endTime: '2026-04-12T08:00:00Z'", ""},
	{"the wrong way round", discovery, vm + ", startTime: '2026-04-13', endTime: '2026-04-12'", "startTime must not be after endTime"},
	{"the wrong way round by an hour", discovery, vm + ", startTime: '2026-04-12T10:00:00Z', endTime: '2026-04-12T10:59:00+02:00'", "startTime must not be after endTime"},
	{"no time", discovery, vm + ", startTime: yesterday1", "use YYYY-MM-DD or RFC 3339"},
	{"no month", discovery, vm + ", startTime: '2026-13-01'", "use YYYY-MM-DD or RFC 3339"},
	{"no zone", discovery, vm + ", startTime: '2026-04-12T10:00:00'", "use YYYY-MM-DD or RFC 3339"},
	{"no such day", discovery, vm + ", startTime: '2026-02-31'", "spec.startTime"},
	{"requested", discovery, vm + ", requestedBackups: [b1, b2]", ""},
	{"an empty request", discovery, vm + `, requestedBackups: [""]`, "spec.requestedBackups[0]"},
	{"ranges", discovery, vm + ", timeRanges: [{startTime: '2026-01-01'}, {endTime: '2025-01-01'}], includeFirst: true", ""},
	{"an empty range", discovery, vm + ", timeRanges: [{}]", "set startTime, endTime or both"},
	{"a range the wrong way round", discovery, vm + ", timeRanges: [{startTime: '2026-01-02', endTime: '2026-01-01'}]", "startTime must not be after endTime"},

	{"a restore", restore, ref, ""},
	{"no reference", restore, "selectedBackups: [b]", "spec.backupsDiscoveryRef: Required"},
	{"both ways in", restore, ref + ", fileAccess: {ssh: {}, fileBrowser: {exposeExternally: true}}", ""},
	{"no way in", restore, ref + ", fileAccess: {}", "set at least one of ssh and fileBrowser"},
	{"a key", restore, ref + ", fileAccess: {ssh: {publicKey: '" + key + "'}}", ""},
	{"a key with options", restore, ref + ", fileAccess: {ssh: {publicKey: 'from=\"10.0.0.0/8\" " + key + "'}}", ""},
	{"two keys and a comment", restore, ref + `, fileAccess: {ssh: {publicKey: "# ours\n` + key + `\n` + key + `\n"}}`, ""},
	{"no key", restore, ref + ", fileAccess: {ssh: {publicKey: 'hello'}}", "publicKey must hold a key"},
	{"a private key", restore, ref + ", fileAccess: {ssh: {publicKey: '-----BEGIN OPENSSH PRIVATE KEY-----'}}", "publicKey must hold a key"},
	{"a user name", restore, ref + ", fileAccess: {ssh: {username: 'Root User'}}", "spec.fileAccess.ssh.username"},
	{"Secrets", restore, ref + ", fileAccess: {ssh: {credentialsSecretRef: {name: s}}, fileBrowser: {credentialsSecretRef: {name: t, namespace: other}}}", ""},
	{"a Secret without a name", restore, ref + `, fileAccess: {ssh: {credentialsSecretRef: {name: ""}}}`, "credentialsSecretRef.name"},
	{"a namespace", restore, ref + ", restoreNamespace: files", ""},
	{"a prefix", restore, ref + ", namespacePrefix: files", ""},
	{"a namespace and a prefix", restore, ref + ", restoreNamespace: files, namespacePrefix: x", "cannot be set with restoreNamespace"},
	{"no DNS name", restore, ref + ", restoreNamespace: Files", "spec.restoreNamespace"},
	{"a long prefix", restore, ref + ", namespacePrefix: " + strings.Repeat("x", 41), "spec.namespacePrefix"},
	{"a ttl", restore, ref + ", ttl: 48h", ""},
	{"the shortest ttl", restore, ref + ", ttl: 10m0s", ""},
	{"a short ttl", restore, ref + ", ttl: 9m59s", "ttl must be at least 10m"},
	{"a ttl in days", restore, ref + ", ttl: 2d", "such as 48h"},
	{"a ttl beyond all time", restore, ref + ", ttl: 99999999999h", "such as 48h"},
	{"a ttl of parts", restore, ref + ", ttl: 1h30m0.5s", ""},
	{"a negative ttl", restore, ref + ", ttl: -1h", "ttl must be at least 10m"},
	{"no duration", restore, ref + ", ttl: soon", "spec.ttl"},
	{"disk keys", restore, ref + ", diskKeysSecretRef: {name: luks}", ""},
	{"an authority", restore, ref + ", fileAccess: {ssh: {trustedUserCA: '" + key + "'}}", ""},
}

// changes are made to an accepted object.
var changes = []struct{ name, kind, from, to, refused string }{
	{"another range", discovery, vm, vm + ", startTime: '2026-04-01'", ""},
	{"another discovery", restore, ref, "backupsDiscoveryRef: e", "backupsDiscoveryRef cannot be changed"},
	{"other backups", restore, ref + ", selectedBackups: [a]", ref + ", selectedBackups: [b]", "selectedBackups cannot be changed"},
	{"all backups", restore, ref + ", selectedBackups: [a]", ref, "selectedBackups cannot be changed"},
	{"some backups", restore, ref, ref + ", selectedBackups: [a]", "selectedBackups cannot be changed"},
	{"another namespace", restore, ref + ", restoreNamespace: a", ref + ", restoreNamespace: b", "restoreNamespace cannot be changed"},
	{"a namespace later", restore, ref, ref + ", restoreNamespace: b", "cannot be changed"},
	{"a ttl later", restore, ref, ref + ", ttl: 1h", ""},
	{"a way in later", restore, ref, ref + ", fileAccess: {ssh: {}}", ""},
}

func TestCRDs(t *testing.T) {
	cp := cluster.Start(t, "../../deploy/crds")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(cp.Config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	check := func(t *testing.T, err error, refused string) {
		t.Helper()
		switch {
		case refused == "" && err != nil:
			t.Errorf("refused: %v", err)
		case refused != "" && (!apierrors.IsInvalid(err) || !strings.Contains(err.Error(), refused)):
			t.Errorf("error %v, want %q", err, refused)
		}
	}
	for i, a := range admission {
		t.Run(a.name, func(t *testing.T) {
			check(t, c.Create(ctx, object(t, a.kind, fmt.Sprintf("admission-%d", i), a.spec)), a.refused)
		})
	}
	for i, x := range changes {
		t.Run(x.name, func(t *testing.T) {
			u := object(t, x.kind, fmt.Sprintf("change-%d", i), x.from)
			if err := c.Create(ctx, u); err != nil {
				t.Fatal(err)
			}
			to := object(t, x.kind, u.GetName(), x.to)
			to.SetResourceVersion(u.GetResourceVersion())
			check(t, c.Update(ctx, to), x.refused)
		})
	}
	t.Run("typed", func(t *testing.T) { typed(ctx, t, c) })
	t.Run("kubectl", func(t *testing.T) { printed(t, cp) })
}

// typed: what the Go types write is what they read, defaults are set, and the status is a
// subresource.
func typed(ctx context.Context, t *testing.T, c client.Client) {
	r := &v1alpha1.VirtualMachineFileRestore{
		ObjectMeta: metav1.ObjectMeta{Name: "typed", Namespace: "default"},
		Spec: v1alpha1.VirtualMachineFileRestoreSpec{BackupsDiscoveryRef: "d", TTL: &metav1.Duration{Duration: 90 * time.Minute},
			FileAccess: &v1alpha1.FileAccess{SSH: &v1alpha1.SSHAccess{}}},
		Status: v1alpha1.VirtualMachineFileRestoreStatus{Phase: v1alpha1.FileRestoreFailed},
	}
	if err := c.Create(ctx, r); err != nil {
		t.Fatal(err)
	}
	if r.Status.Phase != "" || r.Spec.FileAccess.SSH.Username != v1alpha1.DefaultUsername || r.Spec.TTL.Duration != 90*time.Minute {
		t.Errorf("after its creation: %+v", r)
	}
	r.Status = v1alpha1.VirtualMachineFileRestoreStatus{
		Phase:      v1alpha1.FileRestoreInProgress,
		Conditions: []metav1.Condition{{Type: v1alpha1.ConditionProgressing, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonWaitingForRestores, LastTransitionTime: metav1.Now()}},
		PVCRestores: []v1alpha1.PVCRestore{{PVCUID: "u", PVCName: "disk", Restores: []v1alpha1.BackupRestore{
			{VeleroBackupName: "b", VeleroBackupNamespace: "velero", State: v1alpha1.RestoreProcessing, BytesDone: 5, TotalBytes: 10}}}},
	}
	want := r.Status.DeepCopy()
	if err := c.Status().Update(ctx, r); err != nil {
		t.Fatal(err)
	}
	var back v1alpha1.VirtualMachineFileRestore
	if err := c.Get(ctx, client.ObjectKeyFromObject(r), &back); err != nil {
		t.Fatal(err)
	}
	if back.Status.Phase != want.Phase || len(back.Status.PVCRestores) != 1 || back.Status.PVCRestores[0].Restores[0] != want.PVCRestores[0].Restores[0] {
		t.Errorf("the status came back as %+v", back.Status)
	}
	back.Status.PVCRestores[0].Restores[0].State = "nearly"
	if err := c.Status().Update(ctx, &back); !apierrors.IsInvalid(err) {
		t.Errorf("an unknown state: %v", err)
	}
}

// printed: what an administrator sees.
func printed(t *testing.T, cp cluster.ControlPlane) {
	manifest := `apiVersion: oadp.openshift.io/v1alpha1
kind: VirtualMachineBackupsDiscovery
metadata: {name: printed, namespace: default}
spec: {virtualMachineName: fedora, virtualMachineNamespace: vms, startTime: "2026-04-01", endTime: "2026-04-12"}
---
apiVersion: oadp.openshift.io/v1alpha1
kind: VirtualMachineFileRestore
metadata: {name: printed, namespace: default}
spec:
  backupsDiscoveryRef: printed
  fileAccess: {ssh: {}, fileBrowser: {}}
`
	if out, err := cp.Kubectl(manifest, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, x := range []struct {
		args []string
		want []string
	}{
		{[]string{"get", "vmbd", "printed"}, []string{"VM", "VMNS", "PHASE", "VALID", "INVALID", "fedora", "vms"}},
		{[]string{"get", "vmfr", "printed"}, []string{"PHASE", "DISCOVERY", "POD-NS", "POD", "printed"}},
		{[]string{"get", "oadp"}, []string{"virtualmachinebackupsdiscovery", "virtualmachinefilerestore"}},
		{[]string{"explain", "vmfr.spec.ttl"}, []string{"deletes itself"}},
	} {
		out, err := cp.Kubectl("", x.args...)
		if err != nil {
			t.Errorf("kubectl %v: %v: %s", x.args, err, out)
		}
		for _, w := range x.want {
			if !strings.Contains(out, w) {
				t.Errorf("kubectl %v prints no %q:\n%s", x.args, w, out)
			}
		}
	}
}
