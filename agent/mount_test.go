package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/test/fixture"
)

func TestMountCommand(t *testing.T) {
	dir := mountpoint(t)
	s := start(t, "mount", "--sample", dir)
	if !strings.Contains(s.line, "mounted at "+dir+": 2 readable") {
		t.Errorf("ready line %q", s.line)
	}
	b, err := os.ReadFile(filepath.Join(dir, "backups/nightly-0412/rootdisk/etc/hostname"))
	if err != nil || string(b) != "webshop\n" {
		t.Errorf("hostname %q, %v", b, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); err == nil {
		t.Error("a file could be made")
	}
	if code := s.stop(); code != 0 || mounted(t, dir) {
		t.Errorf("exit code %d, mounted %v", code, mounted(t, dir))
	}
}

// TestUnmountedByOthers: mount ends, serve goes on with its other front ends.
func TestUnmountedByOthers(t *testing.T) {
	fixture.Need(t, "umount", "curl")
	dir := mountpoint(t)
	s := start(t, "mount", "--sample", dir)
	fixture.Run(t, "umount", dir)
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d\n%s", code, s.stderr)
	}
	dir = mountpoint(t)
	s = serve(t, "--sample", "--mount", dir)
	fixture.Run(t, "umount", dir)
	if _, err := s.curl("/files/README.txt"); err != nil {
		t.Error(err)
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d\n%s", code, s.stderr)
	}
}
