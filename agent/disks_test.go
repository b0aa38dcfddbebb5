package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/test/fixture"
)

// TestDirectory: --dir takes images, and nothing that lies outside of it.
func TestDirectory(t *testing.T) {
	fixture.Need(t, "qemu-img", "curl")
	img, root := guest(t), t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside.raw")
	b := filepath.Join(root, "monday")
	if err := os.MkdirAll(b, 0o755); err != nil {
		t.Fatal(err)
	}
	fixture.Run(t, "cp", "--sparse=always", img, filepath.Join(b, "a.raw"))
	fixture.Run(t, "cp", "--sparse=always", img, outside)
	fixture.Run(t, "qemu-img", "convert", "-O", "qcow2", img, filepath.Join(b, "b.qcow2"))
	fixture.Run(t, "qemu-img", "convert", "-O", "qcow2", img, filepath.Join(b, "c.img"))
	fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", filepath.Join(b, "d.qcow2"))
	fixture.Run(t, "ln", "-s", "a.raw", filepath.Join(b, "inside.raw"))
	fixture.Run(t, "ln", "-s", outside, filepath.Join(b, "escape.raw"))
	fixture.Run(t, "ln", "-s", filepath.Dir(outside), filepath.Join(root, "escape"))
	for _, name := range []string{"monday/notes.txt", "stray", "monday/.hidden.raw", "monday/bad name.raw"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(b, "broken.qcow2"), []byte("no qcow2"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := serve(t, "--dir", root, "--vm", "shop", "--timestamp", "monday=2026-04-13T02:00:00Z")
	for _, disk := range []string{"a", "b", "c", "d", "inside"} {
		if out, err := s.curl("/files/backups/monday/" + disk + "/etc/hosts"); err != nil || out != "127.0.0.1 localhost\n" {
			t.Errorf("%s: %q, %v", disk, out, err)
		}
	}
	if out, err := s.curl("/files/backups/monday/broken/ERROR.txt"); err != nil || !strings.Contains(out, "What to do") {
		t.Errorf("ERROR.txt: %q, %v", out, err)
	}
	if out, err := s.curl("/files/restores/2026-04-13/monday/shop/a/etc/hosts"); err != nil {
		t.Errorf("by date and VM: %q, %v", out, err)
	}
	list, err := s.curl("/api/v1/backups")
	if err != nil || strings.Contains(list, "escape") || strings.Count(list, `"state"`) != 6 {
		t.Errorf("backups: %v\n%s", err, list)
	}
	s.stop()
	for _, path := range []string{"monday/notes.txt", "stray", "monday/escape.raw", "bad name.raw", "/escape err="} {
		if !strings.Contains(s.stderr.String(), path) {
			t.Errorf("the log does not mention %s:\n%s", path, s.stderr)
		}
	}
	if strings.Contains(s.stderr.String(), ".hidden") {
		t.Errorf("the log mentions a hidden file:\n%s", s.stderr)
	}
}

// TestManyDisks opens thirty disks, good and bad.
func TestManyDisks(t *testing.T) {
	fixture.Need(t, "curl")
	img := guest(t)
	garbage := filepath.Join(t.TempDir(), "garbage.raw")
	if err := os.WriteFile(garbage, bytes.Repeat([]byte("garbage."), 1<<14), 0o600); err != nil {
		t.Fatal(err)
	}
	var args []string
	for i := range 30 {
		path := img
		if i%10 == 3 {
			path = garbage
		}
		args = append(args, "--disk", fmt.Sprintf("b%d/d%d=%s,format=raw", i%3, i, path))
	}
	s := serve(t, args...)
	text, err := s.curl("/metrics")
	if err != nil || !strings.Contains(text, `vmfr_disks{state="readable"} 27`) || !strings.Contains(text, `vmfr_disks{state="unreadable"} 3`) {
		t.Errorf("states: %v", err)
	}
	if out, err := s.curl("/readyz"); err != nil || out != "ready\n" {
		t.Errorf("readyz: %q, %v", out, err)
	}
	s.stop()
	if !strings.Contains(s.stderr.String(), "a disk is not fully readable") {
		t.Errorf("the log does not mention the bad disks:\n%s", s.stderr)
	}
}
