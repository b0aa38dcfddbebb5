package cluster_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/test/cluster"
)

var ctx = context.Background()

// TestVelero: a backup holds a VM's claims, a restore of some of them makes exactly those, and a
// namespace can be deleted.
func TestVelero(t *testing.T) {
	began := time.Now()
	cp := cluster.Start(t)
	t.Logf("a control plane after %s", time.Since(began).Round(time.Millisecond))
	cp.StartControllers(t)
	t.Logf("its controllers after %s", time.Since(began).Round(time.Millisecond))
	v := cluster.StartVelero(t, cp)
	t.Logf("Velero after %s", time.Since(began).Round(time.Millisecond))

	claims := cp.CreateVM(t, cluster.VM{Namespace: "vms", Name: "fedora", Disks: []cluster.Disk{
		{Name: "root", DataVolume: true}, {Name: "data", Bus: "scsi", Filesystem: true, Size: "2Gi"}}})
	cp.CreateVM(t, cluster.VM{Namespace: "vms", Name: "other", Disks: []cluster.Disk{{Name: "root"}, {Name: "old", Unlabelled: true}}})

	began = time.Now()
	b := v.BackupOf(t, "b1", "vms")
	t.Logf("a backup in %s", time.Since(began).Round(time.Millisecond))
	if b.Status.Phase != velerov1.BackupPhaseCompleted {
		t.Fatalf("the backup is %s: %+v", b.Status.Phase, b.Status)
	}
	var list map[string][]string
	if err := json.Unmarshal(gunzip(t, v.Default.File("b1", "-resource-list.json.gz")), &list); err != nil {
		t.Fatal(err)
	}
	if got := list["kubevirt.io/v1/VirtualMachine"]; !slices.Contains(got, "vms/fedora") {
		t.Errorf("the resource list has the VMs %q", got)
	}
	files := untar(t, gunzip(t, v.Default.File("b1", ".tar.gz")))
	for _, claim := range claims {
		var have corev1.PersistentVolumeClaim
		if err := json.Unmarshal(files["resources/persistentvolumeclaims/namespaces/vms/"+claim.Name+".json"], &have); err != nil {
			t.Fatalf("%s in the tarball: %v", claim.Name, err)
		}
		if have.Labels[cluster.PVCUIDLabel] != string(claim.UID) || have.UID != claim.UID {
			t.Errorf("%s in the tarball: UID %s, labels %v", claim.Name, have.UID, have.Labels)
		}
	}

	began = time.Now()
	r := v.Restore(t, "r1", velerov1.RestoreSpec{
		BackupName: "b1", IncludedNamespaces: []string{"vms"}, NamespaceMapping: map[string]string{"vms": "session-1"},
		IncludedResources: []string{"persistentvolumeclaims", "volumesnapshots"},
		OrLabelSelectors: []*metav1.LabelSelector{
			{MatchLabels: map[string]string{cluster.PVCUIDLabel: string(claims[0].UID)}},
			{MatchLabels: map[string]string{cluster.PVCUIDLabel: string(claims[1].UID)}},
		},
	})
	t.Logf("a restore in %s", time.Since(began).Round(time.Millisecond))
	if r.Status.Phase != velerov1.RestorePhaseCompleted {
		t.Errorf("the restore is %s: %+v", r.Status.Phase, r.Status)
	}
	var restored corev1.PersistentVolumeClaimList
	if err := v.Client.List(ctx, &restored, client.InNamespace("session-1")); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range restored.Items {
		names = append(names, p.Name)
		t.Logf("%s: volume %q, %s, labels %v, annotations %v", p.Name, p.Spec.VolumeName, p.Status.Phase, p.Labels, p.Annotations)
	}
	if want := []string{"fedora-data", "fedora-root"}; !slices.Equal(names, want) {
		t.Errorf("the restore made %q, want %q", names, want)
	}

	began = time.Now()
	session := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "session-1"}}
	if err := v.Client.Delete(ctx, session); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, time.Minute, func() error { return cluster.Gone(v.Client, session) })
	t.Logf("a namespace deleted in %s", time.Since(began).Round(time.Millisecond))
}

func gunzip(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func untar(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(strings.NewReader(string(b))); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err == nil {
			files[h.Name], err = io.ReadAll(r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
