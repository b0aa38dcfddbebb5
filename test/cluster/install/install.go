package install

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/template"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"

	"vmfr/test/cluster"
)

// Namespace is where storage and S3 gateway run.
const Namespace = "vmfr-test"

const (
	owner        = "vmfr-test-install" // of fields, for the API server
	pollInterval = 200 * time.Millisecond
	crdLimit     = time.Minute
)

// Cluster is where to install.
type Cluster struct {
	Config  *rest.Config                                    // an administrator's
	Load    func(ctx context.Context, archive string) error // makes an image's archive known to the cluster's nodes
	Kubelet string                                          // the kubelets' root directory; empty: /var/lib/kubelet
	Log     io.Writer                                       // gets a line for each part that is ready; nil: none
}

// All installs everything.
func (c Cluster) All(ctx context.Context) error {
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"CRDs", c.CRDs}, {"storage", c.Storage}, {"S3 gateway", c.S3}, {"Velero", c.Velero},
	} {
		began := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if c.Log != nil {
			_, _ = fmt.Fprintf(c.Log, "%6.1fs  %s\n", time.Since(began).Seconds(), step.name)
		}
	}
	return nil
}

// CRDs installs the kinds of CSI's snapshots, Velero, KubeVirt and CDI.
func (c Cluster) CRDs(context.Context) error {
	o, err := cluster.CRDs()
	if err != nil {
		return err
	}
	o.MaxTime, o.PollInterval = crdLimit, pollInterval
	_, err = envtest.InstallCRDs(c.Config, o)
	return err
}

//go:embed files/*.yaml
var files embed.FS

// apply makes the objects of a file what it says.
func (c Cluster) apply(ctx context.Context, file string, values map[string]string) error {
	objects, err := render(file, values)
	if err != nil {
		return err
	}
	return c.applyObjects(ctx, objects)
}

// render returns the objects of a file, in which text/template fills in values.
func render(file string, values map[string]string) ([]*unstructured.Unstructured, error) {
	t, err := template.New(file).Option("missingkey=error").ParseFS(files, "files/"+file)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, values); err != nil {
		return nil, err
	}
	objects, err := parse(b.String())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return objects, nil
}

// parse reads documents of YAML, each an object or a list of them.
func parse(documents string) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	for _, d := range strings.Split(documents, "\n---\n") {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(d), &o.Object); err != nil {
			return nil, err
		}
		if !o.IsList() {
			all = append(all, o)
			continue
		}
		list, err := o.ToList()
		if err != nil {
			return nil, err
		}
		for i := range list.Items {
			all = append(all, &list.Items[i])
		}
	}
	return all, nil
}

func (c Cluster) applyObjects(ctx context.Context, objects []*unstructured.Unstructured) error {
	k, err := c.client()
	if err != nil {
		return err
	}
	for _, o := range objects {
		name := o.GetKind() + " " + o.GetName()
		if err := k.Apply(ctx, client.ApplyConfigurationFromUnstructured(o), client.FieldOwner(owner), client.ForceOwnership); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (c Cluster) client() (client.Client, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, velerov1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	return client.New(c.Config, client.Options{Scheme: scheme})
}

func (c Cluster) kubelet() string {
	if c.Kubelet == "" {
		return "/var/lib/kubelet"
	}
	return c.Kubelet
}

// await waits until ready returns nil. When the context ends, its error says what was not ready.
func await(ctx context.Context, ready func() error) error {
	return cluster.Poll(ctx, pollInterval, ready)
}

// rolledOut waits until a Deployment's or DaemonSet's Pods are what it says, all ready and no others left.
func (c Cluster) rolledOut(ctx context.Context, workload client.Object) error {
	k, err := c.client()
	if err != nil {
		return err
	}
	return await(ctx, func() error {
		if err := k.Get(ctx, client.ObjectKeyFromObject(workload), workload); err != nil {
			return err
		}
		var (
			want     int32
			done     bool
			selector *metav1.LabelSelector
		)
		switch w := workload.(type) {
		case *appsv1.Deployment:
			want, selector = *w.Spec.Replicas, w.Spec.Selector
			done = w.Status.ObservedGeneration == w.Generation && w.Status.UpdatedReplicas == want && w.Status.AvailableReplicas == want
		case *appsv1.DaemonSet:
			want, selector = w.Status.DesiredNumberScheduled, w.Spec.Selector
			done = w.Status.ObservedGeneration == w.Generation && want > 0 && w.Status.UpdatedNumberScheduled == want && w.Status.NumberAvailable == want
		default:
			return fmt.Errorf("%T is no workload", workload)
		}
		var pods corev1.PodList
		if err := k.List(ctx, &pods, client.InNamespace(workload.GetNamespace()), client.MatchingLabels(selector.MatchLabels)); err != nil {
			return err
		}
		if done && len(pods.Items) == int(want) {
			return nil
		}
		problems := []error{fmt.Errorf("%s/%s has %d Pods, not %d that are ready", workload.GetNamespace(), workload.GetName(), len(pods.Items), want)}
		for _, p := range pods.Items {
			problems = append(problems, unready(&p))
		}
		return errors.Join(problems...)
	})
}

func deployment(namespace, name string) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
}

func daemonSet(namespace, name string) *appsv1.DaemonSet {
	return &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
}

// unready is nil if a Pod is ready, and says why it is not.
func unready(p *corev1.Pod) error {
	var why []string
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil {
			return nil
		}
		if c.Type == corev1.PodScheduled && c.Status != corev1.ConditionTrue {
			why = append(why, c.Message)
		}
	}
	for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		switch {
		case s.State.Waiting != nil:
			why = append(why, strings.TrimSpace(s.Name+" "+s.State.Waiting.Reason+" "+s.State.Waiting.Message))
		case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
			why = append(why, fmt.Sprintf("%s ended with %d %s", s.Name, s.State.Terminated.ExitCode, s.State.Terminated.Message))
		}
		if last := s.LastTerminationState.Terminated; last != nil {
			why = append(why, fmt.Sprintf("%s ended before with %d: %s", s.Name, last.ExitCode, last.Message))
		}
	}
	return fmt.Errorf("the Pod %s/%s is %s: %s", p.Namespace, p.Name, p.Status.Phase, strings.Join(why, "; "))
}
