package plan

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"

	"vmfr/api/session"
)

// Config is what an administrator sets, the same for all sessions. The comments name the
// controller's flags; so do errors.
type Config struct {
	// Namespace is Velero's: where a Secret is that a reference gives no namespace for.
	Namespace string // --velero-namespace

	Image             string                      // --holder-image
	ImagePullPolicy   corev1.PullPolicy           // --holder-image-pull-policy; empty: Kubernetes' choice
	ImagePullSecrets  []string                    // --holder-image-pull-secret: Secrets of Namespace, copied into what is made for a session
	Resources         corev1.ResourceRequirements // --holder-requests, --holder-limits
	Tolerations       []corev1.Toleration         // --holder-toleration
	NodeSelector      map[string]string           // --holder-node-selector
	PriorityClassName string                      // --holder-priority-class
	// AgentDir is the node's folder with the agent's socket.
	AgentDir string // --agent-dir
	// SELinuxType is the holders' type where the node enforces SELinux; empty: the runtime's. A
	// confined container may not speak to the agent's socket.
	SELinuxType string // --holder-selinux-type
	// ReadAll gives holders DAC_OVERRIDE, for file-system volumes whose image only its owner can
	// read. (DAC_READ_SEARCH would read as much, but opens files by handle beyond the container.)
	ReadAll bool // --holder-read-all

	// ControllerUser is the controller's user name, such as
	// system:serviceaccount:vmfr:vmfr-controller.
	ControllerUser string // --controller-user
	// APIServers are the addresses of the API server as pods reach it: the endpoints of the
	// Service default/kubernetes and that Service's own address, since network plugins look at a
	// packet before or after the Service is resolved.
	APIServers []netip.AddrPort // --api-server

	// OpenShift uses Routes, serving certificates and security context constraints.
	OpenShift bool // --openshift
	// SCCRole is the ClusterRole that allows the use of the holders' security context constraints.
	SCCRole string // --holder-scc-role; OpenShift only

	// IngressClass is the class of Ingresses; empty: none are made.
	IngressClass string // --ingress-class
	// HostTemplate is the public host, a text/template over HostData, such as
	// "{{.Name}}-{{.Namespace}}.apps.example.com". Needed with IngressClass; on OpenShift the router
	// chooses where it is empty, and the controller needs create on routes/custom-host where not.
	HostTemplate string // --host-template
	// IngressAnnotations say how the Ingress controller speaks TLS to a session, each value a
	// text/template over HostData.
	IngressAnnotations map[string]string // --ingress-annotation
	// IngressOwnCertificate lets the Ingress controller show its own default certificate instead
	// of the session's.
	IngressOwnCertificate bool // --ingress-own-certificate
}

// DefaultAgentDir is where a node's agent listens unless it was told another folder.
const DefaultAgentDir = session.DirAgent

// Validate fills in nothing and checks everything that Build relies on.
func (c Config) Validate() error {
	var errs []error
	add := func(flag, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--"+flag+": "+format, args...))
	}
	if msgs := utilvalidation.IsDNS1123Label(c.Namespace); len(msgs) > 0 {
		add("velero-namespace", "%q is no namespace: %s", c.Namespace, msgs[0])
	}
	if c.Image == "" || strings.ContainsAny(c.Image, " \t\n") {
		add("holder-image", "%q is no image: give the one that holds /vmfr-agent", c.Image)
	}
	if !slices.Contains([]corev1.PullPolicy{"", corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever}, c.ImagePullPolicy) {
		add("holder-image-pull-policy", "%q is none of Always, IfNotPresent and Never", c.ImagePullPolicy)
	}
	for _, s := range c.ImagePullSecrets {
		if msgs := validation.NameIsDNSSubdomain(s, false); len(msgs) > 0 {
			add("holder-image-pull-secret", "%q is no Secret's name: %s", s, msgs[0])
		}
	}
	for k, v := range c.NodeSelector {
		if msgs := append(utilvalidation.IsQualifiedName(k), utilvalidation.IsValidLabelValue(v)...); len(msgs) > 0 {
			add("holder-node-selector", "%s=%s is no label: %s", k, v, msgs[0])
		}
	}
	if c.PriorityClassName != "" {
		if msgs := validation.NameIsDNSSubdomain(c.PriorityClassName, false); len(msgs) > 0 {
			add("holder-priority-class", "%q is no PriorityClass's name: %s", c.PriorityClassName, msgs[0])
		}
	}
	if !path.IsAbs(c.AgentDir) || path.Clean(c.AgentDir) != c.AgentDir || c.AgentDir == "/" {
		add("agent-dir", "%q is no absolute, clean path below the root, such as %s", c.AgentDir, DefaultAgentDir)
	}
	if c.ControllerUser == "" {
		add("controller-user", "give the controller's user name, such as system:serviceaccount:vmfr:vmfr-controller")
	}
	if len(c.APIServers) == 0 {
		add("api-server", "give at least one ip:port: holders may reach nothing else, and report to it")
	}
	for _, a := range c.APIServers {
		if !a.IsValid() || a.Port() == 0 || a.Addr().IsUnspecified() {
			add("api-server", "%q is no ip:port that a pod can reach", a)
		}
	}
	if c.SCCRole != "" && !c.OpenShift {
		add("holder-scc-role", "it is of use with --openshift only")
	}
	errs = append(errs, c.validateExpose()...)
	return errors.Join(errs...)
}

// validateExpose checks what sessions are exposed with.
func (c Config) validateExpose() (errs []error) {
	if c.OpenShift && c.IngressClass != "" {
		errs = append(errs, errors.New("--ingress-class: with --openshift sessions get Routes: leave one of the two out"))
	}
	if c.IngressClass != "" && c.HostTemplate == "" {
		errs = append(errs, errors.New("--host-template: it is needed with --ingress-class, such as '{{.Name}}.apps.example.com'"))
	}
	if c.IngressClass == "" {
		for flag, set := range map[string]bool{"--ingress-annotation": len(c.IngressAnnotations) > 0, "--ingress-own-certificate": c.IngressOwnCertificate} {
			if set {
				errs = append(errs, fmt.Errorf("%s: it is of use with --ingress-class only", flag))
			}
		}
	} else if msgs := validation.NameIsDNSSubdomain(c.IngressClass, false); len(msgs) > 0 {
		errs = append(errs, fmt.Errorf("--ingress-class: %q is no IngressClass's name: %s", c.IngressClass, msgs[0]))
	}
	// Two sessions must never get one host, also in one namespace.
	if c.HostTemplate != "" {
		one, err := c.host(sampleHost("vmfr-aaaaaaaaaa"))
		other, err2 := c.host(sampleHost("vmfr-bbbbbbbbbb"))
		switch {
		case err != nil:
			errs = append(errs, err)
		case err2 == nil && one == other:
			errs = append(errs, fmt.Errorf("--host-template: %q gives all sessions the host %s: use {{.Name}}", c.HostTemplate, one))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.IngressAnnotations)) {
		if msgs := utilvalidation.IsQualifiedName(strings.ToLower(name)); len(msgs) > 0 {
			errs = append(errs, fmt.Errorf("--ingress-annotation: %q is no annotation's name: %s", name, msgs[0]))
		}
		if _, err := expand("--ingress-annotation "+name, c.IngressAnnotations[name], sampleHost("vmfr-aaaaaaaaaa")); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

func sampleHost(name string) HostData {
	return HostData{Name: name, Namespace: "restores", TLSSecret: name + "-tls"}
}
