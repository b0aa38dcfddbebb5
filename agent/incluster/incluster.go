// Package incluster is a Kubernetes client for a pod that needs one or two requests: it uses the
// pod's own service account and knows only the kinds that it is told.
//
// Non-goals: no caches, no watches, no kubeconfig. The clientset would do the same, but it
// registers every kind there is, which costs each process of this program megabytes.
package incluster

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// Requests in a second, after a burst. A new agent asks about all holders of its node at once, and
// clients of their sessions wait meanwhile; the default of client-go would take minutes for them.
const qps, burst = 50, 200

// serviceAccount is where Kubernetes mounts a pod's service account.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// ErrNoCluster tells that this process does not run in a pod with a service account.
var ErrNoCluster = errors.New("this is no pod with a service account")

// Client returns a client of the group and version gv whose kinds add registers, and the pod's
// namespace. root is the folder that is looked at as the root directory. The token is read again
// as the kubelet rotates it.
func Client(root string, gv schema.GroupVersion, add func(*runtime.Scheme) error) (*rest.RESTClient, string, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, "", fmt.Errorf("%w: KUBERNETES_SERVICE_HOST and _PORT are not set", ErrNoCluster)
	}
	dir := filepath.Join(root, serviceAccount)
	namespace, err := os.ReadFile(filepath.Join(dir, "namespace"))
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrNoCluster, err)
	}
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"}) // Status, in which errors are told
	if err := add(scheme); err != nil {
		return nil, "", err
	}
	c := &rest.Config{
		Host: "https://" + net.JoinHostPort(host, port), BearerTokenFile: filepath.Join(dir, "token"),
		TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(dir, "ca.crt")},
		QPS:             qps, Burst: burst,
	}
	c.GroupVersion, c.APIPath = &gv, "/apis"
	if gv.Group == "" {
		c.APIPath = "/api"
	}
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, "", fmt.Errorf("a client of %s: %w", c.Host, err)
	}
	return client, strings.TrimSpace(string(namespace)), nil
}
