package velero

import (
	"strings"
	"testing"
	"time"

	velerov1 "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestExcludes(t *testing.T) {
	t.Parallel()
	type spec = velerov1.BackupSpec
	for name, c := range map[string]struct {
		spec spec
		want string // the field that excludes; empty: not excluded
	}{
		"everything":              {spec{}, ""},
		"the namespace":           {spec{IncludedNamespaces: []string{"bank", "shop"}}, ""},
		"all namespaces":          {spec{IncludedNamespaces: []string{"*"}}, ""},
		"a pattern":               {spec{IncludedNamespaces: []string{"sh*"}}, ""},
		"another pattern":         {spec{IncludedNamespaces: []string{"b*"}}, "includedNamespaces"},
		"alternatives":            {spec{IncludedNamespaces: []string{"{bank,shop}"}}, ""},
		"a broken pattern":        {spec{IncludedNamespaces: []string{"[sh"}}, ""},
		"another namespace":       {spec{IncludedNamespaces: []string{"shop2"}}, "includedNamespaces"},
		"not the namespace":       {spec{ExcludedNamespaces: []string{"shop"}}, "excludedNamespaces"},
		"not alternatives":        {spec{ExcludedNamespaces: []string{"{bank,shop}"}}, ""},
		"the resource":            {spec{IncludedResources: []string{"pods", "virtualmachines.kubevirt.io"}}, ""},
		"the kind":                {spec{IncludedResources: []string{"VirtualMachine"}}, ""},
		"a short name":            {spec{IncludedResources: []string{"vm"}}, ""},
		"the plural":              {spec{IncludedResources: []string{"virtualmachines"}}, ""},
		"all resources":           {spec{IncludedResources: []string{"*"}}, ""},
		"other resources":         {spec{IncludedResources: []string{"pods", "virtualmachineinstances.kubevirt.io", "virtualmachines.example.com"}}, "includedResources"},
		"not the resource":        {spec{ExcludedResources: []string{"virtualmachines"}}, "excludedResources"},
		"not others":              {spec{ExcludedResources: []string{"pods", "vmi", "*"}}, ""},
		"scoped":                  {spec{IncludedNamespaceScopedResources: []string{"vms"}}, ""},
		"other scoped":            {spec{IncludedNamespaceScopedResources: []string{"pods"}}, "includedNamespaceScopedResources"},
		"not scoped":              {spec{ExcludedNamespaceScopedResources: []string{"virtualmachines.kubevirt.io"}}, "excludedNamespaceScopedResources"},
		"none scoped":             {spec{ExcludedNamespaceScopedResources: []string{"*"}}, "excludedNamespaceScopedResources"},
		"cluster-scoped":          {spec{IncludedClusterScopedResources: []string{"persistentvolumes"}, ExcludedClusterScopedResources: []string{"*"}}, ""},
		"labels cannot decide":    {spec{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}, ""},
		"labels cannot decide or": {spec{OrLabelSelectors: []*metav1.LabelSelector{{}}}, ""},
	} {
		got := BackupOf(&velerov1.Backup{Spec: c.spec}).Excludes(guest)
		if (got == "") != (c.want == "") || !strings.Contains(got, "spec."+c.want) && c.want != "" {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestBackupOf(t *testing.T) {
	t.Parallel()
	at := func(h int) *metav1.Time { return &metav1.Time{Time: time.Date(2026, 4, 1, h, 0, 0, 0, time.UTC)} }
	o := &velerov1.Backup{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: *at(9)}}
	for _, c := range []struct {
		edit  func()
		taken int
		phase string
	}{
		{func() {}, 9, "New"},
		{func() { o.Status.StartTimestamp = at(7); o.Status.Phase = "InProgress" }, 7, "InProgress"},
		{func() { o.Status.CompletionTimestamp = at(8); o.Status.Phase = "Completed" }, 8, "Completed"},
		{func() { o.DeletionTimestamp = at(10) }, 8, "Deleting"},
	} {
		c.edit()
		if b := BackupOf(o); b.Taken.Hour() != c.taken || b.Phase != c.phase || b.Completed() != (c.phase == "Completed") {
			t.Errorf("%+v, want %+v", b, c)
		}
	}
	o.Status.BackupItemOperationsAttempted, o.Status.BackupItemOperationsCompleted, o.Status.BackupItemOperationsFailed = 5, 2, 1
	o.Status.ValidationErrors = []string{"a", "b"}
	if b := BackupOf(o); b.OpenOperations != 2 || b.Failure != "a; b" {
		t.Errorf("%+v", b)
	}
}
