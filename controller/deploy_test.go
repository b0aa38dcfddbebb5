package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	securityv1 "github.com/openshift/api/security/v1"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	strictyaml "sigs.k8s.io/yaml"

	"vmfr/api/session"
	"vmfr/test/cluster"
)

// testAgent: a node's agent is admitted as deploy/ has it, and its account can do one thing.
func (e *env) testAgent(t *testing.T) {
	ctx := context.Background()
	// A node that somebody drains and that is not for everybody; nobody runs what it is given.
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", Labels: map[string]string{corev1.LabelOSStable: "linux"}},
		Spec: corev1.NodeSpec{Unschedulable: true, Taints: []corev1.Taint{{Key: "storage", Effect: corev1.TaintEffectNoExecute}}}}
	if err := e.admin.Create(ctx, node); err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	cluster.Await(t, waitLimit, func() error {
		var pods corev1.PodList
		if err := e.admin.List(ctx, &pods, client.InNamespace("vmfr-agent")); err != nil {
			return err
		}
		if len(pods.Items) != 1 {
			return fmt.Errorf("%d pods of the agent", len(pods.Items))
		}
		pod = pods.Items[0]
		return nil
	})
	if s := pod.Spec; s.HostNetwork || s.HostPID || s.HostIPC || s.PriorityClassName != "vmfr-agent" || s.PreemptionPolicy == nil || *s.PreemptionPolicy != corev1.PreemptNever {
		t.Errorf("%+v", s)
	}
	if c := pod.Spec.Containers[0]; len(pod.Spec.Containers) != 1 || !c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Memory().IsZero() {
		t.Errorf("%+v", c.Resources)
	}
	for _, v := range pod.Spec.Volumes {
		if v.HostPath != nil && v.HostPath.Path != session.DirAgent {
			t.Errorf("the agent mounts %s of its node", v.HostPath.Path)
		}
	}
	e.testAgentRights(t)
	if err := e.admin.Delete(ctx, node); err != nil {
		t.Fatal(err)
	}
	if err := client.IgnoreNotFound(e.admin.Delete(ctx, &pod)); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, waitLimit, func() error { return cluster.Gone(e.admin, &pod) })
}

// testAgentRights asks the API server for the account's own list of what it may do: beyond what
// everybody may (discovery, and reviews of itself) that is TokenReviews.
func (e *env) testAgentRights(t *testing.T) {
	ctx := context.Background()
	for _, namespace := range []string{"vmfr-agent", "vmfr-system", "velero", "kube-system"} {
		review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}
		if err := e.asAccount(t, "vmfr-agent", "vmfr-agent").Create(ctx, review); err != nil {
			t.Fatal(err)
		}
		found := false
		for _, r := range review.Status.ResourceRules {
			switch {
			case slices.Equal(r.APIGroups, []string{"authentication.k8s.io"}) && slices.Equal(r.Resources, []string{"tokenreviews"}) && slices.Equal(r.Verbs, []string{"create"}):
				found = true
			case slices.Equal(r.Verbs, []string{"create"}) && !slices.ContainsFunc(r.Resources, func(s string) bool { return !strings.HasPrefix(s, "selfsubject") }):
			default:
				t.Errorf("in %s the agent may %v %v of %v", namespace, r.Verbs, r.Resources, r.APIGroups)
			}
		}
		if !found {
			t.Errorf("in %s the agent may not create TokenReviews: %+v", namespace, review.Status.ResourceRules)
		}
	}
}

// openShiftSchema is the file by which OpenShift's API server takes SecurityContextConstraints.
func openShiftSchema(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/openshift/api").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "security/v1/zz_generated.crd-manifests/0000_03_config-operator_01_securitycontextconstraints.crd.yaml")
}

// testOpenShift: the overlay for OpenShift is valid by OpenShift's own schemas.
func (e *env) testOpenShift(t *testing.T) {
	manifests, err := e.Kubectl("", "kustomize", "../deploy/overlays/openshift")
	if err != nil {
		t.Fatalf("%v\n%s", err, manifests)
	}
	schema := openShiftSchema(t)
	if out, err := e.Kubectl("", "apply", "--server-side", "-f", schema); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := e.Kubectl("", "wait", "--for=condition=Established", "--timeout=60s", "-f", schema); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	e.CreateNamespace(t, "openshift-adp")
	out, err := e.Kubectl(manifests, "apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", "-")
	if err != nil || strings.Contains(strings.ToLower(out), "warning") || strings.Count(out, "securitycontextconstraints.security.openshift.io/") != 2 {
		t.Errorf("the overlay for OpenShift: %v\n%s", err, out)
	}
	for _, gone := range [][]string{{"delete", "namespace", "openshift-adp", "--wait=true"}, {"delete", "--wait=true", "-f", schema}} {
		if out, err := e.Kubectl("", gone...); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

// TestConstraints: the pods are what the security context constraints of the overlay for OpenShift
// allow, as far as that is decided by comparing the two, and the constraints allow no more than
// the pods need where a pod is to be kept small.
func TestConstraints(t *testing.T) {
	constraints := map[string]*securityv1.SecurityContextConstraints{}
	for _, o := range documents(t, read(t, "../deploy/overlays/openshift/security.yaml")) {
		if o.GetKind() != "SecurityContextConstraints" {
			continue
		}
		text, err := strictyaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		scc := &securityv1.SecurityContextConstraints{}
		if err := strictyaml.UnmarshalStrict(text, scc); err != nil {
			t.Fatal(err)
		}
		constraints[scc.Name] = scc
	}
	agent, holder := constraints["vmfr-agent"], constraints["vmfr-holder"]
	if len(constraints) != 2 || agent == nil || holder == nil {
		t.Fatalf("%v", constraints)
	}
	for _, scc := range constraints {
		if len(scc.Users)+len(scc.Groups) > 0 || scc.AllowHostNetwork || scc.AllowHostPID || scc.AllowHostIPC || scc.AllowHostPorts || !scc.ReadOnlyRootFilesystem {
			t.Errorf("%s: %+v", scc.Name, scc)
		}
	}
	if holder.AllowPrivilegedContainer || len(holder.AllowedCapabilities) > 0 || *holder.AllowPrivilegeEscalation || !slices.Contains(holder.RequiredDropCapabilities, "ALL") ||
		holder.RunAsUser.Type != securityv1.RunAsUserStrategyMustRunAs || holder.FSGroup.Type != securityv1.FSGroupStrategyRunAsAny {
		t.Errorf("%+v", holder)
	}
	for _, o := range documents(t, read(t, "../deploy/install.yaml")) {
		if o.GetKind() == "DaemonSet" {
			if unmet := fits(agent, podOf(t, o)); unmet != nil {
				t.Error("the agent:", unmet)
			}
			if fits(holder, podOf(t, o)) == nil {
				t.Error("the agent is what holders may be, too")
			}
			agent = nil
		}
	}
	if agent != nil {
		t.Error("there is no DaemonSet")
	}
	holders := 0
	for _, o := range documents(t, read(t, "plan/testdata/ssh-and-browser.yaml")) {
		if o.GetKind() == "Deployment" {
			holders++
			if unmet := fits(holder, podOf(t, o)); unmet != nil {
				t.Errorf("%s: %v", o.GetNamespace(), unmet)
			}
		}
	}
	if holders < 2 {
		t.Errorf("%d holders", holders)
	}
}

// fits is what of a pod a constraint forbids.
func fits(scc *securityv1.SecurityContextConstraints, pod *corev1.PodSpec) error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	for _, v := range pod.Volumes {
		kind := kindOf(v)
		check(slices.Contains(scc.Volumes, securityv1.FSType(kind)), "a volume of the kind %s", kind)
		check(v.HostPath == nil || scc.AllowHostDirVolumePlugin, "a folder of the node")
	}
	c, p := pod.Containers[0].SecurityContext, pod.SecurityContext
	if p == nil {
		p = &corev1.PodSecurityContext{}
	}
	privileged := c.Privileged != nil && *c.Privileged
	check(!privileged || scc.AllowPrivilegedContainer, "privileged")
	check(c.ReadOnlyRootFilesystem != nil && *c.ReadOnlyRootFilesystem, "a root directory that can be written")
	if scc.AllowPrivilegeEscalation != nil && !*scc.AllowPrivilegeEscalation {
		check(c.AllowPrivilegeEscalation != nil && !*c.AllowPrivilegeEscalation, "allowPrivilegeEscalation")
	}
	for _, drop := range scc.RequiredDropCapabilities {
		check(c.Capabilities != nil && slices.Contains(c.Capabilities.Drop, drop), "a capability of %s is kept", drop)
	}
	if scc.RunAsUser.UID != nil {
		check(p.RunAsUser != nil && *p.RunAsUser == *scc.RunAsUser.UID, "the user")
	}
	if scc.SupplementalGroups.Type == securityv1.SupplementalGroupsStrategyMustRunAs {
		for _, g := range p.SupplementalGroups {
			check(slices.ContainsFunc(scc.SupplementalGroups.Ranges, func(r securityv1.IDRange) bool { return r.Min <= g && g <= r.Max }), "the group %d", g)
		}
	}
	if !slices.Contains(scc.SeccompProfiles, "*") {
		check(p.SeccompProfile != nil && p.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault && slices.Contains(scc.SeccompProfiles, "runtime/default"), "the seccomp profile")
	}
	return errors.Join(errs...)
}

// kindOf is the name of the one field that a volume's source has.
func kindOf(v corev1.Volume) string {
	text, err := strictyaml.Marshal(v.VolumeSource)
	if err != nil {
		return err.Error()
	}
	kind, _, _ := strings.Cut(string(text), ":")
	return kind
}

func podOf(t *testing.T, o *unstructured.Unstructured) *corev1.PodSpec {
	t.Helper()
	text, err := strictyaml.Marshal(o.Object)
	if err != nil {
		t.Fatal(err)
	}
	var d appsv1.DaemonSet // a Deployment's template is in the same place
	if err := strictyaml.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return &d.Spec.Template.Spec
}

// documents are the objects of a YAML stream.
func documents(t testing.TB, stream string) (out []*unstructured.Unstructured) {
	t.Helper()
	d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(stream)), 1<<16)
	for {
		o := &unstructured.Unstructured{}
		switch err := d.Decode(&o.Object); {
		case errors.Is(err, io.EOF):
			return out
		case err != nil:
			t.Fatal(err)
		case len(o.Object) > 0:
			out = append(out, o)
		}
	}
}
