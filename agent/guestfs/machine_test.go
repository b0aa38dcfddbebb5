package guestfs

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
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

func TestMemory(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if n := memAvailable(write("meminfo", "MemTotal: 9 kB\nMemAvailable:    2048 kB\n")); n != 2<<20 {
		t.Errorf("available: %d", n)
	}
	if n := memAvailable(filepath.Join(dir, "none")); n != math.MaxInt64 {
		t.Errorf("unknown: %d", n)
	}
	self := write("self", "0::/pod/box\n")
	write("fs/pod/memory.max", "1000000\n")
	write("fs/pod/memory.current", "700000\n")
	write("fs/pod/memory.stat", "anon 1\ninactive_file 100000\n")
	write("fs/pod/box/memory.max", "max\n")
	write("fs/pod/box/memory.current", "5\n")
	if n := cgroupLeft(self, filepath.Join(dir, "fs")); n != 400_000 {
		t.Errorf("version 2: %d", n)
	}
	self = write("self", "5:memory:/a\n4:cpu:/b\n")
	write("fs/memory/a/memory.limit_in_bytes", "500\n")
	write("fs/memory/a/memory.usage_in_bytes", "600\n")
	if n := cgroupLeft(self, filepath.Join(dir, "fs")); n != 0 {
		t.Errorf("version 1, past its limit: %d", n)
	}
	for _, c := range []struct {
		free int64
		want int
	}{{0, 1}, {3 * applianceBytes, 1}, {4 * applianceBytes, 2}, {math.MaxInt64, maxAuto}} {
		if n := appliancesFor(applianceBytes, c.free); n != c.want {
			t.Errorf("%d bytes: %d appliances, want %d", c.free, n, c.want)
		}
	}
	if err := checkMemory(applianceBytes, 100<<20); err == nil || !strings.Contains(err.Error(), "100 MiB are free") {
		t.Errorf("little memory: %v", err)
	}
}
