package volume

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/test/fixture"
)

const mib = 1 << 20

// image makes a sparse file of size bytes, hands it to make and returns its path.
func image(t testing.TB, size int64, make func(path string)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	fixture.Sparse(t, path, size)
	make(path)
	return path
}

// script feeds a partitioning program's standard input.
func script(t testing.TB, in, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(in)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func load(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// scanBytes scans one disk in memory and checks what must hold for any bytes.
func scanBytes(t testing.TB, b []byte) ([]Volume, Table) {
	t.Helper()
	return scanReader(t, extent.Bytes(b))
}

func scanReader(t testing.TB, r extent.Reader) ([]Volume, Table) {
	t.Helper()
	res := Scan([]Disk{{Name: "disk", Reader: r}})
	if len(res.Tables) != 1 {
		t.Fatalf("%d tables for one disk", len(res.Tables))
	}
	names := make(map[string]bool)
	for _, v := range res.Volumes {
		if (v.Err == nil) == (v.Reader == nil) {
			t.Fatalf("%s has a reader and an error, or neither: %v", v.Name, v.Err)
		}
		if v.Err != nil {
			continue
		}
		if v.LV != nil {
			checkLV(t, v)
			continue
		}
		if v.Start < 0 || v.Size() <= 0 || v.Start > r.Size()-v.Size() {
			t.Fatalf("%s lies outside the disk: %d+%d of %d", v.Name, v.Start, v.Size(), r.Size())
		}
		if names[v.Name] {
			t.Fatalf("two volumes are called %s", v.Name)
		}
		names[v.Name] = true
		if v.Disk != "disk" {
			t.Fatalf("%s belongs to disk %q", v.Name, v.Disk)
		}
		p := make([]byte, 1)
		if n, err := v.ReadAt(p, v.Size()-1); n != 1 {
			t.Fatalf("%s: its last byte cannot be read: %v", v.Name, err)
		}
	}
	if res.Tables[0].Err != nil && len(res.Volumes) > 0 {
		t.Fatalf("an unusable table gives %d volumes", len(res.Volumes))
	}
	if len(res.Tables[0].Warnings) > maxWarnings+1 {
		t.Fatalf("%d warnings", len(res.Tables[0].Warnings))
	}
	return res.Volumes, res.Tables[0]
}

// row is a partition as partx (libblkid) sees it.
type row struct {
	number      string
	start, size int64 // bytes
	uuid, kind  string
	label       string
}

// partx lists the partitions of an image without the extended ones, which hold no file system.
func partx(t testing.TB, path string, sector int) []row {
	t.Helper()
	out := fixture.Run(t, "partx", "--sector-size", strconv.Itoa(sector), "--raw", "--noheadings",
		"-o", "NR,START,SECTORS,UUID,TYPE,NAME", path)
	var rows []row
	for s := bufio.NewScanner(strings.NewReader(out)); s.Scan(); {
		f := strings.Split(s.Text(), " ")
		if len(f) < 5 {
			t.Fatalf("partx printed %q", s.Text())
		}
		start, err1 := strconv.ParseInt(f[1], 10, 64)
		size, err2 := strconv.ParseInt(f[2], 10, 64)
		label, err3 := strconv.Unquote(`"` + strings.Join(f[5:], " ") + `"`)
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatalf("partx printed %q: %v", s.Text(), err)
		}
		if kind := f[4]; kind != "0x5" && kind != "0xf" && kind != "0x85" {
			rows = append(rows, row{f[0], start * 512, size * 512, f[3], kind, label})
		}
	}
	return rows
}

// sameAsPartx compares the volumes of an image with partx's view of it.
func sameAsPartx(t testing.TB, path string, sector int, vols []Volume) {
	t.Helper()
	rows := partx(t, path, sector)
	if len(rows) == 0 || len(rows) != len(vols) {
		t.Fatalf("partx sees %d partitions, Scan %d", len(rows), len(vols))
	}
	for i, want := range rows {
		v := vols[i]
		kind := v.Type
		if n, err := strconv.ParseUint(kind, 0, 8); err == nil {
			kind = "0x" + strconv.FormatUint(n, 16)
		}
		got := row{strings.TrimPrefix(v.Name, "p"), v.Start, v.Size(), v.UUID, kind, v.Label}
		if got != want {
			t.Errorf("partition %s:\n got %+v\nwant %+v", want.number, got, want)
		}
	}
}

// failing is a disk whose first bytes cannot be read.
type failing struct{ extent.Reader }

var errMedium = errors.New("medium error")

func (failing) ReadAt([]byte, int64) (int, error) { return 0, errMedium }

func TestDamagedDiskHidesNoOther(t *testing.T) {
	good := gptImage(t)
	torn := append([]byte(nil), good...)
	clear(torn[512 : 34*512])
	clear(torn[len(torn)-33*512:])
	res := Scan([]Disk{
		{"a", failing{extent.Zeros(mib)}}, {"b", extent.Bytes(good)}, {"c", extent.Bytes(torn)},
		{"d", extent.Bytes(nil)}, {"e", extent.Zeros(mib)}, {"f", extent.Zeros(511)},
	})
	if len(res.Tables) != 6 {
		t.Fatalf("%d tables", len(res.Tables))
	}
	if err := res.Tables[0].Err; !errors.Is(err, errMedium) {
		t.Errorf("disk a: %v", err)
	}
	if err := res.Tables[2].Err; !errors.Is(err, fsys.ErrCorrupt) {
		t.Errorf("disk c: %v", err)
	}
	var got []string
	for _, v := range res.Volumes {
		got = append(got, v.Disk+v.Name)
	}
	if want := "bp1 bp2 bp3 ewhole fwhole"; strings.Join(got, " ") != want {
		t.Errorf("volumes %v, want %s", got, want)
	}
}

// later fails for all reads from a byte on.
type later struct {
	extent.Reader
	from int64
}

func (l later) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > l.from {
		return 0, errMedium
	}
	return l.Reader.ReadAt(p, off)
}

func TestIOErrorBehindTheTable(t *testing.T) {
	b := gptImage(t)
	res := Scan([]Disk{{"a", later{extent.Bytes(b), int64(len(b)) - 64*512}}})
	if res.Tables[0].Err != nil || len(res.Volumes) != 3 {
		t.Fatalf("unreadable backup GPT: %d volumes, %v", len(res.Volumes), res.Tables[0].Err)
	}
	if w := strings.Join(res.Tables[0].Warnings, "\n"); !strings.Contains(w, errMedium.Error()) {
		t.Errorf("warnings: %s", w)
	}
	res = Scan([]Disk{{"a", later{extent.Bytes(b), 512}}})
	if err := res.Tables[0].Err; !errors.Is(err, errMedium) {
		t.Errorf("unreadable primary and backup: %v", err)
	}
}

func TestWholeDisk(t *testing.T) {
	for _, c := range []struct {
		name string
		tool []string // the image's path is appended
	}{
		{"ext4", []string{"mke2fs", "-q", "-F", "-t", "ext4"}},
		{"vfat", []string{"mkfs.vfat", "--mbr=no"}},
		{"vfat with the fake MBR of dosfstools", []string{"mkfs.vfat", "--mbr=yes"}},
		{"fat12", []string{"mkfs.vfat", "-F", "12"}},
		{"ntfs", []string{"mkntfs", "-F", "-Q", "-q"}},
		{"swap", []string{"mkswap", "-q"}},
		{"nothing", []string{"true"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			fixture.Need(t, c.tool[0])
			b := load(t, image(t, 8*mib, func(p string) { fixture.Run(t, c.tool[0], append(c.tool[1:], p)...) }))
			vols, table := scanBytes(t, b)
			if len(vols) != 1 || vols[0].Name != Whole || vols[0].Size() != 8*mib || table.Scheme != "none" || table.Err != nil {
				t.Fatalf("%+v\n%+v", vols, table)
			}
			// The boot sector's mark and left-over text in the place of the entries
			// must not make it a partition table.
			copy(b[446:510], "Remove disks or other media. Press any key to restart the system")
			b[510], b[511] = 0x55, 0xaa
			if vols, table = scanBytes(t, b); len(vols) != 1 || vols[0].Name != Whole || table.Err != nil {
				t.Fatalf("with text for a table: %+v\n%+v", vols, table)
			}
		})
	}
}

// TestFileSystemBesideEntries: entries that cannot all be partitions lose against a file
// system's signature; flawless ones win, as in the kernel.
func TestFileSystemBesideEntries(t *testing.T) {
	fixture.Need(t, "mke2fs", "sfdisk")
	b := load(t, image(t, 8*mib, func(p string) { fixture.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", p) }))
	entry := func(i int, kind byte, start, sectors uint32) {
		e := b[446+16*i:]
		e[4] = kind
		put32(e[8:], start)
		put32(e[12:], sectors)
	}
	b[510], b[511] = 0x55, 0xaa
	entry(0, 0x83, 2048, 4096)
	if vols, table := scanBytes(t, b); table.Scheme != "mbr" || len(vols) != 1 || vols[0].Name != "p1" {
		t.Errorf("flawless entry: %+v %+v", vols, table)
	}
	for _, bad := range [][2]uint32{{8192, 1 << 20}, {1 << 30, 8}, {4096, 2048}, {0, 16384}} {
		entry(1, 0x83, bad[0], bad[1])
		if vols, table := scanBytes(t, b); table.Scheme != "none" || len(vols) != 1 || vols[0].Name != Whole {
			t.Errorf("entry %v: %+v %+v", bad, vols, table)
		}
	}
}

func put32(b []byte, n uint32) {
	b[0], b[1], b[2], b[3] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
}

func TestReadError(t *testing.T) {
	s := &scanner{disk: Disk{"d", shorter{extent.Zeros(4096)}}}
	if _, err := s.read(0, 512); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a device that ends early: %v", err)
	}
}

// shorter is a device that has less than it says.
type shorter struct{ extent.Reader }

func (shorter) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }
