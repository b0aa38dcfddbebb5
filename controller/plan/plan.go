package plan

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
)

// Labels of everything that is made, for people and their tools.
const (
	labelManagedBy = "app.kubernetes.io/managed-by"
	labelName      = "app.kubernetes.io/name"
	managedBy      = "vmfr-controller"
	appName        = "vmfr-session"
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
// backups, and with an *ExposeError where the session cannot be exposed as asked; that one comes
// with the complete Plan of a session that is not exposed.
func Build(cfg Config, in Input, m Material) (Plan, error) {
	if err := in.validate(); err != nil {
		return Plan{}, err
	}
	b := &builder{cfg: cfg, in: in, m: m, names: in.Names()}
	doc, err := b.document()
	if err != nil {
		return Plan{}, err
	}
	holders, err := b.holders(doc)
	if err != nil {
		return Plan{}, err
	}
	network := append(b.policies(), b.service())
	exposed, exposeErr := b.expose()
	if exposed != nil {
		network = append(network, exposed)
	}
	var namespaces []client.Object
	for _, ns := range Namespaces(in) {
		namespaces = append(namespaces, ns)
	}
	documents, err := b.documents(doc)
	if err != nil {
		return Plan{}, err
	}
	return Plan{Names: b.names, steps: []Step{
		{StepNamespaces, namespaces},
		{StepIdentity, b.identities()},
		{StepCredentials, append(b.credentials(), b.pulls()...)},
		{StepDocuments, append(documents, b.accounts()...)},
		{StepNetwork, network},
		{StepHolders, holders},
	}}, exposeErr
}

// Steps are the groups, in order.
func (p Plan) Steps() []Step { return p.steps }

// Step returns the objects of one group.
func (p Plan) Step(name string) []client.Object {
	for _, s := range p.steps {
		if s.Name == name {
			return s.Objects
		}
	}
	return nil
}

// Objects are those of all groups, in order.
func (p Plan) Objects() (out []client.Object) {
	for _, s := range p.steps {
		out = append(out, s.Objects...)
	}
	return out
}

// ForApply is an object as server-side apply needs it: with its kind, without a status and without
// the fields that only the server sets.
func ForApply(o client.Object) (*unstructured.Unstructured, error) {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, fmt.Errorf("%T %s: %w", o, o.GetName(), err)
	}
	u := &unstructured.Unstructured{Object: m}
	if u.GetKind() == "" {
		return nil, fmt.Errorf("%T %s has no kind", o, o.GetName())
	}
	unstructured.RemoveNestedField(m, "status")
	unstructured.RemoveNestedField(m, "metadata", "creationTimestamp")
	unstructured.RemoveNestedField(m, "spec", "template", "metadata", "creationTimestamp")
	return u, nil
}

// builder holds what all objects are made from.
type builder struct {
	cfg   Config
	in    Input
	m     Material
	names Names
}

// OriginLabels select everything that was made for a file restore.
func OriginLabels(uid types.UID) map[string]string {
	return map[string]string{v1alpha1.LabelOriginUUID: string(uid)}
}

// PodLabels select a session's pods of one part, PartFront or PartDisks.
func PodLabels(uid types.UID, part string) map[string]string {
	l := OriginLabels(uid)
	l[LabelPart] = part
	return l
}

func (in Input) labels() map[string]string {
	l := OriginLabels(in.Restore.UID)
	l[labelManagedBy], l[labelName] = managedBy, appName
	return l
}

func (in Input) annotations() map[string]string {
	return map[string]string{
		v1alpha1.AnnotationName: in.Restore.Name, v1alpha1.AnnotationNamespace: in.Restore.Namespace,
		v1alpha1.AnnotationVM: in.VM.Name, v1alpha1.AnnotationVMNS: in.VM.Namespace,
	}
}

// meta is the metadata of one of the session's own objects.
func (b *builder) meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: b.in.labels(), Annotations: b.in.annotations()}
}

// place is a namespace of the session: its own (backup nil) or a backup's.
type place struct {
	namespace string
	backup    *Backup
}

// places are all namespaces of the session, its own first.
func (b *builder) places() []place {
	out := []place{{b.names.Session, nil}}
	for i := range b.in.Backups {
		bk := &b.in.Backups[i]
		out = append(out, place{b.names.BackupNamespace(bk.Number), bk})
	}
	return out
}

// metaAt is the metadata of an object that every namespace of the session has.
func (b *builder) metaAt(p place, name string) metav1.ObjectMeta {
	m := b.meta(p.namespace, name)
	if p.backup != nil {
		m.Annotations[v1alpha1.AnnotationBackup] = p.backup.Name
	}
	return m
}

// validate checks what the session's document does not.
func (in Input) validate() error {
	switch {
	case in.Restore == nil || in.Restore.UID == "":
		return fmt.Errorf("plan: the file restore has no UID")
	case len(in.Backups) == 0 || len(in.Backups) > session.MaxBackups:
		return fmt.Errorf("plan: %d backups are selected, but one session serves 1 to %d: select fewer", len(in.Backups), session.MaxBackups)
	case in.SSH() == nil && in.Browser() == nil:
		return fmt.Errorf("plan: neither ssh nor fileBrowser is set")
	}
	var numbers []int
	for _, b := range in.Backups {
		if b.Number < 1 || b.Number > maxNumber || slices.Contains(numbers, b.Number) {
			return fmt.Errorf("plan: backup %s has the number %d, which is not one of its own", b.Name, b.Number)
		}
		numbers = append(numbers, b.Number)
	}
	return nil
}
