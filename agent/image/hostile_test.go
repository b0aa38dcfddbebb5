package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"vmfr/test/fixture"
)

// What the header of the hostile images' clean originals says: clusters of 4 KiB (16 KiB with
// extended L2), a disk of 3 MiB whose every cluster has data, so that L2 table i maps 2 MiB.
const hostileSize = 3 << 20

// victim is an image in memory that a case damages.
type victim struct {
	b       []byte
	cluster int64
	entry   int64 // bytes of an L2 entry
}

func (v *victim) u32(off int, x uint32)   { binary.BigEndian.PutUint32(v.b[off:], x) }
func (v *victim) u64(off int64, x uint64) { binary.BigEndian.PutUint64(v.b[off:], x) }
func (v *victim) get(off int64) uint64    { return binary.BigEndian.Uint64(v.b[off:]) }
func (v *victim) l1(i int64) int64        { return int64(v.get(40)) + 8*i }
func (v *victim) l2table(i int64) int64   { return int64(v.get(v.l1(i)) & entryOffset) }
func (v *victim) l2(i, j int64) int64     { return v.l2table(i) + v.entry*j }
func (v *victim) xor(off int64, x uint64) { v.u64(off, v.get(off)^x) }
func (v *victim) feature(bit uint)        { v.xor(72, 1<<bit) }
func (v *victim) data(i, j int64) int64   { return int64(v.get(v.l2(i, j)) & entryOffset) }
func (v *victim) eof() uint64             { return uint64(int64(len(v.b))+v.cluster-1) &^ uint64(v.cluster-1) }

// append puts a stream at a new cluster behind the end and lets entry j of table i name it.
func (v *victim) append(i, j int64, s []byte) {
	off := v.eof()
	v.b = append(v.b, make([]byte, int64(off)-int64(len(v.b)))...)
	sectors := uint64(len(s)+511) / 512
	v.b = append(v.b, s...)
	v.b = append(v.b, make([]byte, int(sectors)*512-len(s))...)
	v.u64(v.l2(i, j), entryCompressed|(sectors-1)<<(62-4)|off)
}

// clusters is a range of clusters [from, to) of the disk.
type clusters struct{ from, to int64 }

var (
	none   = clusters{}
	second = clusters{1, 2}
	table0 = clusters{0, 512}
)

// The clean images by name.
var cleanOptions = map[string][]string{
	"plain": {"-o", "cluster_size=4096"},
	"v2":    {"-o", "cluster_size=4096,compat=0.10"},
	"zlib":  {"-c", "-o", "cluster_size=4096"},
	"zstd":  {"-c", "-o", "cluster_size=4096,compression_type=zstd"},
	"extl2": {"-o", "cluster_size=16384,extended_l2=on"},
}

// hostileCases damage one structure each. open is what Open must say; where that is nil,
// exactly the clusters in bad must be ErrCorrupt, those in any may read as anything, and the
// others must read as before. text must be part of the message.
var hostileCases = []struct {
	name, clean string
	edit        func(v *victim)
	open        error
	bad, any    clusters
	text        string
}{
	{name: "header of 3 bytes", edit: func(v *victim) { v.b = v.b[:3] }, open: ErrCorrupt, text: "signature"},
	{name: "header of 60 bytes", edit: func(v *victim) { v.b = v.b[:60] }, open: ErrCorrupt, text: "ends in it"},
	{name: "header of 104 bytes", edit: func(v *victim) { v.b = v.b[:104] }, open: ErrCorrupt},
	{name: "no signature", edit: func(v *victim) { v.b[0] = 'X' }, open: ErrCorrupt, text: "format=raw"},
	{name: "version 0", edit: func(v *victim) { v.u32(4, 0) }, open: ErrUnsupported, text: "version 0"},
	{name: "version 1", edit: func(v *victim) { v.u32(4, 1) }, open: ErrUnsupported, text: "version 1"},
	{name: "version 4", edit: func(v *victim) { v.u32(4, 4) }, open: ErrUnsupported, text: "version 4"},
	{name: "cluster_bits 8", edit: func(v *victim) { v.u32(20, 8) }, open: ErrCorrupt, text: "cluster_bits"},
	{name: "cluster_bits 22", edit: func(v *victim) { v.u32(20, 22) }, open: ErrCorrupt, text: "cluster_bits"},
	{name: "cluster_bits 63", edit: func(v *victim) { v.u32(20, 63) }, open: ErrCorrupt, text: "cluster_bits"},
	{name: "cluster_bits 2^32-1", edit: func(v *victim) { v.u32(20, 1<<32-1) }, open: ErrCorrupt, text: "cluster_bits"},
	{name: "AES", edit: func(v *victim) { v.u32(32, 1) }, open: ErrUnsupported, text: "AES"},
	{name: "LUKS", edit: func(v *victim) { v.u32(32, 2) }, open: ErrUnsupported, text: "LUKS"},
	{name: "unknown encryption", edit: func(v *victim) { v.u32(32, 9) }, open: ErrUnsupported, text: "method 9"},
	{name: "size 0", edit: func(v *victim) { v.u64(24, 0) }, open: ErrUnsupported, text: "0 bytes"},
	{name: "size 2^64-1", edit: func(v *victim) { v.u64(24, 1<<64-1) }, open: ErrCorrupt, text: "too large"},
	{name: "size 2^63-1", edit: func(v *victim) { v.u64(24, 1<<63-1) }, open: ErrCorrupt, text: "too large"},
	{name: "size beyond L1", edit: func(v *victim) { v.u64(24, 1<<40) }, open: ErrCorrupt, text: "too small"},
	{name: "L1 of 2^32-1 entries", edit: func(v *victim) { v.u32(36, 1<<32-1) }, open: ErrCorrupt, text: "L1 table"},
	{name: "L1 of 32 MiB", edit: func(v *victim) { v.u32(36, maxL1Bytes/8) }, open: ErrCorrupt, text: "not inside the file"},
	{name: "L1 of 0 entries", edit: func(v *victim) { v.u32(36, 0) }, open: ErrCorrupt, text: "too small"},
	{name: "L1 unaligned", edit: func(v *victim) { v.xor(40, 8) }, open: ErrCorrupt, text: "not aligned"},
	{name: "L1 at 0", edit: func(v *victim) { v.u64(40, 0) }, open: ErrCorrupt, text: "L1 table"},
	{name: "L1 behind the end", edit: func(v *victim) { v.u64(40, v.eof()) }, open: ErrCorrupt, text: "L1 table"},
	{name: "L1 at 2^64-4096", edit: func(v *victim) { v.u64(40, 1<<64-4096) }, open: ErrCorrupt, text: "L1 table"},
	{name: "no reference counts", edit: func(v *victim) { v.u32(56, 0) }, open: ErrCorrupt, text: "reference count"},
	{name: "reference counts of 2^44 bytes", edit: func(v *victim) { v.u32(56, 1<<32-1) }, open: ErrCorrupt, text: "reference count"},
	{name: "reference counts behind the end", edit: func(v *victim) { v.u64(48, v.eof()) }, open: ErrCorrupt, text: "reference count"},
	{name: "reference counts unaligned", edit: func(v *victim) { v.xor(48, 512) }, open: ErrCorrupt, text: "reference count"},
	{name: "2^32-1 snapshots", edit: func(v *victim) { v.u32(60, 1<<32-1) }, open: ErrCorrupt, text: "snapshots"},
	{name: "snapshots behind the end", edit: func(v *victim) { v.u32(60, 3); v.u64(64, v.eof()) }, open: ErrCorrupt, text: "snapshot table"},
	{name: "corrupt bit", edit: func(v *victim) { v.feature(1) }, open: ErrCorrupt, text: "qemu-img check"},
	{name: "external data file", edit: func(v *victim) { v.feature(2) }, open: ErrUnsupported, text: "external"},
	{name: "unknown feature", edit: func(v *victim) { v.feature(5); v.feature(63) }, open: ErrUnsupported, text: "bit 5, bit 63"},
	{name: "extended L2 in small clusters", edit: func(v *victim) { v.feature(4) }, open: ErrCorrupt, text: "16384"},
	{name: "compression bit without a type", edit: func(v *victim) { v.feature(3) }, open: ErrCorrupt, text: "contradicts"},
	{name: "compression type without its bit", edit: func(v *victim) { v.b[104] = 1 }, open: ErrCorrupt, text: "contradicts"},
	{name: "unknown compression", edit: func(v *victim) { v.feature(3); v.b[104] = 7 }, open: ErrUnsupported, text: "type 7"},
	{name: "refcount_order 7", edit: func(v *victim) { v.u32(96, 7) }, open: ErrCorrupt, text: "refcount_order"},
	{name: "header_length 96", edit: func(v *victim) { v.u32(100, 96) }, open: ErrCorrupt, text: "header_length"},
	{name: "header_length 2^31", edit: func(v *victim) { v.u32(100, 1<<31) }, open: ErrCorrupt, text: "header_length"},
	{name: "header_length 108", edit: func(v *victim) { v.u32(100, 108) }, open: ErrCorrupt, text: "header_length"},
	{name: "extension of 4 GiB", edit: func(v *victim) { v.u32(112, 0x12345678); v.u32(116, 1<<32-1) }, open: ErrCorrupt, text: "extension"},
	{name: "backing name outside", edit: func(v *victim) { v.u64(8, 4090); v.u32(16, 10) }, open: ErrCorrupt, text: "backing file name"},
	{name: "backing name at 2^64-1", edit: func(v *victim) { v.u64(8, 1<<64-1); v.u32(16, 10) }, open: ErrCorrupt, text: "backing file name"},
	{name: "backing name of 2000 bytes", edit: func(v *victim) { v.u64(8, 1024); v.u32(16, 2000) }, open: ErrCorrupt, text: "backing file name"},
	{name: "backing name in the header", edit: func(v *victim) { v.u64(8, 24); v.u32(16, 8) }, open: ErrCorrupt, text: "backing file name"},

	{name: "dirty bit", edit: func(v *victim) { v.feature(0) }},
	{name: "L1 entry reserved", edit: func(v *victim) { v.xor(v.l1(0), 1<<60) }, bad: table0, text: "reserved"},
	{name: "L1 entry unaligned", edit: func(v *victim) { v.xor(v.l1(0), 512) }, bad: table0, text: "not aligned"},
	{name: "L1 entry behind the end", edit: func(v *victim) { v.u64(v.l1(0), v.eof()) }, bad: table0, text: "behind the end"},
	{name: "L1 entry at the largest offset", edit: func(v *victim) { v.u64(v.l1(0), entryOffset&^4095) }, bad: table0, text: "behind the end"},
	{name: "L1 entry to the L1 table", edit: func(v *victim) { v.u64(v.l1(0), v.get(40)) }, any: table0},
	{name: "L1 entry to the header", edit: func(v *victim) { v.u64(v.l1(0), entryCopied) }, any: table0},
	{name: "L2 table cut by the end", edit: func(v *victim) {
		off := v.eof()
		v.b = append(v.b, make([]byte, int64(off)+2048-int64(len(v.b)))...)
		copy(v.b[off:], v.b[v.l2table(0):v.l2table(0)+2048])
		v.u64(v.l1(0), off)
	}, bad: clusters{256, 512}, text: "the file ends"},
	{name: "L2 entry reserved", edit: func(v *victim) { v.xor(v.l2(0, 1), 2) }, bad: second, text: "reserved"},
	{name: "L2 entry unaligned", edit: func(v *victim) { v.xor(v.l2(0, 1), 1024) }, bad: second, text: "not aligned"},
	{name: "L2 entry behind the end", edit: func(v *victim) { v.u64(v.l2(0, 1), v.eof()) }, bad: second, text: "behind the end"},
	{name: "L2 entry to its own table", edit: func(v *victim) { v.u64(v.l2(0, 1), uint64(v.l2table(0))) }, any: second},
	{name: "zero cluster in version 2", clean: "v2", edit: func(v *victim) { v.xor(v.l2(0, 1), 1) }, bad: second, text: "version 2"},
	{name: "file cut in the last cluster", edit: func(v *victim) { v.b = v.b[:v.data(1, 255)+512] }, bad: clusters{767, 768}, text: "behind the end"},

	{name: "compressed behind the end", clean: "zlib", edit: func(v *victim) { v.u64(v.l2(0, 1), entryCompressed|v.eof()) }, bad: second, text: "behind the end"},
	{name: "compressed at the largest offset", clean: "zlib", edit: func(v *victim) { v.u64(v.l2(0, 1), 1<<63-1) }, bad: second, text: "behind the end"},
	{name: "deflate garbage", clean: "zlib", edit: func(v *victim) { v.append(0, 1, bytes.Repeat([]byte{0xff}, 700)) }, bad: second, text: "compressed cluster"},
	{name: "deflate stream too short", clean: "zlib", edit: func(v *victim) { v.append(0, 1, deflated(make([]byte, 4095))) }, bad: second, text: "ends after 4095"},
	{name: "deflate stream cut", clean: "zlib", edit: func(v *victim) { v.append(0, 1, deflated(guestBytes(9, 4096))[:40]) }, bad: second, text: "flate"},
	{name: "deflate bomb", clean: "zlib", edit: func(v *victim) { v.append(0, 1, deflated(make([]byte, 3<<20))) }, any: second},
	{name: "compressed header", clean: "zlib", edit: func(v *victim) { v.u64(v.l2(0, 1), entryCompressed) }, bad: second, text: "compressed cluster"},
	{name: "zstd garbage", clean: "zstd", edit: func(v *victim) { v.append(0, 1, bytes.Repeat([]byte{0xff}, 700)) }, bad: second, text: "zstd"},
	{name: "zstd behind the end", clean: "zstd", edit: func(v *victim) { v.u64(v.l2(0, 1), entryCompressed|v.eof()) }, bad: second, text: "behind the end"},
	{name: "zstd frame too short", clean: "zstd", edit: func(v *victim) { v.append(0, 1, zstded(make([]byte, 4095))) }, bad: second, text: "ends after 4095"},
	{name: "zstd bomb with its size", clean: "zstd", edit: func(v *victim) { v.append(0, 1, zstded(make([]byte, 1<<30))[:1024]) }, bad: second, text: "zstd"},
	{name: "zstd bomb that claims 2^60 bytes", clean: "zstd", edit: func(v *victim) {
		// magic, single segment with a size of 8 bytes, one RLE block of 128 KiB
		v.append(0, 1, []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0x03, 0, 0x10, 'x'})
	}, bad: second, text: "zstd"},
	{name: "zstd bomb without a size", clean: "zstd", edit: func(v *victim) {
		// magic, window of 1 MiB, RLE blocks of 128 KiB without end
		s := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x50}, bytes.Repeat([]byte{0x02, 0, 0x10, 'x'}, 300)...)
		v.append(0, 1, append(s, 0x03, 0, 0x10, 'x'))
	}, bad: second, text: "zstd"},
	{name: "zstd window of 2^41 bytes", clean: "zstd", edit: func(v *victim) {
		v.append(0, 1, []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x03, 0x80, 0, 'x'})
	}, bad: second, text: "zstd"},
	{name: "zstd endless empty frames", clean: "zstd", edit: func(v *victim) {
		v.append(0, 1, bytes.Repeat([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0}, 400))
	}, bad: second, text: "zstd"},

	{name: "subclusters allocated and zero", clean: "extl2", edit: func(v *victim) { v.u64(v.l2(0, 1)+8, 1<<32|1) }, bad: second, text: "both allocated and zero"},
	{name: "subclusters allocated nowhere", clean: "extl2", edit: func(v *victim) { v.u64(v.l2(0, 1), 0) }, bad: second, text: "in no cluster"},
	{name: "zero bit with extended L2", clean: "extl2", edit: func(v *victim) { v.xor(v.l2(0, 1), 1) }, bad: second, text: "reserved"},
	{name: "extended entry behind the end", clean: "extl2", edit: func(v *victim) { v.u64(v.l2(0, 1), v.eof()) }, bad: second, text: "behind the end"},
	{name: "extended entry unaligned", clean: "extl2", edit: func(v *victim) { v.xor(v.l2(0, 1), 512) }, bad: second, text: "not aligned"},
}

func deflated(b []byte) []byte {
	var out bytes.Buffer
	w, _ := flate.NewWriter(&out, 9)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

func zstded(b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	defer w.Close()
	out := w.EncodeAll(b, nil)
	return append(out, make([]byte, max(0, 1024-len(out)))...)
}

// TestHostile damages one structure of an image at a time.
func TestHostile(t *testing.T) {
	fixture.Need(t, "qemu-img")
	dir := t.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	want := guestBytes(3, hostileSize)
	for i := 0; i < len(want); i += 512 {
		want[i] |= 1 // no cluster and no sector is all zeros
	}
	writeFile(t, raw, want)
	clean := map[string][]byte{}
	for name, opts := range cleanOptions {
		img := filepath.Join(dir, name+".qcow2")
		convert("", opts...)(t, dir, raw, img)
		clean[name] = readFile(t, img)
	}
	for _, c := range hostileCases {
		t.Run(c.name, func(t *testing.T) {
			from := c.clean
			if from == "" {
				from = "plain"
			}
			v := &victim{b: bytes.Clone(clean[from]), cluster: 4096, entry: 8}
			if from == "extl2" {
				v.cluster, v.entry = 16384, 16
			}
			c.edit(v)
			img := filepath.Join(t.TempDir(), "hostile.qcow2")
			writeFile(t, img, v.b)
			f := openFile(t, img)

			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			m, err := Open(Source{f, FormatQCOW2}, Options{})
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
				t.Errorf("Open allocated %d bytes", n)
			}
			if !errors.Is(err, c.open) {
				t.Fatalf("Open: %v, want %v", err, c.open)
			}
			if c.open != nil {
				if !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), "hostile.qcow2") {
					t.Fatalf("the message does not say %q and the file's name: %v", c.text, err)
				}
				return
			}
			defer m.Close()
			checkDamage(t, m, want, v.cluster, c.bad, c.any, c.text)
			runtime.ReadMemStats(&before)
			if n := before.TotalAlloc - after.TotalAlloc; n > 64<<20 {
				t.Errorf("reading allocated %d bytes", n)
			}
		})
	}
}

// checkDamage reads m cluster by cluster: bad ones must be ErrCorrupt, those in any may be
// anything, others as in want. One read over everything must end where the damage begins.
func checkDamage(t *testing.T, m *Image, want []byte, size int64, bad, any clusters, text string) {
	t.Helper()
	b := make([]byte, size)
	damaged := int64(0)
	for i := int64(0); i*size < m.Size(); i++ {
		n, err := m.ReadAt(b, i*size)
		_, errExtent := m.Extent(i*size, size)
		switch {
		case i >= any.from && i < any.to:
		case i >= bad.from && i < bad.to:
			damaged++
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), text) {
				t.Fatalf("cluster %d: %d, %v; want ErrCorrupt and %q", i, n, err, text)
			}
		default:
			if n != len(b) || err != nil || errExtent != nil {
				t.Fatalf("cluster %d: %d, %v, %v", i, n, err, errExtent)
			}
			sameBytes(t, "undamaged cluster", b, want[i*size:(i+1)*size])
		}
	}
	if damaged != bad.to-bad.from {
		t.Fatalf("%d damaged clusters, want %d", damaged, bad.to-bad.from)
	}
	if any == none && bad != none {
		all := make([]byte, m.Size())
		n, err := m.ReadAt(all, 0)
		if int64(n) < bad.from*size || int64(n) >= bad.from*size+size || !errors.Is(err, ErrCorrupt) || err == io.EOF {
			t.Fatalf("one read over everything: %d, %v; want an end in cluster %d", n, err, bad.from)
		}
		sameBytes(t, "before the damage", all[:n], want[:n])
	}
}
