package plan

import (
	"fmt"
	"strings"
	"text/template"

	routev1 "github.com/openshift/api/route/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// maxHost bounds a host name, in bytes (RFC 1035).
const maxHost = 253

// HostData is what the templates of a Config see.
type HostData struct {
	Name      string // of the session's Service; unique in the cluster
	Namespace string // of the session's Service
	TLSSecret string // in the same namespace: tls.crt, tls.key, ca.crt
}

// ExposeError says why a session is not reachable from outside the cluster, and what to do.
type ExposeError struct{ Reason string }

func (e *ExposeError) Error() string { return e.Reason }

// PublicHost is the host that a session will be reachable at from outside the cluster; empty where
// it is not exposed or where OpenShift's router chooses it. The error is an *ExposeError.
func PublicHost(cfg Config, in Input) (string, error) {
	switch {
	case !in.External():
		return "", nil
	case !cfg.OpenShift && cfg.IngressClass == "":
		return "", &ExposeError{"exposeExternally: this cluster has no Routes and the controller has no --ingress-class; set --ingress-class and --host-template, or reach the files by kubectl port-forward"}
	case cfg.HostTemplate != "":
		return cfg.host(hostData(in.Names()))
	case cfg.OpenShift:
		return "", nil
	}
	return "", &ExposeError{"exposeExternally: the controller has --ingress-class but no --host-template; set it, such as '{{.Name}}.apps.example.com'"}
}

func hostData(n Names) HostData {
	return HostData{Name: n.Object(), Namespace: n.Session, TLSSecret: n.TLS()}
}

// host expands the template. A part of more than 63 characters, as Name and Namespace together
// have, is cut at its end: Name is unique, so it should come first. The error is an *ExposeError.
func (c Config) host(d HostData) (string, error) {
	text, err := expand("--host-template", c.HostTemplate, d)
	if err != nil {
		return "", err
	}
	labels := strings.Split(strings.ToLower(text), ".")
	for i, l := range labels {
		if len(l) <= maxLabel {
			continue
		}
		if !strings.Contains(l[:maxLabel], d.Name) && strings.Contains(l, d.Name) {
			return "", &ExposeError{fmt.Sprintf("--host-template: %q gives a part of %d characters, and the end of {{.Name}} is lost when it is cut to %d: put {{.Name}} first", c.HostTemplate, len(l), maxLabel)}
		}
		labels[i] = strings.TrimRight(l[:maxLabel], "-")
	}
	host := strings.Join(labels, ".")
	if msgs := utilvalidation.IsDNS1123Subdomain(host); len(msgs) > 0 || len(host) > maxHost {
		return "", &ExposeError{fmt.Sprintf("--host-template: %q gives %q, which is no host name", c.HostTemplate, host)}
	}
	return host, nil
}

// expand expands a template; what names it in an error, an *ExposeError.
func expand(what, text string, d HostData) (string, error) {
	t, err := template.New("").Option("missingkey=error").Parse(text)
	if err != nil {
		return "", &ExposeError{fmt.Sprintf("%s: %q is no template: %v", what, text, err)}
	}
	var b strings.Builder
	if err := t.Execute(&b, d); err != nil {
		return "", &ExposeError{fmt.Sprintf("%s: %q cannot be expanded: it may use {{.Name}}, {{.Namespace}} and {{.TLSSecret}}", what, text)}
	}
	return b.String(), nil
}

// expose is the Route or Ingress; nil where the session is not exposed.
func (b *builder) expose() (client.Object, error) {
	host, err := PublicHost(b.cfg, b.in)
	switch {
	case err != nil || !b.in.External():
		return nil, err
	case b.cfg.OpenShift:
		return b.route(host), nil
	}
	return b.ingress(host)
}

// route ends the client's TLS at the router and speaks TLS again to the holder: clients see the
// cluster's own certificate, which they trust, and the router trusts OpenShift's serving
// certificates. Passthrough would show them a certificate that names the Service only. Neither a
// certificate nor a host is in the Route, so that the controller needs no routes/custom-host; the
// router's usual host, <name>-<namespace>, would exceed a label's 63 characters, hence the subdomain.
func (b *builder) route(host string) client.Object {
	r := &routev1.Route{
		TypeMeta:   metav1.TypeMeta{APIVersion: routev1.GroupVersion.String(), Kind: "Route"},
		ObjectMeta: b.meta(b.names.Session, b.names.Object()),
		Spec: routev1.RouteSpec{
			Host: host,
			To:   routev1.RouteTargetReference{Kind: "Service", Name: b.names.Object(), Weight: new(int32(100))},
			Port: &routev1.RoutePort{TargetPort: intstr.FromString(portHTTPS)},
			TLS: &routev1.TLSConfig{
				Termination: routev1.TLSTerminationReencrypt,
				// A password must not be typed into a page that came unencrypted.
				InsecureEdgeTerminationPolicy: routev1.InsecureEdgeTerminationPolicyNone,
			},
			WildcardPolicy: routev1.WildcardPolicyNone,
		},
	}
	if host == "" {
		r.Spec.Subdomain = b.names.Object()
	}
	// A download of many files or one huge file is silent while it is being prepared.
	r.Annotations["haproxy.router.openshift.io/timeout"] = "1h"
	return r
}

// ingress shows clients the session's own certificate, whose fingerprint the status tells, unless
// the administrator has a better one.
func (b *builder) ingress(host string) (client.Object, error) {
	ing := &networkingv1.Ingress{
		TypeMeta:   metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "Ingress"},
		ObjectMeta: b.meta(b.names.Session, b.names.Object()),
		Spec: networkingv1.IngressSpec{
			IngressClassName: &b.cfg.IngressClass,
			TLS:              []networkingv1.IngressTLS{{Hosts: []string{host}, SecretName: b.names.TLS()}},
			Rules: []networkingv1.IngressRule{{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{
				HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{
					Path: "/", PathType: new(networkingv1.PathTypePrefix),
					Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{
						Name: b.names.Object(), Port: networkingv1.ServiceBackendPort{Name: portHTTPS},
					}},
				}}},
			}}},
		},
	}
	if b.cfg.IngressOwnCertificate {
		ing.Spec.TLS[0].SecretName = ""
	}
	for name, text := range b.cfg.IngressAnnotations {
		value, err := expand("--ingress-annotation "+name, text, hostData(b.names))
		if err != nil {
			return nil, err
		}
		ing.Annotations[name] = value
	}
	return ing, nil
}
