package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"vmfr/test/cluster"
	"vmfr/test/e2e/product"
)

// Where deploy/ puts things.
const (
	controllerNamespace = "vmfr-system"
	agentNamespace      = "vmfr-agent"
	overlay             = "../../deploy/overlays/kubernetes"
	overlayImage        = "registry.example/vmfr:dev" // the one that the overlay names
)

// build makes the image of this tree's programs, or takes the given one, and loads it on the node.
func (w *world) build(t *testing.T) {
	t.Helper()
	archive, err := *imageArchive, error(nil)
	if archive != "" {
		w.image, err = product.Reference(archive)
	} else {
		archive = filepath.Join(t.TempDir(), "vmfr.tar")
		w.image, err = product.Image(t.Context(), "../..", archive, "e2e")
	}
	if err == nil {
		err = w.load(t.Context(), archive)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// load makes an image known to the cluster's nodes.
func (w *world) load(ctx context.Context, archive string) error {
	st, err := os.Stat(archive)
	if err != nil {
		return err
	}
	w.loaded = st.Size()
	if w.node != nil {
		return w.node.LoadImage(ctx, archive)
	}
	command := append(strings.Fields(*loader), archive)
	out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, out)
	}
	return nil
}

// deploy applies deploy/ as an administrator does.
func (w *world) deploy(t *testing.T) {
	t.Helper()
	manifest, err := w.kubectl(t.Context(), "kustomize", overlay)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(manifest, overlayImage) {
		t.Fatalf("%s does not name the image %s", overlay, overlayImage)
	}
	file := filepath.Join(t.TempDir(), "vmfr.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(manifest, overlayImage, w.image)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := w.kubectl(t.Context(), "apply", "--server-side", "-f", file); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// awaitProduct waits until controller and agent are ready.
func (w *world) awaitProduct(t *testing.T) {
	t.Helper()
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: controllerNamespace, Name: "vmfr-controller"}}
	cluster.Await(t, endLimit, func() error {
		if err := w.get(d); err != nil {
			return err
		}
		if s := d.Status; s.ObservedGeneration < d.Generation || s.ReadyReplicas < *d.Spec.Replicas || s.UpdatedReplicas < *d.Spec.Replicas {
			return fmt.Errorf("the controller is not ready: %+v", s)
		}
		return nil
	})
	cluster.Await(t, endLimit, w.agentReady)
}

// agentReady is nil if each node's agent is ready and of the DaemonSet's present template.
func (w *world) agentReady() error {
	d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: agentNamespace, Name: "vmfr-agent"}}
	if err := w.get(d); err != nil {
		return err
	}
	if s := d.Status; s.ObservedGeneration < d.Generation || s.DesiredNumberScheduled == 0 || s.NumberReady < s.DesiredNumberScheduled || s.UpdatedNumberScheduled < s.DesiredNumberScheduled {
		return fmt.Errorf("the agent is not ready: %+v", s)
	}
	return nil
}
