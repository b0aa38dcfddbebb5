package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"vmfr/test/fixture"
)

// TestRsyncAndAudit runs serve as a user does: rsync from its jail, a line for each event, and
// nothing left behind after SIGKILL.
func TestRsyncAndAudit(t *testing.T) {
	fixture.NeedRoot(t)
	fixture.Need(t, "rsync", "ssh")
	records := filepath.Join(t.TempDir(), "audit.jsonl")
	s := serve(t, "--sample", "--audit-log", records)
	host, port := s.host()
	dst := t.TempDir()
	out, err := exec.Command("rsync", "-aHAXS", "--numeric-ids", "-e", "ssh -F none -p "+port+" -i "+s.SSH.IdentityFile+" -o IdentitiesOnly=yes -o UserKnownHostsFile="+s.SSH.KnownHostsFile,
		s.SSH.User+"@"+host+":/README.txt", dst).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if b, err := os.ReadFile(filepath.Join(dst, "README.txt")); err != nil || len(b) == 0 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(records)
		if err != nil {
			t.Fatal(err)
		}
		if text := string(b); strings.Contains(text, `"event":"login"`) && strings.Contains(text, `"event":"run"`) && strings.Contains(text, `"exit":0`) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no line for the run:\n%s", b)
		}
	}
	started := children(t, s.cmd.Process.Pid)
	if len(started) != 2 { // the worker and the jail's starter
		t.Errorf("%d children", len(started))
	}
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.wait()
	for _, pid := range started {
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			state, err := os.ReadFile("/proc/" + pid + "/stat")
			if err != nil || strings.Contains(string(state), ") Z ") {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("process %s is left behind", pid)
			}
		}
	}
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(b), "/run/tree") {
		t.Errorf("a mount is left behind: %v", err)
	}
}

// children are the processes that pid started.
func children(t *testing.T, pid int) []string {
	t.Helper()
	out, err := exec.Command("ps", "-o", "pid=", "--ppid", strconv.Itoa(pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

func TestSSHFlagErrors(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(bad, []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"--ssh-idle-timeout":           {"--ssh-idle-timeout", "-5s"},
		"--trusted-user-ca":            {"--trusted-user-ca", "/nonexistent"},
		"line 1: not a public key":     {"--trusted-user-ca", bad},
		"--audit-log":                  {"--audit-log", "/nonexistent/x"},
		"standard output is for one l": {"--audit-log", "-", "--json"},
	} {
		r := call(t, append([]string{"serve", "--sample", "--listen-ssh", "127.0.0.1:0", "--listen-https", "off"}, args...)...)
		if r.code == 0 || !strings.Contains(r.stderr, want) || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("%q: %d %q", args, r.code, r.stderr)
		}
	}
	if r := call(t, "jail"); r.code != 2 || !strings.Contains(r.stderr, "own use") {
		t.Errorf("jail: %d %q", r.code, r.stderr)
	}
}
