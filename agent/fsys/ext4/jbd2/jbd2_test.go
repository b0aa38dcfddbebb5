package jbd2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/ext4/jbd2"
	"vmfr/test/fixture"
)

const magic = 0xC03B3998

func put32(b []byte, off int, v uint32) { binary.BigEndian.PutUint32(b[off:], v) }

func get32(b []byte, off int) uint32 { return binary.BigEndian.Uint32(b[off:]) }

// firstOf is the first block of a kind in the log.
func (m *image) firstOf(t *testing.T, kind uint32) []byte {
	t.Helper()
	for n := 1; n < len(m.log); n++ {
		if b := m.block(n); get32(b, 0) == magic && get32(b, 4) == kind {
			return b
		}
	}
	t.Fatalf("no block of kind %d in the log", kind)
	return nil
}

// TestRefused damages fields that no log can do without.
func TestRefused(t *testing.T) {
	v3, none := seed(t, "v3"), seed(t, "none")
	for _, c := range []struct {
		name   string
		from   *image
		mutate func(t *testing.T, m *image)
		kind   error
		text   string
	}{
		{"superblock magic", none, func(_ *testing.T, m *image) { put32(m.block(0), 0, 1) }, fsys.ErrCorrupt, "superblock at byte 0 is corrupt: magic number 0x1"},
		{"superblock type", none, func(_ *testing.T, m *image) { put32(m.block(0), 4, 1) }, fsys.ErrCorrupt, "block type 1"},
		{"block size", none, func(_ *testing.T, m *image) { put32(m.block(0), 12, 4096) }, fsys.ErrCorrupt, "block size 4096"},
		{"length", none, func(_ *testing.T, m *image) { put32(m.block(0), 16, 1025) }, fsys.ErrCorrupt, "length of 1025 blocks"},
		{"length huge", none, func(_ *testing.T, m *image) { put32(m.block(0), 16, 1<<32-1) }, fsys.ErrCorrupt, "length of 4294967295 blocks"},
		{"first 0", none, func(_ *testing.T, m *image) { put32(m.block(0), 20, 0) }, fsys.ErrCorrupt, "log from block 0"},
		{"first behind", none, func(_ *testing.T, m *image) { put32(m.block(0), 20, 1024) }, fsys.ErrCorrupt, "log from block 1024"},
		{"start behind", none, func(_ *testing.T, m *image) { put32(m.block(0), 28, 1024) }, fsys.ErrCorrupt, "log begins at block 1024"},
		{"incompatible feature", none, func(_ *testing.T, m *image) { put32(m.block(0), 40, get32(m.block(0), 40)|0x40) }, fsys.ErrUnsupported, "incompatible features 0x40"},
		{"read-only feature", none, func(_ *testing.T, m *image) { put32(m.block(0), 44, 1) }, fsys.ErrUnsupported, "read-only features 0x1"},
		{"v2 and v3", none, func(_ *testing.T, m *image) { put32(m.block(0), 40, 0x18) }, fsys.ErrCorrupt, "more than one kind of checksum"},
		{"v1 and v3", v3, func(_ *testing.T, m *image) { put32(m.block(0), 36, 1) }, fsys.ErrCorrupt, "more than one kind of checksum"},
		{"checksum type", v3, func(_ *testing.T, m *image) { m.block(0)[0x50] = 1 }, fsys.ErrUnsupported, "checksum type 1"},
		{"superblock checksum", v3, func(_ *testing.T, m *image) { m.block(0)[0x200] ^= 1 }, fsys.ErrCorrupt, "superblock at byte 0 is corrupt: checksum"},
		{"fast-commit area", none, func(_ *testing.T, m *image) {
			put32(m.block(0), 40, get32(m.block(0), 40)|0x20)
			put32(m.block(0), 0x54, 5000)
		}, fsys.ErrCorrupt, "5000 blocks for fast commits"},
		{"target", none, func(t *testing.T, m *image) { put32(m.firstOf(t, 1), 12, 8192) }, fsys.ErrCorrupt, "block 8192 of a device of 8192"},
		{"revoke count", none, func(t *testing.T, m *image) { put32(m.firstOf(t, 5), 12, 1025) }, fsys.ErrCorrupt, "revoke block of transaction"},
		{"descriptor checksum", v3, func(t *testing.T, m *image) { m.firstOf(t, 1)[100] ^= 1 }, fsys.ErrCorrupt, "the checksum of a descriptor block is wrong"},
		{"revoke checksum", v3, func(t *testing.T, m *image) { m.firstOf(t, 5)[100] ^= 1 }, fsys.ErrCorrupt, "the checksum of a revoke block is wrong"},
		{"commit checksum", v3, func(t *testing.T, m *image) { m.firstOf(t, 2)[16] ^= 1 }, fsys.ErrCorrupt, "commit block of transaction"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := c.from.clone()
			c.mutate(t, m)
			_, err := m.load()
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %v\nwant one of kind %q with %q", err, c.kind, c.text)
			}
		})
	}
}

// TestEnds cuts and damages the log where that is no error: what was committed before remains.
func TestEnds(t *testing.T) {
	base := seed(t, "none")
	whole, err := base.load()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name         string
		mutate       func(t *testing.T, m *image)
		transactions int
		clean        bool
	}{
		{"untouched", func(*testing.T, *image) {}, whole.Transactions, false},
		{"empty", func(_ *testing.T, m *image) { put32(m.block(0), 28, 0) }, 0, true},
		{"first block is no log", func(_ *testing.T, m *image) { clear(m.block(int(get32(m.block(0), 28)))) }, 0, false},
		{"commit missing", func(t *testing.T, m *image) { clear(m.firstOf(t, 2)) }, 0, false},
		{"commit of another transaction", func(t *testing.T, m *image) { put32(m.firstOf(t, 2), 8, 99) }, 0, false},
		{"unknown block type", func(t *testing.T, m *image) { put32(m.firstOf(t, 2), 4, 9) }, 0, false},
		{"version 1 superblock", func(_ *testing.T, m *image) {
			put32(m.block(0), 4, 3)
			put32(m.block(0), 40, 0xFFFFFFFF) // has no features
		}, whole.Transactions, false},
		{"aborted", func(_ *testing.T, m *image) { put32(m.block(0), 32, 0xFFFFFFFB) }, whole.Transactions, false},
		// All descriptors, no end: the walk is bounded by the length of the ring.
		{"ring of descriptors", func(t *testing.T, m *image) {
			d := bytes.Clone(m.firstOf(t, 1))
			put32(d, 8, get32(m.block(0), 24))
			for n := 1; n < len(m.log); n++ {
				copy(m.block(n), d)
			}
		}, 0, false},
		{"ring of revokes", func(t *testing.T, m *image) {
			d := bytes.Clone(m.firstOf(t, 5))
			put32(d, 8, get32(m.block(0), 24))
			for n := 1; n < len(m.log); n++ {
				copy(m.block(n), d)
			}
		}, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := base.clone()
			c.mutate(t, m)
			r, err := m.load()
			if err != nil {
				t.Fatal(err)
			}
			if r.Transactions != c.transactions || r.Clean != c.clean || r.End-r.First != uint32(c.transactions) {
				t.Errorf("%d transactions [%d, %d), clean %v; want %d, %v", r.Transactions, r.First, r.End, r.Clean, c.transactions, c.clean)
			}
			if c.transactions == 0 && len(r.Patches) > 0 {
				t.Errorf("%d patches without a transaction", len(r.Patches))
			}
			if (c.name == "aborted") != (len(r.Warnings) == 1) {
				t.Errorf("warnings %q", r.Warnings)
			}
		})
	}
}

// TestShort gives journals that end anywhere.
func TestShort(t *testing.T) {
	m := seed(t, "none")
	for _, n := range []int64{0, 1, 1023, 1024, 5000, 1<<20 - 1} {
		r, err := extent.Section(m.journal(), 0, n)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := jbd2.Load(r, jbd2.Config{BlockSize: 1024, Blocks: 8192}); !errors.Is(err, fsys.ErrCorrupt) {
			t.Errorf("journal of %d bytes: %v, want ErrCorrupt", n, err)
		}
	}
	for _, size := range []int{0, 512, 1000, 1 << 17} {
		if _, err := jbd2.Load(m.journal(), jbd2.Config{BlockSize: size, Blocks: 8192}); !errors.Is(err, fsys.ErrUnsupported) {
			t.Errorf("block size %d: %v, want ErrUnsupported", size, err)
		}
	}
}

// TestSequenceWraps renumbers a log so that its transactions cross 2^32.
func TestSequenceWraps(t *testing.T) {
	m := seed(t, "none")
	want, err := m.load()
	if err != nil {
		t.Fatal(err)
	}
	shift := uint32(1<<32-3) - get32(m.block(0), 24)
	put32(m.block(0), 24, get32(m.block(0), 24)+shift)
	for n := 1; n < len(m.log); n++ {
		if b := m.block(n); get32(b, 0) == magic {
			put32(b, 8, get32(b, 8)+shift)
		}
	}
	got, err := m.load()
	if err != nil {
		t.Fatal(err)
	}
	if got.End >= got.First {
		t.Fatalf("transactions [%d, %d) do not wrap: this test shows nothing", got.First, got.End)
	}
	if got.Transactions != want.Transactions || got.Blocks != want.Blocks || got.Revoked != want.Revoked {
		t.Errorf("got %d transactions, %d blocks, %d revoked; want %d, %d, %d",
			got.Transactions, got.Blocks, got.Revoked, want.Transactions, want.Blocks, want.Revoked)
	}
}

// TestRingWraps turns the log round so that its transactions cross the ring's end.
func TestRingWraps(t *testing.T) {
	m := seed(t, "none")
	want, err := m.load()
	if err != nil {
		t.Fatal(err)
	}
	turned := m.clone()
	ring := len(m.log) - 1
	start := int(get32(m.block(0), 28))
	for n := range ring {
		// The log's second block becomes the ring's first.
		copy(turned.block(1+(n-start+ring)%ring), m.block(1+n))
	}
	put32(turned.block(0), 28, uint32(ring))
	got, err := turned.load()
	if err != nil {
		t.Fatal(err)
	}
	if got.Transactions != want.Transactions || got.Blocks != want.Blocks || got.Revoked != want.Revoked {
		t.Errorf("got %d transactions, %d blocks, %d revoked; want %d, %d, %d",
			got.Transactions, got.Blocks, got.Revoked, want.Transactions, want.Blocks, want.Revoked)
	}
	if !bytes.Equal(contents(t, got), contents(t, want)) {
		t.Error("the patches differ")
	}
}

func contents(t *testing.T, r *jbd2.Replay) []byte {
	t.Helper()
	var out []byte
	for _, p := range r.Patches {
		b := make([]byte, p.Data.Size())
		if n, err := p.Data.ReadAt(b, 0); n < len(b) {
			t.Fatal(err)
		}
		out = append(out, b...)
	}
	return out
}

// hostReader says that its bytes lie in a file of the host.
type hostReader struct {
	extent.Reader
	file *os.File
}

func (h hostReader) Extent(off, max int64) (extent.Extent, error) {
	max, err := extent.CheckExtent(h.Size(), off, max)
	return extent.Extent{Len: max, Host: h.file, HostOff: off}, err
}

// TestPatchesStayOnHost: the log's contents are not copied into memory.
func TestPatchesStayOnHost(t *testing.T) {
	m := seed(t, "v3")
	r, err := jbd2.Load(hostReader{m.journal(), os.Stdin}, jbd2.Config{BlockSize: 1024, Blocks: 8192})
	if err != nil {
		t.Fatal(err)
	}
	blocks := int64(0)
	for _, p := range r.Patches {
		blocks += p.Data.Size() / 1024
		if x, err := p.Data.Extent(0, p.Data.Size()); err != nil || x.Host == nil || x.HostOff%1024 != 0 {
			t.Errorf("patch at %d: %+v, %v", p.Off, x, err)
		}
	}
	if blocks != int64(r.Blocks) || len(r.Patches) >= r.Blocks {
		t.Errorf("%d patches with %d blocks, %d said", len(r.Patches), blocks, r.Blocks)
	}
}

// TestChecksumV2 replays a log that debugfs writes: no kernel of today makes version 2.
func TestChecksumV2(t *testing.T) {
	fixture.NeedRoot(t)
	fixture.Need(t, "debugfs")
	for _, features := range []string{"metadata_csum,64bit", "metadata_csum,^64bit"} {
		t.Run(features, func(t *testing.T) {
			img := fixture.Ext4(t, "", 8<<20, "-b", "1024", "-J", "size=1", "-E", "lazy_itable_init=0", "-O", features)
			dir := t.TempDir()
			data := filepath.Join(dir, "data")
			b := bytes.Repeat([]byte("logged data "), 400)
			put32(b, 1024, magic) // the second block is escaped
			if err := os.WriteFile(data, b[:4096], 0o600); err != nil {
				t.Fatal(err)
			}
			script := filepath.Join(dir, "script")
			if err := os.WriteFile(script, []byte("jo -c -v 2\njw -b 7000-7003 "+data+"\njw -r 7002\njw -b 7001 "+data+"\njc\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			fixture.Run(t, "debugfs", "-w", "-f", script, img)
			m := read(t, img)
			if f := get32(m.block(0), 40); f&0x8 == 0 {
				t.Fatalf("features %#x: not version 2", f)
			}
			r, err := m.load()
			if err != nil {
				t.Fatal(err)
			}
			if r.Transactions != 3 || r.Blocks != 3 || r.Revoked != 1 {
				t.Errorf("%d transactions, %d blocks, %d revoked; want 3, 3, 1", r.Transactions, r.Blocks, r.Revoked)
			}
			kernel, ok := kernelReplay(t, m)
			if !ok {
				t.Fatal("the kernel does not mount it")
			}
			if n := difference(t, m, kernel, r); n >= 0 {
				t.Errorf("block %d differs from the kernel's", n)
			}
			// A logged block that is damaged is found by its 16 bits.
			for n := 1; n < len(m.log); n++ {
				if bytes.HasPrefix(m.block(n), []byte("logged data")) {
					m.block(n)[500] ^= 1
					break
				}
			}
			if _, err := m.load(); !errors.Is(err, fsys.ErrCorrupt) || !strings.Contains(err.Error(), "logged block of transaction") {
				t.Errorf("damaged data: %v", err)
			}
		})
	}
}
