package imports

import (
	"strings"
	"testing"
)

func TestController(t *testing.T) {
	all := list(t)
	for _, v := range ControllerViolations(all) {
		t.Error(v)
	}
	found := 0
	for _, p := range all {
		if _, ok := rooms[strings.TrimPrefix(p.Path, module)]; ok && len(p.Deps) > 0 {
			found++
		}
	}
	if found != len(rooms) {
		t.Errorf("%d of %d rooms of the controller exist", found, len(rooms))
	}
}

// TestControllerCanFail adds one forbidden import at a time.
func TestControllerCanFail(t *testing.T) {
	for _, c := range []struct{ from, imports, deps, want string }{
		{"controller/discovery", "", "vmfr/agent/tree", "no guest's byte"},
		{"controller", "", "vmfr/sshd", "no guest's byte"},
		{"controller/velero", "", "vmfr/api/files", "no guest's byte"},
		{"controller/discovery", "vmfr/controller/restore", "", "not below it"},
		{"controller/velero", "vmfr/controller/discovery", "", "not below it"},
		{"controller/discovery", "github.com/vmware-tanzu/velero/pkg/apis/velero/v1", "", "knows Velero"},
		{"controller/plan", "github.com/vmware-tanzu/velero/pkg/apis/velero/v1", "", "knows Velero"},
		{"controller/velero", "github.com/vmware-tanzu/velero/pkg/restore", "", "half of the cloud"},
		{"controller/other", "", "", "no room"},
	} {
		p := Package{Path: module + c.from}
		if c.imports != "" {
			p.Imports = []string{c.imports}
		}
		if c.deps != "" {
			p.Deps = []string{c.deps}
		}
		if v := ControllerViolations([]Package{p}); len(v) != 1 || !strings.Contains(v[0], c.want) {
			t.Errorf("%s -> %s%s: %v, want %q", c.from, c.imports, c.deps, v, c.want)
		}
	}
	good := []Package{{Path: "vmfr/controller", Imports: []string{"vmfr/controller/discovery"}, Deps: []string{"vmfr/api/v1alpha1", "vmfr/api/session"}},
		{Path: "vmfr/controller/restore", Imports: []string{"vmfr/controller/velero", "vmfr/controller/plan", "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"}}}
	if v := ControllerViolations(good); len(v) > 0 {
		t.Error(v)
	}
}
