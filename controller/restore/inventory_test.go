package restore

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	velerov2alpha1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v2alpha1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
	"vmfr/test/cluster"
)

// inventory are all objects of a restore with their versions of content (generation, or the keys of
// data), by label and by Velero's mark: what a deletion must leave empty, and a restart as it is.
func (su *suite) inventory(t *testing.T, v *v1alpha1.VirtualMachineFileRestore) []string {
	t.Helper()
	var out []string
	add := func(list client.ObjectList, match func(client.Object) bool) {
		t.Helper()
		if err := su.client.List(ctx, list); err != nil {
			t.Fatal(err)
		}
		for _, o := range items(list) {
			if match(o) {
				out = append(out, fmt.Sprintf("%T %s/%s %d %s", o, o.GetNamespace(), o.GetName(), o.GetGeneration(), content(o)))
			}
		}
	}
	ours := func(o client.Object) bool { return o.GetLabels()[v1alpha1.LabelOriginUUID] == string(v.UID) }
	for _, list := range []client.ObjectList{
		&corev1.NamespaceList{}, &corev1.SecretList{}, &corev1.ConfigMapList{}, &corev1.ServiceList{}, &corev1.ServiceAccountList{},
		&rbacv1.RoleList{}, &rbacv1.RoleBindingList{}, &networkingv1.NetworkPolicyList{}, &networkingv1.IngressList{},
		&appsv1.DeploymentList{}, &velerov1.RestoreList{},
	} {
		add(list, ours)
	}
	restored := func(o client.Object) bool {
		return strings.HasPrefix(o.GetLabels()[velerov1.RestoreNameLabel], plan.DefaultPrefix+"-"+plan.Suffix(v.UID)+"-")
	}
	for _, list := range []client.ObjectList{&corev1.PersistentVolumeClaimList{}, &velerov2alpha1.DataDownloadList{}, &snapshotv1.VolumeSnapshotContentList{}} {
		add(list, restored)
	}
	slices.Sort(out)
	return out
}

// content is what a generation does not count.
func content(o client.Object) string {
	switch o := o.(type) {
	case *corev1.Secret:
		return fmt.Sprint(o.Data)
	case *corev1.ConfigMap:
		return fmt.Sprint(o.Data)
	case *corev1.Namespace:
		return fmt.Sprint(o.Labels, o.Annotations)
	}
	return ""
}

// settle waits until a restore's controller has seen it: its condition is about the present spec.
func (su *suite) settle(t *testing.T, v *v1alpha1.VirtualMachineFileRestore) {
	t.Helper()
	cluster.Await(t, limit, func() error {
		to := v.DeepCopy()
		if to.Spec.TTL == nil {
			return touchTTL(su, v)
		}
		if v.Status.ExpiresAt == nil {
			su.get(t, v)
			return fmt.Errorf("%s has no expiresAt", v.Name)
		}
		return nil
	})
}

// checkEvents: each step was told once.
func (su *suite) checkEvents(t *testing.T, v *v1alpha1.VirtualMachineFileRestore) {
	t.Helper()
	cluster.Await(t, limit, func() error {
		var list eventsv1.EventList
		if err := su.client.List(ctx, &list, client.InNamespace(v.Namespace)); err != nil {
			return err
		}
		seen := map[string]int{}
		for _, e := range list.Items {
			if e.Regarding.UID != v.UID {
				continue
			}
			if e.Series != nil {
				return fmt.Errorf("%s is repeated: %+v", e.Reason, e.Series)
			}
			seen[e.Reason]++
		}
		for _, want := range []string{v1alpha1.ReasonValidationFailed, v1alpha1.ReasonNamespaceReady, v1alpha1.ReasonCredentialsReady, v1alpha1.ReasonWaitingForRestores,
			v1alpha1.ReasonRestoresCompleted, v1alpha1.ReasonFileServerAvailable, v1alpha1.ReasonPartiallyFailed, v1alpha1.ReasonCompleted} {
			if seen[want] == 0 {
				return fmt.Errorf("no event says %s: %v", want, seen)
			}
		}
		return nil
	})
}

func touchTTL(su *suite, v *v1alpha1.VirtualMachineFileRestore) error {
	to := v.DeepCopy()
	to.Spec.TTL = &ttl
	if err := su.client.Patch(ctx, to, client.MergeFrom(v)); err != nil {
		return err
	}
	*v = *to
	return fmt.Errorf("%s was just touched", v.Name)
}
