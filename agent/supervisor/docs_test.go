package supervisor

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestMonitoring compares docs/monitoring.md with what is exported, both ways.
func TestMonitoring(t *testing.T) {
	ch := make(chan *prometheus.Desc, 256)
	newMetrics(&Supervisor{}).registry.Describe(ch)
	(&places{}).Describe(ch)
	close(ch)
	name := regexp.MustCompile(`vmfr_node_[a-z_]+`)
	var exported []string
	for d := range ch {
		if n := name.FindString(d.String()); n != "" {
			exported = append(exported, n)
		}
	}
	b, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "| `") {
			rows = append(rows, name.FindAllString(line, -1)...)
		}
	}
	for _, n := range exported {
		if !slices.Contains(rows, n) {
			t.Errorf("docs/monitoring.md has no row for %s", n)
		}
	}
	for _, n := range name.FindAllString(string(b), -1) {
		if base := strings.TrimSuffix(n, "_bucket"); !slices.Contains(exported, base) {
			t.Errorf("docs/monitoring.md speaks of %s, which is not exported", n)
		}
	}
	if len(exported) < 15 {
		t.Errorf("%d metrics: is the expression still right?", len(exported))
	}
}
