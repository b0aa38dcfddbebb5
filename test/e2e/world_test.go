package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
	"vmfr/test/cluster/node"
)

// world is the cluster with everything that the story needs.
type world struct {
	cluster.ControlPlane
	admin client.Client
	node  *node.Node // nil: the cluster is somebody else's
	image string     // vmfr's; "": unknown
	late  string     // a StorageClass that waits for its first consumer; "": none

	loaded, size int64 // of the image that was loaded last, and of vmfr's, in bytes, uncompressed
}

// enter connects to the cluster, and on a node of the suite's own installs everything first.
func enter(t *testing.T) *world {
	t.Helper()
	c := node.Current(t)
	w := &world{ControlPlane: cluster.ControlPlane{Config: c.Config, Kubeconfig: c.Kubeconfig}, image: *vmfrImage, late: *lateClass}
	w.admin = w.Client(t, v1alpha1.AddToScheme)
	if os.Getenv(node.KubeconfigEnv) == "" {
		w.node = c.Node(t)
	}
	if w.node != nil || *loader != "" {
		w.install(t)
	} else if err := w.missing(t, flagged()); err != nil {
		t.Fatalf("the cluster lacks what this suite needs:\n%v", err)
	}
	w.awaitProduct(t)
	return w
}

// kubectl runs kubectl, which is in PATH, as the administrator.
func (w *world) kubectl(ctx context.Context, args ...string) (string, error) {
	var errs bytes.Buffer
	cmd := exec.CommandContext(ctx, "kubectl", append([]string{"--kubeconfig", w.Kubeconfig}, args...)...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return string(out), err
}

// create creates an object, which goes when the test ends.
func (w *world) create(t testing.TB, o client.Object) {
	t.Helper()
	if err := w.admin.Create(t.Context(), o); err != nil {
		t.Fatalf("%T %s: %v", o, o.GetName(), err)
	}
	t.Cleanup(func() {
		if !(*keep && t.Failed()) {
			w.remove(t, o)
		}
	})
}

// remove deletes an object and returns when it is gone.
func (w *world) remove(t testing.TB, o client.Object) {
	t.Helper()
	if err := client.IgnoreNotFound(w.admin.Delete(context.Background(), o)); err != nil {
		t.Errorf("%T %s: %v", o, o.GetName(), err)
		return
	}
	cluster.Await(t, endLimit, func() error { return cluster.Gone(w.admin, o) })
}

// get reads an object anew.
func (w *world) get(o client.Object) error {
	return w.admin.Get(context.Background(), client.ObjectKeyFromObject(o), o)
}

// pods are the pods of a namespace with a label.
func (w *world) pods(namespace string, labels ...string) ([]corev1.Pod, error) {
	match := client.MatchingLabels{}
	for i := 0; i+1 < len(labels); i += 2 {
		match[labels[i]] = labels[i+1]
	}
	var list corev1.PodList
	err := w.admin.List(context.Background(), &list, client.InNamespace(namespace), match)
	return list.Items, err
}

// ready is nil if the pod runs and all its containers are ready.
func ready(p *corev1.Pod) error {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil {
			return nil
		}
	}
	var why []string
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Waiting != nil {
			why = append(why, c.State.Waiting.Reason+" "+c.State.Waiting.Message)
		}
	}
	return fmt.Errorf("pod %s/%s is %s: %s", p.Namespace, p.Name, p.Status.Phase, strings.Join(why, "; "))
}

// within calls ready until it returns nil, and returns how long that took.
func within(t testing.TB, limit time.Duration, ready func() error) time.Duration {
	t.Helper()
	from := time.Now()
	cluster.Await(t, limit, ready)
	return time.Since(from)
}

// crdScheme knows CustomResourceDefinitions.
func crdScheme(t testing.TB) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	if err := apiextensionsv1.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	return s
}
