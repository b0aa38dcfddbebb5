package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"vmfr/test/fixture"
)

// slowRead starts curl at a limited rate and returns it when bytes have arrived.
func slowRead(t *testing.T, s *server, rate, url string) (*exec.Cmd, io.Reader) {
	t.Helper()
	password, err := os.ReadFile(s.HTTPS.PasswordFile)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "curl", "-sf", "--noproxy", "*", "--limit-rate", rate, "--cacert", s.HTTPS.CAFile,
		"-u", s.HTTPS.User+":"+strings.TrimSpace(string(password)), s.HTTPS.URL+url)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(out, first); err != nil {
		t.Fatal(err)
	}
	return cmd, io.MultiReader(bytes.NewReader(first), out)
}

// TestTermination: a transfer that can end in time does, one that cannot is cut off, and the
// mount is gone either way, although a file on it is open.
func TestTermination(t *testing.T) {
	fixture.Need(t, "curl")
	const size = 24 << 20
	path, want := bigDisk(t, size)
	tests := []struct {
		name  string
		rate  string
		whole bool
	}{
		{"a transfer of two seconds", "12M", true},
		{"a transfer that takes too long", "1600k", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := mountpoint(t)
			s := serve(t, "--disk", "b/d="+path+",format=raw", "--mount", dir)
			held, err := os.Open(dir + "/disks/b/d.raw")
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()
			cmd, out := slowRead(t, s, test.rate, "/files/disks/b/d.raw")
			got := make(chan []byte)
			go func() {
				b, _ := io.ReadAll(out)
				got <- b
			}()
			start := time.Now()
			if code := s.stop(); code != 0 {
				t.Errorf("exit code %d\n%s", code, s.stderr)
			}
			took := time.Since(start)
			b := <-got
			err = cmd.Wait()
			if took > 10*time.Second {
				t.Errorf("ending took %v, want at most 10 s", took)
			}
			if whole := err == nil && sum(b) == want; whole != test.whole {
				t.Errorf("whole: %v (%d bytes, %v), want %v", whole, len(b), err, test.whole)
			}
			if !test.whole && err == nil {
				t.Error("curl took a cut-off transfer for a whole one")
			}
			if mounted(t, dir) {
				t.Error("still mounted")
			}
		})
	}
}

// TestSecondSignal ends the program at once.
func TestSecondSignal(t *testing.T) {
	fixture.Need(t, "curl")
	path, _ := bigDisk(t, 8<<20)
	s := serve(t, "--disk", "b/d="+path+",format=raw")
	cmd, out := slowRead(t, s, "100k", "/files/disks/b/d.raw")
	go func() { _, _ = io.Copy(io.Discard, out) }()
	// The second signal counts when the first was noticed: the port no longer answers.
	start := time.Now()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := s.curl("/healthz", "--max-time", "1"); err != nil {
			break
		}
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := s.wait(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("ended after %v", took)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}
