package main

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	routev1 "github.com/openshift/api/route/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"vmfr/api/v1alpha1"
)

// surroundings are what the cluster answers once, at the start.
type surroundings struct {
	velero     string // Velero's namespace
	user       string // who the controller is
	apiServers []netip.AddrPort
	openShift  bool
}

// look asks the cluster for what the flags leave open.
func (f *flags) look(ctx context.Context, kube *rest.Config, d discovery.DiscoveryInterface) (surroundings, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var s surroundings
	c, err := client.New(kube, client.Options{Scheme: clientgoscheme.Scheme})
	if err != nil {
		return s, err
	}
	if s.velero, err = veleroNamespace(ctx, c, f.veleroNamespace); err != nil {
		return s, err
	}
	if s.user = f.controllerUser; s.user == "" {
		if s.user, err = whoAmI(ctx, c); err != nil {
			return s, err
		}
	}
	if s.apiServers, err = f.addresses(); err != nil {
		return s, err
	}
	if len(s.apiServers) == 0 {
		if s.apiServers, err = apiServers(ctx, c); err != nil {
			return s, err
		}
	}
	switch f.openShift {
	case "auto":
		s.openShift, err = serves(d, routev1.GroupVersion)
	default:
		s.openShift = f.openShift == "true"
	}
	return s, err
}

// whoAmI is the user name that the API server knows the controller by.
func whoAmI(ctx context.Context, c client.Client) (string, error) {
	var review authenticationv1.SelfSubjectReview
	if err := c.Create(ctx, &review); err != nil {
		return "", fmt.Errorf("asking the API server for the controller's own name: %w; give --controller-user", err)
	}
	return review.Status.UserInfo.Username, nil
}

// apiServers are the addresses by which pods reach the API server: of the Service
// default/kubernetes and of what is behind it.
func apiServers(ctx context.Context, c client.Reader) ([]netip.AddrPort, error) {
	hint := func(err error) error {
		return fmt.Errorf("asking for the API server's addresses: %w; give --api-server", err)
	}
	key := client.ObjectKey{Namespace: metav1.NamespaceDefault, Name: "kubernetes"}
	var service corev1.Service
	if err := c.Get(ctx, key, &service); err != nil {
		return nil, hint(err)
	}
	var out []netip.AddrPort
	add := func(address string, port int32) error {
		a, err := netip.ParseAddr(address)
		if err != nil || port <= 0 || port > math.MaxUint16 {
			return hint(fmt.Errorf("%q and port %d are no address", address, port))
		}
		if p := netip.AddrPortFrom(a, uint16(port)); !slices.Contains(out, p) {
			out = append(out, p)
		}
		return nil
	}
	for _, address := range service.Spec.ClusterIPs {
		for _, port := range service.Spec.Ports {
			if err := add(address, port.Port); err != nil {
				return nil, err
			}
		}
	}
	var slice discoveryv1.EndpointSlice
	if err := c.Get(ctx, key, &slice); err != nil {
		return nil, hint(err)
	}
	for _, e := range slice.Endpoints {
		for _, address := range e.Addresses {
			for _, port := range slice.Ports {
				if port.Port != nil {
					if err := add(address, *port.Port); err != nil {
						return nil, err
					}
				}
			}
		}
	}
	return out, nil
}

// veleroNamespaces are where Velero is looked for, in this order: OADP's and Velero's own default.
var veleroNamespaces = []string{"openshift-adp", "velero"}

// veleroNamespace returns given where it exists, and without it the first of veleroNamespaces
// that does. The error names what was looked for.
func veleroNamespace(ctx context.Context, c client.Reader, given string) (string, error) {
	candidates := veleroNamespaces
	if given != "" {
		candidates = []string{given}
	}
	for _, name := range candidates {
		var ns corev1.Namespace
		switch err := c.Get(ctx, client.ObjectKey{Name: name}, &ns); {
		case err == nil:
			return name, nil
		case !apierrors.IsNotFound(err):
			return "", fmt.Errorf("looking for Velero's namespace %s: %w", name, err)
		}
	}
	if given != "" {
		return "", fmt.Errorf("--velero-namespace: there is no namespace %s: install Velero there first, or name the one it is in", given)
	}
	return "", fmt.Errorf("neither namespace %s exists: install Velero or OADP first, or name Velero's namespace with --velero-namespace", strings.Join(veleroNamespaces, " nor "))
}

// kind is what must be served, and who brings it.
type kind struct {
	schema.GroupVersionResource
	from string
}

const (
	fromUs     = "apply deploy/crds of this release"
	fromVelero = "install Velero 1.18"
)

// Velero's groups, by name: its types belong to controller/velero.
var (
	veleroV1 = schema.GroupVersion{Group: "velero.io", Version: "v1"}
	veleroV2 = schema.GroupVersion{Group: "velero.io", Version: "v2alpha1"}
)

// required are the resources without which nothing works.
var required = []kind{
	{v1alpha1.GroupVersion.WithResource("virtualmachinebackupsdiscoveries"), fromUs},
	{v1alpha1.GroupVersion.WithResource("virtualmachinefilerestores"), fromUs},
	{veleroV1.WithResource("backups"), fromVelero},
	{veleroV1.WithResource("backupstoragelocations"), fromVelero},
	{veleroV1.WithResource("downloadrequests"), fromVelero},
	{veleroV1.WithResource("restores"), fromVelero},
	{veleroV2.WithResource("datadownloads"), fromVelero},
}

// missingError are resources that the API server does not serve.
type missingError struct{ resources []kind }

func (e missingError) Error() string {
	var names, todo []string
	for _, r := range e.resources {
		names = append(names, r.Resource+"."+r.Group+"/"+r.Version)
		if !slices.Contains(todo, r.from) {
			todo = append(todo, r.from)
		}
	}
	return fmt.Sprintf("the cluster does not serve %s: %s", strings.Join(names, ", "), strings.Join(todo, ", "))
}

// checkResources returns a missingError where one of required is not served.
func checkResources(d discovery.DiscoveryInterface) error {
	served := map[schema.GroupVersion][]metav1.APIResource{}
	var missing missingError
	for _, r := range required {
		gv := r.GroupVersion()
		if _, ok := served[gv]; !ok {
			list, err := d.ServerResourcesForGroupVersion(gv.String())
			switch {
			case apierrors.IsNotFound(err):
				list = &metav1.APIResourceList{}
			case err != nil:
				return fmt.Errorf("asking for the resources of %s: %w", gv, err)
			}
			served[gv] = list.APIResources
		}
		if !slices.ContainsFunc(served[gv], func(a metav1.APIResource) bool { return a.Name == r.Resource }) {
			missing.resources = append(missing.resources, r)
		}
	}
	if len(missing.resources) > 0 {
		return missing
	}
	return nil
}

// serves tells whether the API server serves a group version. Groups that an aggregated API
// server brings may be unknown for a while, so errors are told apart from no.
func serves(d discovery.DiscoveryInterface, gv schema.GroupVersion) (bool, error) {
	_, err := d.ServerResourcesForGroupVersion(gv.String())
	switch {
	case err == nil:
		return true, nil
	case apierrors.IsNotFound(err):
		return false, nil
	}
	return false, fmt.Errorf("asking whether %s is served: %w", gv, err)
}
