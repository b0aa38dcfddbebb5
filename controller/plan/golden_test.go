package plan

import (
	"encoding/base64"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
)

var update = flag.Bool("update", false, "write testdata/*.yaml")

// goldenCase is one file restore whose objects are in testdata.
type goldenCase struct {
	cfg   Config
	in    Input
	found Found
}

// goldenKey is a public key whose private half nobody has: 32 times 7 is its point.
var goldenKey = "ssh-ed25519 " + base64.StdEncoding.EncodeToString([]byte("\x00\x00\x00\x0bssh-ed25519\x00\x00\x00 "+strings.Repeat("\x07", 32))) + " anna"

func goldenCases() map[string]goldenCase {
	cases := map[string]goldenCase{}

	// Two backups of a machine with a block and a file-system disk, the newer one still without its
	// second claim.
	in := testInput(nil)
	size := resource.MustParse("10Gi")
	disks := func(claims ...string) []Disk {
		d := []Disk{
			{Name: "web-root", PVCUID: "0a6e6c1b-8f43-4a52-9ffb-3d0f4e7a3c11", Size: size, Mode: session.Block, Bus: "virtio"},
			{Name: "web-data", PVCUID: "3c9c2f57-5a2e-4a2a-8a39-1d5f0f2f9b07", Size: size, Mode: session.Filesystem, Bus: "scsi"},
		}
		for i, c := range claims {
			d[i].Claim = c
		}
		return d
	}
	in.Backups = Number([]Backup{
		{Name: "daily-2", Timestamp: time.Date(2026, 2, 2, 1, 0, 0, 0, time.UTC), Disks: disks("web-root"), Attach: true},
		{Name: "daily-1", Timestamp: time.Date(2026, 2, 1, 1, 0, 0, 0, time.FixedZone("", 3600)), Disks: disks("web-root", "daily-1-web-data-x7f3q"), Attach: true},
	})
	cases["ssh-and-browser"] = goldenCase{cfg: testConfig(), in: in}

	in = testInput(func(s *v1alpha1.VirtualMachineFileRestoreSpec) {
		s.RestoreNamespace = "team-a"
		s.FileAccess = &v1alpha1.FileAccess{SSH: &v1alpha1.SSHAccess{Username: "anna", PublicKey: goldenKey, TrustedUserCA: goldenKey}}
	})
	in.Backups[0].Attach = true
	cfg := testConfig()
	cfg.ImagePullSecrets = []string{"registry"}
	cases["restore-namespace"] = goldenCase{cfg: cfg, in: in, found: Found{Pull: []*corev1.Secret{pullSecret("openshift-adp", "registry")}}}

	external := func(s *v1alpha1.VirtualMachineFileRestoreSpec) {
		s.FileAccess = &v1alpha1.FileAccess{FileBrowser: &v1alpha1.FileBrowserAccess{ExposeExternally: true}}
	}
	in = testInput(external)
	in.Backups[0].Attach = true
	in.Backups[0].Disks[0].Mode = session.Filesystem
	cfg = openShiftConfig()
	cfg.ReadAll = true
	cases["openshift"] = goldenCase{cfg: cfg, in: in}

	in = testInput(func(s *v1alpha1.VirtualMachineFileRestoreSpec) {
		external(s)
		s.NamespacePrefix = "files"
		s.FileAccess.FileBrowser.CredentialsSecretRef = &v1alpha1.SecretReference{Name: "web-password", Namespace: "prod"}
		s.DiskKeysSecretRef = &v1alpha1.SecretReference{Name: "web-luks"}
	})
	in.Backups[0].Attach = true
	cfg = ingressConfig()
	cfg.ImagePullSecrets = []string{"registry"}
	cfg.NodeSelector = map[string]string{"node-role.kubernetes.io/worker": ""}
	cfg.Tolerations = []corev1.Toleration{{Key: "storage", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}
	cfg.PriorityClassName = "restores"
	cases["ingress"] = goldenCase{cfg: cfg, in: in, found: Found{
		BrowserRef:  secret("prod", "web-password", "username", "carol", "password", "correct horse battery"),
		DiskKeysRef: secret("openshift-adp", "web-luks", "root", "open sesame"),
		Pull:        []*corev1.Secret{pullSecret("openshift-adp", "registry")},
	}}

	// Nothing but what is required, before anything was restored.
	in = testInput(func(s *v1alpha1.VirtualMachineFileRestoreSpec) { s.FileAccess = nil })
	in.Backups[0].Disks[0].Claim = ""
	cases["minimal"] = goldenCase{cfg: testConfig(), in: in}
	return cases
}

func (c goldenCase) plan(t testing.TB) Plan {
	t.Helper()
	p, err := Build(c.cfg, c.in, material(t, c.cfg, c.in, c.found, fixed(1)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// render is a list of objects as YAML. Secrets are shown by their lengths, but for names.
func render(t testing.TB, steps ...Step) string {
	t.Helper()
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&b, "# Step: %s\n", s.Name)
		for _, o := range s.Objects {
			if s, ok := o.(*corev1.Secret); ok {
				o = redact(s)
			}
			u, err := ForApply(o)
			if err != nil {
				t.Fatal(err)
			}
			text, err := yaml.Marshal(u.Object)
			if err != nil {
				t.Fatal(err)
			}
			b.WriteString("---\n")
			b.Write(text)
		}
	}
	return b.String()
}

func redact(s *corev1.Secret) client.Object {
	s = s.DeepCopy()
	s.StringData = map[string]string{}
	for k, v := range s.Data {
		switch k {
		case session.KeyUsername, session.KeyTrustedCA:
			s.StringData[k] = string(v)
		case session.KeyCertificate, session.KeyPrivateKey, session.KeyCA, session.KeyHostKey, keyPrivate:
			s.StringData[k] = "(PEM)"
		default:
			s.StringData[k] = fmt.Sprintf("(%d bytes)", len(v))
		}
	}
	s.Data = nil
	return s
}

func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".yaml")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			t.Fatalf("%s, line %d: %q; run go test -update and review the difference", path, i+1, g[i])
		}
	}
	t.Fatalf("%s has more lines than the objects; run go test -update and review the difference", path)
}

func TestGolden(t *testing.T) {
	for name, c := range goldenCases() {
		t.Run(name, func(t *testing.T) {
			if err := c.cfg.Validate(); err != nil {
				t.Fatal(err)
			}
			checkGolden(t, name, render(t, c.plan(t).Steps()...))
		})
	}
	t.Run("admission", func(t *testing.T) {
		checkGolden(t, "admission", render(t, Step{"admission", AdmissionPolicies(testController)}))
	})
}

// TestInvariants checks what holds for all objects of all plans.
func TestInvariants(t *testing.T) {
	for name, c := range goldenCases() {
		t.Run(name, func(t *testing.T) {
			before := c.in.Restore.DeepCopy()
			p := c.plan(t)
			if again := c.plan(t); render(t, p.Steps()...) != render(t, again.Steps()...) {
				t.Error("the second plan differs from the first")
			}
			if !reflect.DeepEqual(before, c.in.Restore) {
				t.Error("the file restore was changed")
			}
			namespaces := map[string]bool{c.in.Restore.Spec.RestoreNamespace: true}
			for _, ns := range p.Step(StepNamespaces) {
				namespaces[ns.GetName()] = true
				if ns.GetLabels()[v1alpha1.LabelTempNamespace] != "true" {
					t.Errorf("namespace %s is not marked as temporary", ns.GetName())
				}
			}
			seen := map[string]bool{}
			for _, o := range p.Objects() {
				id := fmt.Sprintf("%T %s/%s", o, o.GetNamespace(), o.GetName())
				if seen[id] {
					t.Errorf("%s is there twice", id)
				}
				seen[id] = true
				if o.GetLabels()[v1alpha1.LabelOriginUUID] != string(c.in.Restore.UID) || o.GetAnnotations()[v1alpha1.AnnotationName] != "web-files" {
					t.Errorf("%s does not tell whose it is", id)
				}
				if _, ok := o.(*corev1.Namespace); !ok && !namespaces[o.GetNamespace()] {
					t.Errorf("%s is in a namespace that is not the session's", id)
				}
				if !strings.HasPrefix(o.GetName(), p.Names.Object()) && o.GetNamespace() != "" {
					t.Errorf("%s has a name that another session could have", id)
				}
				if len(o.GetOwnerReferences()) > 0 {
					t.Errorf("%s is owned", id)
				}
			}
			if len(seen) != len(p.Objects()) || len(p.Steps()) != 6 {
				t.Errorf("%d objects in %d steps", len(seen), len(p.Steps()))
			}
		})
	}
}

// TestNoSecretElsewhere looks for what is in Secrets in all other objects.
func TestNoSecretElsewhere(t *testing.T) {
	for name, c := range goldenCases() {
		p := c.plan(t)
		var values []string
		for _, o := range p.Objects() {
			if s, ok := o.(*corev1.Secret); ok {
				for k, v := range s.Data {
					if k != session.KeyUsername && k != session.KeyAuthorizedKeys && k != session.KeyTrustedCA {
						values = append(values, string(v), base64.StdEncoding.EncodeToString(v))
					}
				}
			}
		}
		for _, o := range p.Objects() {
			if _, ok := o.(*corev1.Secret); ok {
				continue
			}
			text, err := yaml.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range values {
				if strings.Contains(string(text), v) {
					t.Errorf("%s: %T %s holds a secret", name, o, o.GetName())
				}
			}
		}
		if len(values) < 4 {
			t.Errorf("%s has %d secret values", name, len(values))
		}
	}
}

// TestDocument reads what holders read.
func TestDocument(t *testing.T) {
	c := goldenCases()["ssh-and-browser"]
	p := c.plan(t)
	documents := 0
	for _, o := range p.Step(StepDocuments) {
		cm, ok := o.(*corev1.ConfigMap)
		switch {
		case !ok:
		case cm.Name == p.Names.Report():
			if len(cm.Data) > 0 || cm.Namespace != p.Names.Session {
				t.Errorf("the report in %s is not empty: applying it again would undo the holder's", cm.Namespace)
			}
		default:
			documents++
			s, err := session.Decode([]byte(cm.Data[session.KeySession]))
			if err != nil {
				t.Fatal(err)
			}
			if s.Backups[0].Name != "daily-1" || len(s.Backups[1].Disks) != 2 || s.SSH == nil || s.Browser == nil || s.Backups[0].Timestamp.Location() != time.UTC {
				t.Errorf("%+v", s)
			}
			var id *corev1.Secret
			for _, i := range p.Step(StepIdentity) {
				if i.GetNamespace() == cm.Namespace {
					id = i.(*corev1.Secret)
				}
			}
			if id == nil || session.ID(id.Data[session.KeyJoin]) != s.ID {
				t.Errorf("%s: the join key is not that of session %s", cm.Namespace, s.ID)
			}
		}
	}
	if documents != 3 {
		t.Errorf("%d documents instead of 3", documents)
	}
}

// TestRestarts tells which holders restart when something changes: those whose pods differ.
func TestRestarts(t *testing.T) {
	base := goldenCases()["ssh-and-browser"]
	templates := func(c goldenCase) map[string]string {
		m := material(t, c.cfg, c.in, c.found, fixed(1))
		p, err := Build(c.cfg, c.in, m)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for _, o := range p.Step(StepHolders) {
			out[o.GetNamespace()] = render(t, Step{"", []client.Object{o}})
		}
		return out
	}
	n := base.in.Names()
	front, one, two := n.Session, n.BackupNamespace(1), n.BackupNamespace(2)
	for name, c := range map[string]struct {
		change func(*goldenCase)
		want   []string
	}{
		"nothing":  {func(*goldenCase) {}, nil},
		"username": {func(c *goldenCase) { c.in.Restore.Spec.FileAccess.SSH.Username = "anna" }, nil},
		"no ssh":   {func(c *goldenCase) { c.in.Restore.Spec.FileAccess.SSH = nil }, []string{front}},
		"a claim":  {func(c *goldenCase) { c.in.Backups[1].Disks[1].Claim = "web-data" }, []string{two}},
		"bus": {func(c *goldenCase) {
			c.in.Backups[0].Disks = slices.Clone(c.in.Backups[0].Disks)
			c.in.Backups[0].Disks[0].Bus = "sata"
		}, []string{front, one}},
		"image": {func(c *goldenCase) { c.cfg.Image = "other" }, []string{front, one, two}},
	} {
		changed := goldenCases()["ssh-and-browser"]
		c.change(&changed)
		before, after := templates(base), templates(changed)
		var differ []string
		for _, ns := range slices.Sorted(maps.Keys(before)) {
			if before[ns] != after[ns] {
				differ = append(differ, ns)
			}
		}
		slices.Sort(c.want)
		if !slices.Equal(differ, c.want) {
			t.Errorf("%s: %v restart, want %v", name, differ, c.want)
		}
	}
}
