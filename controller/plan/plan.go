package plan

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Plan is a session's objects, in the order in which they are to be applied.
type Plan struct {
	Names Names
	steps []Step
}

// Step is a group of objects that may be applied in any order among themselves.
type Step struct {
	Name    string // one of the constants below
	Objects []client.Object
}

// The steps. The network comes before the holders: their pods are cut off from their first moment,
// and OpenShift makes the certificate that the front holder waits for when it sees the Service.
const (
	StepNamespaces  = "namespaces"
	StepIdentity    = "identity"
	StepCredentials = "credentials"
	StepDocuments   = "documents" // session.json, the report, service accounts and what they may do
	StepNetwork     = "network"
	StepHolders     = "holders"
)

// Build computes all objects. It fails on arguments that cannot make a session, such as too many
// backups, and with an ExposeError where the session cannot be exposed as asked; that one comes with
// the complete Plan of a session that is not exposed.
func Build(cfg Config, in Input, m Material) (Plan, error) { return Plan{Names: in.Names()}, nil }

// Steps are the groups, in order.
func (p Plan) Steps() []Step { return p.steps }

// Step returns the objects of one group.
func (p Plan) Step(name string) []client.Object { return nil }

// Objects are those of all groups, in order.
func (p Plan) Objects() []client.Object { return nil }

// ForApply is an object as server-side apply needs it: with its kind, without a status and without
// the fields that only the server sets.
func ForApply(o client.Object) (*unstructured.Unstructured, error) { return nil, nil }

// ExposeError says why a session is not reachable from outside the cluster, and which flag is
// missing.
type ExposeError struct{ Reason string }

func (e *ExposeError) Error() string { return e.Reason }
