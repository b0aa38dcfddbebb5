package fat

import (
	"os"
	"path/filepath"
	"testing"

	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// BenchmarkRead reads a file of 64 MiB in pieces of 1 MiB from a warm image.
func BenchmarkRead(b *testing.B) {
	img := mkfs(b, 512*mib, "-F", "32", "-s", "8")
	p := filepath.Join(b.TempDir(), "BIG")
	if err := os.WriteFile(p, make([]byte, 64*mib), 0o600); err != nil {
		b.Fatal(err)
	}
	mtool(b, img, "mcopy", p, "z:/BIG")
	f := must(Open(fixture.OpenRaw(b, img), Options{}))
	r := must(f.Open(must(fsystest.Find(f, "BIG"))))
	buf := make([]byte, mib)
	b.SetBytes(mib)
	b.ResetTimer()
	for i := range b.N {
		if _, err := r.ReadAt(buf, int64(i%64)*mib); err != nil && i%64 != 63 {
			b.Fatal(err)
		}
	}
}
