//go:build guestfs

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/test/fixture"
)

// TestServeAppliance: what only libguestfs reads is served by serve, from a worker in the sandbox and
// a helper in its jail.
func TestServeAppliance(t *testing.T) {
	fixture.NeedRoot(t)
	fixture.Need(t, "curl")
	d := makeGuestDisks(t)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(passphrase+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := command(t, "serve", "--json", "--sandbox", "on", "--listen-ssh", "off", "--listen-https", "127.0.0.1:0", "--state", filepath.Join(t.TempDir(), "state"),
		"--log-level", "debug", "--guestfs", guestfsProgram(t, "guestfs"), "--key-file", "luks="+key, "--disk", "b/btrfs="+d.btrfs, "--disk", "b/luks="+d.luks2, "--disk", "b/locked="+d.locked)
	c.Env = append(c.Env, "LIBGUESTFS_PATH="+appliance(t))
	s := serveCommandLine(t, c)
	if !s.Sandbox.On {
		t.Fatalf("it says %+v of the sandbox", s.Sandbox)
	}
	patience := []string{"--max-time", strconv.Itoa(int(bootPatience.Seconds()))}
	for _, disk := range []string{"btrfs", "luks"} {
		if got, err := s.curl("/files/backups/b/"+disk+"/file", patience...); err != nil || !bytes.Equal([]byte(got), d.content) {
			t.Fatalf("%s: %d of %d bytes, %v", disk, len(got), len(d.content), err)
		}
	}
	if text, err := s.curl("/files/backups/b/locked/ERROR.txt"); err != nil || !strings.Contains(text, "--key-file") {
		t.Errorf("a disk without its key: %q, %v", text, err)
	}
	pid := s.cmd.Process.Pid
	confinedHelper(t, pid, strconv.Itoa(firstUID+helperUIDs+pid))

	// With its worker the helper ends, and all that it started.
	worker, err := strconv.Atoi(workerOf(t, s))
	if err != nil {
		t.Fatal(err)
	}
	helper, qemu := helpers(pid)
	if err := unix.Kill(worker, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if running(qemu) || running(helper) {
			return fmt.Errorf("helper %d and qemu %d outlive the worker", helper, qemu)
		}
		return nil
	})
	if text, err := s.curl("/files/README.txt", "--retry", "9", "--retry-all-errors", "--retry-delay", "1"); err != nil || text == "" {
		t.Errorf("after the worker's death: %q, %v", text, err)
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if text := s.stderr.String(); strings.Contains(text, passphrase) || !strings.Contains(text, "an appliance starts") {
		t.Errorf("the log:\n%s", text)
	}
}
