package spawn

import (
	"os/exec"
	"testing"
)

// TestEnded tells a person why a helper ended.
func TestEnded(t *testing.T) {
	killed := exec.Command("sleep", "60")
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	_ = killed.Process.Kill()
	failed := exec.Command("false")
	for _, c := range []struct {
		got, want string
	}{
		{ended(nil, nil), ""},
		{ended(killed.Wait(), killed.ProcessState), "it was killed (killed)"},
		{ended(failed.Run(), failed.ProcessState), "exit status 1"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}
