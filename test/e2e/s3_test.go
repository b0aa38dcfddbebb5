package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
	"vmfr/test/e2e/guest"
)

func pidText(pid int) string { return strconv.Itoa(pid) }

// stateSize is the room that the agent has for what it keeps on its node, so that a test can fill it.
const stateSize = "256k"

// smallState gives the agent's folder on the suite's own node a small file system.
func (w *world) smallState(t testing.TB) {
	t.Helper()
	script := "mkdir -p " + session.DirAgent + " && { mountpoint -q " + session.DirAgent + " || mount -t tmpfs -o mode=755,size=" + stateSize + " agent " + session.DirAgent + "; }"
	if out, err := w.node.Command(t.Context(), "sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// stateFull: nothing can be written where the agent keeps its state. Sessions go on, also over a
// restart of the agent.
func (f *fault) stateFull(t *testing.T) {
	fill := filepath.Join("/proc", pidText(f.c.w.node.Pid()), "root", session.DirAgent, "full")
	if out, err := exec.Command("dd", "if=/dev/zero", "of="+fill, "bs=4k").CombinedOutput(); err == nil || !strings.Contains(string(out), "No space left") {
		t.Fatalf("the folder cannot be filled: %v: %s", err, out)
	}
	defer func() {
		if err := os.Remove(fill); err != nil {
			t.Error(err)
		}
	}()
	before := f.holders(t)
	if got := f.s.File(t, f.path(guest.Created)); got != "an idea\n" {
		t.Errorf("with a full disk: %q", got)
	}
	from := time.Now()
	if _, err := f.c.w.kubectl(t.Context(), "-n", agentNamespace, "rollout", "restart", "daemonset/vmfr-agent"); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, serveLimit, f.c.w.agentReady)
	_, files := f.again(t, from)
	t.Logf("with a full disk all files were there %s after the agent was replaced", files.Round(10*time.Millisecond))
	f.sameHolders(t, before)
}

// storageDown: while the object storage is away what is served is served, and what begins waits
// and says for what; when it is back that goes on by itself.
func (f *fault) storageDown(t *testing.T) {
	s3 := f.c.w.base()
	if err := s3.StopS3(t.Context()); err != nil {
		t.Fatal(err)
	}
	up := false
	start := func() {
		if !up {
			up = true
			if err := s3.StartS3(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	defer start()
	bsl := &velerov1.BackupStorageLocation{ObjectMeta: metav1.ObjectMeta{Namespace: *veleroNamespace, Name: *location}}
	cluster.Await(t, serveLimit, func() error {
		if err := f.c.w.get(bsl); err != nil {
			return err
		}
		if bsl.Status.Phase != velerov1.BackupStorageLocationPhaseUnavailable {
			return fmt.Errorf("the location is %q", bsl.Status.Phase)
		}
		return nil
	})
	if got := f.s.File(t, f.path(guest.Created)); got != "an idea\n" {
		t.Errorf("without the object storage: %q", got)
	}
	r := f.c.web.restore(t, "early", "web-again", backups(snapshot))
	cluster.Await(t, serveLimit, func() error {
		if err := f.c.w.get(r.VirtualMachineFileRestore); err != nil {
			return err
		}
		if text := r.text(); r.Status.Phase != v1alpha1.FileRestoreInProgress || !strings.Contains(text, "the storage location cannot be read") {
			return fmt.Errorf("the restore is %q: %s", r.Status.Phase, text)
		}
		return nil
	})
	start()
	r.await(t, v1alpha1.FileRestoreCompleted)
	s := r.server(t)
	if got := s.File(t, f.path(guest.Created)); got != "an idea\n" {
		t.Errorf("%q", got)
	}
	r.delete(t)
}
