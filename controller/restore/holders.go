package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
)

// holder is what became of a holder's Deployment.
type holder struct {
	since   time.Time // it has been there for so long
	running bool
	pod     string
	problem string // why it does not run, as the scheduler, the kubelet or the API server says it
}

// holders applies the front holder, and the disk holder of each backup whose volumes are there. A backup whose
// holder cannot start is given up, and its holder removed.
func (r *reconciler) holders(ctx context.Context, s *scope) error {
	built, err := plan.Build(r.Plan, s.input(), s.material)
	if unexposed := new(plan.ExposeError); err != nil && !errors.As(err, &unexposed) {
		s.stop(v1alpha1.ReasonFailed, err.Error())
		return errStop
	}
	s.plan = built
	if err := r.applyAll(ctx, s, built.Step(plan.StepHolders)); err != nil {
		return err
	}
	for _, b := range s.backups {
		if b.target == nil {
			continue
		}
		if !b.attach() {
			if err := r.unhold(ctx, s, s.names.BackupNamespace(b.number)); err != nil {
				return err
			}
		}
	}
	return nil
}

// unhold deletes the Deployment of a backup whose volumes cannot be served any more, so that they are free.
func (r *reconciler) unhold(ctx context.Context, s *scope, namespace string) error {
	var d appsv1.Deployment
	err := r.client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: s.names.Object()}, &d)
	if err != nil || d.Labels[v1alpha1.LabelOriginUUID] != string(s.vmfr.UID) || d.DeletionTimestamp != nil {
		return client.IgnoreNotFound(err)
	}
	return client.IgnoreNotFound(r.client.Delete(ctx, &d, client.PropagationPolicy("Background")))
}

// lookAt reads what became of the holder in a namespace; nil: it is not there (yet).
func (r *reconciler) lookAt(ctx context.Context, s *scope, namespace, part string) (*holder, error) {
	var d appsv1.Deployment
	if err := r.client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: s.names.Object()}, &d); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	h := &holder{since: d.CreationTimestamp.Time, problem: "no pod was made for it yet"}
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			h.problem = c.Message
		}
	}
	var pods corev1.PodList
	if err := r.client.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LabelOriginUUID: string(s.vmfr.UID), plan.LabelPart: part}); err != nil {
		return nil, err
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		if p.DeletionTimestamp != nil {
			continue
		}
		h.pod = p.Name
		h.running, h.problem = judgePod(p)
		if p.CreationTimestamp.After(h.since) {
			h.since = p.CreationTimestamp.Time
		}
		if h.running {
			break
		}
	}
	return h, nil
}

// judgePod tells whether a pod runs, or what keeps it from running in the words of who decided it.
func judgePod(p *corev1.Pod) (running bool, problem string) {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return false, fmt.Sprintf("no node takes it (%s): %s", c.Reason, c.Message)
		}
	}
	for _, c := range p.Status.ContainerStatuses {
		switch {
		case c.State.Waiting != nil && c.State.Waiting.Reason != "ContainerCreating":
			return false, fmt.Sprintf("its container waits (%s): %s", c.State.Waiting.Reason, c.State.Waiting.Message)
		case c.State.Terminated != nil:
			return false, fmt.Sprintf("its container ended (%s): %s", c.State.Terminated.Reason, c.State.Terminated.Message)
		}
	}
	switch p.Status.Phase {
	case corev1.PodRunning:
		return true, ""
	case corev1.PodFailed:
		return false, fmt.Sprintf("it failed (%s): %s", p.Status.Reason, p.Status.Message)
	case corev1.PodPending:
		if p.Spec.NodeName != "" {
			return false, fmt.Sprintf("the node %s has not started it: see the events of the pod, such as a volume that cannot be attached", p.Spec.NodeName)
		}
	}
	return false, "it is not scheduled yet"
}
