// Package imports checks who may import whom (ARCHITECTURE.md): data flows one way, from the
// image to the front ends, and no package can reach round its neighbour.
//
// Non-goal: style. The same rules stand in .golangci.yml, where an editor shows them; this
// package also sees what is imported transitively, which a linter does not.
package imports

import (
	"fmt"
	"sort"
	"strings"
)

// Package is what the rules need to know of one package.
type Package struct {
	Path     string
	Standard bool
	Imports  []string // direct, without tests'
	Deps     []string // direct and transitive
}

// layer is a column of ARCHITECTURE.md's line; a package may import those of the columns to
// the left of its own. Where a column's packages need each other, peers says who needs whom.
type layer struct {
	name     string
	packages []string // import paths; a trailing "/..." stands for all below, too
	peers    map[string][]string
}

const module = "vmfr/"

// layers from left to right.
var layers = []layer{
	{name: "foundation", packages: []string{"agent/ondisk", "agent/cache", "agent/latency", "agent/mountns", "agent/confine", "api/session"}},
	{name: "bytes", packages: []string{"agent/extent"}},
	{name: "formats", packages: []string{"agent/image", "agent/probe", "agent/volume", "agent/fsys/..."}, peers: map[string][]string{
		// The vocabulary of errors is fsys's; only a signature tells FAT from an MBR.
		"agent/image":    {"agent/fsys"},
		"agent/volume":   {"agent/fsys", "agent/probe"},
		"agent/fsys/...": {"agent/fsys", "agent/fsys/block", "agent/fsys/ext4/jbd2", "agent/fsys/xfs/xlog"},
	}},
	{name: "engine", packages: []string{"agent/engine"}},
	{name: "tree", packages: []string{"agent/tree", "agent/audit"}},
	{name: "front ends", packages: []string{"fusefs/...", "sshd/...", "api/files/..."}},
	{name: "messages", packages: []string{"agent/session"}},
	// libguestfs starts a program and speaks with it over sockets; only main chooses it.
	{name: "appliance", packages: []string{"agent/guestfs/..."}, peers: map[string][]string{
		"agent/guestfs/...": {"agent/guestfs/wire", "agent/guestfs/nbd", "agent/guestfs/sandbox"},
	}},
	{name: "jail", packages: []string{"agent/jail"}},
	{name: "worker", packages: []string{"agent/worker"}},
	// The processes of a node that read no guest's byte: they know Kubernetes, and nothing of disks.
	{name: "node", packages: []string{"agent/incluster", "agent/sandbox", "agent/spawn", "agent/holder", "agent/supervisor"}, peers: map[string][]string{
		"agent/holder": {"agent/incluster"}, "agent/supervisor": {"agent/incluster", "agent/sandbox", "agent/spawn"},
	}},
	{name: "main", packages: []string{"agent", "agent/sample", "internal/cli"}, peers: map[string][]string{"agent": {"agent/sample", "internal/cli"}}},
}

// frontEnds is the index of the layer whose packages must not import image or volume either:
// they see trees only.
const (
	engineLayer   = 3
	treeLayer     = 4
	frontEndLayer = 5
)

// nodeLayer is the index of the layer that knows Kubernetes, and must not import what reads guests.
const nodeLayer = 10

// guestReaders are what interprets guests' bytes.
var guestReaders = []string{module + "agent/extent", module + "agent/image", module + "agent/volume", module + "agent/fsys", module + "agent/tree", module + "agent/worker"}

func isKubernetes(path string) bool {
	return strings.HasPrefix(path, "k8s.io/") || strings.HasPrefix(path, "sigs.k8s.io/") || strings.HasPrefix(path, "github.com/vmware-tanzu/")
}

// behindTree are what a front end must not reach round the tree for.
var behindTree = []string{"agent/image", "agent/probe", "agent/volume", "agent/engine"}

// standardOnly may import the standard library and nothing else.
var standardOnly = []string{"agent/ondisk", "agent/cache", "agent/latency", "api/session"}

// matches tells whether a package of the module is named by pattern.
func matches(pattern, path string) bool {
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == base || strings.HasPrefix(path, base+"/")
	}
	return pattern == path
}

// layerOf returns the layer of a package of the module, without the module's name, or -1 for
// what the line does not mention: tests, benchmarks, fixtures.
func layerOf(path string) int {
	for i, l := range layers {
		for _, p := range l.packages {
			if matches(p, path) {
				return i
			}
		}
	}
	return -1
}

// Violations returns one sentence for each import that breaks a rule, sorted. deps must hold
// every package that the checked ones depend on.
func Violations(packages []Package) []string {
	known := make(map[string]Package, len(packages))
	for _, p := range packages {
		known[p.Path] = p
	}
	var bad []string
	for _, p := range packages {
		path, ours := strings.CutPrefix(p.Path+"/", module)
		path = strings.TrimSuffix(path, "/")
		if at := layerOf(path); ours && at >= 0 {
			bad = append(bad, direct(p, path, at, known)...)
			bad = append(bad, transitive(p, path, at)...)
		}
	}
	sort.Strings(bad)
	return bad
}

// direct checks the import lines of one package.
func direct(p Package, path string, at int, known map[string]Package) []string {
	var bad []string
	for _, imp := range p.Imports {
		to, ours := strings.CutPrefix(imp, module)
		if !ours {
			if oneOf(path, standardOnly) && !known[imp].Standard {
				bad = append(bad, fmt.Sprintf("%s imports %s: it may use the standard library only", path, imp))
			}
			if imp == "unsafe" && at <= treeLayer && path != "agent/confine" { // which gives the kernel addresses, and reads nothing
				bad = append(bad, fmt.Sprintf("%s imports unsafe: it reads what guests wrote", path))
			}
			continue
		}
		switch there := layerOf(to); {
		case oneOf(path, standardOnly):
			bad = append(bad, fmt.Sprintf("%s imports %s: it may use the standard library only", path, to))
		case to == "agent/fsys/fsystest" || strings.HasPrefix(to, "test/"):
			bad = append(bad, fmt.Sprintf("%s imports %s outside its tests", path, to))
		case there < 0:
			bad = append(bad, fmt.Sprintf("%s imports %s, which has no place in the line of packages", path, to))
		case there > at:
			bad = append(bad, fmt.Sprintf("%s (%s) imports %s (%s): data flows the other way", path, layers[at].name, to, layers[there].name))
		case there == at && !peer(layers[at], path, to):
			bad = append(bad, fmt.Sprintf("%s imports %s, its neighbour: both are %s", path, to, layers[at].name))
		case at == frontEndLayer && oneOf(to, behindTree):
			bad = append(bad, fmt.Sprintf("%s imports %s: a front end sees the tree only", path, to))
		case at < engineLayer && strings.HasPrefix(path, "agent/fsys") && oneOf(to, []string{"agent/image", "agent/volume"}):
			bad = append(bad, fmt.Sprintf("%s imports %s: a file system reads an extent.Reader, whatever is below", path, to))
		}
	}
	return bad
}

// transitive checks what a package that reads guests' bytes can reach at all.
func transitive(p Package, path string, at int) []string {
	var bad []string
	for _, dep := range p.Deps {
		switch {
		case at < nodeLayer && isKubernetes(dep):
			bad = append(bad, fmt.Sprintf("%s depends on %s: on the agent's side only holder and supervisor know Kubernetes", path, dep))
		case strings.HasPrefix(dep, "k8s.io/client-go/kubernetes"), strings.HasPrefix(dep, "sigs.k8s.io/controller-runtime"):
			bad = append(bad, fmt.Sprintf("%s depends on %s: it registers every kind there is, in the workers' memory, too", path, dep))
		case at == nodeLayer && oneOf(dep, guestReaders):
			bad = append(bad, fmt.Sprintf("%s depends on %s: holder and supervisor read no guest's byte", path, dep))
		case at > treeLayer || path == "agent/fsys/fsystest":
		case dep == "net" || strings.HasPrefix(dep, "net/"), dep == "os/exec":
			bad = append(bad, fmt.Sprintf("%s depends on %s: what reads guests' bytes opens no connection and starts no program", path, dep))
		case strings.HasPrefix(dep, module+"controller"):
			bad = append(bad, fmt.Sprintf("%s depends on %s: the agent and the controller share nothing", path, dep))
		}
	}
	return bad
}

// peer tells whether from may import to although both are of layer l.
func peer(l layer, from, to string) bool {
	for pattern, allowed := range l.peers {
		if matches(pattern, from) && oneOf(to, allowed) {
			return true
		}
	}
	// A package and its own folders are one room.
	return strings.HasPrefix(to, from+"/") || l.name == "front ends" && room(l, from) == room(l, to)
}

// room is the pattern that names a package in its layer.
func room(l layer, path string) string {
	for _, pattern := range l.packages {
		if matches(pattern, path) {
			return pattern
		}
	}
	return ""
}

func oneOf(s string, list []string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
