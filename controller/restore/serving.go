package restore

import (
	"context"
	"fmt"

	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/session"
	"vmfr/api/v1alpha1"
	"vmfr/controller/plan"
)

// serviceCAKey is where OpenShift writes its authority into a ConfigMap.
const serviceCAKey = "service-ca.crt"

// publish says how to reach the session: addresses, credentials, and what a client checks the server by.
func (r *reconciler) publish(ctx context.Context, s *scope) error {
	in, host := s.input(), plan.ClusterHost(s.names)
	info := &v1alpha1.FileServingInfo{}
	if before := s.vmfr.Status.FileServingInfo; before != nil {
		info.PodName = before.PodName
	}
	if in.SSH() != nil {
		key, err := s.material.Identity.HostKeyLine()
		if err != nil {
			return err
		}
		info.SSH = &v1alpha1.SSHServing{
			ClusterAccess:        fmt.Sprintf("ssh://%s:%d", host, session.PortSSH),
			CredentialsSecretRef: &v1alpha1.SecretReference{Name: s.names.SSH(), Namespace: s.names.Session},
			HostKey:              key,
		}
	}
	if in.Browser() != nil {
		info.FileBrowser = &v1alpha1.FileBrowserServing{
			ClusterAccess:        fmt.Sprintf("https://%s:%d", host, session.PortHTTPS),
			CredentialsSecretRef: &v1alpha1.SecretReference{Name: s.names.Browser(), Namespace: s.names.Session},
		}
		if err := r.certificate(ctx, s, info.FileBrowser); err != nil {
			return err
		}
		if in.External() && s.expose == "" {
			public, err := r.publicHost(ctx, s, in)
			if err != nil {
				return err
			}
			if public != "" {
				info.FileBrowser.PublicAccess = "https://" + public
			}
		}
	}
	s.vmfr.Status.FileServingInfo = info
	return nil
}

// certificate fills in what a client checks the server's certificate by.
func (r *reconciler) certificate(ctx context.Context, s *scope, b *v1alpha1.FileBrowserServing) error {
	var cert, ca []byte
	if tls := s.material.TLS; tls != nil {
		cert, ca = tls.Cert, tls.CA
	} else {
		var secret corev1.Secret
		var authority corev1.ConfigMap
		if err := r.direct.Get(ctx, types.NamespacedName{Namespace: s.names.Session, Name: s.names.TLS()}, &secret); client.IgnoreNotFound(err) != nil {
			return err
		}
		if err := r.direct.Get(ctx, types.NamespacedName{Namespace: s.names.Session, Name: s.names.ServiceCA()}, &authority); client.IgnoreNotFound(err) != nil {
			return err
		}
		cert, ca = secret.Data[session.KeyCertificate], []byte(authority.Data[serviceCAKey])
		if len(cert) == 0 || len(ca) == 0 {
			s.say(v1alpha1.ReasonFileServerPending, "OpenShift has not made the serving certificate yet")
			s.wake(s.now.Add(r.Recheck))
		}
	}
	b.CABundle = string(ca)
	if len(cert) > 0 {
		fingerprint, err := plan.Fingerprint(cert)
		if err != nil {
			return err
		}
		b.Fingerprint = fingerprint
	}
	return nil
}

// publicHost is the session's host outside the cluster; empty while OpenShift's router has not chosen it.
func (r *reconciler) publicHost(ctx context.Context, s *scope, in plan.Input) (string, error) {
	host, err := plan.PublicHost(r.Plan, in)
	if err != nil || host != "" || !r.Plan.OpenShift {
		return host, err
	}
	var route routev1.Route
	if err := r.direct.Get(ctx, types.NamespacedName{Namespace: s.names.Session, Name: s.names.Object()}, &route); client.IgnoreNotFound(err) != nil {
		return "", err
	}
	for _, i := range route.Status.Ingress {
		if i.Host != "" {
			return i.Host, nil
		}
	}
	what := fmt.Sprintf("the Route %s/%s has no host", s.names.Session, s.names.Object())
	if s.within(s.vmfr.CreationTimestamp.Time, r.HolderLimit) {
		s.say(v1alpha1.ReasonWaitingForRoute, what+" yet")
	} else {
		s.expose = what + ": see whether a router admits it"
	}
	s.wake(s.now.Add(r.Recheck))
	return "", nil
}
