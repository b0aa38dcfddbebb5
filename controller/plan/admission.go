package plan

import (
	"fmt"
	"strconv"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
)

// Names of the policies and of their bindings.
const (
	PolicyWorkloads  = "vmfr-session-workloads"
	PolicyAccess     = "vmfr-session-access"
	PolicyNamespaces = "vmfr-session-namespaces"
)

// AdmissionPolicies are the cluster's ValidatingAdmissionPolicies and their bindings. A temporary
// namespace enforces no pod security, since a holder needs its node's agent; so nobody else may run
// anything there, whatever roles he has in it:
//
//   - Workloads: the controller makes Deployments, and Kubernetes' own controllers make ReplicaSets
//     and Pods from them. Nobody else makes or changes anything that runs, a cluster's administrator
//     included: he can delete what is there. A Pod's annotations are free, since network plugins
//     write addresses there under names that differ from cluster to cluster.
//   - Access: nobody enters a holder (exec, attach, ephemeral containers), since he would act as the
//     holder and read the raw disks; holders have no shell, and their logs are open. Only kubelets get
//     tokens of holders' accounts, and OpenShift's controller such as its registry takes. Port-forward
//     stays: it is how users reach a session.
//   - Namespaces: the label that all this hangs on stays where it is, and so does the owner's.
//
// The policies are the cluster's, not a session's. controllerUser is Config.ControllerUser.
func AdmissionPolicies(controllerUser string) []client.Object {
	controller := "request.userInfo.username == " + strconv.Quote(controllerUser)
	temporary := &metav1.LabelSelector{MatchLabels: map[string]string{v1alpha1.LabelTempNamespace: "true"}}
	var out []client.Object
	add := func(name string, spec admissionv1.ValidatingAdmissionPolicySpec) {
		// A policy that cannot be evaluated must not let anything in.
		spec.FailurePolicy = new(admissionv1.Fail)
		spec.MatchConstraints.MatchPolicy = new(admissionv1.Equivalent)
		meta := metav1.ObjectMeta{Name: name, Labels: map[string]string{labelManagedBy: managedBy, labelName: appName}}
		version := admissionv1.SchemeGroupVersion.String()
		out = append(out,
			&admissionv1.ValidatingAdmissionPolicy{
				TypeMeta: metav1.TypeMeta{APIVersion: version, Kind: "ValidatingAdmissionPolicy"}, ObjectMeta: meta, Spec: spec,
			},
			&admissionv1.ValidatingAdmissionPolicyBinding{
				TypeMeta: metav1.TypeMeta{APIVersion: version, Kind: "ValidatingAdmissionPolicyBinding"}, ObjectMeta: *meta.DeepCopy(),
				Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
					PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny, admissionv1.Audit},
				},
			})
	}

	add(PolicyWorkloads, admissionv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionv1.MatchResources{NamespaceSelector: temporary, ResourceRules: []admissionv1.NamedRuleWithOperations{
			rule("", "pods pods/resize replicationcontrollers replicationcontrollers/scale", admissionv1.Create, admissionv1.Update),
			rule("apps", "deployments deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale daemonsets", admissionv1.Create, admissionv1.Update),
			rule("batch", "jobs cronjobs", admissionv1.Create, admissionv1.Update),
		}},
		Variables: []admissionv1.Variable{
			{Name: "controller", Expression: controller},
			{Name: "kind", Expression: "request.resource.resource"},
			{Name: "builtIn", Expression: builtIn},
			{Name: "annotated", Expression: annotated},
		},
		Validations: []admissionv1.Validation{{
			Expression:        `variables.kind == "deployments" && variables.controller || variables.builtIn || variables.annotated`,
			MessageExpression: `request.userInfo.username + " may not make or change " + variables.kind + " here: in the namespace of a file restore only vmfr-controller runs anything"`,
			Message:           "in the namespace of a file restore only vmfr-controller runs anything",
			Reason:            new(metav1.StatusReasonForbidden),
		}},
	})

	add(PolicyAccess, admissionv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionv1.MatchResources{NamespaceSelector: temporary, ResourceRules: []admissionv1.NamedRuleWithOperations{
			rule("", "pods/exec pods/attach", admissionv1.Connect),
			rule("", "pods/ephemeralcontainers", admissionv1.Create, admissionv1.Update),
			rule("", "serviceaccounts/token", admissionv1.Create),
		}},
		Validations: []admissionv1.Validation{{
			Expression: `request.resource.resource == "serviceaccounts" && (` + tokens + `)`,
			Message:    "nobody enters the pods of a file restore or takes their tokens; kubectl logs and port-forward work",
			Reason:     new(metav1.StatusReasonForbidden),
		}},
	})

	add(PolicyNamespaces, admissionv1.ValidatingAdmissionPolicySpec{
		// No selector: that of a namespace looks at its new labels only.
		MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{
			rule("", "namespaces", admissionv1.Update),
		}},
		MatchConditions: []admissionv1.MatchCondition{{
			Name:       "temporary-namespace",
			Expression: fmt.Sprintf(`has(oldObject.metadata.labels) && %[1]q in oldObject.metadata.labels && oldObject.metadata.labels[%[1]q] == "true"`, v1alpha1.LabelTempNamespace),
		}},
		Variables: []admissionv1.Variable{{
			Name: "kept",
			Expression: fmt.Sprintf(`has(object.metadata.labels) && [%q, %q].all(l, (l in oldObject.metadata.labels) == (l in object.metadata.labels) && (!(l in object.metadata.labels) || object.metadata.labels[l] == oldObject.metadata.labels[l]))`,
				v1alpha1.LabelTempNamespace, v1alpha1.LabelOriginUUID),
		}},
		Validations: []admissionv1.Validation{{
			Expression: "variables.kept || " + controller,
			Message:    "these labels tie the namespace to its file restore and keep others out; delete the VirtualMachineFileRestore to remove the namespace",
			Reason:     new(metav1.StatusReasonForbidden),
		}},
	})
	return out
}

// builtIn is who of Kubernetes' controllers makes and changes what. The garbage collector takes
// finalizers and owners away. A controller manager whose controllers share one account goes by
// the manager's name.
var builtIn = strings.Join([]string{
	`request.userInfo.username == "system:serviceaccount:kube-system:deployment-controller" && variables.kind in ["deployments", "replicasets"]`,
	`request.userInfo.username == "system:serviceaccount:kube-system:replicaset-controller" && variables.kind == "pods"`,
	`request.userInfo.username == "system:serviceaccount:kube-system:generic-garbage-collector" && request.operation == "UPDATE"`,
	`request.userInfo.username == "system:kube-controller-manager" && variables.kind in ["deployments", "replicasets", "pods"]`,
}, " || ")

// tokens is who gets tokens, and for what.
var tokens = `"system:nodes" in request.userInfo.groups || ` +
	`request.userInfo.username == "system:serviceaccount:openshift-infra:serviceaccount-pull-secrets-controller" && ` +
	fmt.Sprintf(`!(has(object.spec.audiences) && %q in object.spec.audiences)`, session.TokenAudience)

// annotated is an update of a Pod that leaves alone what it runs and whose it is.
var annotated = strings.Join([]string{
	`variables.kind == "pods"`, `request.operation == "UPDATE"`, `(!has(request.subResource) || request.subResource == "")`,
	`object.spec == oldObject.spec`, same("labels"), same("ownerReferences"),
}, " && ")

// same tells whether a field of the metadata, which may be missing, is as it was.
func same(field string) string {
	return fmt.Sprintf("has(object.metadata.%[1]s) == has(oldObject.metadata.%[1]s) && (!has(object.metadata.%[1]s) || object.metadata.%[1]s == oldObject.metadata.%[1]s)", field)
}

// rule matches resources, separated by spaces, of all versions of a group.
func rule(group, resources string, operations ...admissionv1.OperationType) admissionv1.NamedRuleWithOperations {
	return admissionv1.NamedRuleWithOperations{RuleWithOperations: admissionv1.RuleWithOperations{
		Operations: operations,
		Rule: admissionv1.Rule{
			APIGroups: []string{group}, APIVersions: []string{"*"}, Resources: strings.Fields(resources),
			Scope: new(admissionv1.AllScopes),
		},
	}}
}
