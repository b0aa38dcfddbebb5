package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	routev1 "github.com/openshift/api/route/v1"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	velerov2alpha1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v2alpha1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
	"vmfr/controller/velero"
)

// scrapeLimit bounds how long a scrape of metrics waits for a cache that is not filled yet.
const scrapeLimit = time.Second

// AddToScheme adds all kinds that file restores use.
func AddToScheme(s *runtime.Scheme) error {
	b := runtime.NewSchemeBuilder(clientgoscheme.AddToScheme, v1alpha1.AddToScheme, velero.AddToScheme, routev1.Install)
	return b.AddToScheme(s)
}

// CacheByObject is how the manager's cache is to be limited: to what was made for file restores, and to Velero's
// namespace. Secrets are never cached; those of Velero's namespace are watched without their contents.
func CacheByObject(veleroNamespace string) map[client.Object]cache.ByObject {
	ours := cache.ByObject{Label: exists(v1alpha1.LabelOriginUUID)}
	inVelero := cache.ByObject{Namespaces: map[string]cache.Config{veleroNamespace: {}}}
	return map[client.Object]cache.ByObject{
		&v1alpha1.VirtualMachineFileRestore{}:      inVelero,
		&v1alpha1.VirtualMachineBackupsDiscovery{}: inVelero,
		&velerov1.Backup{}:                         inVelero,
		&velerov1.Restore{}:                        {Namespaces: map[string]cache.Config{veleroNamespace: {}}, Label: exists(v1alpha1.LabelOriginUUID)},
		&velerov2alpha1.DataDownload{}:             {Namespaces: map[string]cache.Config{veleroNamespace: {}}, Label: exists(velero.LabelRestore)},
		&corev1.PersistentVolumeClaim{}:            {Label: exists(velero.LabelRestore)},
		&corev1.Secret{}:                           inVelero,
		&corev1.Namespace{}:                        ours,
		&corev1.ConfigMap{}:                        ours,
		&corev1.Pod{}:                              ours,
		&appsv1.Deployment{}:                       ours,
	}
}

func exists(label string) labels.Selector {
	r, err := labels.NewRequirement(label, selection.Exists, nil)
	if err != nil {
		panic(err) // a constant of this program is no label
	}
	return labels.NewSelector().Add(*r)
}

// Setup adds the controller to a manager, whose scheme needs AddToScheme and whose cache CacheByObject.
func Setup(mgr ctrl.Manager, o Options) error {
	o, err := o.complete()
	if err != nil {
		return err
	}
	r := &reconciler{Options: o, client: mgr.GetClient(), direct: mgr.GetAPIReader(), events: mgr.GetEventRecorder(FieldOwner)}
	if r.metrics, err = newInstruments(o.Registerer, r.existing(mgr.Elected())); err != nil {
		return err
	}
	return r.watch(mgr)
}

// watch says which objects wake which file restore.
func (r *reconciler) watch(mgr ctrl.Manager) error {
	b := ctrl.NewControllerManagedBy(mgr).Named(r.Name).
		WithOptions(controller.Options{MaxConcurrentReconciles: r.MaxConcurrentReconciles}).
		For(&v1alpha1.VirtualMachineFileRestore{}, builder.WithPredicates(predicate.GenerationChangedPredicate{}))
	ours := []predicate.Predicate{r.applied.notice()}
	for _, w := range []struct {
		kind    client.Object
		who     handler.MapFunc
		noticed []predicate.Predicate
	}{
		{&v1alpha1.VirtualMachineBackupsDiscovery{}, r.ofDiscovery, nil},
		{&velerov1.Restore{}, r.ofRestore, nil},
		{&velerov2alpha1.DataDownload{}, r.byRestoreName, nil},
		{&corev1.PersistentVolumeClaim{}, r.byRestoreName, nil},
		{&corev1.Pod{}, r.byLabel, nil},
		{&appsv1.Deployment{}, r.byLabel, ours},
		{&corev1.ConfigMap{}, r.byLabel, ours},
		{&corev1.Namespace{}, r.byLabel, ours},
	} {
		b = b.Watches(w.kind, handler.EnqueueRequestsFromMapFunc(w.who), builder.WithPredicates(w.noticed...))
	}
	return b.WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.ofSecret)).Complete(r)
}

// existing lists file restores for the metrics, once this controller leads. Its cache answers.
func (r *reconciler) existing(leads <-chan struct{}) func() ([]v1alpha1.VirtualMachineFileRestore, bool) {
	return func() ([]v1alpha1.VirtualMachineFileRestore, bool) {
		select {
		case <-leads:
		default:
			return nil, false // the leader tells, or each would be counted twice
		}
		ctx, cancel := context.WithTimeout(context.Background(), scrapeLimit)
		defer cancel()
		var list v1alpha1.VirtualMachineFileRestoreList
		err := r.client.List(ctx, &list, client.InNamespace(r.Plan.Namespace))
		return list.Items, err == nil
	}
}

// all returns the restores that match.
func (r *reconciler) all(ctx context.Context, match func(*v1alpha1.VirtualMachineFileRestore) bool) []reconcile.Request {
	var list v1alpha1.VirtualMachineFileRestoreList
	if err := r.client.List(ctx, &list, client.InNamespace(r.Plan.Namespace)); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing file restores")
		return nil
	}
	var out []reconcile.Request
	for i := range list.Items {
		if match(&list.Items[i]) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return out
}

// byLabel is for what carries a restore's UID.
func (r *reconciler) byLabel(ctx context.Context, o client.Object) []reconcile.Request {
	uid := types.UID(o.GetLabels()[v1alpha1.LabelOriginUUID])
	return r.all(ctx, func(v *v1alpha1.VirtualMachineFileRestore) bool { return v.UID == uid })
}

// byRestoreName is for what Velero made: it carries the name of our Restore, which has the session's suffix.
func (r *reconciler) byRestoreName(ctx context.Context, o client.Object) []reconcile.Request {
	name, ours := strings.CutPrefix(o.GetLabels()[velero.LabelRestore], plan.DefaultPrefix+"-")
	if !ours {
		return nil
	}
	suffix, _, _ := strings.Cut(name, "-")
	return r.all(ctx, func(v *v1alpha1.VirtualMachineFileRestore) bool { return plan.Suffix(v.UID) == suffix })
}

// ofRestore also wakes those that wait for a Restore to end.
func (r *reconciler) ofRestore(ctx context.Context, o client.Object) []reconcile.Request {
	out := r.byLabel(ctx, o)
	if v, ok := o.(*velerov1.Restore); ok {
		if state, _ := velero.JudgeRestore(v); state != velero.RestoreRunning || v.DeletionTimestamp != nil {
			for _, key := range r.slots.who() {
				out = append(out, reconcile.Request{NamespacedName: key})
			}
		}
	}
	return out
}

// ofDiscovery is for restores that have not taken over its result yet.
func (r *reconciler) ofDiscovery(ctx context.Context, o client.Object) []reconcile.Request {
	return r.all(ctx, func(v *v1alpha1.VirtualMachineFileRestore) bool {
		return v.Spec.BackupsDiscoveryRef == o.GetName() && v.Namespace == o.GetNamespace() && len(v.Status.PVCRestores) == 0
	})
}

// ofSecret is for restores that refer to a Secret of Velero's namespace, or whose holders are pulled with it.
func (r *reconciler) ofSecret(ctx context.Context, o client.Object) []reconcile.Request {
	key := client.ObjectKeyFromObject(o)
	return r.all(ctx, func(v *v1alpha1.VirtualMachineFileRestore) bool {
		refs := plan.SecretReferences(r.Plan, plan.Input{Restore: v})
		for _, ref := range []*types.NamespacedName{refs.SSH, refs.Browser, refs.DiskKeys} {
			if ref != nil && *ref == key {
				return true
			}
		}
		return slices.Contains(refs.Pull, key)
	})
}

// owned are lists of all kinds but Secrets that a session has in its namespace, for a namespace that is not deleted
// with it.
func (r *reconciler) owned() []client.ObjectList {
	lists := []client.ObjectList{
		&networkingv1.NetworkPolicyList{}, &corev1.ServiceList{}, &rbacv1.RoleBindingList{}, &rbacv1.RoleList{},
		&corev1.ServiceAccountList{}, &corev1.ConfigMapList{},
	}
	if r.Plan.OpenShift {
		return append(lists, &routev1.RouteList{})
	}
	return append(lists, &networkingv1.IngressList{})
}

// items are the objects of a list.
func items(list client.ObjectList) []client.Object {
	var out []client.Object
	_ = meta.EachListItem(list, func(o runtime.Object) error {
		if c, ok := o.(client.Object); ok {
			out = append(out, c)
		}
		return nil
	})
	return out
}

// fromUnstructured turns what the API server answered into an object.
func fromUnstructured(u interface{ UnstructuredContent() map[string]any }, into client.Object) error {
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.UnstructuredContent(), into); err != nil {
		return fmt.Errorf("%T: %w", into, err)
	}
	return nil
}
