package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
	"vmfr/test/e2e/pull"
	"vmfr/test/fixture"
)

const (
	// applianceLimit is how long libguestfs' appliance may take to boot: without KVM, on a busy machine.
	applianceLimit = 10 * time.Minute
	petsBackup     = "pets-1"
	petsName       = "name.txt"
	petsFile       = "photo"
	petsText       = "Tama\n"
)

// hasAppliance tells whether the image is known to have libguestfs.
func hasAppliance(t testing.TB) bool {
	t.Helper()
	if *imageArchive == "" {
		return false
	}
	img, err := tarball.ImageFromPath(*imageArchive, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(config.Config.Env, func(e string) bool { return strings.HasPrefix(e, "LIBGUESTFS_PATH=") })
}

// TestAppliance: what only libguestfs reads is served by the full image, whose appliance boots in
// the agent's Pod: a btrfs on a Block volume, and one in a qcow2 on a Filesystem volume. The time and the
// memory of it are logged.
func TestAppliance(t *testing.T) {
	if !hasAppliance(t) {
		t.Skip("the image has no libguestfs: give the full one with -image-archive")
	}
	fixture.NeedRoot(t)
	fixture.Need(t, "kubectl", "sftp", "curl", "mkfs.btrfs", "qemu-img")
	w := enter(t)
	m := w.machine(t, cluster.VM{Namespace: "pets", Name: "cat", Disks: []cluster.Disk{
		{Name: "raw", Size: "256Mi"}, {Name: "qcow", Filesystem: true, Size: "256Mi"}}})
	content := make([]byte, 5<<20)
	_, _ = rand.Read(content) // which never fails
	raw, qcow := btrfs(t, content)
	m.fill(t, raw, qcow)
	m.backup(t, petsBackup, false)
	m.lose(t)

	before := w.state(t)
	m.discover(t, "cat", petsBackup)
	r := m.restore(t, "cat", "cat")
	r.await(t, v1alpha1.FileRestoreCompleted)
	s := r.server(t)
	began := time.Now()
	cluster.Await(t, applianceLimit, func() error {
		out, err := s.SFTP(t.Context(), t, "ls -1 "+m.path(0, ""))
		if err == nil && !strings.Contains(out, petsName) {
			err = fmt.Errorf("not all is listed: %s", out)
		}
		return err
	})
	t.Logf("the first folder was listed after %s", time.Since(began).Round(100*time.Millisecond))
	for disk := range m.spec.Disks {
		if got := s.File(t, m.path(disk, petsName)); got != petsText {
			t.Errorf("%s of disk %d: %q", petsName, disk, got)
		}
		began := time.Now()
		w.pullPhoto(t, s, m.path(disk, petsFile), content)
		t.Logf("%d MiB of disk %d were pulled in %s", len(content)>>20, disk, time.Since(began).Round(10*time.Millisecond))
	}
	w.applianceMemory(t)

	took := r.delete(t)
	t.Logf("deleted in %s, with a running appliance", took.Round(10*time.Millisecond))
	w.remove(t, &v1alpha1.VirtualMachineBackupsDiscovery{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: r.Spec.BackupsDiscoveryRef}})
	w.awaitNothingLeft(t, before)
}

// path is a file of a disk of the only backup, in the served tree.
func (m *machine) path(disk int, name string) string {
	return "/backups/" + petsBackup + "/" + m.disk(disk) + "/" + name
}

// btrfs makes two images of the same files. The file systems are two: a kernel takes several devices
// with one btrfs' UUID for its parts.
func btrfs(t *testing.T, content []byte) (raw, qcow string) {
	t.Helper()
	src, dir := t.TempDir(), t.TempDir()
	for name, b := range map[string][]byte{petsName: []byte(petsText), petsFile: content} {
		if err := os.WriteFile(filepath.Join(src, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, qcow = filepath.Join(dir, "btrfs.raw"), filepath.Join(dir, "btrfs.qcow2")
	other := filepath.Join(dir, "other.raw")
	for _, image := range []string{raw, other} {
		fixture.Sparse(t, image, 200<<20)
		fixture.Run(t, "mkfs.btrfs", "-q", "--rootdir", src, image)
	}
	fixture.Run(t, "qemu-img", "convert", "-c", "-O", "qcow2", other, qcow)
	return raw, qcow
}

// pullPhoto fetches a file by HTTPS and compares it.
func (w *world) pullPhoto(t testing.TB, s pull.Server, path string, want []byte) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "file")
	if _, err := s.Curl(t.Context(), t, s.URL("/files"+path), "-o", to); err != nil {
		t.Error(err)
		return
	}
	if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes are not what the guest had: %v", path, len(got), err)
	}
}

// applianceMemory logs the peak of qemu's memory.
func (w *world) applianceMemory(t testing.TB) {
	t.Helper()
	if w.node == nil {
		return
	}
	found := false
	for _, p := range w.processes(t) {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.pid))
		if err == nil && bytes.HasPrefix(name, []byte("qemu")) {
			found = true
			t.Logf("memory of qemu: %d MiB at most", peak(t, p.pid)>>20)
		}
	}
	if !found {
		t.Error("no qemu runs on the node: something else has read the disks")
	}
}

// peak is the most memory that a process had, in bytes (proc_pid_status(5)).
func peak(t testing.TB, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("process %d has no memory", pid)
	return 0
}
