package sshd

import (
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"vmfr/agent/extent"
	"vmfr/test/fixture"
)

// distant is storage that takes some time to answer.
type distant struct {
	extent.Reader
	wait time.Duration
}

func (d distant) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(d.wait)
	return d.Reader.ReadAt(p, off)
}

// BenchmarkOneRequest reads a disk front to back with one request outstanding, as simple clients
// do, from memory and from storage that takes a millisecond.
func BenchmarkOneRequest(b *testing.B) {
	const size = 64 << 20
	img := b.TempDir() + "/d.raw"
	fixture.Run(b, "dd", "if=/dev/urandom", "of="+img, "bs=1M", "count=64")
	for name, wait := range map[string]time.Duration{"warm": 0, "1ms": time.Millisecond} {
		for _, request := range []int{32 << 10, 255 << 10} {
			r := serve(b, newTree(b, nil, distant{fixture.OpenRaw(b, img), wait}), nil)
			c := r.client(sftp.UseConcurrentReads(false), sftp.MaxPacketUnchecked(request))
			b.Run(fmt.Sprintf("%s/%dKiB", name, request>>10), func(b *testing.B) {
				for b.Loop() {
					f, err := c.Open("/disks/b/d.raw")
					if err != nil {
						b.Fatal(err)
					}
					buf := make([]byte, request)
					for off := int64(0); off < size; off += int64(request) {
						if n, err := f.ReadAt(buf, off); n == 0 || err != nil && err != io.EOF {
							b.Fatal(n, err)
						}
					}
					_ = f.Close()
				}
				b.SetBytes(size)
			})
		}
	}
}
