package plan

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
)

// Names of the front holder's ports.
const (
	portSSH   = "ssh"
	portHTTPS = "https"
)

// ClusterHost is the name of a session's Service within the cluster:
// <service>.<namespace>.svc.cluster.local.
func ClusterHost(n Names) string { return n.Object() + "." + n.Session + ".svc.cluster.local" }

// port is one that the session is served at.
type port struct {
	name   string
	number int32
}

func (b *builder) ports() (out []port) {
	if b.in.SSH() != nil {
		out = append(out, port{portSSH, session.PortSSH})
	}
	if b.in.Browser() != nil {
		out = append(out, port{portHTTPS, session.PortHTTPS})
	}
	return out
}

// service leads clients to the front holder, ready or not: its listeners outlive the node's agent,
// and whoever comes while that one restarts waits in their queue instead of being refused.
func (b *builder) service() client.Object {
	s := &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: b.meta(b.names.Session, b.names.Object()),
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Selector: PodLabels(b.in.Restore.UID, PartFront), PublishNotReadyAddresses: true},
	}
	for _, p := range b.ports() {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: p.name, Protocol: corev1.ProtocolTCP, Port: p.number, TargetPort: intstr.FromString(p.name)})
	}
	if b.cfg.OpenShift && b.in.Browser() != nil {
		s.Annotations["service.beta.openshift.io/serving-cert-secret-name"] = b.names.TLS()
	}
	return s
}

// policies cut every namespace that is made here off from the network, and let clients reach the
// front holder's ports and the front holder reach the API server, by address: it needs no DNS. Disk
// holders speak to their node's agent alone, by a socket.
func (b *builder) policies() (out []client.Object) {
	both := []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	add := func(p place, name string, spec networkingv1.NetworkPolicySpec) {
		spec.PolicyTypes = both
		out = append(out, &networkingv1.NetworkPolicy{
			TypeMeta:   metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"},
			ObjectMeta: b.metaAt(p, name), Spec: spec,
		})
	}
	for _, p := range b.places() {
		if p.backup != nil || b.names.Temporary {
			add(p, b.names.Object()+"-deny", networkingv1.NetworkPolicySpec{})
		}
	}
	tcp := corev1.ProtocolTCP
	front := networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: PodLabels(b.in.Restore.UID, PartFront)}}
	var in networkingv1.NetworkPolicyIngressRule // from everywhere: who may log in is a matter of keys
	for _, p := range b.ports() {
		in.Ports = append(in.Ports, networkingv1.NetworkPolicyPort{Protocol: &tcp, Port: new(intstr.FromInt32(p.number))})
	}
	front.Ingress = []networkingv1.NetworkPolicyIngressRule{in}
	servers := slices.Clone(b.cfg.APIServers)
	slices.SortFunc(servers, netip.AddrPort.Compare)
	for _, s := range slices.Compact(servers) {
		addr := s.Addr().Unmap().WithZone("")
		front.Egress = append(front.Egress, networkingv1.NetworkPolicyEgressRule{
			To:    []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: netip.PrefixFrom(addr, addr.BitLen()).String()}}},
			Ports: []networkingv1.NetworkPolicyPort{{Protocol: &tcp, Port: new(intstr.FromInt32(int32(s.Port())))}},
		})
	}
	add(b.places()[0], b.names.Object(), front)
	return out
}
