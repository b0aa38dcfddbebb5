package volume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// lvmPart is the metadata of a physical volume of 4 MiB as LVM's tools wrote it, in a form that
// can be changed: testdata/lvm has label sector, header of the metadata area and text.
type lvmPart struct {
	label, header []byte
	text          string
	open          bool // leave the checksums as they are
}

const lvmTestSize = 4 * mib

func loadLVM(t testing.TB, name string) lvmPart {
	t.Helper()
	b, err := os.ReadFile("testdata/lvm/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return lvmPart{label: b[:512:512], header: b[512:1024:1024], text: string(b[1024:])}
}

// disk assembles the physical volume.
func (p lvmPart) disk(name string) Disk {
	return Disk{name, extent.Bytes(append(p.head(mib), pattern(int(name[len(name)-1]), lvmTestSize-mib)...))}
}

// head is the first size bytes of the physical volume, with the checksums made right.
func (p lvmPart) head(size int) []byte {
	b := make([]byte, size)
	copy(b[512:1024], p.label)
	copy(b[4096:4608], p.header)
	text := []byte(p.text + "\x00")
	in := int(le64(p.header[40:]))
	if le64(p.header[48:]) != uint64(len(text)) && !p.open {
		in = 512
		binary.LittleEndian.PutUint64(b[4096+40:], uint64(in))
		binary.LittleEndian.PutUint64(b[4096+48:], uint64(len(text)))
	}
	if in >= 512 && in <= size && in+len(text) <= size-4096 {
		copy(b[4096+in:], text)
	}
	if !p.open {
		binary.LittleEndian.PutUint32(b[4096+56:], lvmCRC(text))
		binary.LittleEndian.PutUint32(b[4096:], lvmCRC(b[4100:4608]))
		binary.LittleEndian.PutUint32(b[512+16:], lvmCRC(b[512+20:1024]))
	}
	return b
}

// lvmPair are both physical volumes of the group with the same change of their text.
func lvmPair(t testing.TB, change func(string) string) []Disk {
	t.Helper()
	var out []Disk
	for i, file := range []string{"pv0.bin", "pv1.bin"} {
		p := loadLVM(t, file)
		if change != nil {
			p.text = change(p.text)
		}
		out = append(out, p.disk(fmt.Sprintf("disk%d", i)))
	}
	return out
}

// scanTwice scans and checks what must hold for any disks: each answer is complete, and the
// same disks give the same answer.
func scanTwice(t testing.TB, disks []Disk) Result {
	t.Helper()
	res := Scan(disks)
	names := make(map[string]bool)
	for _, v := range res.Volumes {
		if (v.Err == nil) == (v.Reader == nil) {
			t.Fatalf("%s has a reader and an error, or neither: %v", v.Name, v.Err)
		}
		if names[v.Disk+":"+v.Name] || v.Disk == "" {
			t.Fatalf("two volumes are called %s on disk %q", v.Name, v.Disk)
		}
		names[v.Disk+":"+v.Name] = true
		if v.LV == nil || v.Err != nil {
			continue
		}
		checkLV(t, v)
		for _, off := range []int64{0, v.Size() / 2, max(0, v.Size()-10000)} {
			b := make([]byte, 10000)
			if n, err := v.ReadAt(b, off); n < len(b) && err == nil {
				t.Fatalf("%s: a read of %d at %d gave %d without an error", v.Name, len(b), off, n)
			}
		}
	}
	again := Scan(disks)
	if a, b := fmt.Sprint(summary(res)), fmt.Sprint(summary(again)); a != b {
		t.Fatalf("two scans differ:\n%s\n%s", a, b)
	}
	return res
}

func summary(res Result) (out []string) {
	for _, v := range res.Volumes {
		out = append(out, fmt.Sprintf("%s:%s:%s:%v:%v", v.Disk, v.Name, v.Group, v.LV, v.Err))
	}
	for _, t := range res.Tables {
		out = append(out, fmt.Sprint(t))
	}
	return append(out, fmt.Sprint(res.Groups))
}

func TestLVMTestdata(t *testing.T) {
	res := scanTwice(t, lvmPair(t, nil))
	all := lvs(res)
	if len(res.Groups) != 1 || len(res.Groups[0].Warnings) > 0 || all["vg/root"].Err != nil || all["vg/stripe"].Err != nil {
		t.Fatalf("%+v", res)
	}
	if all["vg/root"].Size() != 9*65536 || all["vg/stripe"].Size() != 6*65536 {
		t.Errorf("%d, %d", all["vg/root"].Size(), all["vg/stripe"].Size())
	}
}

// Outcomes of a damage: what it does to the two logical volumes.
const (
	same    = "same"
	none    = "none"          // no group is found
	corrupt = "corrupt"       // of root; stripe is fine
	refused = "not supported" // of root; stripe is fine
	final   = "final"         // root has an error of neither kind; stripe is fine
)

// TestLVMText changes the text in both copies.
func TestLVMText(t *testing.T) {
	const rootSegment = `segment1 {
start_extent = 0
extent_count = 5

type = "striped"
stripe_count = 1

stripes = [
"pv0", 0
]
}`
	segment := func(from, to string) func(string) string {
		return func(s string) string { return replace(t, s, rootSegment, replace(t, rootSegment, from, to)) }
	}
	swap := func(pairs ...string) func(string) string {
		return func(s string) string { return replace(t, s, pairs...) }
	}
	rootStatus := func(flag string) func(string) string {
		return func(s string) string {
			at := strings.Index(s, "root {")
			return s[:at] + replace(t, s[at:], `"VISIBLE"`, `"VISIBLE", "`+flag+`"`)
		}
	}
	kind := func(k string) func(string) string { return segment(`type = "striped"`, `type = "`+k+`"`) }
	for _, c := range []struct {
		name   string
		change func(string) string
		want   string
		says   string
	}{
		{"comments and other white space", func(s string) string { return strings.ReplaceAll(s, "\n", "\t# a \"comment {\n") }, same, ""},
		{"escaped quotes in a value nobody needs", swap(`creation_host = "`, `creation_host = "a\\\"b\\\\ }`), same, ""},
		{"unknown section", swap("logical_volumes {", "new_things { a { b = 1 } }\nlogical_volumes {"), same, ""},
		{"unknown compatible flag", swap("flags = []", `flags = ["FROM_THE_FUTURE"]`), same, ""},
		{"exported", swap(`["RESIZEABLE"`, `["EXPORTED", "RESIZEABLE"`), same, "exported this volume group"},
		{"clustered", swap(`["RESIZEABLE"`, `["CLUSTERED", "RESIZEABLE"`), same, "shared by several machines"},
		{"locked by sanlock", swap("max_lv = 0", "max_lv = 0\nlock_type = \"sanlock\""), same, "shared by several machines"},
		{"thin", kind("thin"), refused, "thin"},
		{"raid1", kind("raid1"), refused, "raid1"},
		{"cache with a flag", kind("cache+METADATA_FORMAT"), refused, `"cache"`},
		{"striped with a flag", kind("striped+NEW"), refused, "striped"},
		{"vdo", kind("vdo"), refused, "vdo"},
		{"a type of the future", kind("quantum"), refused, "quantum"},
		{"unknown status", rootStatus("SPLIT_BRAIN"), refused, "SPLIT_BRAIN"},
		{"pvmove", segment(`"pv0", 0`, `"stripe", 0`), refused, "pvmove"},
		{"missing flag on the other disk", swap(`"ALLOCATABLE"]`+"\nflags = []", `"ALLOCATABLE"]`+"\nflags = [\"MISSING\"]"), "both final", "lost and not taken back"},
		{"unknown status of the group", swap(`["RESIZEABLE"`, `["ODD", "RESIZEABLE"`), "both refused", "ODD"},
		{"a device hint with a line feed", swap(`device = "/dev`, "device = \"\n/dev"), same, ""},
		{"on a device nobody knows", segment(`"pv0", 0`, `"pv7", 0`), corrupt, "pv7"},
		{"extents behind the end of the PV", segment(`"pv0", 0`, `"pv0", 44`), corrupt, "uses extents 44 to 49"},
		{"an extent number that overflows", segment(`"pv0", 0`, `"pv0", 18446744073709551615`), corrupt, "uses extents"},
		{"a negative extent number", segment(`"pv0", 0`, `"pv0", -1`), corrupt, "-1"},
		{"a quoted extent number", segment(`"pv0", 0`, `"pv0", "0"`), corrupt, "stripe 0"},
		{"a segment of no extents", segment("extent_count = 5", "extent_count = 0"), corrupt, "0 extents"},
		{"a gap between segments", segment("extent_count = 5", "extent_count = 4"), corrupt, "extent 4 is the next"},
		{"overlapping segments", segment("extent_count = 5", "extent_count = 6"), corrupt, "extent 6 is the next"},
		{"a huge segment", segment("extent_count = 5", "extent_count = 18446744073709551615"), corrupt, "the next"},
		{"a missing segment", swap("segment_count = 2", "segment_count = 3"), corrupt, "3 segments are announced"},
		{"more stripes than devices", segment("stripe_count = 1", "stripe_count = 9"), corrupt, "9 stripes"},
		{"no stripes", segment("stripe_count = 1", "stripe_count = 0"), corrupt, "0 stripes"},
		{"zero segment", kind("zero"), "zeros", ""},
		{"error segment", kind("error"), "unreadable", ""},
		{"two volumes of one name", swap("stripe {", "root {"), none, "two logical volumes"},
		{"two devices of one name", swap("pv1 {", "pv0 {"), none, "two physical volumes"},
		{"a name with a slash", swap("stripe {", "../stripe {"), none, "../stripe"},
		{"a group called ..", swap("vg {", ".. {"), none, `".."`},
		{"no sequence number", swap("seqno =", "seqn ="), none, "sequence number"},
		{"extents of no size", swap("extent_size = 128", "extent_size = 0"), none, "0 sectors"},
		{"extents too large", swap("extent_size = 128", "extent_size = 99999999999"), none, "99999999999 sectors"},
		{"extents of another size", swap("extent_size = 128", "extent_size = 12800"), "both final", "incomplete"},
		{"a start that overflows", swap("pe_start = 2048", "pe_start = 9223372036854775807"), none, "9223372036854775807"},
		{"a start behind the end", swap("pe_start = 2048", "pe_start = 8192"), "both final", "incomplete"},
		{"no UUID", swap("vg {\nid =", "vg {\nidd ="), none, "UUID"},
		{"another format", swap("version = 1", "version = 2"), none, "version 2"},
		{"not a group", swap("Text Format Volume Group", "Something"), none, "Something"},
		{"a section without an end", func(s string) string { return s[:strings.Index(s, "segment2")] }, none, "a name is expected"},
		{"one brace too many", func(s string) string { return s + "}" }, none, "a name is expected"},
		{"a string without an end", swap(`"VISIBLE"`, `"VISIBLE`), none, "corrupt"},
		{"a list without commas", swap(`"READ", "WRITE"`, `"READ" "WRITE"`), none, "comma"},
		{"nested too deep", swap("logical_volumes {", strings.Repeat("a {\n", 20)+strings.Repeat("}", 20)+"logical_volumes {"), none, "nested"},
		{"a control character", swap("logical_volumes {", "\x01 logical_volumes {"), none, "control character"},
		{"a zero byte", swap("logical_volumes {", "\x00 logical_volumes {"), none, "control character"},
		{"a value twice", swap("seqno =", "seqno = 1 seqno ="), none, "twice"},
		{"nothing", func(string) string { return "" }, none, "contents"},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := scanTwice(t, lvmPair(t, c.change))
			all := lvs(res)
			root, stripe := all["vg/root"], all["vg/stripe"]
			var said []string
			for _, v := range res.Volumes {
				if v.Err != nil {
					said = append(said, v.Err.Error())
				}
			}
			for _, g := range res.Groups {
				said = append(append(said, g.Warnings...), g.Missing...)
			}
			for _, table := range res.Tables {
				said = append(said, table.Warnings...)
			}
			mustSay(t, c.says, said...)
			if c.want == none {
				if len(res.Groups) > 0 || len(all) > 0 || res.Volumes[0].Err == nil {
					t.Errorf("%+v", res)
				}
				return
			}
			if len(all) != 2 || (stripe.Err != nil) != strings.HasPrefix(c.want, "both") {
				t.Fatalf("%d volumes, stripe: %v", len(all), stripe.Err)
			}
			got := same
			switch err := root.Err; {
			case errors.Is(err, fsys.ErrCorrupt):
				got = corrupt
			case errors.Is(err, fsys.ErrUnsupported):
				got = refused
			case err != nil:
				got = final
			default:
				b := make([]byte, 1000)
				if _, err := root.ReadAt(b, 0); err != nil {
					got = "unreadable"
				} else if b[0] == 0 {
					got = "zeros"
				}
			}
			switch c.want {
			case "both final":
				if got != final || stripe.Err == nil {
					t.Errorf("root: %v, stripe: %v", root.Err, stripe.Err)
				}
			case "both refused":
				if got != refused || !errors.Is(stripe.Err, fsys.ErrUnsupported) {
					t.Errorf("root: %v, stripe: %v", root.Err, stripe.Err)
				}
			default:
				if got != c.want {
					t.Errorf("root is %s (%v), want %s", got, root.Err, c.want)
				}
			}
		})
	}
}

// TestLVMInternalVolumes: hidden volumes, pools and the stores of snapshots.
func TestLVMInternalVolumes(t *testing.T) {
	snapshot := func(store string) string {
		return `logical_volumes { snapshot0 { id = "x" status = ["READ", "WRITE"] segment_count = 1
			segment1 { start_extent = 0 extent_count = 5 type = "snapshot" chunk_size = 8 origin = "root" ` + store + ` = "stripe" } }`
	}
	for _, c := range []struct {
		from, to, want string
	}{
		{`"READ", "WRITE", "VISIBLE"`, `"READ", "WRITE"`, "vg/stripe:ok"},
		{`type = "striped"`, `type = "thin-pool"`, "vg/stripe:ok"},
		{"logical_volumes {", snapshot("cow_store"), "vg/root:ok vg/stripe:unsupported"},
		{"logical_volumes {", snapshot("merging_store"), "vg/root:unsupported vg/stripe:unsupported"},
	} {
		res := scanTwice(t, lvmPair(t, func(s string) string { return replace(t, s, c.from, c.to) }))
		var got []string
		for _, name := range []string{"vg/root", "vg/stripe", "vg/snapshot0"} {
			if v, ok := lvs(res)[name]; ok && v.Err == nil {
				got = append(got, name+":ok")
			} else if ok && errors.Is(v.Err, fsys.ErrUnsupported) {
				got = append(got, name+":unsupported")
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.to, got, c.want)
		}
	}
}

// TestLVMStructures damages label and metadata area of the first of two physical volumes.
func TestLVMStructures(t *testing.T) {
	le := binary.LittleEndian
	for _, c := range []struct {
		name   string
		change func(*lvmPart)
		found  bool // the physical volume is still known
		says   string
	}{
		{"label checksum", func(p *lvmPart) { p.label[100] ^= 1; p.open = true }, false, "label at byte 512 is corrupt"},
		{"label of another sector", func(p *lvmPart) { le.PutUint64(p.label[8:], 3) }, false, "written for sector 3"},
		{"PV header outside the sector", func(p *lvmPart) { le.PutUint32(p.label[20:], 511) }, false, "corrupt"},
		{"PV header far away", func(p *lvmPart) { le.PutUint32(p.label[20:], 1<<31) }, false, "corrupt"},
		{"UUID with a line feed", func(p *lvmPart) { p.label[40] = '\n' }, false, "its UUID"},
		{"lists without an end", func(p *lvmPart) {
			for i := 72; i < 512; i++ {
				p.label[i] = 1
			}
		}, false, "no end"},
		{"another type of label", func(p *lvmPart) { p.label[31] = '9' }, false, ""},
		{"no metadata area", func(p *lvmPart) { clear(p.label[72:200]) }, true, ""},
		{"area outside the device", func(p *lvmPart) { le.PutUint64(p.label[104:], 1<<40) }, true, "metadata area"},
		{"area that overflows", func(p *lvmPart) { le.PutUint64(p.label[104:], 1<<64-512) }, true, "metadata area"},
		{"area elsewhere", func(p *lvmPart) { le.PutUint64(p.label[104:], 8192) }, true, "metadata area"},
		{"header checksum", func(p *lvmPart) { p.header[300] = 1; p.open = true }, true, "checksum of its header"},
		{"header magic", func(p *lvmPart) { p.header[5] = 'X' }, true, "magic"},
		{"header version", func(p *lvmPart) { p.header[20] = 7 }, true, "version 7"},
		{"header of another place", func(p *lvmPart) { p.header[24] = 7 }, true, "written for byte"},
		{"area of no size", func(p *lvmPart) { le.PutUint64(p.header[32:], 0) }, true, "it has 0 bytes"},
		{"area of all bytes", func(p *lvmPart) { le.PutUint64(p.header[32:], 1<<64-1) }, true, "metadata area"},
		{"text in the header", func(p *lvmPart) { le.PutUint64(p.header[40:], 8) }, true, "from byte 8"},
		{"text behind the area", func(p *lvmPart) { le.PutUint64(p.header[40:], 1<<63) }, true, "metadata text"},
		{"text longer than the area", func(p *lvmPart) { le.PutUint64(p.header[48:], 1<<62); p.reseal() }, true, "metadata text"},
		{"empty text", func(p *lvmPart) { le.PutUint64(p.header[48:], 0); p.reseal() }, true, "it has 0 bytes"},
		{"text checksum", func(p *lvmPart) { p.header[56] ^= 1; p.reseal() }, true, "metadata text at byte 4096"},
		{"ignored area", func(p *lvmPart) { p.header[60] = 1 }, true, ""},
		{"empty area", func(p *lvmPart) { clear(p.header[40:64]); p.reseal() }, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := loadLVM(t, "pv0.bin")
			c.change(&p)
			res := scanTwice(t, []Disk{p.disk("disk0"), loadLVM(t, "pv1.bin").disk("disk1")})
			mustSay(t, c.says, res.Tables[0].Warnings...)
			all := lvs(res)
			if len(res.Groups) != 1 || len(all) != 2 {
				t.Fatalf("%+v", res)
			}
			want := scanTwice(t, lvmPair(t, nil))
			for name, v := range lvs(want) {
				got := all[name]
				if (got.Err == nil) != c.found {
					t.Errorf("%s: %v", name, got.Err)
				}
				if got.Err == nil && digest(content(t, got)) != digest(content(t, v)) {
					t.Errorf("%s has other bytes", name)
				}
			}
		})
	}
}

// reseal makes the checksum of a header right that disk is to leave alone.
func (p *lvmPart) reseal() {
	p.open = true
	binary.LittleEndian.PutUint32(p.header, lvmCRC(p.header[4:]))
}

// TestLVMContradiction: two texts with one number; only what they agree about is read.
func TestLVMContradiction(t *testing.T) {
	p := loadLVM(t, "pv0.bin")
	p.text = replace(t, p.text, `"pv0", 0`, `"pv0", 20`)
	a, b := p.disk("disk0"), loadLVM(t, "pv1.bin").disk("disk1")
	for _, disks := range [][]Disk{{a, b}, {b, a}} {
		res := scanTwice(t, disks)
		mustSay(t, "different metadata with the same number", res.Groups[0].Warnings...)
		if all := lvs(res); !errors.Is(all["vg/root"].Err, fsys.ErrCorrupt) || all["vg/stripe"].Err != nil {
			t.Errorf("root: %v, stripe: %v", all["vg/root"].Err, all["vg/stripe"].Err)
		}
	}
}

// TestLVMNested: a volume that is a physical volume itself is told and not followed.
func TestLVMNested(t *testing.T) {
	disks := lvmPair(t, nil)
	b := content(t, disks[0])
	copy(b[mib:], b[:mib]) // the first extents are root's
	disks[0].Reader = extent.Bytes(b)
	res := scanTwice(t, disks)
	mustSay(t, "root is itself an LVM physical volume", res.Groups[0].Warnings...)
	if len(res.Groups) != 1 || len(lvs(res)) != 2 {
		t.Errorf("%+v", res.Groups)
	}
}

// TestLVMTokens: a text with more tokens than any group needs is not parsed to its end.
func TestLVMTokens(t *testing.T) {
	p := loadLVM(t, "pv0.bin")
	for _, filler := range []string{
		"many = [1" + strings.Repeat(",1", maxLVMTokens/2) + "]",
		"many { " + strings.Repeat("a{} ", maxLVMTokens/3) + "}",
	} {
		text := replace(t, p.text, "logical_volumes {", filler+"\nlogical_volumes {")
		root, err := parseLVMText(text, ondisk.NewBudget("text", maxLVMTokens))
		if root != nil || !errors.Is(err, ondisk.ErrBudget) {
			t.Errorf("%d bytes of text: %v", len(text), err)
		}
	}
}

// FuzzLVM changes label, header and text of a physical volume; the checksums are made right.
func FuzzLVM(f *testing.F) {
	for _, file := range []string{"pv0.bin", "pv1.bin"} {
		p := loadLVM(f, file)
		f.Add(p.label, p.header, p.text)
	}
	// All but the head is a hole: the target is about metadata, and must be quick.
	const head = 32 << 10
	disk := func(t testing.TB, name string, p lvmPart) Disk {
		r, err := extent.Concat(extent.Bytes(p.head(head)), extent.Zeros(lvmTestSize-head))
		if err != nil {
			t.Fatal(err)
		}
		return Disk{name, r}
	}
	good := disk(f, "disk1", loadLVM(f, "pv1.bin"))
	f.Fuzz(func(t *testing.T, label, header []byte, text string) {
		p := lvmPart{label: make([]byte, 512), header: make([]byte, 512), text: text}
		copy(p.label, label)
		copy(p.header, header)
		scanTwice(t, []Disk{disk(t, "disk0", p), good})
	})
}
