package jail

import (
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vmfr/test/fixture"
)

// TestLook: a mount that is served is seen, one that nobody answers is not waited for beyond the
// context, also when it is looked at again, and a starter that has ended is an error.
func TestLook(t *testing.T) {
	fixture.NeedRoot(t)
	fixture.Need(t, "rsync")
	program, err := exec.LookPath("rsync")
	if err != nil {
		t.Fatal(err)
	}
	j := startJail(t, program, t.TempDir())
	for range 3 {
		if err := j.Look(t.Context()); err != nil {
			t.Fatalf("a mount that is served: %v", err)
		}
	}

	deaf, err := Start(program) // and nobody serves its device
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	// The starter gets no processor meanwhile: it reads both looks at once.
	_ = deaf.cmd.Process.Signal(unix.SIGSTOP)
	time.AfterFunc(500*time.Millisecond, func() { _ = deaf.cmd.Process.Signal(unix.SIGCONT) })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := deaf.Look(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a mount that nobody serves: %v", err)
	}
	if err := deaf.Look(t.Context()); err == nil {
		t.Error("a second look at a mount that has not answered the first")
	}
	_ = deaf.Device().Close() // the kernel ends the mount, and what waits for it
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := deaf.Look(t.Context())
		if err == nil || time.Now().After(until) {
			t.Fatalf("a mount without a server: %v", err)
		}
		if err.Error() != errLooking.Error() { // it came over a socket
			break
		}
	}
	_ = j.cmd.Process.Kill()
	<-j.Done()
	if err := j.Look(t.Context()); err == nil {
		t.Error("the starter has ended")
	}
}
