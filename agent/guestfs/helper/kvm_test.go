package helper

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"vmfr/test/fixture"
)

// TestProbe: the boot sector runs in qemu (without KVM, which a test cannot count on), and a
// qemu that hangs, fails or ends for another reason is no KVM, in bounded time.
func TestProbe(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the boot sector is for amd64")
	}
	fixture.Need(t, "qemu-system-x86_64", "sleep", "true")
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, bootSector(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := runProbe(t.Context(), "qemu-system-x86_64", disk, time.Minute, "-machine", "accel=tcg"); err != nil {
		t.Errorf("the boot sector does not run: %v", err)
	}
	hangs := filepath.Join(dir, "hangs")
	if err := os.WriteFile(hangs, []byte("#!/bin/sh\nexec sleep 3600\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{hangs, "true", "/does/not/exist"} {
		began := time.Now()
		if err := runProbe(t.Context(), program, disk, 200*time.Millisecond); err == nil || time.Since(began) > 30*time.Second {
			t.Errorf("%s: %v after %v", program, err, time.Since(began))
		}
	}
	// What this machine's /dev/kvm does is not known; that the answer comes in time is.
	began := time.Now()
	err := probeKVM(t.Context(), qemu(), dir, probeLimit)
	t.Logf("KVM here: %v after %v", err, time.Since(began))
	if time.Since(began) > probeLimit+30*time.Second {
		t.Error("the probe took too long")
	}
	if left, err := filepath.Glob(filepath.Join(dir, "kvm-probe")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
