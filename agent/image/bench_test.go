package image

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/lima-vm/go-qcow2reader"
	lima "github.com/lima-vm/go-qcow2reader/image/qcow2"

	"vmfr/test/fixture"
)

const benchBytes = 128 << 20

// benchGuest is text with noise, which compresses to about a third as system disks do.
func benchGuest() []byte {
	b := make([]byte, benchBytes)
	x := uint64(88172645463325252)
	for i := 0; i+8 <= len(b); i += 8 {
		if i&31 == 0 {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			copy(b[i:], fmt.Sprintf("%08x", x))
			continue
		}
		copy(b[i:], "config: ")
	}
	return b
}

// BenchmarkQCOW2 reads an image once in sequence, 128 KiB at a time, with a warm page cache
// and nothing inflated: ours, go-qcow2reader's, and pread of the raw file as the limit.
func BenchmarkQCOW2(b *testing.B) {
	fixture.Need(b, "qemu-img")
	lima.SetDecompressor(lima.CompressionTypeZstd, zstdPeer)
	dir := b.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(raw, benchGuest(), 0o600); err != nil {
		b.Fatal(err)
	}
	b.Run("limit/pread", func(b *testing.B) {
		f := openFile(b, raw)
		for b.Loop() {
			sequential(b, f)
		}
	})
	for _, kind := range []string{"plain", "zlib", "zstd"} {
		img := filepath.Join(dir, kind+".qcow2")
		switch kind {
		case "plain":
			convert("")(b, dir, raw, img)
		default:
			convert("compression_type="+kind, "-c")(b, dir, raw, img)
		}
		b.Run(kind+"/vmfr", func(b *testing.B) {
			for b.Loop() {
				m, err := Open(Source{openFile(b, img), FormatQCOW2}, Options{})
				if err != nil {
					b.Fatal(err)
				}
				sequential(b, m)
				m.Close()
			}
		})
		b.Run(kind+"/go-qcow2reader", func(b *testing.B) {
			for b.Loop() {
				q, err := qcow2reader.OpenWithType(openFile(b, img), lima.Type)
				if err != nil {
					b.Fatal(err)
				}
				sequential(b, q)
			}
		})
	}
}

// BenchmarkExtent is what FUSE asks before each read that it answers by splice.
func BenchmarkExtent(b *testing.B) {
	fixture.Need(b, "qemu-img")
	dir := b.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(raw, benchGuest(), 0o600); err != nil {
		b.Fatal(err)
	}
	for _, opts := range []string{"cluster_size=64k", "cluster_size=512", "cluster_size=64k,extended_l2=on"} {
		img := filepath.Join(dir, opts+".qcow2")
		convert(opts)(b, dir, raw, img)
		b.Run(opts, func(b *testing.B) {
			m := open(b, img)
			off := int64(0)
			for b.Loop() {
				e, err := m.Extent(off, 128<<10)
				if err != nil || e.Host == nil {
					b.Fatal(e, err)
				}
				if off += 128 << 10; off == benchBytes {
					off = 0
				}
			}
		})
	}
}

func sequential(b *testing.B, r io.ReaderAt) {
	b.SetBytes(benchBytes)
	buf := make([]byte, 128<<10)
	for off := int64(0); off < benchBytes; off += int64(len(buf)) {
		if n, err := r.ReadAt(buf, off); n < len(buf) {
			b.Fatal(n, err)
		}
	}
}
