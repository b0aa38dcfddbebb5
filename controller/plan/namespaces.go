package plan

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"vmfr/api/v1alpha1"
)

// Labels of Pod Security admission, and its levels.
const (
	labelEnforce    = "pod-security.kubernetes.io/enforce"
	labelWarn       = "pod-security.kubernetes.io/warn"
	labelAudit      = "pod-security.kubernetes.io/audit"
	levelPrivileged = "privileged"
	levelRestricted = "restricted"
)

// Namespaces are the namespaces to make, the session's first where it is a temporary one; they
// need no Material, so they can be made before it.
//
// Their level is privileged because a holder mounts the agent's folder from its node (hostPath),
// which every other level refuses. Only holders run there all the same: AdmissionPolicies. The
// warnings and the audit log tell what else a holder does that the restricted level would refuse.
func Namespaces(in Input) []*corev1.Namespace {
	b := &builder{in: in, names: in.Names()}
	var out []*corev1.Namespace
	for _, p := range b.places() {
		if p.backup == nil && !b.names.Temporary {
			continue
		}
		ns := &corev1.Namespace{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: b.metaAt(p, p.namespace),
		}
		ns.Namespace = ""
		ns.Labels[v1alpha1.LabelTempNamespace] = "true"
		ns.Labels[labelEnforce], ns.Labels[labelWarn], ns.Labels[labelAudit] = levelPrivileged, levelRestricted, levelRestricted
		out = append(out, ns)
	}
	return out
}

// JudgeNamespace tells why holders cannot run in an existing namespace, as a text for a
// condition; empty: nothing speaks against it. A namespace without a level is for the cluster's
// default to judge, which cannot be read; a refusal shows as an event of the ReplicaSet.
func JudgeNamespace(ns *corev1.Namespace) string {
	level, set := ns.Labels[labelEnforce]
	switch {
	case ns.DeletionTimestamp != nil:
		return fmt.Sprintf("namespace %s is being deleted; name another restoreNamespace, or leave it out", ns.Name)
	case set && level != levelPrivileged:
		return fmt.Sprintf("namespace %s enforces the pod security level %q, but the holder mounts the agent's folder of its node, which only %q allows; set the label %s=%s there, name another restoreNamespace, or leave it out for a temporary one",
			ns.Name, level, levelPrivileged, labelEnforce, levelPrivileged)
	}
	return ""
}
