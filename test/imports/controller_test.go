package imports

import (
	"strings"
	"testing"
)

func TestControllerImports(t *testing.T) {
	touch(t)
	all := list(t)
	for _, v := range ControllerViolations(all) {
		t.Error(v)
	}
	n := 0
	for _, p := range all {
		if strings.HasPrefix(p.Path, module+"controller") {
			n++
		}
	}
	if n < 5 {
		t.Errorf("go list knows %d packages of the controller", n)
	}
}

func TestControllerRulesCanFail(t *testing.T) {
	good := []Package{
		{Path: "vmfr/controller/plan", Imports: []string{"fmt", "k8s.io/api/core/v1", pureClient, "vmfr/api/session", "vmfr/api/v1alpha1"}, Deps: []string{"net/http", "vmfr/api/session"}},
		{Path: "vmfr/controller/velero", Imports: []string{"net/http", "github.com/vmware-tanzu/velero/pkg/apis/velero/v1", "vmfr/api/v1alpha1"}},
		{Path: "vmfr/controller/restore", Imports: []string{"vmfr/controller/plan", "vmfr/controller/velero", "k8s.io/client-go/tools/events"}},
		{Path: "vmfr/controller", Imports: []string{"os", "vmfr/controller/restore", "vmfr/controller/discovery", "vmfr/controller/plan"}},
	}
	if v := ControllerViolations(good); len(v) > 0 {
		t.Fatalf("allowed imports are flagged: %v", v)
	}
	for _, c := range []struct{ from, imports, deps, want string }{
		{"vmfr/controller/plan", "vmfr/controller/velero", "", "neighbour"},
		{"vmfr/controller/plan", "k8s.io/client-go/rest", "", "computed, not fetched"},
		{"vmfr/controller/plan", "sigs.k8s.io/controller-runtime", "", "computed, not fetched"},
		{"vmfr/controller/plan", "vmfr/controller/restore", "", "the other way"},
		{"vmfr/controller/discovery", "vmfr/controller/restore", "", "neighbour"},
		{"vmfr/controller/discovery", "github.com/vmware-tanzu/velero/pkg/apis/velero/v1", "", "knows Velero"},
		{"vmfr/controller/discovery", "vmfr/agent/session", "", "not of the controller's line"},
		{"vmfr/controller/restore", "", "vmfr/agent/tree", "no guest bytes"},
		{"vmfr/controller/restore", "", "vmfr/test/cluster", "no guest bytes"},
		{"vmfr/controller/cache", "fmt", "", "no place"},
	} {
		p := Package{Path: c.from}
		if c.imports != "" {
			p.Imports = []string{c.imports}
		}
		if c.deps != "" {
			p.Deps = []string{c.deps}
		}
		if v := ControllerViolations(append(append([]Package(nil), good...), p)); len(v) != 1 || !strings.Contains(v[0], c.want) {
			t.Errorf("%s -> %s%s: %v, want %q", c.from, c.imports, c.deps, v, c.want)
		}
	}
}
