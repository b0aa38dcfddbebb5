package discovery

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"vmfr/api/v1alpha1"
	"vmfr/controller/velero"
)

// selection is which backups a specification asks for.
type selection struct {
	names  map[string]bool
	ranges []timeRange
	first  bool // the oldest that holds the virtual machine, too
}

// timeRange includes both its ends; a zero end is open.
type timeRange struct{ from, to time.Time }

func (r timeRange) holds(t time.Time) bool {
	return !t.Before(r.from) && (r.to.IsZero() || !t.After(r.to))
}

// selectionOf reads a specification. Its error is for the user.
func selectionOf(spec *v1alpha1.VirtualMachineBackupsDiscoverySpec) (selection, error) {
	s := selection{names: map[string]bool{}, first: spec.IncludeFirst}
	for _, n := range spec.RequestedBackups {
		s.names[n] = true
	}
	ranges := spec.TimeRanges
	if spec.StartTime != nil || spec.EndTime != nil {
		ranges = append([]v1alpha1.TimeRange{{StartTime: spec.StartTime, EndTime: spec.EndTime}}, ranges...)
	}
	for _, r := range ranges {
		from, err := moment(r.StartTime, "T00:00:00Z")
		if err != nil {
			return s, err
		}
		to, err := moment(r.EndTime, "T23:59:59Z")
		if err != nil {
			return s, err
		}
		if !to.IsZero() && from.After(to) {
			return s, fmt.Errorf("startTime %s is after endTime %s", *r.StartTime, *r.EndTime)
		}
		s.ranges = append(s.ranges, timeRange{from, to})
	}
	return s, nil
}

// moment is a time of the specification; a day alone means its given time. None is zero.
func moment(t *v1alpha1.Time, ofDay string) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	text := string(*t)
	if len(text) == len(time.DateOnly) {
		text += ofDay
	}
	m, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is no time: use YYYY-MM-DD or RFC 3339, such as 2026-04-12T22:00:00Z", string(*t))
	}
	return m, nil
}

// candidates chooses from all backups, oldest first, and returns the names that were asked for and
// do not exist.
func (s selection) candidates(all []velero.Backup) (chosen []velero.Backup, missing []string) {
	exists := make(map[string]bool, len(s.names))
	for _, b := range all {
		if s.names[b.Name] {
			exists[b.Name] = true
		}
		if s.chooses(b) {
			chosen = append(chosen, b)
		}
	}
	sortByTime(chosen)
	for n := range s.names {
		if !exists[n] {
			missing = append(missing, n)
		}
	}
	slices.Sort(missing)
	return chosen, missing
}

func (s selection) chooses(b velero.Backup) bool {
	if s.names[b.Name] || len(s.names) == 0 && len(s.ranges) == 0 {
		return true
	}
	return slices.ContainsFunc(s.ranges, func(r timeRange) bool { return r.holds(b.Taken) })
}

// sortByTime sorts oldest first; equal times by name.
func sortByTime(b []velero.Backup) {
	slices.SortFunc(b, func(x, y velero.Backup) int {
		return cmp.Or(x.Taken.Compare(y.Taken), strings.Compare(x.Name, y.Name))
	})
}
