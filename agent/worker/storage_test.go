package worker

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestStorage: a disk is told when a read of it has waited for long, and when none does any more; the
// reads of others change nothing.
func TestStorage(t *testing.T) {
	var log bytes.Buffer
	s := newStorage([]Backup{{Name: "b", Disks: []Disk{{Name: "one"}, {Name: "two"}}}}, slog.New(slog.NewTextHandler(&log, nil)))
	begin := time.Now()
	look := func(after time.Duration, changed bool, want string) {
		t.Helper()
		s.disks[1].reads.Begin().End()
		if got := s.look(begin.Add(after)); got != changed {
			t.Errorf("after %v: changed %v", after, got)
		}
		if text := StallText(s.stalled()); !strings.HasPrefix(text, want) || (text == "") != (want == "") {
			t.Errorf("after %v: %q, want %q", after, text, want)
		}
	}
	read := s.disks[0].reads.Begin()
	look(0, false, "")
	look(stallAfter-1, false, "")
	if oldest, n := s.waiting(); oldest < 0 || n != 0 {
		t.Errorf("it waits for %v, %d disks", oldest, n)
	}
	look(stallAfter, true, "the storage of disk b/one has not answered since ")
	look(2*stallAfter, false, "the storage of disk b/one has not answered since ")
	if _, n := s.waiting(); n != 1 || s.snapshot()[0].n != 1 || s.snapshot()[1].n != 0 {
		t.Errorf("%d disks, %+v", n, s.snapshot())
	}
	read.End()
	look(2*stallAfter+1, true, "")
	if oldest, n := s.waiting(); oldest != 0 || n != 0 {
		t.Errorf("it waits for %v, %d disks", oldest, n)
	}
	for _, line := range []string{"storage does not answer", "storage answers again"} {
		if strings.Count(log.String(), line) != 1 {
			t.Errorf("%q is not told once:\n%s", line, log.String())
		}
	}
	// Threads are bounded, and every disk has some.
	for disks, want := range map[int]int{1: diskReads, 64: allReads / 64, 4096: leastReads} {
		if got := readsOf(disks); got != want {
			t.Errorf("%d disks: %d reads each, want %d", disks, got, want)
		}
	}
}
