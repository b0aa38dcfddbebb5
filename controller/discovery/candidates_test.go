package discovery

import (
	"strings"
	"testing"
	"time"

	"vmfr/api/v1alpha1"
	"vmfr/controller/velero"
)

func parsed(t *testing.T, s string) time.Time {
	t.Helper()
	m, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCandidates(t *testing.T) {
	t.Parallel()
	var all []velero.Backup
	for name, at := range map[string]string{ // a map: the order is not given
		"b": "2026-04-02T00:00:00Z", "a": "2026-04-02T23:59:59Z", "d": "2026-04-01T12:00:00Z", "c": "2026-04-03T00:00:00Z", "e": "2026-04-03T00:00:00Z",
	} {
		all = append(all, velero.Backup{Name: name, Taken: parsed(t, at)})
	}
	day := func(s string) *v1alpha1.Time { return new(v1alpha1.Time(s)) }
	type spec = v1alpha1.VirtualMachineBackupsDiscoverySpec
	type ranges = []v1alpha1.TimeRange
	for name, c := range map[string]struct {
		spec            spec
		chosen, missing string
	}{
		"neither":            {spec{}, "d b a c e", ""},
		"first changes none": {spec{IncludeFirst: true}, "d b a c e", ""},
		"only names":         {spec{RequestedBackups: []string{"c", "x", "d", "c", "w"}}, "d c", "w x"},
		"a day":              {spec{StartTime: day("2026-04-02"), EndTime: day("2026-04-02")}, "b a", ""},
		"from":               {spec{StartTime: day("2026-04-02T00:00:01Z")}, "a c e", ""},
		"to, the end counts": {spec{EndTime: day("2026-04-02T00:00:00Z")}, "d b", ""},
		"midnight is no day": {spec{EndTime: day("2026-04-02T00:00:00+00:00")}, "d b", ""},
		"a zone":             {spec{StartTime: day("2026-04-03T02:00:00+02:00")}, "c e", ""},
		"both":               {spec{RequestedBackups: []string{"e", "x"}, EndTime: day("2026-04-01")}, "d e", "x"},
		"ranges":             {spec{TimeRanges: ranges{{EndTime: day("2026-04-01")}, {StartTime: day("2026-04-03")}}}, "d c e", ""},
		"range and ranges":   {spec{StartTime: day("2026-04-03"), TimeRanges: ranges{{EndTime: day("2026-04-01")}}}, "d c e", ""},
		"overlapping":        {spec{TimeRanges: ranges{{EndTime: day("2026-04-02")}, {StartTime: day("2026-04-01")}}}, "d b a c e", ""},
		"none":               {spec{EndTime: day("2020-01-01")}, "", ""},
	} {
		s, err := selectionOf(&c.spec)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		chosen, missing := s.candidates(all)
		var names []string
		for _, b := range chosen {
			names = append(names, b.Name)
		}
		if got := strings.Join(names, " "); got != c.chosen || strings.Join(missing, " ") != c.missing {
			t.Errorf("%s: %q, missing %q, want %q, %q", name, got, missing, c.chosen, c.missing)
		}
	}
	for _, bad := range []spec{{StartTime: day("yesterday")}, {EndTime: day("2026-02-30")}, {TimeRanges: ranges{{StartTime: day("2026-04-02"), EndTime: day("2026-04-01")}}}} {
		if _, err := selectionOf(&bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
