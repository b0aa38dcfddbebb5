package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"vmfr/test/fixture"
)

// memoryLimit is what one served disk may take, in bytes.
const memoryLimit = 80 << 20

// TestMemory reads a compressed image by SFTP and HTTPS at once and looks at the peak.
func TestMemory(t *testing.T) {
	fixture.Need(t, "qemu-img", "curl", "sftp")
	// Half a byte of information in each byte: all clusters are stored compressed.
	raw, _ := bigDisk(t, 48<<20)
	b, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] &= 15
	}
	if err := os.WriteFile(raw, b, 0o600); err != nil {
		t.Fatal(err)
	}
	want := sum(b)
	img := filepath.Join(t.TempDir(), "d.qcow2")
	fixture.Run(t, "qemu-img", "convert", "-c", "-O", "qcow2", raw, img)
	s := serve(t, "--disk", "b/d="+img+",format=qcow2")
	done := make(chan error, 2)
	for i := range 2 {
		go func() {
			out, err := s.curl("/files/disks/b/d.raw")
			if err == nil && sum([]byte(out)) != want {
				err = fmt.Errorf("reader %d got other bytes", i)
			}
			done <- err
		}()
	}
	to := filepath.Join(t.TempDir(), "got")
	if out, err := s.sftp("get /disks/b/d.raw " + to + "\n"); err != nil {
		t.Errorf("sftp: %v\n%s", err, out)
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if text, err := s.curl("/metrics"); err != nil || !regexp.MustCompile(`vmfr_cache_misses_total\{backup="b",cache="clusters",disk="d"\} [1-9]`).MatchString(text) {
		t.Errorf("no cluster was inflated: the test shows nothing (%v)", err)
	}
	read := false
	for pid, peak := range fixture.PeakMemory(t, s.cmd.Process.Pid) {
		t.Logf("peak of resident memory of process %d: %d KiB", pid, peak>>10)
		if peak > memoryLimit {
			t.Errorf("peak of resident memory %d KiB, want at most %d", peak>>10, memoryLimit>>10)
		}
		read = read || peak > 40<<20
	}
	if !read {
		t.Error("no process has as much memory as one that reads: the test shows nothing")
	}
}
