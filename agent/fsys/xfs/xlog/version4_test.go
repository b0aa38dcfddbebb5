package xlog_test

import (
	"testing"

	"vmfr/agent/extent"
)

// TestVersion4 has a log of version 4, which today's kernels do not mount any more. Linux 6.1 made
// the image in libguestfs' appliance: 420 creations, removals, renames, links, attributes and
// writes through guestfish, after which its qemu was killed. v4-recovered is a copy that the same
// kernel has mounted and unmounted.
func TestVersion4(t *testing.T) {
	m, kernel := stored(t, "v4"), stored(t, "v4-recovered")
	if m.g.V5 {
		t.Fatal("the image is of version 5")
	}
	ours, report, err := m.replay()
	if err != nil {
		t.Fatal(err)
	}
	if report.Transactions < 7 || report.Buffers < 100 || report.Inodes < 300 {
		t.Errorf("%+v: too little for this test", report)
	}
	if at := difference(t, m, kernel, ours, report); at >= 0 {
		t.Errorf("the sector at byte %d differs from the kernel's", at)
	}
	if difference(t, m, kernel, extent.Bytes(m.b), report) < 0 {
		t.Error("nothing differs without the replay: this test shows nothing")
	}
	if _, report, err := kernel.replay(); err != nil || report.Dirty {
		t.Errorf("the recovered image: %+v, %v", report, err)
	}
}
