package plan

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	routev1 "github.com/openshift/api/route/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/test/cluster"
)

// rig is a running control plane.
type rig struct {
	cp    cluster.ControlPlane
	admin client.Client
}

// TestAPIServer asks a real API server, with Pod Security and controllers, what it thinks of the
// plans.
func TestAPIServer(t *testing.T) {
	r := rig{cp: cluster.Start(t, routeCRD(t))}
	r.cp.StartControllers(t)
	r.admin = r.as(t, "admin", "system:masters")
	t.Run("plans", r.plans)
	t.Run("pod security", r.podSecurity)
	t.Run("report", r.report)
	t.Run("policies", r.policies) // the last: nobody but the controller makes pods afterwards
}

// routeCRD is the file that OpenShift's API server takes Routes by.
func routeCRD(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/openshift/api").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "route/v1/zz_generated.crd-manifests/routes.crd.yaml")
}

// as is a client of somebody else.
func (r rig) as(t testing.TB, user string, groups ...string) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, routev1.Install} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(r.config(user, groups...), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (r rig) config(user string, groups ...string) *rest.Config {
	config := rest.CopyConfig(r.cp.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: append(groups, "system:authenticated")}
	config.WarningHandler = rest.NoWarnings{} // "would violate PodSecurity restricted" is meant
	return config
}

// account is the user of a service account.
func (r rig) account(t testing.TB, namespace, name string) client.Client {
	return r.as(t, "system:serviceaccount:"+namespace+":"+name, "system:serviceaccounts", "system:serviceaccounts:"+namespace)
}

// apply does what the reconciler does, and returns the object as it is then.
func apply(t testing.TB, c client.Client, o client.Object) client.Object {
	t.Helper()
	u, err := ForApply(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(context.Background(), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner("vmfr-controller"), client.ForceOwnership); err != nil {
		t.Fatalf("%T %s/%s: %v", o, o.GetNamespace(), o.GetName(), err)
	}
	return u
}

func (r rig) namespace(t testing.TB, name string, labels map[string]string) *corev1.Namespace {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	if err := r.admin.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	return ns
}

// podOf is the Pod that a holder's Deployment asks for.
func podOf(d *appsv1.Deployment, namespace string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: *d.Spec.Template.ObjectMeta.DeepCopy(), Spec: *d.Spec.Template.Spec.DeepCopy()}
	p.Namespace, p.GenerateName = namespace, "holder-"
	return p
}

// plans applies all objects of all plans and lets the API server judge the holders' pods. A second
// application changes nothing: a reconciler that watches its objects comes to rest.
func (r rig) plans(t *testing.T) {
	r.namespace(t, "team-a", nil)
	number := 0
	cases := goldenCases()
	cases["longest-names"] = longestNames()
	for name, c := range cases {
		number++
		c.in.Restore.UID = types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", number))
		t.Run(name, func(t *testing.T) {
			m := material(t, c.cfg, c.in, c.found, fixed(1))
			p, err := Build(c.cfg, c.in, m)
			if err != nil {
				t.Fatal(err)
			}
			versions := map[client.Object]string{}
			for _, o := range p.Objects() {
				versions[o] = apply(t, r.admin, o).GetResourceVersion()
			}
			holders := 0
			for _, o := range p.Objects() {
				d, ok := o.(*appsv1.Deployment)
				if !ok {
					if v := apply(t, r.admin, o).GetResourceVersion(); v != versions[o] {
						t.Errorf("%T %s/%s is another one the second time", o, o.GetNamespace(), o.GetName())
					}
					continue
				}
				holders++
				generation := apply(t, r.admin, o).GetGeneration()
				if generation != 1 { // its version changes with the status, too
					t.Errorf("Deployment %s/%s has generation %d", o.GetNamespace(), o.GetName(), generation)
				}
				pod := podOf(d, d.Namespace)
				if c.cfg.PriorityClassName != "" {
					pod.Spec.PriorityClassName = "" // there is no such class here
				}
				if err := r.admin.Create(t.Context(), pod, client.DryRunAll); err != nil {
					t.Errorf("the holder's pod: %v", err)
				}
			}
			if holders == 0 {
				t.Error("no holder")
			}
		})
	}
}

// longestNames is a restore in which everything has a name as long as Kubernetes allows.
func longestNames() goldenCase {
	long := func(end string) string { return strings.Repeat(strings.Repeat("a", 62)+".", 4)[:253-len(end)] + end }
	in := testInput(func(s *v1alpha1.VirtualMachineFileRestoreSpec) {
		s.NamespacePrefix = strings.Repeat("p", 40)
		s.FileAccess.FileBrowser.ExposeExternally = true
	})
	in.Restore.Name = long("r")
	in.VM = session.VM{Name: long("v"), Namespace: strings.Repeat("n", 63)}
	in.Backups = nil
	for _, number := range []int{1, 12, session.MaxBackups} {
		in.Backups = append(in.Backups, Backup{Number: number, Name: long(fmt.Sprint("b", number)), Timestamp: testNow, Attach: true, Disks: []Disk{
			{Name: long("d"), Mode: session.Block, Claim: long("c")}, {Name: long("e"), Mode: session.Filesystem, Claim: long("f")},
		}})
	}
	return goldenCase{cfg: ingressConfig(), in: in}
}

// podSecurity compares what JudgeNamespace says with what the API server does.
func (r rig) podSecurity(t *testing.T) {
	c := goldenCases()["restore-namespace"]
	p := c.plan(t)
	for level, refused := range map[string]bool{"": false, "privileged": false, "baseline": true, "restricted": true} {
		labels := map[string]string{}
		if level != "" {
			labels[labelEnforce] = level
		}
		ns := r.namespace(t, "level-"+level+"-x", labels)
		if err := r.admin.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: p.Names.Object()}}); err != nil {
			t.Fatal(err)
		}
		text := JudgeNamespace(ns)
		if (text != "") != refused || refused && !strings.Contains(text, level) {
			t.Errorf("%q is judged %q", level, text)
		}
		for _, o := range p.Step(StepHolders) {
			err := r.admin.Create(t.Context(), podOf(o.(*appsv1.Deployment), ns.Name), client.DryRunAll)
			if refused != apierrors.IsForbidden(err) || err != nil && !strings.Contains(err.Error(), "hostPath") {
				t.Errorf("%q: %v, refused: %v", level, err, refused)
			}
		}
	}
	if text := JudgeNamespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "x", DeletionTimestamp: new(metav1.Now())}}); !strings.Contains(text, "being deleted") {
		t.Errorf("a namespace that is being deleted is judged %q", text)
	}
}

// report uses the holders' accounts.
func (r rig) report(t *testing.T) {
	c := goldenCases()["ssh-and-browser"]
	p := c.plan(t)
	for _, o := range p.Objects() {
		apply(t, r.admin, o)
	}
	n := p.Names
	front, disks := r.account(t, n.Session, n.Object()), r.account(t, n.BackupNamespace(1), n.Object())
	report := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: n.Session, Name: n.Report()}}
	// RBAC follows its objects with a small delay.
	cluster.Await(t, startLimit, func() error { return front.Get(t.Context(), client.ObjectKeyFromObject(report), report) })

	report.Data = map[string]string{session.KeyReport: "one"}
	if err := front.Update(t.Context(), report); err != nil {
		t.Errorf("update: %v", err)
	}
	patch := client.RawPatch(types.MergePatchType, []byte(`{"data":{"report.json":"two"}}`))
	if err := front.Patch(t.Context(), report, patch); err != nil {
		t.Errorf("patch: %v", err)
	}
	for _, o := range p.Step(StepDocuments) {
		apply(t, r.admin, o)
	}
	if err := front.Get(t.Context(), client.ObjectKeyFromObject(report), report); err != nil || report.Data[session.KeyReport] != "two" {
		t.Errorf("the controller wrote over the report: %q, %v", report.Data, err)
	}

	object := func(o client.Object, namespace, name string) client.Object {
		o.SetNamespace(namespace)
		o.SetName(name)
		return o
	}
	for what, do := range map[string]func() error{
		"delete the report": func() error { return front.Delete(t.Context(), report) },
		"make another":      func() error { return front.Create(t.Context(), object(&corev1.ConfigMap{}, n.Session, "x")) },
		"list ConfigMaps":   func() error { return front.List(t.Context(), &corev1.ConfigMapList{}, client.InNamespace(n.Session)) },
		"read the session": func() error {
			return front.Get(t.Context(), client.ObjectKey{Namespace: n.Session, Name: n.SessionConfig()}, &corev1.ConfigMap{})
		},
		"read the identity": func() error {
			return front.Get(t.Context(), client.ObjectKey{Namespace: n.Session, Name: n.Identity()}, &corev1.Secret{})
		},
		"read as disk holder":  func() error { return disks.Get(t.Context(), client.ObjectKeyFromObject(report), report) },
		"write as disk holder": func() error { return disks.Patch(t.Context(), report, patch) },
		"read beside a disk holder": func() error {
			return disks.Get(t.Context(), client.ObjectKey{Namespace: n.BackupNamespace(1), Name: n.SessionConfig()}, &corev1.ConfigMap{})
		},
	} {
		if err := do(); !apierrors.IsForbidden(err) {
			t.Errorf("a holder may %s: %v", what, err)
		}
	}
}
