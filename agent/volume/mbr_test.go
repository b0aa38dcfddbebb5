package volume

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"vmfr/test/fixture"
)

const extendedScript = `label: dos
label-id: 0x1234abcd
start=64, size=512, type=83, bootable
start=2048, size=12000, type=5
start=2112, size=1000, type=82
start=4096, size=1000, type=83
start=6144, size=1000, type=83
`

// extendedImage is a disk of 8 MiB with partition 1 and logical partitions 5 to 7.
func extendedImage(t testing.TB) []byte {
	t.Helper()
	fixture.Need(t, "sfdisk")
	return load(t, image(t, gptSize, func(p string) { script(t, extendedScript, "sfdisk", "-q", p) }))
}

func TestMBRLikePartx(t *testing.T) {
	fixture.Need(t, "sfdisk", "partx")
	var many strings.Builder
	many.WriteString("label: dos\nstart=2048,size=120000,type=f\n")
	for i := range 25 {
		fmt.Fprintf(&many, "start=%d,size=1024,type=83\n", 4096+4096*i)
	}
	for name, in := range map[string]string{
		"primary":  "label: dos\nstart=2048,size=8192,type=83\nstart=10240,size=8192,type=7\nstart=20480,size=100,type=c\nstart=30720,size=8192,type=8e\n",
		"third":    "label: dos\nlabel-id: 0xfeedf00d\n3 : start=2048,size=8192,type=83\n",
		"extended": extendedScript,
		"linux extended, in the middle": "label: dos\nstart=2048,size=2048,type=83\nstart=8192,size=20480,type=85\nstart=65536,size=2048,type=83\n" +
			"start=10240,size=2048,type=83\nstart=14336,size=2048,type=83\n",
		"25 logical": many.String(),
	} {
		t.Run(name, func(t *testing.T) {
			path := image(t, 64*mib, func(p string) { script(t, in, "sfdisk", "-q", p) })
			vols, table := scanBytes(t, load(t, path))
			if table.Scheme != "mbr" || table.SectorSize != 512 || table.Err != nil || len(table.Warnings) > 0 {
				t.Errorf("table %+v", table)
			}
			sameAsPartx(t, path, 512, vols)
			if dump := fixture.Run(t, "sfdisk", "--dump", path); !strings.Contains(dump, "label-id: 0x"+table.ID) {
				t.Errorf("disk signature %s is not in\n%s", table.ID, dump)
			}
		})
	}
}

// TestMBR4096: the same numbers mean other bytes on a disk with large sectors; only what lies
// there can tell.
func TestMBR4096(t *testing.T) {
	fixture.Need(t, "fdisk", "partx", "mke2fs")
	path := image(t, 64*mib, func(p string) {
		script(t, "o\nn\np\n1\n256\n+16M\nn\np\n2\n\n+8M\nw\n", "fdisk", "-b", "4096", p)
	})
	fixture.Ext4At(t, path, mib, 16*mib, "")
	vols, table := scanBytes(t, load(t, path))
	if table.SectorSize != 4096 || len(table.Warnings) != 1 {
		t.Errorf("%+v", table)
	}
	sameAsPartx(t, path, 4096, vols)
}

// TestDamagedMBR changes one thing in a disk with logical partitions 5 to 7. sfdisk chooses
// where the extended boot records lie, so their places are read from the chain.
func TestDamagedMBR(t *testing.T) {
	good := extendedImage(t)
	records := []int{2048 * 512}
	for {
		link := parseMBR(good[records[len(records)-1]:][:512]).entries[1]
		if !link.used() {
			break
		}
		records = append(records, (2048+int(link.start))*512)
	}
	if len(records) != 3 {
		t.Fatalf("%d records in sfdisk's chain", len(records))
	}
	field := func(record, entry, at int, n uint32) func([]byte) []byte {
		return func(b []byte) []byte { put32(b[record+446+16*entry+at:], n); return b }
	}
	for _, c := range []struct {
		name    string
		change  func([]byte) []byte
		volumes string
		warning string
	}{
		{"untouched", func(b []byte) []byte { return b }, "mbr p1 p5 p6 p7", ""},
		{"chain to itself", field(records[1], 1, 8, uint32(records[1]/512-2048)), "mbr p1 p5 p6", "the chain returns"},
		{"chain to its start", field(records[2], 1, 8, 0), "mbr p1 p5 p6 p7", ""},
		{"chain to its start, used", func(b []byte) []byte {
			e := b[records[2]+446+16:]
			e[4] = 5
			put32(e[8:], 0)
			put32(e[12:], 100)
			return b
		}, "mbr p1 p5 p6 p7", "the chain returns"},
		{"link leaves the extended partition", field(records[0], 1, 8, 15000), "mbr p1 p5", "leaves the extended"},
		{"link overflows", field(records[0], 1, 8, 1<<32-1), "mbr p1 p5", "leaves the extended"},
		{"record without its mark", func(b []byte) []byte { b[records[1]+511] = 0; return b }, "mbr p1 p5", "does not end with 55AA"},
		{"first record zeroed", func(b []byte) []byte { clear(b[records[0]:][:512]); return b }, "mbr p1", "may be missing"},
		{"logical partition past the end", field(records[1], 0, 12, 1<<31), "mbr p1 p5 p7", "partition 6"},
		{"logical partition far away", field(records[1], 0, 8, 1<<32-1), "mbr p1 p5 p7", "partition 6"},
		{"garbage in the unused entries of a record", func(b []byte) []byte {
			copy(b[records[0]+446+32:records[0]+510], strings.Repeat("\x00\x11\x22\x33\x83\x44\x55\x66\xff\xff\xff\xf0\xff\xff\xff\x0f", 2))
			return b
		}, "mbr p1 p5 p6 p7", ""},
		{"overlap", field(0, 0, 12, 4000), "mbr p1 p5 p6 p7", "partitions 1 and 5 overlap"},
		{"primary past the end", field(0, 0, 12, 1<<32-1), "mbr p5 p6 p7", "partition 1"},
		{"primary from sector 0", field(0, 0, 8, 0), "mbr p5 p6 p7", "covers the partition table"},
		{"zero signature", func(b []byte) []byte { clear(b[440:444]); return b }, "mbr p1 p5 p6 p7", ""},
		{"no mark", func(b []byte) []byte { b[510] = 0; return b }, "none whole", ""},
		{"odd status", func(b []byte) []byte { b[446+48] = 0x41; return b }, "none whole", "holds neither"},
		{"all entries behind the disk", func(b []byte) []byte {
			put32(b[446+8:], 1<<30)
			put32(b[446+24:], 1<<30)
			return b
		}, "mbr whole", "no usable partition"},
		{"no entries", func(b []byte) []byte { clear(b[446:510]); return b }, "mbr whole", "no usable partition"},
		{"truncated in the chain", func(b []byte) []byte { return b[:records[2]] }, "mbr p1 p5 p6", "may be missing"},
		{"protective without a GPT", func(b []byte) []byte { b[446+4] = 0xee; return b }, "none", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			vols, table := scanBytes(t, c.change(append([]byte(nil), good...)))
			got := table.Scheme
			for _, v := range vols {
				got += " " + v.Name
			}
			if got != c.volumes {
				t.Errorf("got %q, want %q; %v %v", got, c.volumes, table.Warnings, table.Err)
			}
			warnings := strings.Join(table.Warnings, "\n")
			if c.warning == "" && warnings != "" || !strings.Contains(warnings, c.warning) {
				t.Errorf("warnings %q, want %q", warnings, c.warning)
			}
			if (table.Err != nil) != (c.name == "protective without a GPT") {
				t.Errorf("error %v", table.Err)
			}
		})
	}
}

// TestLongChain: a chain that is longer than any disk needs ends at the limit.
func TestLongChain(t *testing.T) {
	b := extendedImage(t)
	put32(b[446+16+12:], 14000)
	for i := range maxLogical + 10 {
		r := b[(2048+2*i)*512:][:512]
		clear(r)
		r[510], r[511] = 0x55, 0xaa
		r[446+4], r[446+16+4] = 0x83, 0x05
		put32(r[446+8:], 1)
		put32(r[446+12:], 1)
		put32(r[446+16+8:], uint32(2*i+2))
		put32(r[446+16+12:], 2)
	}
	vols, table := scanBytes(t, b)
	if len(vols) != maxLogical+1 || !strings.Contains(fmt.Sprint(table.Warnings), "more than 256 logical") {
		t.Errorf("%d volumes, %v", len(vols), table.Warnings)
	}
}

// TestPartitionContents: a volume's bytes are the partition's, as the kernel cuts it.
func TestPartitionContents(t *testing.T) {
	fixture.Need(t, "sfdisk", "mke2fs", "blkid")
	path := image(t, 64*mib, func(p string) {
		script(t, "label: dos\nstart=2048,size=16384,type=83\nstart=20480,size=81920,type=5\nstart=22528,size=16384,type=83\n", "sfdisk", "-q", p)
	})
	fixture.Ext4At(t, path, 22528*512, 16384*512, "", "-L", "logical")
	vols, _ := scanBytes(t, load(t, path))
	part := t.TempDir() + "/part"
	for _, v := range vols {
		if v.Name != "p5" {
			continue
		}
		b := make([]byte, v.Size())
		if _, err := v.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(part, b, 0o600); err != nil {
			t.Fatal(err)
		}
		fixture.Run(t, "e2fsck", "-fn", part)
		return
	}
	t.Fatal("no p5")
}
