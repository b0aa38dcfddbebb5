package main

import (
	"encoding/base64"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// normal replaces what differs from run to run by names that tell what it is.
type normal struct {
	fixed   map[string]string // text -> placeholder
	numbers map[string]int    // placeholders that were given out, by kind
}

var (
	aTime = regexp.MustCompile(`\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
	aUID  = regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`)
	aHash = regexp.MustCompile(`\b[0-9a-f]{64}\b|\b([0-9A-F]{2}:){31}[0-9A-F]{2}\b`)
	aKey  = regexp.MustCompile(`ssh-ed25519 [A-Za-z0-9+/=]+`)
	aPEM  = regexp.MustCompile(`(?s)-----BEGIN ([A-Z ]+)-----.*-----END [A-Z ]+-----\n?`)
	aSum  = regexp.MustCompile(`\b[0-9a-f]{32}\b`)
	// aPod is a pod's name: its Deployment's, its ReplicaSet's part and its own.
	aPod = regexp.MustCompile(`\b(vmfr-SUFFIX)-[a-z0-9]{6,10}-[a-z0-9]{5}\b`)
)

func (n *normal) text(s string) string {
	for _, k := range slices.SortedFunc(maps.Keys(n.fixed), func(a, b string) int { return len(b) - len(a) }) {
		s = strings.ReplaceAll(s, k, n.fixed[k])
	}
	s = aPEM.ReplaceAllString(s, "<$1>")
	s = aKey.ReplaceAllString(s, "ssh-ed25519 <key>")
	s = aTime.ReplaceAllString(s, "<time>")
	s = aHash.ReplaceAllString(s, "<sha256>")
	s = aUID.ReplaceAllStringFunc(s, func(uid string) string {
		n.numbers["uid"]++
		n.fixed[uid] = fmt.Sprintf("<uid %d>", n.numbers["uid"])
		return n.fixed[uid]
	})
	s = aSum.ReplaceAllString(s, "<sum>")
	return aPod.ReplaceAllString(s, "$1-<pod>")
}

func (n *normal) value(v any) any {
	switch v := v.(type) {
	case string:
		return n.text(v)
	case []any:
		for i := range v {
			v[i] = n.value(v[i])
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			v[k] = n.value(v[k])
		}
	}
	return v
}

// object is an object without what the server adds and without secret values, as YAML.
func (n *normal) object(t testing.TB, o *unstructured.Unstructured, status bool) string {
	t.Helper()
	o = o.DeepCopy()
	for _, f := range []string{"uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "selfLink"} {
		unstructured.RemoveNestedField(o.Object, "metadata", f)
	}
	unstructured.RemoveNestedField(o.Object, "metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration")
	unstructured.RemoveNestedField(o.Object, "metadata", "annotations", "deployment.kubernetes.io/revision")
	if !status {
		delete(o.Object, "status")
	}
	switch o.GetKind() {
	case "Secret":
		data, _, _ := unstructured.NestedStringMap(o.Object, "data")
		for k, v := range data {
			b, err := base64.StdEncoding.DecodeString(v)
			if err != nil {
				t.Fatal(err)
			}
			data[k] = secretShape(k, b)
		}
		if err := unstructured.SetNestedStringMap(o.Object, data, "data"); err != nil {
			t.Fatal(err)
		}
	case "Service":
		for _, f := range []string{"clusterIP", "clusterIPs"} {
			unstructured.RemoveNestedField(o.Object, "spec", f)
		}
	case "Namespace":
		delete(o.Object, "spec") // the finalizer of every namespace
	}
	b, err := yaml.Marshal(n.value(o.Object))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// secretShape tells what a secret value is without telling it: names are shown, the rest by kind.
func secretShape(key string, b []byte) string {
	if key == "username" {
		return string(b)
	}
	if s := aPEM.ReplaceAllString(string(b), "<$1>"); s != string(b) {
		return s
	}
	if s := aKey.ReplaceAllString(string(b), "ssh-ed25519 <key>"); s != string(b) {
		return strings.TrimSpace(s)
	}
	return fmt.Sprintf("<%d bytes>", len(b))
}
