package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
	"vmfr/test/cluster"
)

// testRoles: what the controller must not be able to do, by its roles or by the policies behind
// them. That it can do what it must is what the other tests show, which run it with no other right.
func (e *env) testRoles(t *testing.T) {
	ctx := context.Background()
	user := "system:serviceaccount:vmfr-system:vmfr-controller"
	allowed := func(a authorizationv1.ResourceAttributes) bool {
		t.Helper()
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user, Groups: []string{"system:serviceaccounts", "system:serviceaccounts:vmfr-system", "system:authenticated"}, ResourceAttributes: &a,
		}}
		if err := e.admin.Create(ctx, review); err != nil {
			t.Fatal(err)
		}
		return review.Status.Allowed
	}
	for _, line := range strings.Split(strings.TrimSpace(`
		list - secrets default
		watch - secrets default
		update - secrets default
		list - secrets vmfr-system
		create - pods default
		create - pods/exec velero
		get - pods/log default
		delete - pods default
		delete - nodes -
		get - nodes -
		delete - persistentvolumes -
		create - persistentvolumeclaims default
		create - serviceaccounts/token default
		impersonate - users -
		impersonate - serviceaccounts velero
		escalate rbac.authorization.k8s.io roles default
		bind rbac.authorization.k8s.io clusterroles -
		create rbac.authorization.k8s.io clusterroles -
		create rbac.authorization.k8s.io clusterrolebindings -
		create apps daemonsets default
		delete admissionregistration.k8s.io validatingadmissionpolicies -
		delete apiextensions.k8s.io customresourcedefinitions -
		delete snapshot.storage.k8s.io volumesnapshots default
		create velero.io backups velero
		delete velero.io backups velero
		create velero.io deletebackuprequests velero
		patch velero.io backupstoragelocations velero
		get velero.io backups default
		create velero.io restores default
		patch oadp.openshift.io virtualmachinebackupsdiscoveries velero
		create oadp.openshift.io virtualmachinefilerestores velero
		delete oadp.openshift.io virtualmachinefilerestores default
		create oadp.openshift.io virtualmachinefilerestores default
		get oadp.openshift.io virtualmachinebackupsdiscoveries default
		get kubevirt.io virtualmachines default
		get coordination.k8s.io leases kube-system
		update coordination.k8s.io leases vmfr-system`), "\n") {
		f := strings.Fields(strings.ReplaceAll(line, " - ", " _ "))
		for i := range f {
			f[i] = strings.Trim(f[i], "_-")
		}
		resource, sub, _ := strings.Cut(f[2], "/")
		if allowed(authorizationv1.ResourceAttributes{Verb: f[0], Group: f[1], Resource: resource, Subresource: sub, Namespace: f[3]}) {
			t.Errorf("the controller may %s", strings.TrimSpace(line))
		}
	}
	// What it must be able to do and no other test has it do; the first is the one wide right that
	// is left.
	for _, a := range []authorizationv1.ResourceAttributes{
		{Verb: "get", Resource: "secrets", Namespace: "default", Name: "any"},
		{Verb: "patch", Group: "velero.io", Resource: "datadownloads", Namespace: "velero"},
		{Verb: "delete", Group: v1alpha1.GroupVersion.Group, Resource: "virtualmachinefilerestores", Namespace: "velero"},
		{Verb: "patch", Group: "snapshot.storage.k8s.io", Resource: "volumesnapshotcontents"},
	} {
		if !allowed(a) {
			t.Errorf("the controller may not %s %s", a.Verb, a.Resource)
		}
	}

	c := e.asAccount(t, "vmfr-system", "vmfr-controller")
	ours := map[string]string{v1alpha1.LabelOriginUUID: "u"}
	foreign := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "foreign", Namespace: "default"}}
	for _, o := range []client.Object{foreign, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "foreign"}},
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "foreign", Namespace: "default"}}} {
		if err := e.admin.Create(ctx, o); err != nil {
			t.Fatal(err)
		}
		labelled := o.DeepCopyObject().(client.Object)
		labelled.SetLabels(ours)
		for what, err := range map[string]error{
			"delete": c.Delete(ctx, o), "take over": c.Patch(ctx, labelled, client.MergeFrom(o)),
		} {
			if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "belong to no file restore") {
				t.Errorf("%s %T of somebody else: %v", what, o, err)
			}
		}
	}
	unlabelled := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "unlabelled", Namespace: "default"}}
	if err := c.Create(ctx, unlabelled); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "without the label") {
		t.Errorf("a Secret without the label: %v", err)
	}
	lasting := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "lasting", Labels: ours}}
	if err := c.Create(ctx, lasting); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "temporary namespaces only") {
		t.Errorf("a namespace that is not temporary: %v", err)
	}
	// Its own things it may make, and drop the label from none of them.
	own := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "own", Namespace: "default", Labels: ours}}
	if err := c.Create(ctx, own); err != nil {
		t.Fatalf("a Secret of a file restore: %v", err)
	}
	bare := own.DeepCopy()
	bare.Labels = nil
	if err := c.Patch(ctx, bare, client.MergeFrom(own)); !apierrors.IsForbidden(err) {
		t.Errorf("taking the label off: %v", err)
	}
	if err := c.Delete(ctx, own); err != nil {
		t.Errorf("deleting its own: %v", err)
	}
	e.testVolumes(t, c)
	// A Role that says more than the controller may is refused by the API server.
	more := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "more", Namespace: "default", Labels: ours},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"list"}}}}
	if err := c.Create(ctx, more); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "attempting to grant RBAC permissions not currently held") {
		t.Errorf("a Role with more rights than its maker: %v", err)
	}

	e.testUserRoles(t)
}

// testVolumes: of PersistentVolumes it changes those of a session's claims, and it deletes claims
// that Velero restored for it, or whatever claim is in a session's namespace.
func (e *env) testVolumes(t *testing.T, c client.Client) {
	ctx := context.Background()
	e.CreateNamespace(t, "temporary", v1alpha1.LabelTempNamespace, "true", v1alpha1.LabelOriginUUID, "u")
	for _, x := range []struct {
		namespace, restore string
		allowed            bool
	}{{"temporary", "", true}, {"default", "vmfr-abcde23456-1", true}, {"default", "nightly", false}, {"default", "", false}} {
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{GenerateName: "claim-", Namespace: x.namespace, Labels: map[string]string{}},
			Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
		if x.restore != "" {
			claim.Labels["velero.io/restore-name"] = x.restore
		}
		if err := e.admin.Create(ctx, claim); err != nil {
			t.Fatal(err)
		}
		if err := c.Delete(ctx, claim); x.allowed && err != nil || !x.allowed && !apierrors.IsForbidden(err) {
			t.Errorf("a claim in %s of the restore %q: %v", x.namespace, x.restore, err)
		}
		if !x.allowed {
			if err := e.admin.Delete(ctx, claim); err != nil {
				t.Error(err)
			}
		}
	}
	if err := c.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "temporary"}}); err != nil {
		t.Errorf("a session's namespace: %v", err)
	}
	for namespace, allowed := range map[string]bool{"files-shop-web-abcde23456-1": true, "shop": false, "vmfr-system": false} {
		v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "of-" + namespace}, Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: namespace}},
			ClaimRef:               &corev1.ObjectReference{Namespace: namespace, Name: "c"},
		}}
		if err := e.admin.Create(ctx, v); err != nil {
			t.Fatal(err)
		}
		to := v.DeepCopy()
		to.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
		if err := c.Patch(ctx, to, client.MergeFrom(v)); allowed && err != nil || !allowed && !apierrors.IsForbidden(err) {
			t.Errorf("the volume of a claim in %s: %v", namespace, err)
		}
		if err := e.admin.Delete(ctx, v); err != nil {
			t.Error(err)
		}
	}
}

// testUserRoles: the standard roles have file restores in them, each its part.
func (e *env) testUserRoles(t *testing.T) {
	ctx := context.Background()
	for _, role := range []string{"admin", "edit", "view"} {
		err := e.admin.Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: role + "-user", Namespace: "velero"},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: role}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	may := func(user, verb, namespace string) bool {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: verb, Group: v1alpha1.GroupVersion.Group, Resource: "virtualmachinefilerestores", Namespace: namespace}}}
		if err := e.admin.Create(ctx, review); err != nil {
			t.Fatal(err)
		}
		return review.Status.Allowed
	}
	// Aggregation is kube-controller-manager's and takes a moment.
	cluster.Await(t, waitLimit, func() error {
		if !may("admin", "deletecollection", "velero") || !may("edit", "create", "velero") || !may("view", "list", "velero") {
			return fmt.Errorf("admin, edit and view do not include file restores yet")
		}
		return nil
	})
	for _, no := range [][3]string{{"view", "create", "velero"}, {"view", "delete", "velero"}, {"edit", "deletecollection", "velero"}, {"edit", "create", "default"}, {"nobody", "list", "velero"}} {
		if may(no[0], no[1], no[2]) {
			t.Errorf("%s may %s file restores in %s", no[0], no[1], no[2])
		}
	}
}

// testReferences: a file restore must not be a way to what its maker may not read.
func (e *env) testReferences(t *testing.T) {
	ctx := context.Background()
	c := e.as(t, "edit") // edit of Velero's namespace includes its Secrets, and nothing elsewhere
	restore := func(spec v1alpha1.VirtualMachineFileRestoreSpec) *v1alpha1.VirtualMachineFileRestore {
		spec.BackupsDiscoveryRef = "none"
		return &v1alpha1.VirtualMachineFileRestore{ObjectMeta: metav1.ObjectMeta{GenerateName: "references-", Namespace: "velero"}, Spec: spec}
	}
	ref := func(namespace string) *v1alpha1.SecretReference {
		return &v1alpha1.SecretReference{Name: "keys", Namespace: namespace}
	}
	elsewhere := []v1alpha1.VirtualMachineFileRestoreSpec{
		{FileAccess: &v1alpha1.FileAccess{SSH: &v1alpha1.SSHAccess{CredentialsSecretRef: ref("default")}}},
		{FileAccess: &v1alpha1.FileAccess{FileBrowser: &v1alpha1.FileBrowserAccess{CredentialsSecretRef: ref("default")}}},
		{DiskKeysSecretRef: ref("default")},
		{RestoreNamespace: "default"},
	}
	for i, spec := range elsewhere {
		err := c.Create(ctx, restore(spec), client.DryRunAll)
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "you may not") {
			t.Errorf("reference %d to another namespace: %v", i, err)
		}
		if err := e.admin.Create(ctx, restore(spec), client.DryRunAll); err != nil {
			t.Errorf("reference %d by an administrator: %v", i, err)
		}
	}
	for i, spec := range []v1alpha1.VirtualMachineFileRestoreSpec{
		{}, {RestoreNamespace: "velero"}, {DiskKeysSecretRef: ref("")}, {DiskKeysSecretRef: ref("velero")},
		{FileAccess: &v1alpha1.FileAccess{SSH: &v1alpha1.SSHAccess{}, FileBrowser: &v1alpha1.FileBrowserAccess{}}},
	} {
		if err := c.Create(ctx, restore(spec), client.DryRunAll); err != nil {
			t.Errorf("spec %d that refers to nothing of others: %v", i, err)
		}
	}
	// Outside Velero's namespace nothing would happen: whoever makes one there is told.
	for namespace, warned := range map[string]bool{"default": true, "velero": false} {
		manifest := "{apiVersion: oadp.openshift.io/v1alpha1, kind: VirtualMachineFileRestore, metadata: {name: r, namespace: " + namespace + "}, spec: {backupsDiscoveryRef: none}}"
		out, err := e.Kubectl(manifest, "apply", "--dry-run=server", "-f", "-")
		if err != nil || strings.Contains(out, "nothing will happen to it in the namespace "+namespace) != warned {
			t.Errorf("one in %s: %v: %s", namespace, err, out)
		}
	}
	// A change of it is looked at, too; one of labels alone is not.
	o := restore(v1alpha1.VirtualMachineFileRestoreSpec{DiskKeysSecretRef: ref("default")})
	if err := e.admin.Create(ctx, o); err != nil {
		t.Fatal(err)
	}
	to := o.DeepCopy()
	to.Spec.DiskKeysSecretRef = ref("kube-system")
	if err := c.Patch(ctx, to, client.MergeFrom(o)); !apierrors.IsForbidden(err) {
		t.Errorf("a changed reference: %v", err)
	}
	to = o.DeepCopy()
	to.Labels = map[string]string{"a": "b"}
	if err := c.Patch(ctx, to, client.MergeFrom(o)); err != nil {
		t.Errorf("a label: %v", err)
	}
	if err := e.admin.Delete(ctx, o); err != nil {
		t.Error(err)
	}
}

// TestPolicyUser: the policies of deploy/ are about the account that deploy/ makes.
func TestPolicyUser(t *testing.T) {
	install := read(t, "../deploy/install.yaml")
	if n := strings.Count(install, deployedUser); n < 2+len(plan.AdmissionPolicies(deployedUser))/4 {
		t.Errorf("%s is in deploy/install.yaml %d times", deployedUser, n)
	}
}
