package discovery

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"vmfr/api/v1alpha1"
	"vmfr/controller/velero"
	"vmfr/test/cluster"
)

var ctx = context.Background()

const (
	// limit is for what takes a second on a quiet machine.
	limit = 4 * time.Minute
	// grace is longer than a location is away on a busy machine: Velero looks again after two seconds.
	grace = 10 * time.Second
)

// bench is a control plane with Velero, on which controllers are started and stopped.
type bench struct {
	cp     cluster.ControlPlane
	velero *cluster.Velero
	client client.Client
	scheme *k8sruntime.Scheme
	march  *velerov1.Backup // a real one; others are copies of it
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{cp: cluster.Start(t, "../../deploy/crds"), scheme: k8sruntime.NewScheme()}
	for _, add := range []func(*k8sruntime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme, velero.AddToScheme} {
		if err := add(b.scheme); err != nil {
			t.Fatal(err)
		}
	}
	b.velero = cluster.StartVelero(t, b.cp)
	b.client = b.cp.Client(t, v1alpha1.AddToScheme)
	return b
}

// controller starts a manager with the discovery; stop returns when it has ended.
func (b *bench) controller(t testing.TB, o Options) (stop func(), reg *prometheus.Registry) {
	t.Helper()
	skip := true
	mgr, err := ctrl.NewManager(b.cp.Config, ctrl.Options{
		Scheme: b.scheme, Metrics: server.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: &skip},
	})
	if err != nil {
		t.Fatal(err)
	}
	reg = prometheus.NewRegistry()
	o.Registerer = reg
	if o.StatusInterval == 0 {
		o.StatusInterval = 50 * time.Millisecond
	}
	if o.LocationGrace == 0 {
		o.LocationGrace = grace
	}
	if o.RetryPause == 0 {
		o.RetryPause = 20 * time.Millisecond
	}
	if err := Setup(mgr, o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the manager: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop, reg
}

// working returns the stacks of goroutines that are in the controller's packages. The one that ran the manager has
// told its end, and may be on the way to its own.
func working() []string {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var ours []string
	for _, g := range strings.Split(string(buf), "\n\n") {
		if strings.Contains(g, "vmfr/controller/") && !strings.Contains(g, "testing.tRunner") && !strings.Contains(g, ".(*bench).controller.") {
			ours = append(ours, g)
		}
	}
	return ours
}

func discovery(name string, edit func(*v1alpha1.VirtualMachineBackupsDiscoverySpec)) *v1alpha1.VirtualMachineBackupsDiscovery {
	d := &v1alpha1.VirtualMachineBackupsDiscovery{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: cluster.VeleroNamespace},
		Spec:       v1alpha1.VirtualMachineBackupsDiscoverySpec{VirtualMachineName: "db", VirtualMachineNamespace: "shop"},
	}
	if edit != nil {
		edit(&d.Spec)
	}
	return d
}

func requested(names ...string) func(*v1alpha1.VirtualMachineBackupsDiscoverySpec) {
	return func(s *v1alpha1.VirtualMachineBackupsDiscoverySpec) { s.RequestedBackups = names }
}

func (b *bench) create(t testing.TB, o client.Object) {
	t.Helper()
	if err := b.client.Create(ctx, o); err != nil {
		t.Fatal(err)
	}
}

// over waits until the discovery has ended for its generation, and checks what must be true of any
// status.
func (b *bench) over(t testing.TB, d *v1alpha1.VirtualMachineBackupsDiscovery) *v1alpha1.VirtualMachineBackupsDiscoveryStatus {
	t.Helper()
	cluster.Await(t, limit, func() error {
		if err := b.client.Get(ctx, client.ObjectKeyFromObject(d), d); err != nil {
			return err
		}
		if !over(d) {
			return fmt.Errorf("%s is %+v", d.Name, d.Status)
		}
		return nil
	})
	if err := consistent(&d.Status); err != nil {
		t.Errorf("%s: %v", d.Name, err)
	}
	return &d.Status
}

// consistent checks that the counts, the lists and the order agree.
func consistent(s *v1alpha1.VirtualMachineBackupsDiscoveryStatus) error {
	n := s.DiscoveryStats
	if n == nil {
		return nil
	}
	count := map[v1alpha1.BackupStatus]int32{}
	for _, p := range s.BackupDiscoveryProgress {
		count[p.Status]++
	}
	if n.TotalCandidates != int32(len(s.BackupDiscoveryProgress)) || n.Pending != count[v1alpha1.BackupNew] || n.InProgress != count[v1alpha1.BackupInProgress] ||
		n.Completed != count[v1alpha1.BackupCompleted] || n.Skipped != count[v1alpha1.BackupSkipped] || n.Failed != count[v1alpha1.BackupFailed] ||
		n.Completed != int32(len(s.ValidBackups)) || n.Skipped+n.Failed != int32(len(s.InvalidBackups)) {
		return fmt.Errorf("the counts %+v are not those of the lists %v, %d valid, %d invalid", *n, count, len(s.ValidBackups), len(s.InvalidBackups))
	}
	for i := 1; i < len(s.ValidBackups); i++ {
		if s.ValidBackups[i].CreatedAt.Before(s.ValidBackups[i-1].CreatedAt) {
			return fmt.Errorf("%s is before the older %s", s.ValidBackups[i-1].Name, s.ValidBackups[i].Name)
		}
	}
	return nil
}

// brief is a status in one line: the phase, what is valid, and why the others are not.
func brief(s *v1alpha1.VirtualMachineBackupsDiscoveryStatus) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:", s.Phase)
	for _, v := range s.ValidBackups {
		fmt.Fprintf(&b, " %s", v.Name)
	}
	for _, v := range s.InvalidBackups {
		fmt.Fprintf(&b, "; %s %s", v.Name, v.Reason)
	}
	return b.String()
}

// age sets when a backup was taken, which a test cannot wait for.
func (b *bench) age(t testing.TB, o *velerov1.Backup, date string) {
	t.Helper()
	b.edit(t, o, func(o *velerov1.Backup) { o.Status.CompletionTimestamp = &metav1.Time{Time: day(date)} })
}

// day is noon of a date.
func day(date string) time.Time {
	at, err := time.Parse(time.DateOnly, date)
	if err != nil {
		panic(err)
	}
	return at.Add(12 * time.Hour)
}

func (b *bench) edit(t testing.TB, o *velerov1.Backup, change func(*velerov1.Backup)) {
	t.Helper()
	before := o.DeepCopy()
	change(o)
	if err := b.client.Patch(ctx, o, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}

// watched counts how many looks at backups go on at a time, and lets a test hold them.
type watched struct {
	metadata
	mu        sync.Mutex
	now, most int
	looks     map[string]int
	gate      chan struct{} // nil: open
}

func (w *watched) Backup(ctx context.Context, key types.NamespacedName) (velero.Backup, error) {
	w.mu.Lock()
	w.now++
	w.most = max(w.most, w.now)
	if w.looks == nil {
		w.looks = map[string]int{}
	}
	w.looks[key.Name]++
	gate := w.gate
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.now--
		w.mu.Unlock()
	}()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return velero.Backup{}, ctx.Err()
		}
	}
	return w.metadata.Backup(ctx, key)
}

func (w *watched) of(m metadata) metadata {
	w.metadata = m
	return w
}
