package imports

import (
	"fmt"
	"sort"
	"strings"
)

// velero is where all of Velero's packages are; types is what of them is only the API's.
const (
	velero      = "github.com/vmware-tanzu/"
	veleroTypes = velero + "velero/pkg/apis/"
)

// rooms says which of the controller's rooms may import which others; main may import all.
var rooms = map[string][]string{
	"controller/velero":              nil,
	"controller/plan/authorizedkeys": nil,
	"controller/plan":                {"controller/plan/authorizedkeys"},
	"controller/discovery":           {"controller/velero"},
	"controller/restore":             {"controller/velero", "controller/plan"},
}

// ControllerViolations is Violations for the controller's packages.
func ControllerViolations(packages []Package) []string {
	var bad []string
	for _, p := range packages {
		path, ours := strings.CutPrefix(p.Path, module)
		if !ours || !strings.HasPrefix(path+"/", "controller/") {
			continue
		}
		for _, dep := range p.Deps {
			for _, guest := range []string{"agent", "fusefs", "sshd", "api/files"} {
				if strings.HasPrefix(dep+"/", module+guest+"/") {
					bad = append(bad, fmt.Sprintf("%s depends on %s: the controller touches no guest's byte", path, dep))
				}
			}
		}
		allowed, room := rooms[path]
		if !room && path != "controller" {
			bad = append(bad, fmt.Sprintf("%s is no room of the controller: add it to rooms and to ARCHITECTURE.md", path))
		}
		for _, imp := range p.Imports {
			to, local := strings.CutPrefix(imp, module)
			switch {
			case local && room && strings.HasPrefix(to, "controller/") && !oneOf(to, allowed):
				bad = append(bad, fmt.Sprintf("%s imports %s, which is not below it", path, to))
			case !strings.HasPrefix(imp, velero):
			case path != "controller/velero" && path != "controller/restore":
				bad = append(bad, fmt.Sprintf("%s imports %s: controller/velero knows Velero", path, imp))
			case !strings.HasPrefix(imp, veleroTypes):
				bad = append(bad, fmt.Sprintf("%s imports %s: Velero's types are enough, its programs bring half of the cloud", path, imp))
			}
		}
	}
	sort.Strings(bad)
	return bad
}
