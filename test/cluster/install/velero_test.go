package install

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"vmfr/test/cluster"
)

// TestAdapt changes what the real `velero install` says.
func TestAdapt(t *testing.T) {
	cluster.VeleroPrograms.Need(t)
	manifest, err := veleroInstall(t.Context(), "--image", "i:1", "--plugins", "p:1", "--provider", "aws", "--bucket", "b", "--use-volume-snapshots=false", "--use-node-agent")
	if err != nil {
		t.Fatal(err)
	}
	objects, err := parse(manifest)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]*unstructured.Unstructured{}
	for _, o := range objects {
		if err := adapt(o); err != nil {
			t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
		if _, found, _ := unstructured.NestedFieldNoCopy(o.Object, "metadata", "creationTimestamp"); found {
			t.Errorf("%s %s has a time of creation, which cannot be applied", o.GetKind(), o.GetName())
		}
		kinds[o.GetKind()] = o
	}
	for kind, want := range map[string]string{"Deployment": "--item-operation-sync-frequency=1s", "DaemonSet": "--node-agent-configmap=" + nodeAgentConfig} {
		o := kinds[kind]
		if o == nil {
			t.Fatalf("there is no %s", kind)
		}
		containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
		args, _, _ := unstructured.NestedStringSlice(containers[0].(map[string]any), "args")
		if !slices.Contains(args, want) || !slices.Contains(args, "server") {
			t.Errorf("%s: the arguments are %q", kind, args)
		}
	}
	if every, _, _ := unstructured.NestedString(kinds["BackupStorageLocation"].Object, "spec", "validationFrequency"); every != "5s" {
		t.Errorf("the location is checked every %q", every)
	}
	if err := adapt(&unstructured.Unstructured{Object: map[string]any{"kind": "DaemonSet"}}); err == nil {
		t.Error("a workload without a container was changed")
	}
}

// TestRender fills in every file, and refuses one whose values are not all there.
func TestRender(t *testing.T) {
	values := map[string]string{"Namespace": "velero", "NodeAgentConfig": "node-agent"}
	objects, err := render("velero.yaml", values)
	if err != nil || len(objects) != 1 || objects[0].GetNamespace() != "velero" || objects[0].GetName() != "node-agent" {
		t.Errorf("%v, %v", objects, err)
	}
	if _, err := render("s3.yaml", values); err == nil || !strings.Contains(err.Error(), "Port") {
		t.Errorf("without a port: %v", err)
	}
}

// TestUnready says why a Pod is not ready, as far as its status does.
func TestUnready(t *testing.T) {
	pod := func(change func(*corev1.PodStatus)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p"}, Status: corev1.PodStatus{Phase: corev1.PodPending}}
		change(&p.Status)
		return p
	}
	for want, p := range map[string]*corev1.Pod{
		"no node has room": pod(func(s *corev1.PodStatus) {
			s.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "no node has room"}}
		}),
		"c ErrImageNeverPull i:1 is missing": pod(func(s *corev1.PodStatus) {
			s.InitContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImageNeverPull", Message: "i:1 is missing"}}}}
		}),
		"c ended before with 2: no such bucket": pod(func(s *corev1.PodStatus) {
			s.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 2, Message: "no such bucket"}}}}
		}),
	} {
		if err := unready(p); err == nil || !strings.Contains(err.Error(), "n/p is Pending: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
	if err := unready(pod(func(s *corev1.PodStatus) {
		s.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	})); err != nil {
		t.Error(err)
	}
}
