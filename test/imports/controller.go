package imports

import (
	"fmt"
	"sort"
	"strings"
)

// controllerLayers are the columns of the controller's line, from left to right: values, then
// what is computed from them or read from Velero, then the two controllers, then the program. It
// meets the agent's line in the documents of api/session and nowhere else.
var controllerLayers = []layer{
	{name: "documents", packages: []string{"api/session", "api/v1alpha1"}},
	{name: "parts", packages: []string{"controller/plan", "controller/velero"}},
	{name: "controllers", packages: []string{"controller/discovery", "controller/restore"}},
	{name: "program", packages: []string{"controller"}},
}

// pureClient is all of controller-runtime that package plan uses: the interface of an object.
const pureClient = "sigs.k8s.io/controller-runtime/pkg/client"

func controllerLayerOf(path string) int {
	for i, l := range controllerLayers {
		if oneOf(path, l.packages) {
			return i
		}
	}
	return -1
}

// ControllerViolations returns one sentence for each import of the controller's packages that
// breaks a rule, sorted.
func ControllerViolations(packages []Package) []string {
	var bad []string
	for _, p := range packages {
		path, ours := strings.CutPrefix(p.Path, module)
		at := controllerLayerOf(path)
		if !ours || at < 0 {
			if ours && strings.HasPrefix(path, "controller/") {
				bad = append(bad, fmt.Sprintf("%s has no place in the controller's line: add it to controllerLayers and to ARCHITECTURE.md", path))
			}
			continue
		}
		for _, imp := range p.Imports {
			if reason := wrong(path, at, imp); reason != "" {
				bad = append(bad, fmt.Sprintf("%s imports %s: %s", path, strings.TrimPrefix(imp, module), reason))
			}
		}
		for _, dep := range p.Deps {
			if to, ours := strings.CutPrefix(dep, module); ours && (layerOf(to) > 0 || strings.HasPrefix(to, "test/")) {
				bad = append(bad, fmt.Sprintf("%s depends on %s: the controller touches no guest bytes", path, to))
			}
		}
	}
	sort.Strings(bad)
	return bad
}

// wrong says what is wrong with an import; empty: nothing.
func wrong(path string, at int, imp string) string {
	to, ours := strings.CutPrefix(imp, module)
	if ours {
		switch there := controllerLayerOf(to); {
		case there < 0:
			return "it is not of the controller's line"
		case there > at:
			return "data flows the other way"
		case there == at:
			return "it is its neighbour"
		}
		return ""
	}
	switch {
	case strings.HasPrefix(imp, "github.com/vmware-tanzu/") && path != "controller/velero" && path != "controller/restore":
		return "controller/velero knows Velero"
	case path == "controller/plan" && (strings.HasPrefix(imp, "k8s.io/client-go") || strings.HasPrefix(imp, "sigs.k8s.io/controller-runtime") && imp != pureClient):
		return "a plan is computed, not fetched"
	case path == "controller/plan" && (imp == "net/http" || imp == "os"):
		return "a plan is computed, not fetched"
	case path == "controller/velero" && imp == "os":
		return "a backup's contents are streamed, not stored"
	}
	return ""
}
