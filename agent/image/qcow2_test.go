package image

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/lima-vm/go-qcow2reader"
	lima "github.com/lima-vm/go-qcow2reader/image/qcow2"
	limalog "github.com/lima-vm/go-qcow2reader/log"

	"vmfr/test/fixture"
)

// qemuIO runs qemu-io commands on an image.
func qemuIO(t testing.TB, path string, commands ...string) {
	t.Helper()
	args := []string{"-f", "qcow2"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	fixture.Run(t, "qemu-io", append(args, path)...)
}

// maker makes the image img in folder dir, which holds the guest's data as the file raw.
type maker func(t testing.TB, dir, raw, img string)

// step changes an image.
type step func(t testing.TB, img string)

func convert(opts string, flags ...string) maker {
	return func(t testing.TB, dir, raw, img string) {
		args := append([]string{"convert", "-f", "raw", "-O", "qcow2"}, flags...)
		if opts != "" {
			args = append(args, "-o", opts)
		}
		fixture.Run(t, "qemu-img", append(args, raw, img)...)
	}
}

func then(first maker, steps ...step) maker {
	return func(t testing.TB, dir, raw, img string) {
		first(t, dir, raw, img)
		for _, s := range steps {
			s(t, img)
		}
	}
}

func qio(commands ...string) step {
	return func(t testing.TB, img string) { qemuIO(t, img, commands...) }
}

func qimg(args ...string) step {
	return func(t testing.TB, img string) {
		fixture.Run(t, "qemu-img", append(args, img)...)
	}
}

// chain makes base <- mid <- img with options for each, in one folder.
func chain(baseOpts, midOpts, topOpts string, steps ...step) maker {
	return func(t testing.TB, dir, raw, img string) {
		base, mid := filepath.Join(dir, "base.qcow2"), filepath.Join(dir, "mid.qcow2")
		fixture.Run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", baseOpts, raw, base)
		fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", "-o", midOpts, mid)
		qemuIO(t, mid, "write -P 17 100k 300k", "write -z 1M 256k", "write -P 18 2000k 4k", "discard 3M 128k")
		fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "mid.qcow2", "-o", topOpts, img)
		qemuIO(t, img, "write -P 33 200k 64k", "write -z 1100k 64k", "write -P 34 2002k 1k", "write -P 35 5M 3k")
		for _, s := range steps {
			s(t, img)
		}
	}
}

// variant is an image of the differential test.
type variant struct {
	name string
	make maker
}

func variants() (list []variant) {
	add := func(name string, make maker) { list = append(list, variant{name, make}) }
	for _, bits := range []int{9, 10, 12, 16, 18, 21} {
		add(fmt.Sprintf("plain-%d", 1<<bits), convert(fmt.Sprintf("cluster_size=%d", 1<<bits)))
		add(fmt.Sprintf("zlib-%d", 1<<bits), convert(fmt.Sprintf("cluster_size=%d", 1<<bits), "-c"))
		add(fmt.Sprintf("zstd-%d", 1<<bits), convert(fmt.Sprintf("cluster_size=%d,compression_type=zstd", 1<<bits), "-c"))
	}
	for _, compat := range []string{"0.10", "1.1"} {
		add("compat-"+compat, convert("compat="+compat))
		add("compat-zlib-"+compat, convert("compat="+compat, "-c"))
	}
	for _, size := range []string{"16k", "64k", "2M"} {
		opts := "extended_l2=on,cluster_size=" + size
		writes := qio("write -P 5 0 512", "write -P 6 70000 1000", "write -z 128k 12k", "write -P 7 300k 200k", "discard 320k 20k", "write -P 8 2100k 512")
		add("extl2-"+size, convert(opts))
		add("extl2-writes-"+size, then(convert(opts), writes))
		add("extl2-zstd-"+size, then(convert(opts+",compression_type=zstd", "-c"), writes))
		add("extl2-empty-"+size, func(t testing.TB, dir, raw, img string) {
			fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", opts, img, "9M")
			writes(t, img)
		})
	}
	for _, mode := range []string{"off", "metadata", "falloc", "full"} {
		add("prealloc-"+mode, func(t testing.TB, dir, raw, img string) {
			fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation="+mode, img, "3M")
			qemuIO(t, img, "write -P 9 64k 70k", "write -P 10 2M 512")
		})
	}
	add("prealloc-extl2", func(t testing.TB, dir, raw, img string) {
		fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata,extended_l2=on", img, "3M")
		qemuIO(t, img, "write -P 9 64k 70k", "write -P 10 2M 512")
	})
	add("empty", func(t testing.TB, dir, raw, img string) {
		fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", img, "300M")
	})
	add("lazy", then(convert("lazy_refcounts=on"), qio("write -P 1 1M 64k")))
	add("refcount-1bit", convert("refcount_bits=1"))
	add("refcount-64bit", convert("refcount_bits=64"))
	add("zero-clusters", then(convert(""), qio("write -z 0 64k", "write -z -u 256k 512k", "write -z 2M 3k")))
	add("zero-clusters-512", then(convert("cluster_size=512"), qio("write -z 0 64k", "write -z -u 256k 512k", "write -z 2M 3k")))
	add("discard", then(convert(""), qio("discard 0 64k", "discard 1M 1M")))
	add("discard-compat-0.10", then(convert("compat=0.10"), qio("discard 0 64k", "discard 1M 1M")))
	add("resized", then(convert(""), func(t testing.TB, img string) {
		fixture.Run(t, "qemu-img", "resize", "-q", "-f", "qcow2", img, "9M")
		qemuIO(t, img, "write -P 3 8M 64k")
	}))
	add("shrunk", then(convert(""), func(t testing.TB, img string) {
		fixture.Run(t, "qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", img, "1500k")
	}))
	add("odd-size", func(t testing.TB, dir, raw, img string) {
		fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", img, "2098176")
		qemuIO(t, img, "write -P 7 2M 1024")
	})
	add("snapshots", then(convert(""), qimg("snapshot", "-q", "-c", "one"), qio("write -P 4 0 1M"), qimg("snapshot", "-q", "-c", "two"), qio("write -P 5 512k 1M", "write -z 3M 64k")))
	add("bitmap", then(convert(""), func(t testing.TB, img string) {
		fixture.Run(t, "qemu-img", "bitmap", "--add", "-f", "qcow2", img, "cbt")
		qemuIO(t, img, "write -P 4 0 1M")
	}))
	add("mixed-compressed", then(convert("", "-c"), qio("write -P 4 100k 50k", "write -c -P 5 1M 64k", "write -z 2M 64k")))
	add("chain", chain("compat=1.1", "compat=1.1", "compat=1.1"))
	add("chain-mixed", chain("cluster_size=512,compression_type=zstd", "cluster_size=2M", "cluster_size=4k,extended_l2=off"))
	add("chain-extl2", chain("cluster_size=64k", "extended_l2=on,cluster_size=128k", "extended_l2=on,cluster_size=16k"))
	add("chain-compat", chain("compat=0.10", "compat=0.10", "compat=0.10"))
	add("chain-longer-top", chain("compat=1.1", "compat=1.1", "compat=1.1", func(t testing.TB, img string) {
		fixture.Run(t, "qemu-img", "resize", "-q", "-f", "qcow2", img, "8M")
		qemuIO(t, img, "write -P 3 7M 64k")
	}))
	add("chain-rebased", chain("compat=1.1", "compat=1.1", "compat=1.1", func(t testing.TB, img string) {
		fixture.Run(t, "qemu-img", "rebase", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", img)
	}))
	add("raw-backing", func(t testing.TB, dir, raw, img string) {
		fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", filepath.Base(raw), img, "7M")
		qemuIO(t, img, "write -P 33 200k 64k", "write -z 1100k 64k", "write -P 34 6M 1k")
	})
	return list
}

// TestDifferential compares every variant with what qemu-img converts it to, its Extents with
// qemu-img map, and the bytes with go-qcow2reader's where that reads the variant.
func TestDifferential(t *testing.T) {
	if testing.Short() {
		t.Skip("one reader at a time: nothing for the race detector, and slow with it")
	}
	fixture.Need(t, "qemu-img", "qemu-io")
	limalog.SetWarnFunc(func(string) {})
	lima.SetDecompressor(lima.CompressionTypeZstd, zstdPeer)
	guest := guestBytes(1, diskBytes)
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			dir := t.TempDir()
			raw, img := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.qcow2")
			writeFile(t, raw, guest)
			v.make(t, dir, raw, img)
			want := qemuRaw(t, img, "qcow2")
			m := open(t, img)
			if m.Size() != int64(len(want)) {
				t.Fatalf("size %d, want %d", m.Size(), len(want))
			}
			sameBytes(t, "reading 128 KiB at a time", readAll(t, m, 128<<10), want)
			sameBytes(t, "reading 1,000 bytes at a time", readAll(t, m, 1000), want)
			checkExtents(t, m, want, 1<<40)
			checkExtents(t, m, want, 3<<10)
			checkMap(t, m, img, "qcow2")
			peer(t, img, want)
		})
	}
}

// peer reads img by go-qcow2reader. It opens backing files relative to the folder of the
// image by itself, so only images of this test are given to it.
func peer(t *testing.T, img string, want []byte) {
	switch filepath.Base(t.Name()) {
	case "zlib-512", "zlib-1024", "zlib-4096":
		return // its single Read of a cluster may come with io.EOF, which it takes for an error
	}
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	q, err := lima.Open(f, qcow2reader.OpenWithType)
	if err != nil {
		t.Fatalf("go-qcow2reader: %v", err)
	}
	defer q.Close()
	if err := q.Readable(); err != nil {
		t.Fatalf("go-qcow2reader: %v", err)
	}
	b := make([]byte, len(want))
	if n, err := q.ReadAt(b, 0); n != len(b) {
		t.Fatalf("go-qcow2reader: %d bytes, %v", n, err)
	}
	sameBytes(t, "go-qcow2reader", b, want)
}

// TestNegativeControl shows that the comparison sees one changed byte.
func TestNegativeControl(t *testing.T) {
	fixture.Need(t, "qemu-img", "qemu-io")
	dir := t.TempDir()
	raw, img := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.qcow2")
	writeFile(t, raw, guestBytes(1, diskBytes))
	convert("", "-c")(t, dir, raw, img)
	before := qemuRaw(t, img, "qcow2")
	qemuIO(t, img, "write -P 250 3M 512")
	if bytes.Equal(readAll(t, open(t, img), 64<<10), before) {
		t.Fatal("a written sector is not seen")
	}
}

// zstdPeer gives go-qcow2reader the zstd decoder that it does not bring along.
func zstdPeer(r io.Reader) (io.ReadCloser, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

// TestL1InPieces reads an image whose L1 table, 128 KiB, is not held in memory, and whose
// Extents pass many L2 tables.
func TestL1InPieces(t *testing.T) {
	fixture.Need(t, "qemu-img", "qemu-io")
	img := filepath.Join(t.TempDir(), "disk.qcow2")
	const size = 512 << 20
	fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", img, "512M")
	qemuIO(t, img, "write -P 1 100M 100k", "write -P 2 536870400 512")
	m := open(t, img)
	if q := m.layers[0].(*qcow2); q.l1 != nil {
		t.Fatal("the L1 table is held")
	}
	type part struct {
		off, n int64
		zero   bool
	}
	var got []part
	for off := int64(0); off < size; {
		e, err := m.Extent(off, size)
		if err != nil {
			t.Fatal(err)
		}
		if l := len(got); l > 0 && got[l-1].zero == e.Zero { // data is cut by the L2 tables between
			got[l-1].n += e.Len
		} else {
			got = append(got, part{off, e.Len, e.Zero})
		}
		off += e.Len
	}
	want := []part{{0, 100 << 20, true}, {100 << 20, 100 << 10, false}, {100<<20 + 100<<10, size - 512 - 100<<20 - 100<<10, true}, {size - 512, 512, false}}
	if !slices.Equal(got, want) {
		t.Fatalf("%+v, want %+v", got, want)
	}
	b := make([]byte, 100<<10)
	if _, err := m.ReadAt(b, 100<<20); err != nil || bytes.Count(b, []byte{1}) != len(b) {
		t.Fatal(err)
	}
	if _, err := m.ReadAt(b[:512], size-512); err != nil || bytes.Count(b[:512], []byte{2}) != 512 {
		t.Fatal(err)
	}
}

// TestExtentIsLong: neighbouring clusters that are contiguous on the host are one extent, so
// that a large read needs one host range.
func TestExtentIsLong(t *testing.T) {
	fixture.Need(t, "qemu-img")
	dir := t.TempDir()
	raw, img := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.qcow2")
	if err := os.WriteFile(raw, bytes.Repeat([]byte("x"), 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, opts := range []string{"cluster_size=4k", "cluster_size=64k", "cluster_size=64k,extended_l2=on"} {
		fixture.Run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", opts, raw, img)
		m := open(t, img)
		// With 4 KiB clusters an L2 table maps 2 MiB and lies between the data.
		if e, err := m.Extent(1<<20, 1<<20); err != nil || e.Len != 1<<20 || e.Host == nil {
			t.Errorf("%s: %+v, %v", opts, e, err)
		}
	}
	fixture.Run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, img)
	if e, err := open(t, img).Extent(1<<20, 5<<20); err != nil || e.Len != 5<<20 || e.Host != nil || e.Zero {
		t.Errorf("compressed: %+v, %v", e, err)
	}
}

// TestSameDescriptor: two files of a chain have different compressed clusters at one host
// offset.
func TestSameDescriptor(t *testing.T) {
	fixture.Need(t, "qemu-img", "qemu-io")
	dir := t.TempDir()
	base, img := filepath.Join(dir, "base.qcow2"), filepath.Join(dir, "top.qcow2")
	fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", base, "1M")
	qemuIO(t, base, "write -c -P 5 0 64k")
	fixture.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", img)
	qemuIO(t, img, "write -c -P 6 64k 64k")
	m := open(t, img)
	steps := 2
	a, errA := m.at(0, 1, false, &steps)
	b, errB := m.at(64<<10, 1, false, &steps)
	if errA != nil || errB != nil || a.kind != packed || a.pack.word != b.pack.word || a.pack.q == b.pack.q {
		t.Fatalf("not the layout this test needs: %+v, %+v", a.pack, b.pack)
	}
	sameBytes(t, "chain", readAll(t, m, 64<<10), qemuRaw(t, img, "qcow2"))
}
