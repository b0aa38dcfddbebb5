package restore

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
	"vmfr/controller/velero"
	"vmfr/test/cluster"
)

var ctx = context.Background()

// ttl is longer than any test.
var ttl = metav1.Duration{Duration: 24 * time.Hour}

// limit is for what takes a second on a quiet machine.
const limit = 4 * time.Minute

// suite is the cluster that all tests share.
type suite struct {
	cp     cluster.ControlPlane
	velero *cluster.Velero
	client client.Client
	scheme *runtime.Scheme
}

// TestCluster runs everything that needs a control plane: it takes seconds to start, so there is one.
func TestCluster(t *testing.T) {
	ctrl.SetLogger(logr.Discard()) // or a warning of the API server brings a stack trace
	cp := cluster.Start(t, "../../deploy/crds")
	cp.StartControllers(t)
	scheme := runtime.NewScheme()
	if err := AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	su := &suite{cp: cp, velero: cluster.StartVelero(t, cp), client: cp.Client(t, AddToScheme), scheme: scheme}
	t.Run("velero", su.realVelero)
	t.Run("refusal", su.refusal)
	t.Run("worlds", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T){
			"killed": su.killed, "ends": su.ends, "moves": su.moves, "limits": su.limits, "hostile": su.hostile,
			"contents": su.contentsFail, "location": su.locationAway, "refused": su.restoreRefused, "slots": su.slotsBound, "selection": su.selection, "secrets": su.secrets,
			"existing": su.existing, "foreign": su.foreign, "expires": su.expires, "frozen": su.frozen,
			"removed": su.removedAnywhere, "storage": su.storage, "held": su.heldUp, "repaired": su.repaired, "uninstalled": su.uninstalled,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel() // they wait more than they work, each in namespaces of its own
				test(t)
			})
		}
	})
}

// planConfig is an administrator's.
func planConfig(veleroNamespace string) plan.Config {
	return plan.Config{
		Namespace: veleroNamespace, Image: "vmfr-agent:test", AgentDir: session.DirAgent, ControllerUser: "admin",
		APIServers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:6443")},
	}
}

// start runs the controller as its program does, until the test ends or stop is called.
func (su *suite) start(t *testing.T, change func(*Options)) (stop func()) {
	t.Helper()
	o := Options{Plan: planConfig(cluster.VeleroNamespace), Registerer: prometheus.NewRegistry(), Name: t.Name()}
	skip := true
	mgr, err := ctrl.NewManager(su.cp.Config, ctrl.Options{
		Scheme: su.scheme, Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		Cache:      cache.Options{ByObject: CacheByObject(o.Plan.Namespace)},
		Client:     client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
		Controller: config.Controller{SkipNameValidation: &skip},
	})
	if err != nil {
		t.Fatal(err)
	}
	if o.Contents, err = velero.ReaderFor(mgr, velero.ReaderOptions{}); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&o)
	}
	if err := Setup(mgr, o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := mgr.Start(ctx); err != nil {
			t.Errorf("the manager: %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// discovery makes a discovery that has ended with these valid backups.
func (su *suite) discovery(t *testing.T, namespace, name string, vm session.VM, valid ...v1alpha1.DiscoveredBackup) *v1alpha1.VirtualMachineBackupsDiscovery {
	t.Helper()
	d := &v1alpha1.VirtualMachineBackupsDiscovery{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1alpha1.VirtualMachineBackupsDiscoverySpec{VirtualMachineName: vm.Name, VirtualMachineNamespace: vm.Namespace},
	}
	su.create(t, d)
	d.Status = v1alpha1.VirtualMachineBackupsDiscoveryStatus{Phase: v1alpha1.DiscoveryCompleted, ObservedGeneration: d.Generation, ValidBackups: valid}
	if err := su.client.Status().Update(ctx, d); err != nil {
		t.Fatal(err)
	}
	return d
}

// discovered is a backup as a discovery finds it.
func discoveredBackup(namespace, name string, taken time.Time, claims ...corev1.PersistentVolumeClaim) v1alpha1.DiscoveredBackup {
	b := v1alpha1.DiscoveredBackup{Name: name, Namespace: namespace, CreatedAt: &metav1.Time{Time: taken}}
	for _, c := range claims {
		size := c.Spec.Resources.Requests[corev1.ResourceStorage]
		p := v1alpha1.DiscoveredPVC{PVCName: c.Name, PVCNamespace: c.Namespace, PVCUID: c.UID, Size: &size}
		if c.Labels[v1alpha1.LabelPVCUID] == "" {
			p.PVCUID = ""
		}
		b.PVCs = append(b.PVCs, p)
	}
	return b
}

func (su *suite) create(t *testing.T, o client.Object) {
	t.Helper()
	if err := su.client.Create(ctx, o); err != nil {
		t.Fatalf("%T %s: %v", o, o.GetName(), err)
	}
}

// get reads an object again.
func (su *suite) get(t *testing.T, o client.Object) {
	t.Helper()
	if err := su.client.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
		t.Fatalf("%T %s: %v", o, o.GetName(), err)
	}
}

// await waits until a restore is in a phase.
func (su *suite) await(t *testing.T, v *v1alpha1.VirtualMachineFileRestore, phase v1alpha1.FileRestorePhase) {
	t.Helper()
	cluster.Await(t, limit, func() error {
		if err := su.client.Get(ctx, client.ObjectKeyFromObject(v), v); err != nil {
			return err
		}
		if v.Status.Phase != phase {
			return fmt.Errorf("%s is %q, not %s: %+v", v.Name, v.Status.Phase, phase, progressing(&v.Status))
		}
		return nil
	})
}

// pod waits for the pod of a namespace's Deployment.
func (su *suite) pod(t *testing.T, namespace string) *corev1.Pod {
	t.Helper()
	var list corev1.PodList
	cluster.Await(t, limit, func() error {
		err := su.client.List(ctx, &list, client.InNamespace(namespace))
		if err == nil && len(list.Items) == 0 {
			err = fmt.Errorf("%s has no pod", namespace)
		}
		return err
	})
	return &list.Items[0]
}

// run does what a kubelet does for the pod of a namespace's Deployment.
func (su *suite) run(t *testing.T, namespace string) {
	t.Helper()
	cluster.Await(t, limit, func() error {
		p := su.pod(t, namespace)
		p.Status.Phase = corev1.PodRunning
		return su.client.Status().Update(ctx, p) // which fails for one that was replaced just now
	})
}

// report writes the node's account, as the front holder does: by its service account.
func (su *suite) report(t *testing.T, names plan.Names, text string) error {
	t.Helper()
	config := rest.CopyConfig(su.cp.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + names.Session + ":" + names.Object()}
	c, err := client.New(config, client.Options{Scheme: su.scheme})
	if err != nil {
		t.Fatal(err)
	}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: names.Session, Name: names.Report()}}
	if err := c.Get(ctx, client.ObjectKeyFromObject(cm), cm); err != nil {
		return err
	}
	cm.Data = map[string]string{session.KeyReport: text}
	return c.Update(ctx, cm)
}

// checkCondition compares a condition's status and reason.
func checkCondition(t *testing.T, v *v1alpha1.VirtualMachineFileRestore, kind string, status metav1.ConditionStatus, reason string) {
	t.Helper()
	c := meta.FindStatusCondition(v.Status.Conditions, kind)
	if c == nil || c.Status != status || c.Reason != reason {
		t.Errorf("%s: condition %s is %+v, want %s %s", v.Name, kind, c, status, reason)
	}
}
