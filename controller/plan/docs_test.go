package plan

import (
	"os"
	"strings"
	"testing"
)

// TestDocs compares docs/objects.md with the objects, both ways.
func TestDocs(t *testing.T) {
	b, err := os.ReadFile("../../docs/objects.md")
	if err != nil {
		t.Fatal(err)
	}
	table, _, _ := strings.Cut(string(b), "\n## ")
	documented := map[string]bool{}
	for _, line := range strings.Split(table, "\n") {
		if cells := strings.Split(line, "|"); len(cells) > 2 && strings.Contains(cells[1], "`") {
			documented[strings.TrimSpace(cells[1])] = false
		}
	}
	for _, c := range goldenCases() {
		p := c.plan(t)
		for _, o := range p.Objects() {
			name := o.GetName()
			for i := range c.in.Backups {
				if name == p.Names.BackupNamespace(c.in.Backups[i].Number) {
					name = "<session>-<n>"
				}
			}
			if name == p.Names.Session {
				name = "<session>"
			}
			row := o.GetObjectKind().GroupVersionKind().Kind + " `" + strings.ReplaceAll(name, p.Names.Suffix, "<suffix>") + "`"
			if _, ok := documented[row]; !ok {
				t.Errorf("docs/objects.md has no row for %s", row)
			}
			documented[row] = true
		}
	}
	for row, made := range documented {
		if !made {
			t.Errorf("docs/objects.md has a row for %s, which no plan makes", row)
		}
	}
	for _, o := range AdmissionPolicies(testController) {
		if !strings.Contains(string(b), "`"+o.GetName()+"`") {
			t.Errorf("docs/objects.md does not name %s", o.GetName())
		}
	}
}
