package volume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/test/fixture"
)

const gptSize = 8 * mib

// gptImage is a disk of 8 MiB with partitions 1 to 3, made by sgdisk.
func gptImage(t testing.TB) []byte {
	t.Helper()
	fixture.Need(t, "sgdisk")
	return load(t, image(t, gptSize, func(p string) {
		fixture.Run(t, "sgdisk", "-a", "8", "-n", "1:2048:+1M", "-n", "2:0:+1M", "-t", "2:ef00", "-n", "3:0:+2M", "-c", "3:data", p)
	}))
}

func TestGPTLikePartx(t *testing.T) {
	fixture.Need(t, "sgdisk", "partx", "fdisk")
	for _, c := range []struct {
		name   string
		sector int
		make   func(path string)
	}{
		{"names and gaps", 512, func(p string) {
			fixture.Run(t, "sgdisk", "-n", "1:2048:+8M", "-c", "1:Wurzel ü日本𝄞", "-n", "3:0:+4M", "-t", "3:ef00",
				"-c", "3:"+strings.Repeat("x", 36), "-n", "128:0:+1M", "-t", "128:8e00", p)
		}},
		{"order of starts is not order of numbers", 512, func(p string) {
			fixture.Run(t, "sgdisk", "-n", "2:2048:+1M", "-n", "1:8192:+1M", p)
		}},
		{"300 entries", 512, func(p string) {
			fixture.Run(t, "sgdisk", "-S", "300", "-n", "299:4096:+1M", "-n", "1:0:+1M", p)
		}},
		{"4096-byte sectors", 4096, func(p string) {
			script(t, "g\nn\n1\n\n+8M\nn\n2\n\n+4M\nw\n", "fdisk", "-b", "4096", p)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := image(t, 64*mib, c.make)
			vols, table := scanBytes(t, load(t, path))
			if table.Scheme != "gpt" || table.SectorSize != c.sector || table.Err != nil || len(table.Warnings) > 0 {
				t.Errorf("table %+v", table)
			}
			sameAsPartx(t, path, c.sector, vols)
			if c.sector == 512 {
				if id := fixture.Run(t, "sgdisk", "-p", path); !strings.Contains(strings.ToLower(id), table.ID) {
					t.Errorf("disk GUID %s is not in sgdisk's\n%s", table.ID, id)
				}
			}
		})
	}
}

func TestHybridMBR(t *testing.T) {
	fixture.Need(t, "sgdisk")
	path := image(t, gptSize, func(p string) {
		fixture.Run(t, "sgdisk", "-a", "8", "-n", "1:2048:+1M", "-n", "2:0:+1M", p)
		fixture.Run(t, "sgdisk", "-h", "1", p)
	})
	vols, table := scanBytes(t, load(t, path))
	if table.Scheme != "gpt" || len(vols) != 2 || !strings.Contains(fmt.Sprint(table.Warnings), "hybrid") {
		t.Errorf("%+v %+v", vols, table)
	}
}

// TestStaleGPT: a disk that got an MBR or a file system later keeps old GPT structures.
func TestStaleGPT(t *testing.T) {
	fixture.Need(t, "sfdisk", "mkfs.vfat")
	old := gptImage(t)
	mbr := load(t, image(t, gptSize, func(p string) { script(t, "start=4096,size=2048,type=83\n", "sfdisk", "-q", "-X", "dos", p) }))
	both := append([]byte(nil), old...)
	copy(both, mbr[:512])
	if vols, table := scanBytes(t, both); table.Scheme != "mbr" || len(vols) != 1 || len(table.Warnings) != 1 {
		t.Errorf("an MBR over a GPT: %+v %+v", vols, table)
	}
	fat := load(t, image(t, gptSize, func(p string) { fixture.Run(t, "mkfs.vfat", "-F", "32", "-s", "1", p) }))
	copy(fat[gptSize-33*512:], old[gptSize-33*512:])
	if vols, table := scanBytes(t, fat); table.Scheme != "none" || len(vols) != 1 || vols[0].Name != Whole {
		t.Errorf("FAT over a GPT whose backup is left: %+v %+v", vols, table)
	}
}

func TestEnlargedDisk(t *testing.T) {
	b := append(gptImage(t), make([]byte, 4*mib)...)
	vols, table := scanBytes(t, b)
	if len(vols) != 3 || table.Err != nil || !strings.Contains(fmt.Sprint(table.Warnings), "enlarged") {
		t.Fatalf("%+v %+v", vols, table)
	}
	// Now only the damaged primary knows where the backup is.
	b[512+60]++
	vols, table = scanBytes(t, b)
	if len(vols) != 3 || table.Err != nil || !strings.Contains(fmt.Sprint(table.Warnings), "backup table at LBA 16383 is used") {
		t.Fatalf("%+v %+v", vols, table)
	}
}

// header gives access to a header's fields and makes its checksums right again.
type header []byte

func (h header) set32(at int, n uint32) { binary.LittleEndian.PutUint32(h[at:], n) }
func (h header) set64(at int, n uint64) { binary.LittleEndian.PutUint64(h[at:], n) }
func (h header) seal() {
	h.set32(16, 0)
	length := min(binary.LittleEndian.Uint32(h[12:]), 512)
	h.set32(16, crc32.ChecksumIEEE(h[:length]))
}

// sealEntries makes the entries' checksum right in both copies after a change of the primary.
func sealEntries(b []byte) {
	copy(b[len(b)-33*512:], b[1024:1024+32*512])
	sum := crc32.ChecksumIEEE(b[1024 : 1024+128*128])
	for _, h := range []header{b[512:1024], b[len(b)-512:]} {
		h.set32(88, sum)
		h.seal()
	}
}

// TestDamagedGPT changes one thing in a good disk. A change of the primary alone must be
// healed by the backup; one of both must be told, not guessed around.
func TestDamagedGPT(t *testing.T) {
	good, last := gptImage(t), gptSize-512
	primary := func(f func(h header)) func([]byte) []byte {
		return func(b []byte) []byte { f(b[512:1024]); return b }
	}
	both := func(f func(h header)) func([]byte) []byte {
		return func(b []byte) []byte {
			for _, h := range []header{b[512:1024], b[last:]} {
				f(h)
				h.seal()
			}
			return b
		}
	}
	entry := func(i int, f func(e header)) func([]byte) []byte {
		return func(b []byte) []byte { f(b[1024+128*i:]); sealEntries(b); return b }
	}
	set32 := func(at int, n uint32) func(h header) { return func(h header) { h.set32(at, n) } }
	sealed := func(at int, n uint64) func(h header) { return func(h header) { h.set64(at, n); h.seal() } }
	for _, c := range []struct {
		name    string
		change  func([]byte) []byte
		volumes string
		warning string
		err     error
	}{
		{"untouched", func(b []byte) []byte { return b }, "p1 p2 p3", "", nil},
		{"primary header zeroed", func(b []byte) []byte { clear(b[512:1024]); return b }, "p1 p2 p3", "is used", nil},
		{"primary header and entries zeroed", func(b []byte) []byte { clear(b[512 : 34*512]); return b }, "p1 p2 p3", "is used", nil},
		{"first MiB but the MBR zeroed", func(b []byte) []byte { clear(b[512:mib]); return b }, "p1 p2 p3", "is used", nil},
		{"first MiB zeroed", func(b []byte) []byte { clear(b[:mib]); return b }, "p1 p2 p3", "no protective MBR", nil},
		{"MBR zeroed", func(b []byte) []byte { clear(b[:512]); return b }, "p1 p2 p3", "no protective MBR", nil},
		{"primary checksum", primary(set32(16, 0)), "p1 p2 p3", "checksum does not match; the backup", nil},
		{"primary entries checksum", func(b []byte) []byte { b[1024+40]++; return b }, "p1 p2 p3", "partition entries", nil},
		{"primary of another LBA", primary(sealed(24, 2)), "p1 p2 p3", "written for LBA 2", nil},
		{"primary entries at LBA 0", primary(sealed(72, 0)), "p1 p2 p3", "entries are at LBA 0", nil},
		{"primary entries behind the disk", primary(sealed(72, 1<<40)), "p1 p2 p3", "outside the disk", nil},
		{"primary entries overflow", primary(sealed(72, 1<<63)), "p1 p2 p3", "entries are at", nil},
		{"alternate behind the disk", primary(sealed(32, 1<<62)), "p1 p2 p3", "too short", nil},
		{"alternate is the primary", primary(sealed(32, 1)), "p1 p2 p3", "enlarged", nil},
		{"backup zeroed", func(b []byte) []byte { clear(b[gptSize-33*512:]); return b }, "p1 p2 p3", "of no use", nil},
		{"backup checksum", func(b []byte) []byte { b[last+20]++; return b }, "p1 p2 p3", "of no use", nil},
		{"backup entries", func(b []byte) []byte { b[gptSize-33*512]++; return b }, "p1 p2 p3", "of no use", nil},
		{"backup of another disk", func(b []byte) []byte { b[last+56]++; header(b[last:]).seal(); return b }, "p1 p2 p3", "differs", nil},
		{"truncated behind the partitions", func(b []byte) []byte { return b[:6*mib] }, "p1 p2 p3", "bytes too short", nil},
		{"truncated in partition 3", func(b []byte) []byte { return b[:4*mib] }, "p1 p2", "partition 3 (LBA", nil},
		{"truncated in the entries", func(b []byte) []byte { return b[:2048] }, "", "", fsys.ErrCorrupt},
		{"truncated behind sector 0", func(b []byte) []byte { return b[:512] }, "", "", fsys.ErrCorrupt},
		{"both headers zeroed", func(b []byte) []byte { clear(b[512:1024]); clear(b[last:]); return b }, "", "", fsys.ErrCorrupt},
		{"both checksums", func(b []byte) []byte { b[512+20]++; b[last+20]++; return b }, "", "", fsys.ErrCorrupt},
		{"both entries", func(b []byte) []byte { b[1024]++; b[gptSize-33*512]++; return b }, "", "", fsys.ErrCorrupt},
		{"primary header and backup entries", func(b []byte) []byte { b[512+20]++; b[gptSize-33*512]++; return b }, "", "", fsys.ErrCorrupt},
		{"header of 4 GiB", both(set32(12, 1<<32-1)), "", "", fsys.ErrCorrupt},
		{"header of 91 bytes", both(set32(12, 91)), "", "", fsys.ErrCorrupt},
		{"four billion entries", both(set32(80, 1<<32-1)), "", "", fsys.ErrCorrupt},
		{"no entries", both(set32(80, 0)), "", "", fsys.ErrCorrupt},
		{"more entries than allowed", both(set32(80, maxGPTEntries+1)), "", "", fsys.ErrCorrupt},
		{"entries of 0 bytes", both(set32(84, 0)), "", "", fsys.ErrCorrupt},
		{"entries of 64 bytes", both(set32(84, 64)), "", "", fsys.ErrCorrupt},
		{"entries of 200 bytes", both(set32(84, 200)), "", "", fsys.ErrCorrupt},
		{"entries of 2 GiB", both(set32(84, 1<<31)), "", "", fsys.ErrCorrupt},
		{"usable range reversed", both(func(h header) { h.set64(48, 3) }), "", "", fsys.ErrCorrupt},
		{"usable range overflows", both(func(h header) { h.set64(48, 1<<64-1) }), "", "", fsys.ErrCorrupt},
		{"revision 2", both(set32(8, 0x20000)), "", "", fsys.ErrUnsupported},
		{"partition ends before it starts", entry(1, func(e header) { e.set64(40, 1) }), "p1 p3", "before it starts", nil},
		{"last LBA is the largest number", entry(1, func(e header) { e.set64(40, 1<<64-1) }), "p1 p3", "partition 2", nil},
		{"byte offset overflows", entry(1, func(e header) { e.set64(32, 1<<60); e.set64(40, 1<<60) }), "p1 p3", "past the end", nil},
		{"partition behind the disk", entry(1, func(e header) { e.set64(32, 1<<30); e.set64(40, 1<<31) }), "p1 p3", "past the end", nil},
		{"partition over the table", entry(1, func(e header) { e.set64(32, 0) }), "p1 p2 p3", "usable range", nil},
		{"overlap", entry(1, func(e header) { e.set64(32, 3000) }), "p1 p2 p3", "partitions 1 and 2 overlap", nil},
		{"entry without a type", entry(0, func(e header) { clear(e[:16]) }), "p2 p3", "", nil},
		{"name of surrogate halves", entry(2, func(e header) { copy(e[56:128], strings.Repeat("\x00\xd8", 36)) }), "p1 p2 p3", "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			vols, table := scanBytes(t, c.change(append([]byte(nil), good...)))
			var names []string
			for _, v := range vols {
				names = append(names, v.Name)
			}
			if got := strings.Join(names, " "); got != c.volumes {
				t.Errorf("volumes %q, want %q; %v", got, c.volumes, table.Warnings)
			}
			if !errors.Is(table.Err, c.err) {
				t.Errorf("error %v, want %v", table.Err, c.err)
			}
			warnings := strings.Join(table.Warnings, "\n")
			if c.warning == "" && warnings != "" || !strings.Contains(warnings, c.warning) {
				t.Errorf("warnings %q, want %q", warnings, c.warning)
			}
		})
	}
}

// TestManyWarnings: 128 overlapping partitions do not write 127 sentences.
func TestManyWarnings(t *testing.T) {
	b := gptImage(t)
	for i := range 128 {
		e := header(b[1024+128*i:])
		copy(e[:16], b[1024:1024+16])
		e.set64(32, 2048)
		e.set64(40, 4096)
	}
	sealEntries(b)
	vols, table := scanBytes(t, b)
	if len(vols) != 128 || len(table.Warnings) != maxWarnings+1 || !strings.Contains(table.Warnings[maxWarnings], "95 more") {
		t.Errorf("%d volumes, %d warnings, last %q", len(vols), len(table.Warnings), table.Warnings[len(table.Warnings)-1])
	}
}

const fuzzDisk = 256 << 10 // bytes

// FuzzScan gives the first and last bytes of a disk, with zeros between them. The seeds are
// tables made by sgdisk, sfdisk and mkfs.vfat.
func FuzzScan(f *testing.F) {
	f.Fuzz(func(t *testing.T, head, tail []byte) {
		if len(head) > fuzzDisk/2 || len(tail) > fuzzDisk/2 {
			return
		}
		// A second pass with right checksums gets behind them.
		for _, seal := range []bool{false, true} {
			b := make([]byte, fuzzDisk)
			copy(b, head)
			copy(b[len(b)-len(tail):], tail)
			if seal {
				fuzzSeal(b)
			}
			scanReader(t, extent.Bytes(b))
		}
	})
}

// fuzzSeal makes the checksums of a header at LBA 1 right for whatever it says.
func fuzzSeal(b []byte) {
	h := header(b[512:1024])
	copy(h, gptMark)
	h.set32(8, gptRevision<<16)
	h.set64(24, 1)
	count, size := uint64(h[80])%8, uint64(128)
	h.set32(80, uint32(count))
	h.set32(84, uint32(size))
	if from := binary.LittleEndian.Uint64(h[72:]) * 512; from < uint64(len(b)) && count*size <= uint64(len(b))-from {
		h.set32(88, crc32.ChecksumIEEE(b[from:from+count*size]))
	}
	h.seal()
}
