package install_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	velerov2 "github.com/vmware-tanzu/velero/pkg/apis/velero/v2alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"vmfr/test/cluster"
	"vmfr/test/cluster/install"
	"vmfr/test/cluster/node"
)

func TestMain(m *testing.M) {
	log.SetLogger(logr.Discard()) // controller-runtime complains without one
	if os.Getenv(node.DirEnv) != "" {
		node.Main(m)
	}
	os.Exit(m.Run())
}

// limit is for what takes seconds on an idle machine.
const limit = 4 * time.Minute

// TestBackups installs everything and brings the claims of a Pod back, a block device and a file
// system: from a backup of snapshots, and from one whose data was moved to S3, where claims wait for
// their first consumer. In between their namespace is deleted and S3 was down.
//
// test/e2e does all this in a cluster of its own, on the way to files. This one is for work on the
// parts: make cluster, and then VMFR_NODE=<its directory> go test ./test/cluster/install.
func TestBackups(t *testing.T) {
	if os.Getenv(node.DirEnv) == "" {
		t.Skipf("%s names no node that runs", node.DirEnv)
	}
	c := newCase(t)
	for range 2 {
		began := time.Now()
		c.ok(c.install.All(t.Context()))
		t.Logf("%5.1fs  everything is installed", time.Since(began).Seconds())
	}
	c.ok(c.install.StopS3(t.Context()))
	c.location(velerov1.BackupStorageLocationPhaseUnavailable)
	c.ok(c.install.StartS3(t.Context()))
	c.location(velerov1.BackupStorageLocationPhaseAvailable)
	for _, k := range []struct {
		name, class string
		move        bool
	}{
		{"snapshots", install.StorageClass, false},
		{"moved", install.StorageClassWait, true},
	} {
		c.namespace(k.name)
		c.claims(k.name, k.class)
		before := c.pod(k.name, "writer", `dd if=/dev/urandom of=/fs/disk.img bs=1M count=8 2>/dev/null && sync &&
			dd if=/fs/disk.img of=/dev/disk bs=1M 2>/dev/null && sync`)
		if before[0] != before[1] {
			t.Fatalf("the device and the file differ before: %q", before)
		}
		b := c.backup(k.name, k.move) // while the Pod has the volumes
		c.gone(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: k.name}})

		to := "restored-" + k.name
		r := c.restore(b, to)
		if after := c.pod(to, "reader", "true"); !slices.Equal(after, before) {
			t.Errorf("%s: %q, before %q", to, after, before)
		}
		c.await("restore "+r.Name, func() error {
			c.ok(c.Get(t.Context(), client.ObjectKeyFromObject(r), r))
			return phase(r.Status.Phase, velerov1.RestorePhaseCompleted, velerov1.RestorePhaseFailed, velerov1.RestorePhasePartiallyFailed)
		})
		var moved velerov2.DataDownloadList
		c.ok(c.List(t.Context(), &moved, client.InNamespace(cluster.VeleroNamespace), client.MatchingLabels{velerov1.RestoreNameLabel: r.Name}))
		if want := map[bool]int{true: 2}[k.move]; len(moved.Items) != want {
			t.Errorf("%s: the data of %d volumes was moved, want %d", to, len(moved.Items), want)
		}
		c.gone(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: to}})

		// What claims and backup had in the storage is deleted with them.
		c.ok(c.Create(t.Context(), &velerov1.DeleteBackupRequest{
			ObjectMeta: metav1.ObjectMeta{GenerateName: b.Name + "-", Namespace: b.Namespace,
				Labels: map[string]string{velerov1.BackupNameLabel: b.Name, velerov1.BackupUIDLabel: string(b.UID)}},
			Spec: velerov1.DeleteBackupRequestSpec{BackupName: b.Name}}))
		c.await("backup "+b.Name+" to be deleted", func() error { return cluster.Gone(c, b) })
		c.await("the storage to be empty", func() error {
			out, err := c.node.Command(t.Context(), "find", install.StorageDir, "-type", "f").CombinedOutput()
			if err == nil && len(out) > 0 {
				err = fmt.Errorf("left:\n%s", out)
			}
			return err
		})
	}
	if loops, err := node.Loops(c.node.Dir()); err != nil || len(loops) > 0 {
		t.Errorf("loop devices are left: %q, %v", loops, err)
	}
}

// testCase is a client of the cluster of a test.
type testCase struct {
	client.Client
	t       testing.TB
	pods    *kubernetes.Clientset
	node    *node.Node
	install install.Cluster
}

func newCase(t testing.TB) *testCase {
	t.Helper()
	current := node.Current(t)
	c := &testCase{t: t, node: current.Node(t)}
	c.install = install.Cluster{Config: current.Config, Load: c.node.LoadImage, Log: os.Stderr}
	c.Client = cluster.ControlPlane{Config: current.Config}.Client(t)
	var err error
	c.pods, err = kubernetes.NewForConfig(current.Config)
	c.ok(err)
	return c
}

func (c *testCase) ok(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// await waits until ready returns nil, and logs how long that took.
func (c *testCase) await(what string, ready func() error) {
	c.t.Helper()
	began := time.Now()
	cluster.Await(c.t, limit, ready)
	c.t.Logf("%5.1fs  %s", time.Since(began).Seconds(), what)
}

// phase is nil at the wanted end, and ends the test's waiting at another.
func phase[P ~string](have, want P, bad ...P) error {
	if have == want {
		return nil
	}
	if slices.Contains(bad, have) {
		return fmt.Errorf("it ended %s", have)
	}
	return fmt.Errorf("it is %q", have)
}

func (c *testCase) namespace(name string) {
	c.t.Helper()
	c.ok(c.Create(c.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
}

func (c *testCase) claims(namespace, class string) {
	c.t.Helper()
	for name, mode := range map[string]corev1.PersistentVolumeMode{"block": corev1.PersistentVolumeBlock, "fs": corev1.PersistentVolumeFilesystem} {
		c.ok(c.Create(c.t.Context(), &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, VolumeMode: &mode, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("32Mi")}}}}))
	}
}

// pod runs a Pod with both claims that runs the script and stays, and returns the hashes of the
// first 8 MiB of the device and of /fs/disk.img.
func (c *testCase) pod(namespace, name, script string) []string {
	c.t.Helper()
	claim := func(name string) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}
	}
	const end = "that is all"
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64), Volumes: []corev1.Volume{claim("block"), claim("fs")},
		Containers: []corev1.Container{{Name: "c", Image: c.node.Tools(), VolumeDevices: []corev1.VolumeDevice{{Name: "block", DevicePath: "/dev/disk"}},
			VolumeMounts: []corev1.VolumeMount{{Name: "fs", MountPath: "/fs"}},
			Command:      []string{"/bin/sh", "-ec", script + "; head -c 8388608 /dev/disk | sha256sum; sha256sum < /fs/disk.img; echo " + end + "; sleep 100000"}}}}}
	c.await("claims of Pod "+namespace+"/"+name, func() error { // a restore makes them
		for _, v := range p.Spec.Volumes {
			if err := c.Get(c.t.Context(), client.ObjectKey{Namespace: namespace, Name: v.Name}, &corev1.PersistentVolumeClaim{}); err != nil {
				return err
			}
		}
		return nil
	})
	c.ok(c.Create(c.t.Context(), p))
	var sums []string
	c.await("Pod "+namespace+"/"+name, func() error {
		r, err := c.pods.CoreV1().Pods(namespace).GetLogs(name, &corev1.PodLogOptions{}).Stream(c.t.Context())
		if err != nil {
			return err
		}
		out, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
		var ended bool
		if sums = strings.Split(strings.TrimSpace(string(out)), "\n"); len(sums) == 3 {
			ended = sums[2] == end
		}
		if !ended {
			return fmt.Errorf("its log is %q", out)
		}
		sums = sums[:2]
		return nil
	})
	return sums
}

// backup makes a Backup of a namespace, of its name.
func (c *testCase) backup(name string, move bool) *velerov1.Backup {
	c.t.Helper()
	b := &velerov1.Backup{ObjectMeta: metav1.ObjectMeta{Namespace: cluster.VeleroNamespace, Name: name},
		Spec: velerov1.BackupSpec{IncludedNamespaces: []string{name}, ExcludedResources: []string{"pods"}, SnapshotMoveData: &move}}
	c.ok(c.Create(c.t.Context(), b))
	c.await("backup "+name, func() error {
		c.ok(c.Get(c.t.Context(), client.ObjectKeyFromObject(b), b))
		return phase(b.Status.Phase, velerov1.BackupPhaseCompleted, velerov1.BackupPhaseFailed, velerov1.BackupPhasePartiallyFailed)
	})
	return b
}

// restore brings a backup's claims back in another namespace.
func (c *testCase) restore(b *velerov1.Backup, to string) *velerov1.Restore {
	c.t.Helper()
	r := &velerov1.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: b.Namespace, Name: to},
		Spec: velerov1.RestoreSpec{BackupName: b.Name, NamespaceMapping: map[string]string{b.Name: to},
			IncludedResources: []string{"persistentvolumeclaims", "persistentvolumes", "volumesnapshots", "volumesnapshotcontents", "datauploads"}}}
	c.ok(c.Create(c.t.Context(), r))
	return r
}

// location waits until Velero says that the location is in the phase.
func (c *testCase) location(want velerov1.BackupStorageLocationPhase) {
	c.t.Helper()
	c.await(path.Join("location", string(want)), func() error {
		var l velerov1.BackupStorageLocation
		c.ok(c.Get(c.t.Context(), client.ObjectKey{Namespace: cluster.VeleroNamespace, Name: install.Location}, &l))
		return phase(l.Status.Phase, want)
	})
}

// gone deletes an object and waits until it does not exist.
func (c *testCase) gone(o client.Object) {
	c.t.Helper()
	if err := c.Delete(context.Background(), o); err != nil && !apierrors.IsNotFound(err) {
		c.t.Fatal(err)
	}
	c.await(o.GetName()+" to be deleted", func() error { return cluster.Gone(c, o) })
}
