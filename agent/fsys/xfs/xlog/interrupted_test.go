package xlog_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"vmfr/agent/extent"
)

// TestInterrupted replays a log over a device that has part of its changes already, as where a
// recovery was interrupted: what the disk has newer must be left alone, and all of it must become
// what the kernel makes of it.
func TestInterrupted(t *testing.T) {
	for _, v := range variants {
		switch v.name { // those whose buffers never lie across a multiple of 16 KiB
		case "4k", "rmapbt", "wrapped":
		default:
			continue
		}
		t.Run(v.name, func(t *testing.T) {
			m := dirtyImage(t, 32<<20, v.mkfs, v.flush, v.load)
			ours, _, err := m.replay()
			if err != nil {
				t.Fatal(err)
			}
			done := make([]byte, len(m.b))
			if _, err := extent.ReadFull(ours, done, 0); err != nil {
				t.Fatal(err)
			}
			for percent := 100; percent > 0; percent -= 40 {
				rng := rand.New(rand.NewPCG(uint64(percent), 1))
				n := m.clone()
				const unit = 16 << 10 // buffers are written as a whole, and none here is larger or lies across
				for at := 0; at < len(n.b); at += unit {
					if rng.IntN(100) < percent {
						copy(n.b[at:], done[at:min(at+unit, len(done))])
					}
				}
				again, report, err := n.replay()
				if err != nil {
					t.Fatalf("%d%%: %v", percent, err)
				}
				if report.Skipped == 0 {
					t.Errorf("%d%%: nothing was skipped: this test shows nothing", percent)
				}
				b := make([]byte, len(n.b))
				if _, err := extent.ReadFull(again, b, 0); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(b, done) {
					t.Errorf("%d%%: the second replay gives something else", percent)
				}
				kernel, ok := kernelReplay(t, n)
				if !ok {
					t.Fatalf("%d%%: the kernel does not mount it", percent)
				}
				if at := difference(t, n, kernel, again, report); at >= 0 {
					t.Errorf("%d%%: the sector at byte %d differs from the kernel's", percent, at)
				}
				t.Logf("%d%%: %s, %d skipped", percent, report, report.Skipped)
			}
		})
	}
}
