package guest

import (
	"os"
	"testing"

	"vmfr/test/fixture"
)

// TestStates: both states are whole machines, and differ in what the work changed.
func TestStates(t *testing.T) {
	if testing.Short() {
		t.Skip("makes two machines of 600 MiB")
	}
	g := New(t)
	before := g.State(t)
	g.Change(t, g.Work)
	after := g.State(t)

	for _, name := range []string{Small, Report, "data/load", "srv/load"} {
		if _, ok := before.Files[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	if b := after.Files[Big]; b.Size != BigSize || len(b.Data) != int(BigSize/(16*mib)) {
		t.Errorf("%s has %d bytes in %d pieces", Big, b.Size, len(b.Data))
	}
	if before.Files[Report].SHA256 == after.Files[Report].SHA256 {
		t.Error("the report did not change")
	}
	for name, in := range map[string][2]bool{Deleted: {true, false}, Created: {false, true}, Big: {false, true}} {
		_, b := before.Files[name]
		_, a := after.Files[name]
		if [2]bool{b, a} != in {
			t.Errorf("%s is there before: %v, after: %v", name, b, a)
		}
	}
	if n := len(before.Files); n < 300 || len(after.Files) < n+300 {
		t.Errorf("%d files before, %d after", n, len(after.Files))
	}
	for _, s := range []State{before, after} {
		fixture.Run(t, "qemu-img", "check", "-q", s.Root)
		if st, err := os.Stat(s.Data); err != nil || st.Size() != DataSize {
			t.Errorf("%s: %v, %v", s.Data, st, err)
		}
	}
}
