package sandbox

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

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
		if n := AppliancesFor(applianceBytes, c.free); n != c.want {
			t.Errorf("%d bytes: %d appliances, want %d", c.free, n, c.want)
		}
	}
	if err := CheckMemory(applianceBytes, 100<<20); err == nil || !strings.Contains(err.Error(), "100 MiB are free") {
		t.Errorf("little memory: %v", err)
	}
}
