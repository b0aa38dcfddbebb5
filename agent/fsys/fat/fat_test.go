package fat

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"golang.org/x/text/encoding/charmap"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

const mib = 1 << 20

func TestLikeMtools(t *testing.T) {
	for _, c := range []struct {
		name  string
		size  int64
		files int
		args  []string
		bits  int
	}{
		{"fat12", 4 * mib, 100, []string{"-F", "12", "-n", "FLOPPY", "-i", "1234abcd"}, 12},
		{"fat12 of small clusters", 2 * mib, 100, []string{"-F", "12", "-s", "1"}, 12},
		{"fat16", 32 * mib, 300, []string{"-F", "16"}, 16},
		{"fat16 of 32 KiB clusters", 160 * mib, 200, []string{"-F", "16", "-s", "64"}, 16},
		{"fat32", 64 * mib, 400, []string{"-F", "32"}, 32},
		{"fat32 of sectors of 4 KiB", 320 * mib, 300, []string{"-F", "32", "-S", "4096", "-s", "1"}, 32},
		{"fat32 of clusters of 64 KiB", 4200 * mib, 50, []string{"-F", "32", "-s", "128"}, 32},
		{"one fat", 16 * mib, 100, []string{"-F", "16", "-f", "1", "-R", "8"}, 16},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := mkfs(t, c.size, c.args...)
			m := populate(t, img, c.files)
			check(t, img)
			f := must(Open(fixture.OpenRaw(t, img), Options{}))
			if f.geo.bits != c.bits {
				t.Errorf("FAT%d", f.geo.bits)
			}
			fsystest.Run(t, f, unset(t, f, m))
			if w := f.Info().Warnings; len(w) > 0 {
				t.Errorf("warnings %q", w)
			}
			if got := fmt.Sprint(f.Info().Label, f.Info().UUID); c.name == "fat12" && got != "FLOPPY1234-ABCD" {
				t.Errorf("label and serial %q", got)
			}
		})
	}
}

// TestFragmented: files whose clusters alternate, so that every cluster is a run of its own.
func TestFragmented(t *testing.T) {
	for _, c := range []struct {
		size int64
		args []string
	}{{2 * mib, []string{"-F", "12", "-s", "1"}}, {8 * mib, []string{"-F", "16", "-s", "1"}}, {40 * mib, []string{"-F", "32", "-s", "1"}}} {
		t.Run(c.args[1], func(t *testing.T) {
			img := mkfs(t, c.size, c.args...)
			dir := t.TempDir()
			// Fill with small files, remove every second one, and fill the gaps with large ones.
			var args []string
			for i := range 300 {
				p := filepath.Join(dir, fmt.Sprintf("s%03d", i))
				if err := os.WriteFile(p, []byte{byte(i)}, 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, p)
			}
			mtool(t, img, "mmd", "z:/d")
			mtool(t, img, "mcopy", append(args, "z:/d")...)
			// mtools look for free clusters behind the last used one: leave few there.
			p := filepath.Join(dir, "FILLER")
			if err := os.WriteFile(p, make([]byte, int(openImage(t, img).Info().Free)-100*512), 0o600); err != nil {
				t.Fatal(err)
			}
			mtool(t, img, "mcopy", p, "z:/")
			var gone []string
			for i := 0; i < 300; i += 2 {
				gone = append(gone, fmt.Sprintf("z:/d/s%03d", i))
			}
			mtool(t, img, "mdel", gone...)
			big := bytes.Repeat([]byte("large file in many pieces "), 4000)
			p = filepath.Join(dir, "BIG")
			if err := os.WriteFile(p, big, 0o600); err != nil {
				t.Fatal(err)
			}
			mtool(t, img, "mcopy", p, "z:/BIG")
			check(t, img)
			f := openImage(t, img)
			if got := allOf(t, f, "BIG"); !bytes.Equal(got, big) {
				t.Error("BIG has other bytes")
			}
			ents, err := fsystest.ReadAll(f, must(fsystest.Find(f, "d")), 100)
			if err != nil || len(ents) != 150 {
				t.Errorf("%d entries of 150 are left: %v", len(ents), err)
			}
			// mshowfat lists the runs of clusters independently.
			shown := mtool(t, img, "mshowfat", "z:/BIG")
			want := strings.Count(shown, "<")
			ino := must(fsystest.Find(f, "BIG"))
			e := must(f.entryAt(ino))
			ch := must(f.readChain(e.cluster, (e.size+511)/512, "file", ino))
			if len(ch.marks) != want || want < 10 {
				t.Errorf("%d runs, mshowfat says %s", len(ch.marks), shown)
			}
			coarse(t, f, e.cluster, (e.size+511)/512, ch)
		})
	}
}

// coarse keeps only every eighth run of a chain, as for very fragmented files, and compares.
func coarse(t *testing.T, f *FS, first, n uint32, fine *chain) {
	t.Helper()
	c := &chain{stride: 8, needed: n, count: fine.count}
	for i := 0; i < len(fine.marks); i += 8 {
		c.marks = append(c.marks, fine.marks[i])
	}
	for at := uint32(0); at < n; at++ {
		a, err1 := f.run(fine, at)
		b, err2 := f.run(c, at)
		if err1 != nil || err2 != nil || a.phys != b.phys || a.logical != b.logical || b.count == 0 || b.count > a.count {
			t.Fatalf("cluster %d: %+v, %v, with fewer marks %+v, %v", at, a, err1, b, err2)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestMarks: a chain of more runs than are kept.
func TestMarks(t *testing.T) {
	c := &chain{stride: 1}
	const runs = 5 * maxMarks
	for i := range runs {
		c.mark(uint32(2*i), uint32(7*i), i)
	}
	if len(c.marks) > maxMarks || c.stride != 8 {
		t.Fatalf("%d marks with stride %d", len(c.marks), c.stride)
	}
	for i, m := range c.marks {
		if int(m.logical) != 2*i*c.stride || int(m.phys) != 7*i*c.stride {
			t.Fatalf("mark %d is %+v", i, m)
		}
	}
}

func TestAttributesAndCase(t *testing.T) {
	img := mkfs(t, 4*mib, "-F", "12", "-n", "BOOTLABEL")
	p := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"EFI.TXT", "Long Name Here.text", "ro.txt"} {
		mtool(t, img, "mcopy", p, "z:/"+n)
	}
	mtool(t, img, "mattrib", "+r", "+h", "+s", "z:/ro.txt")
	mtool(t, img, "mmd", "z:/EFI")
	f := openImage(t, img)
	for name, want := range map[string]string{"efi.txt": "EFI.TXT", "efi": "EFI", "LONG NAME here.TEXT": "Long Name Here.text", "longna~1.tex": "Long Name Here.text"} {
		a, err1 := f.Lookup(f.Root(), name)
		b, err2 := f.Lookup(f.Root(), want)
		if err1 != nil || err2 != nil || a != b {
			t.Errorf("%q: %v, %v", name, err1, err2)
		}
	}
	if a := must(f.Stat(must(f.Lookup(f.Root(), "ro.txt")))); a.Mode != fsys.ModeRegular|0o555 {
		t.Errorf("mode %o", a.Mode)
	}
	if a := must(f.Stat(f.Root())); a.Nlink != 3 {
		t.Errorf("the root has %d links", a.Nlink)
	}
	mtool(t, img, "mlabel", "z:Root Label")
	if l := openImage(t, img).Info().Label; l != "ROOT LABEL" {
		t.Errorf("label %q", l)
	}
}

// TestNames decodes names that no tool here can write.
func TestNames(t *testing.T) {
	for _, c := range []struct {
		units []uint16
		want  string
	}{
		{utf16.Encode([]rune("a😀b")), "a😀b"},
		{utf16.Encode([]rune(strings.Repeat("𝄞", 127))), strings.Repeat("𝄞", 127)},
		{[]uint16{'a', 0xd800, 'b'}, "a\xed\xa0\x80b"},
		{[]uint16{0xdc00, 0xd800}, "\xed\xb0\x80\xed\xa0\x80"},
		{[]uint16{0xffff - 1}, "\ufffe"},
	} {
		if got := decodeUTF16(c.units); got != c.want {
			t.Errorf("%x gives %q, want %q", c.units, got, c.want)
		}
	}
	d := dirent{lcase: caseBase}
	copy(d.name[:], "\x05\x8e\x9aABC  T\x99T")
	if got := d.shortName(charmap.CodePage437); got != "σäüabc.TÖT" {
		t.Errorf("short name %q", got)
	}
	if got := d.shortName(charmap.CodePage850); got != "õäüabc.TÖT" {
		t.Errorf("short name %q", got)
	}
}

func TestTimes(t *testing.T) {
	for _, c := range []struct {
		date, clock uint16
		centis      uint8
		want        string
	}{
		{0, 0, 0, "1980-01-01T00:00:00Z"},
		{0x21, 0, 0, "1980-01-01T00:00:00Z"},
		{127<<9 | 12<<5 | 31, 23<<11 | 59<<5 | 29, 199, "2107-12-31T23:59:59.99Z"},
		{20<<9 | 2<<5 | 31, 12 << 11, 5, "2000-02-29T12:00:00.05Z"},
		{20<<9 | 15<<5 | 1, 31<<11 | 63<<5 | 31, 255, "2000-12-01T23:59:60Z"},
	} {
		got := when(c.date, c.clock, c.centis).Format(time.RFC3339Nano)
		if c.want == "2000-12-01T23:59:60Z" {
			c.want = "2000-12-02T00:00:00.99Z" // 59 s and 1.99 s
		}
		if got != c.want {
			t.Errorf("%#x %#x %d: %s, want %s", c.date, c.clock, c.centis, got, c.want)
		}
	}
}
