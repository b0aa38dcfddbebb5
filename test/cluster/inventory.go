package cluster

import (
	"context"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
)

// passing are kinds that come and go whatever anybody does.
var passing = []string{"events", "leases", "componentstatuses", "endpoints", "endpointslices", "ipaddresses", "apiservices"}

// Inventory is every object of a cluster by "Kind namespace/name".
type Inventory map[string]*unstructured.Unstructured

// Inventory lists the cluster's objects, but for those that come and go whatever anybody does.
func (cp ControlPlane) Inventory(t testing.TB) Inventory {
	t.Helper()
	d, err := discovery.NewDiscoveryClientForConfig(cp.Config)
	if err != nil {
		t.Fatal(err)
	}
	lists, err := d.ServerPreferredResources()
	if err != nil {
		t.Fatal(err)
	}
	c, err := dynamic.NewForConfig(cp.Config)
	if err != nil {
		t.Fatal(err)
	}
	all := Inventory{}
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range l.APIResources {
			if !slices.Contains(r.Verbs, "list") || slices.Contains(passing, r.Name) {
				continue
			}
			list, err := c.Resource(gv.WithResource(r.Name)).List(context.Background(), metav1.ListOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
				continue
			}
			if err != nil {
				t.Fatalf("%s: %v", r.Name, err)
			}
			for i := range list.Items {
				o := &list.Items[i]
				all[strings.TrimSpace(o.GetKind()+" "+strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/"))] = o
			}
		}
	}
	return all
}

// Added are the names in after that are not in before, sorted.
func Added(before, after Inventory) []string {
	var out []string
	for name := range after {
		if before[name] == nil {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
