package plan

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
)

// testConfig is a plain cluster's.
func testConfig() Config {
	return Config{
		Namespace: "openshift-adp", Image: "registry.example.com/vmfr/agent:v1", ImagePullPolicy: corev1.PullIfNotPresent,
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128Mi")},
		},
		AgentDir: DefaultAgentDir, ControllerUser: testController,
		APIServers: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.7:6443"), netip.MustParseAddrPort("10.96.0.1:443")},
	}
}

const testController = "system:serviceaccount:vmfr:vmfr-controller"

// ingressConfig is that of a cluster with an Ingress controller.
func ingressConfig() Config {
	c := testConfig()
	c.IngressClass, c.HostTemplate = "nginx", "{{.Name}}-{{.Namespace}}.apps.example.com"
	c.IngressAnnotations = map[string]string{
		"nginx.ingress.kubernetes.io/backend-protocol": "HTTPS",
		"nginx.ingress.kubernetes.io/proxy-ssl-secret": "{{.Namespace}}/{{.TLSSecret}}",
		"nginx.ingress.kubernetes.io/proxy-ssl-verify": "on",
	}
	return c
}

// openShiftConfig is OpenShift's.
func openShiftConfig() Config {
	c := testConfig()
	c.OpenShift, c.SCCRole, c.SELinuxType = true, "vmfr-holder-scc", "spc_t"
	return c
}

func TestConfigIsChecked(t *testing.T) {
	for name, c := range map[string]Config{"plain": testConfig(), "ingress": ingressConfig(), "OpenShift": openShiftConfig()} {
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for want, change := range map[string]func(*Config){
		"--velero-namespace":                           func(c *Config) { c.Namespace = "" },
		"--holder-image: \"\"":                         func(c *Config) { c.Image = "" },
		"--holder-image: \"a b\"":                      func(c *Config) { c.Image = "a b" },
		"--holder-image-pull-policy":                   func(c *Config) { c.ImagePullPolicy = "Sometimes" },
		"--holder-image-pull-secret":                   func(c *Config) { c.ImagePullSecrets = []string{"A"} },
		"--holder-node-selector":                       func(c *Config) { c.NodeSelector = map[string]string{"a": "b c"} },
		"--holder-priority-class":                      func(c *Config) { c.PriorityClassName = "A" },
		"--agent-dir: \"run\"":                         func(c *Config) { c.AgentDir = "run" },
		"--agent-dir: \"/\"":                           func(c *Config) { c.AgentDir = "/" },
		"--agent-dir: \"/run/../etc\"":                 func(c *Config) { c.AgentDir = "/run/../etc" },
		"--controller-user":                            func(c *Config) { c.ControllerUser = "" },
		"--api-server: give":                           func(c *Config) { c.APIServers = nil },
		"--api-server: \"0.0.0.0:6443\"":               func(c *Config) { c.APIServers = []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:6443")} },
		"--api-server: \"10.0.0.1:0\"":                 func(c *Config) { c.APIServers = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:0")} },
		"--holder-scc-role":                            func(c *Config) { c.SCCRole = "a" },
		"--ingress-class: with":                        func(c *Config) { c.OpenShift = true },
		"--host-template: it is needed":                func(c *Config) { c.HostTemplate = "" },
		"--host-template: \"{{.Name}\" is no template": func(c *Config) { c.HostTemplate = "{{.Name}" },
		"--host-template: \"{{.Nam}}.x\" cannot":       func(c *Config) { c.HostTemplate = "{{.Nam}}.x" },
		"gives all sessions the host a.b":              func(c *Config) { c.HostTemplate = "a.b" },
		"host restores.a: use {{.Name}}":               func(c *Config) { c.HostTemplate = "{{.Namespace}}.a" },
		"which is no host name":                        func(c *Config) { c.HostTemplate = "{{.Name}}_x.a" },
		"put {{.Name}} first":                          func(c *Config) { c.HostTemplate = strings.Repeat("a", 60) + "{{.Name}}.a" },
		"--ingress-annotation: \"a b\"":                func(c *Config) { c.IngressAnnotations = map[string]string{"a b": ""} },
		"--ingress-annotation a: \"{{\"":               func(c *Config) { c.IngressAnnotations = map[string]string{"a": "{{"} },
		"--ingress-annotation: it is of use":           func(c *Config) { c.IngressClass = "" },
		"--ingress-class: \"A\"":                       func(c *Config) { c.IngressClass = "A" },
	} {
		c := ingressConfig()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestPublicHost(t *testing.T) {
	external := func(s *v1alpha1.VirtualMachineFileRestoreSpec) { s.FileAccess.FileBrowser.ExposeExternally = true }
	in := testInput(external)
	name := in.Names().Object()
	long := testInput(external)
	long.VM.Name = strings.Repeat("a", 253)
	withTemplate := openShiftConfig()
	withTemplate.HostTemplate = "{{.Name}}.files.example.com"
	for _, c := range []struct {
		what string
		cfg  Config
		in   Input
		want string
	}{
		{"not exposed", ingressConfig(), testInput(nil), ""},
		{"OpenShift's router chooses", openShiftConfig(), in, ""},
		{"OpenShift with a template", withTemplate, in, name + ".files.example.com"},
		{"Ingress", ingressConfig(), in, name + "-vmfr-prod-web-" + in.Names().Suffix + ".apps.example.com"},
		{"cut", ingressConfig(), long, (name + "-vmfr-prod-" + strings.Repeat("a", 63))[:63] + ".apps.example.com"},
	} {
		if got, err := PublicHost(c.cfg, c.in); got != c.want || err != nil {
			t.Errorf("%s: %q, %v, want %q", c.what, got, err, c.want)
		}
	}
	noTemplate := ingressConfig()
	noTemplate.HostTemplate = ""
	for want, cfg := range map[string]Config{"no --ingress-class": testConfig(), "no --host-template": noTemplate} {
		m := material(t, cfg, in, Found{}, fixed(1))
		p, err := Build(cfg, in, m)
		var e *ExposeError
		if !errors.As(err, &e) || !strings.Contains(e.Reason, want) {
			t.Errorf("%v, want %q", err, want)
		}
		if len(p.Step(StepHolders)) == 0 || len(p.Step(StepNetwork)) == 0 {
			t.Errorf("%s: the plan is not complete", want)
		}
	}
}

func TestInputIsChecked(t *testing.T) {
	m := material(t, testConfig(), testInput(nil), Found{}, fixed(1))
	for want, change := range map[string]func(*Input){
		"0 backups":                func(in *Input) { in.Backups = nil },
		"129 backups":              func(in *Input) { in.Backups = make([]Backup, session.MaxBackups+1) },
		"number 0":                 func(in *Input) { in.Backups[0].Number = 0 },
		"number 1":                 func(in *Input) { in.Backups = append(in.Backups, in.Backups[0]) },
		"no UID":                   func(in *Input) { in.Restore.UID = "" },
		"neither ssh nor":          func(in *Input) { in.Restore.Spec.FileAccess = &v1alpha1.FileAccess{} },
		"the secrets are not this": func(in *Input) { in.Restore.Spec.FileAccess.SSH = nil },
		"0 disks":                  func(in *Input) { in.Backups[0].Disks = nil },
		"mode \"\" is neither":     func(in *Input) { in.Backups[0].Disks[0].Mode = "" },
		"no timestamp":             func(in *Input) { in.Backups[0].Timestamp = time.Time{} },
		"no Kubernetes name":       func(in *Input) { in.Backups[0].Disks[0].Name = "A" },
	} {
		in := testInput(nil)
		change(&in)
		if _, err := Build(testConfig(), in, m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
