package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"vmfr/api/session"
	"vmfr/controller/plan"
	"vmfr/internal/cli"
)

// holderImage is the image of holders where the build names one; set by the linker.
var holderImage string

// flags are those of the controller, in groups as --help shows them.
type flags struct {
	kubeconfig      string
	veleroNamespace string
	openShift       string // auto, true, false
	controllerUser  string
	apiServers      []string

	discoveries, backups, restores int // at once

	timeouts timeouts
	holder   holderFlags
	ingress  ingressFlags
	leader   leaderFlags

	metricsAddress, probeAddress string
	log                          cli.LogFlags

	groups []group
}

// group is a part of --help.
type group struct {
	title string
	set   *pflag.FlagSet
}

// holderFlags say what holder pods look like.
type holderFlags struct {
	image, pullPolicy string
	pullSecrets       []string
	requests, limits  []string // NAME=QUANTITY
	tolerations       []string // see toleration
	nodeSelector      []string // LABEL=VALUE
	priorityClass     string
	agentDir          string
	selinuxType       string
	readAll           bool
	sccRole           string
}

// ingressFlags say how a file browser becomes reachable from outside a cluster without Routes.
type ingressFlags struct {
	class, hostTemplate string
	annotations         []string // KEY=TEMPLATE
	ownCertificate      bool
}

// leaderFlags say which of several controllers works.
type leaderFlags struct {
	elect     bool
	namespace string
	lease     time.Duration
	renew     time.Duration
	retry     time.Duration
}

func (f *flags) group(title string) *pflag.FlagSet {
	set := pflag.NewFlagSet(title, pflag.ContinueOnError)
	set.SortFlags = false
	f.groups = append(f.groups, group{title, set})
	return set
}

func (f *flags) register(c *cobra.Command) {
	s := f.group("Cluster")
	s.StringVar(&f.kubeconfig, "kubeconfig", "", "`FILE` that says how to reach the cluster (default $KUBECONFIG, else the pod's service account)")
	s.StringVar(&f.veleroNamespace, "velero-namespace", "", "`NAMESPACE` of Velero and of the objects to work on (default openshift-adp where it exists, else velero)")

	s.StringVar(&f.openShift, "openshift", "auto", "`auto|true|false`: use Routes, serving certificates and security context constraints; auto: where Routes are served")
	s.StringVar(&f.controllerUser, "controller-user", "", "`USER` whose pods the admission policies let into sessions' namespaces (default whom the API server says this is)")
	s.StringSliceVar(&f.apiServers, "api-server", nil, "`IP:PORT` by which pods reach the API server, for NetworkPolicies (repeatable; default those of the Service default/kubernetes and its endpoints)")

	s = f.group("Work at once")
	s.IntVar(&f.discoveries, "max-concurrent-discoveries", 4, "`N` discoveries")
	s.IntVar(&f.backups, "max-concurrent-backups", 10, "`N` backups that are looked at, by all discoveries together")
	s.IntVar(&f.restores, "max-concurrent-restores", 8, "`N` file restores that are worked at, and `N` Velero Restores that run for them")

	f.timeouts.register(f.group("Waiting (each ends with a reason in the object's status)"))
	f.holder.register(f.group("Holder pods"))
	f.ingress.register(f.group("Access from outside the cluster (OpenShift's Routes need none of these)"))
	f.leader.register(f.group("Leader election"))

	s = f.group("Observation")
	s.StringVar(&f.metricsAddress, "metrics-bind-address", ":8080", "`ADDRESS:PORT` for Prometheus' metrics by HTTP; 0: none")
	s.StringVar(&f.probeAddress, "health-probe-bind-address", ":8081", "`ADDRESS:PORT` for /healthz and /readyz; 0: none")
	f.log.Register(s)

	for _, g := range f.groups {
		c.Flags().AddFlagSet(g.set)
	}
	c.Flags().SortFlags = false
	usage := c.UsageFunc()
	c.SetUsageFunc(func(c *cobra.Command) error {
		if c.HasParent() {
			return usage(c)
		}
		_, err := fmt.Fprint(c.OutOrStderr(), f.usage(c))
		return err
	})
}

// usage is what follows the description in --help: the flags in groups.
func (f *flags) usage(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage:\n  %s [flags]\n", c.Use)
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			fmt.Fprintf(&b, "  %-44s %s\n", c.Name()+" "+sub.Use, sub.Short)
		}
	}
	fmt.Fprintf(&b, "\nExamples:\n%s\n", c.Example)
	for _, g := range f.groups {
		fmt.Fprintf(&b, "\n%s:\n%s", g.title, g.set.FlagUsages())
	}
	return b.String()
}

func (h *holderFlags) register(s *pflag.FlagSet) {
	s.StringVar(&h.image, "holder-image", holderImage, "`IMAGE` with vmfr-agent, of the same release as this program")
	s.StringVar(&h.pullPolicy, "holder-image-pull-policy", string(corev1.PullIfNotPresent), "`Always|IfNotPresent|Never`")
	s.StringSliceVar(&h.pullSecrets, "holder-image-pull-secret", nil, "`NAME` of a Secret of Velero's namespace to pull the image with; it is copied into the namespaces that are made for sessions (repeatable)")
	s.StringSliceVar(&h.requests, "holder-requests", []string{"cpu=10m", "memory=32Mi"}, "`NAME=QUANTITY` that a holder asks for (repeatable)")
	s.StringSliceVar(&h.limits, "holder-limits", []string{"memory=128Mi"}, "`NAME=QUANTITY` that a holder may use at most (repeatable)")
	s.StringArrayVar(&h.tolerations, "holder-toleration", nil, "`KEY[=VALUE][:EFFECT]` of a taint that holders tolerate; *: all (repeatable)")
	s.StringSliceVar(&h.nodeSelector, "holder-node-selector", nil, "`LABEL=VALUE` of the nodes that holders run on (repeatable)")
	s.StringVar(&h.priorityClass, "holder-priority-class", "", "`NAME` of the PriorityClass of holders")
	s.StringVar(&h.agentDir, "agent-dir", session.DirAgent, "`DIR` on the nodes with the agent's socket")
	s.StringVar(&h.selinuxType, "holder-selinux-type", "", "SELinux `TYPE` of holders, which must be allowed to speak to the agent's socket (default the runtime's)")
	s.BoolVar(&h.readAll, "holder-read-all", false, "give holders the capability DAC_OVERRIDE, for file-system volumes whose image only its owner may read")
	s.StringVar(&h.sccRole, "holder-scc-role", "vmfr-holder-scc", "`CLUSTERROLE` that lets holders use a security context constraint with hostPath; OpenShift only")
}

func (i *ingressFlags) register(s *pflag.FlagSet) {
	s.StringVar(&i.class, "ingress-class", "", "`NAME` of the class of Ingresses; without it exposeExternally gives a condition")
	s.StringVar(&i.hostTemplate, "host-template", "", "public host as a Go `TEMPLATE` over .Name, .Namespace and .TLSSecret")
	s.StringArrayVar(&i.annotations, "ingress-annotation", nil, "`KEY=TEMPLATE` of an annotation that has the Ingress controller speak TLS to a session (repeatable)")
	s.BoolVar(&i.ownCertificate, "ingress-own-certificate", false, "the Ingress controller shows its own certificate instead of the session's")
}

func (l *leaderFlags) register(s *pflag.FlagSet) {
	s.BoolVar(&l.elect, "leader-elect", true, "of several controllers one works and the others stand by")
	s.StringVar(&l.namespace, "leader-elect-namespace", "", "`NAMESPACE` of the Lease (default the pod's, else Velero's)")
	s.DurationVar(&l.lease, "leader-elect-lease-duration", 15*time.Second, "after this long without a renewal another one takes over")
	s.DurationVar(&l.renew, "leader-elect-renew-deadline", 10*time.Second, "after this long without a renewal the leader gives up")
	s.DurationVar(&l.retry, "leader-elect-retry-period", 2*time.Second, "time between two attempts to lead or to renew")
}

// check finds what pflag cannot: every error names the flag.
func (f *flags) check() error {
	for _, n := range [...]struct {
		name  string
		value int
	}{{"max-concurrent-discoveries", f.discoveries}, {"max-concurrent-backups", f.backups}, {"max-concurrent-restores", f.restores}} {
		if n.value < 1 {
			return cli.Usagef("--%s %d: use at least 1", n.name, n.value)
		}
	}
	if err := f.timeouts.check(); err != nil {
		return err
	}
	if _, err := f.addresses(); err != nil {
		return err
	}
	switch l := f.leader; {
	case f.openShift != "auto" && f.openShift != "true" && f.openShift != "false":
		return cli.Usagef("--openshift %q: use auto, true or false", f.openShift)
	case l.retry <= 0 || l.renew <= l.retry || l.lease <= l.renew:
		return cli.Usagef("--leader-elect-lease-duration %s must be longer than the renew deadline %s, and that longer than the retry period %s", l.lease, l.renew, l.retry)
	case f.holder.image == "":
		return cli.Usagef("--holder-image is missing: name the image with vmfr-agent, such as registry.example/vmfr:%s", version)
	}
	return nil
}

// addresses reads --api-server.
func (f *flags) addresses() ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, s := range f.apiServers {
		a, err := netip.ParseAddrPort(s)
		if err != nil {
			return nil, cli.Usagef("--api-server %q: write IP:PORT, IPv6 in brackets", s)
		}
		out = append(out, a)
	}
	return out, nil
}

// config is what the plan of every session takes from the flags.
func (f *flags) config() (plan.Config, error) {
	h := f.holder
	c := plan.Config{
		Image: h.image, ImagePullPolicy: corev1.PullPolicy(h.pullPolicy), ImagePullSecrets: h.pullSecrets, PriorityClassName: h.priorityClass,
		AgentDir: h.agentDir, SELinuxType: h.selinuxType, ReadAll: h.readAll, SCCRole: h.sccRole,
		IngressClass: f.ingress.class, HostTemplate: f.ingress.hostTemplate, IngressOwnCertificate: f.ingress.ownCertificate,
	}
	switch c.ImagePullPolicy {
	case corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
	default:
		return c, cli.Usagef("--holder-image-pull-policy %q: use Always, IfNotPresent or Never", h.pullPolicy)
	}
	var err error
	if c.Resources.Requests, err = quantities("holder-requests", h.requests); err != nil {
		return c, err
	}
	if c.Resources.Limits, err = quantities("holder-limits", h.limits); err != nil {
		return c, err
	}
	if c.NodeSelector, err = pairs("holder-node-selector", h.nodeSelector); err != nil {
		return c, err
	}
	if c.IngressAnnotations, err = pairs("ingress-annotation", f.ingress.annotations); err != nil {
		return c, err
	}
	for _, t := range h.tolerations {
		parsed, err := toleration(t)
		if err != nil {
			return c, err
		}
		c.Tolerations = append(c.Tolerations, parsed)
	}
	return c, nil
}

// pairs reads KEY=VALUE.
func pairs(flag string, list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(list))
	for _, s := range list {
		key, value, ok := strings.Cut(s, "=")
		if _, twice := m[key]; !ok || key == "" || twice {
			return nil, cli.Usagef("--%s %s: write KEY=VALUE, each key once", flag, strconv.Quote(s))
		}
		m[key] = value
	}
	return m, nil
}

func quantities(flag string, list []string) (corev1.ResourceList, error) {
	m, err := pairs(flag, list)
	if err != nil || m == nil {
		return nil, err
	}
	out := make(corev1.ResourceList, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		q, err := resource.ParseQuantity(m[name])
		if err != nil || q.Sign() < 0 {
			return nil, cli.Usagef("--%s %s=%s: write a quantity such as 100m or 64Mi", flag, name, m[name])
		}
		out[corev1.ResourceName(name)] = q
	}
	return out, nil
}

// toleration reads KEY[=VALUE][:EFFECT], as kubectl taint writes a taint; a lone * tolerates all.
func toleration(s string) (corev1.Toleration, error) {
	if s == "*" {
		return corev1.Toleration{Operator: corev1.TolerationOpExists}, nil
	}
	taint, effect, hasEffect := strings.Cut(s, ":")
	key, value, hasValue := strings.Cut(taint, "=")
	t := corev1.Toleration{Key: key, Value: value, Effect: corev1.TaintEffect(effect), Operator: corev1.TolerationOpExists}
	if hasValue {
		t.Operator = corev1.TolerationOpEqual
	}
	known := t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectPreferNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	if key == "" || hasEffect && !known {
		return t, cli.Usagef("--holder-toleration %q: write KEY, KEY=VALUE, KEY:EFFECT or KEY=VALUE:EFFECT with NoSchedule, PreferNoSchedule or NoExecute; * for all", s)
	}
	return t, nil
}
