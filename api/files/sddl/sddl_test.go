package sddl

import (
	"encoding/hex"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"vmfr/test/fixture"
)

// descriptor puts a descriptor together; parts that are empty are not there.
func descriptor(control uint16, owner, group, sacl, dacl string) string {
	b := make([]byte, descriptorHeader)
	b[0] = 1
	le.PutUint16(b[2:], control|selfRelative)
	for i, part := range []string{owner, group, sacl, dacl} {
		if x := unhex(part); len(x) > 0 {
			le.PutUint32(b[4+4*i:], uint32(len(b)))
			b = append(b, x...)
		}
	}
	return hex.EncodeToString(b)
}

// list puts an access control list together from its entries, given without their size.
func list(entries ...string) string {
	b := []byte{2, 0, 0, 0, byte(len(entries)), 0, 0, 0}
	for _, e := range entries {
		x := unhex(e)
		b = append(b, x[0], x[1], byte(len(x)+2), 0)
		b = append(b, x[2:]...)
	}
	le.PutUint16(b[2:], uint16(len(b)))
	return hex.EncodeToString(b)
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// SIDs as they are stored.
const (
	everyone = "010100000000000100000000"
	system   = "010100000000000512000000"
	authUser = "01010000000000050b000000"
	admins   = "01020000000000052000000020020000"
	users    = "01020000000000052000000021020000"
	lowLabel = "010100000000001000100000"
	domain   = "01050000000000051500000001000000" + "0200000003000000" + "f4010000"
)

// Descriptors as Windows and ntfs-3g write them, and the words that Windows has for them.
var known = []struct{ name, hex, owner, group, sddl string }{
	{"a file of ntfs-3g",
		"0100048014000000240000000000000034000000" + admins + admins + "02001c000100000000031400ff011f00" + everyone,
		"S-1-5-32-544", "S-1-5-32-544", "O:BAG:BAD:(A;OICI;FA;;;WD)"},
	// The permissions that Windows gives a new volume.
	{"the root of a volume",
		descriptor(4, system, system, "", list("0000ff011f00"+admins, "000b00000010"+admins, "0000ff011f00"+system, "000b00000010"+system,
			"0000bf011300"+authUser, "000b000001e0"+authUser, "0000a9001200"+users, "000b000000a0"+users)),
		"S-1-5-18", "S-1-5-18",
		"O:SYG:SYD:(A;;FA;;;BA)(A;OICIIO;GA;;;BA)(A;;FA;;;SY)(A;OICIIO;GA;;;SY)(A;;0x1301bf;;;AU)(A;OICIIO;SDGXGWGR;;;AU)(A;;0x1200a9;;;BU)(A;OICIIO;GXGR;;;BU)"},
	{"protected and inherited, with a mandatory label and an audit",
		descriptor(0x1c14, "", "", list("110001000000"+lowLabel, "02c0ff011f00"+everyone), list("001089001200"+domain)),
		"", "", "D:PAI(A;ID;FR;;;S-1-5-21-1-2-3-500)S:AI(ML;;NW;;;LW)(AU;SAFA;FA;;;WD)"},
	{"everything is allowed", descriptor(4, "", "", "", ""), "", "", "D:NO_ACCESS_CONTROL"},
	{"nothing is allowed", descriptor(4, "", "", "", list()), "", "", "D:"},
	{"no lists", descriptor(0, everyone, "", "", ""), "S-1-1-0", "", "O:WD"},
	{"an object's property", descriptor(4, "", "", "", list("05003000000001000000"+"00112233445566778899aabbccddeeff"+authUser)),
		"", "", "D:(OA;;RPWP;33221100-5544-7766-8899-aabbccddeeff;;AU)"},
	{"a condition is shown as bytes", descriptor(4, "", "", "", list("0900ff011f00"+everyone+"6172747800000000")),
		"", "", "D:(0x09;;ff011f00" + everyone + "6172747800000000)"},
	{"an authority of 48 bits", descriptor(0, "010101000000000507000000", "", "", ""), "S-1-0x10000000005-7", "", "O:S-1-0x10000000005-7"},
}

func TestKnown(t *testing.T) {
	for _, k := range known {
		b := unhex(k.hex)
		d, err := Parse(b)
		if err != nil || d.Owner != k.owner || d.Group != k.group || d.SDDL != k.sddl {
			t.Errorf("%s: %v\n%+v\nwant %s", k.name, err, d, k.sddl)
		}
		for n := range len(b) {
			if got, err := Parse(b[:n]); err == nil && got == d {
				t.Errorf("%s: its first %d of %d bytes are enough", k.name, n, len(b))
			}
		}
	}
	if Name("S-1-5-32-544") != `BUILTIN\Administrators` || Name("S-1-5-21-1-2-3-500") != "" {
		t.Error("names")
	}
}

func TestRefused(t *testing.T) {
	for name, h := range map[string]string{
		"empty": "", "another revision": "0200048000000000000000000000000000000000", "not self-relative": "0100040000000000000000000000000000000000",
		"owner in the header": "0100008004000000000000000000000000000000", "owner behind the end": "0100008015000000000000000000000000000000",
		"offset of 4 GiB":    "01000080ffffffff000000000000000000000000",
		"a SID of 16 parts":  "0100008014000000000000000000000000000000" + "0110000000000001" + strings.Repeat("00", 64),
		"a SID cut off":      "0100008014000000000000000000000000000000" + "0102000000000001" + "00000000",
		"a list of no size":  "0100048000000000000000000000000014000000" + "0200070000000000",
		"a list too long":    "0100048000000000000000000000000014000000" + "0200090000000000",
		"entries missing":    "0100048000000000000000000000000014000000" + "0200080001000000",
		"an entry of 0":      "0100048000000000000000000000000014000000" + "02000c000100000000000000",
		"an entry too long":  "0100048000000000000000000000000014000000" + "02000c000100000000000500",
		"a list of 1 byte":   "0100048000000000000000000000000014000000" + "02",
		"another SID format": "0100008014000000000000000000000000000000" + "020100000000000100000000",
	} {
		b, err := hex.DecodeString(h)
		if err != nil {
			t.Fatal(name, err)
		}
		if d, err := Parse(b); err == nil {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

// TestLikeNTFSSecAudit compares owner and group with ntfs-3g's own tool.
func TestLikeNTFSSecAudit(t *testing.T) {
	fixture.Need(t, "mkntfs", "ntfssecaudit")
	img := filepath.Join(t.TempDir(), "n.raw")
	fixture.Sparse(t, img, 16<<20)
	fixture.Run(t, "mkntfs", "-F", "-q", img)
	field := regexp.MustCompile(`(?m)^Windows (owner|group) (\S+)`)
	line := regexp.MustCompile(`(?m)^\s+[0-9a-f]{6} ((?: [0-9a-f]{8})+)`)
	for _, path := range []string{"/", "/$Secure", "/$Extend"} {
		out, err := exec.Command("ntfssecaudit", "-v", img, path).Output()
		if err != nil {
			t.Fatal(err)
		}
		var b []byte
		for _, m := range line.FindAllStringSubmatch(string(out), -1) {
			x, err := hex.DecodeString(strings.ReplaceAll(m[1], " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			b = append(b, x...)
		}
		want := map[string]string{}
		for _, m := range field.FindAllStringSubmatch(string(out), -1) {
			want[m[1]] = m[2]
		}
		d, err := Parse(b)
		if err != nil || len(want) != 2 || d.Owner != want["owner"] || d.Group != want["group"] || !strings.HasPrefix(d.SDDL, "O:") {
			t.Errorf("%s: %v %+v, ntfssecaudit says %v\n%s", path, err, d, want, out)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, k := range known {
		f.Add(unhex(k.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Parse(b)
		if err != nil {
			return
		}
		// Pieces may lie over each other, so a list counts twice and so do the SIDs.
		if n := len(d.SDDL); n > 4*maxRatio*(len(b)+16) {
			t.Fatalf("%d bytes became %d", len(b), n)
		}
		if strings.ContainsFunc(d.SDDL, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Fatalf("%q", d.SDDL)
		}
	})
}
