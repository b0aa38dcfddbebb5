package velero

import (
	"fmt"
	"path"
	"slices"
	"strings"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"k8s.io/apimachinery/pkg/types"
)

// virtualMachines is the resource that a backup must have been told to hold.
const virtualMachines = "virtualmachines.kubevirt.io"

// filters are the parts of a backup's specification that can exclude a virtual machine. Label
// selectors are not among them: they cannot be decided without the object.
type filters struct {
	namespaces, notNamespaces []string
	resources, notResources   []string
	scoped, notScoped         []string // of resources that live in namespaces
}

func filtersOf(s *velerov1.BackupSpec) filters {
	return filters{
		namespaces: s.IncludedNamespaces, notNamespaces: s.ExcludedNamespaces,
		resources: s.IncludedResources, notResources: s.ExcludedResources,
		// The lists for cluster-scoped resources say nothing about a virtual machine.
		scoped: s.IncludedNamespaceScopedResources, notScoped: s.ExcludedNamespaceScopedResources,
	}
}

// Excludes returns why the backup's specification rules the virtual machine out, or "" where it
// does not: then only the contents can tell. Where a pattern cannot be decided here it does not
// rule out.
func (b Backup) Excludes(vm types.NamespacedName) string {
	f := b.filters
	switch {
	case !included(f.namespaces, vm.Namespace, matchName):
		return fmt.Sprintf("the backup does not include the namespace %s (spec.includedNamespaces)", vm.Namespace)
	case excluded(f.notNamespaces, vm.Namespace, matchName):
		return fmt.Sprintf("the backup excludes the namespace %s (spec.excludedNamespaces)", vm.Namespace)
	case !included(f.resources, virtualMachines, matchResource):
		return "the backup does not include virtual machines (spec.includedResources)"
	case excluded(f.notResources, virtualMachines, matchResource):
		return "the backup excludes virtual machines (spec.excludedResources)"
	case !included(f.scoped, virtualMachines, matchResource):
		return "the backup does not include virtual machines (spec.includedNamespaceScopedResources)"
	case slices.Contains(f.notScoped, "*"), excluded(f.notScoped, virtualMachines, matchResource):
		return "the backup excludes virtual machines (spec.excludedNamespaceScopedResources)"
	}
	return ""
}

// match is what a pattern says about a name.
type match int

const (
	no match = iota
	yes
	unknown
)

// included tells whether a list of patterns may include a name; an empty list includes all.
func included(patterns []string, name string, m func(pattern, name string) match) bool {
	if len(patterns) == 0 {
		return true
	}
	return slices.ContainsFunc(patterns, func(p string) bool { return p == "*" || m(p, name) != no })
}

// excluded tells whether a list of patterns surely excludes a name. Velero ignores a lone "*".
func excluded(patterns []string, name string, m func(pattern, name string) match) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return p != "*" && m(p, name) == yes })
}

// matchName matches Velero's glob patterns as far as path.Match knows them; alternatives in
// braces are beyond it.
func matchName(pattern, name string) match {
	ok, err := path.Match(pattern, name)
	switch {
	case err != nil, strings.ContainsRune(pattern, '{'):
		return unknown
	case ok:
		return yes
	}
	return no
}

// matchResource matches what users call a resource: its plural, singular or short name, in any
// case, with or without the group. Velero resolves these by the cluster's discovery.
func matchResource(pattern, resource string) match {
	pattern = strings.ToLower(pattern)
	name, group, _ := strings.Cut(pattern, ".")
	if slices.Contains([]string{"virtualmachines", "virtualmachine", "vm", "vms"}, name) && (group == "" || group == "kubevirt.io") {
		return yes
	}
	return matchName(pattern, resource)
}
