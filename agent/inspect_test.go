package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vmfr/agent/sample"
	"vmfr/agent/tree"
	"vmfr/test/fixture"
)

func TestInspectTable(t *testing.T) {
	r := call(t, "inspect", "--sample")
	if r.code != 0 || r.stderr != "" {
		t.Errorf("exit code %d, standard error %q", r.code, r.stderr)
	}
	for _, want := range []string{
		`(?m)^nightly-0412/rootdisk: readable, raw, 16\.0 MiB \(16777216 bytes\), partition table gpt 8f3c2a10-\S+, sectors of 512 bytes$`,
		`(?m)^nightly-0413/rootdisk: readable, qcow2, 16\.0 MiB`,
		`VOLUME +START +SIZE +PARTITION +CONTENT +LABEL +UUID +USED +ENGINE +JOURNAL`,
		`(?m)^  p1 +1048576 +1\.0 MiB +BIOS boot `,
		`(?m)^  p2 +2097152 +13\.0 MiB +Linux filesystem +ext4 +"shop-root" +5a0d5c1e-7e0f-4c52-9d5b-2f6a1c4e8b01 +2\.\d MiB of 13\.0 MiB +ext4 +clean *$`,
	} {
		if !regexp.MustCompile(want).MatchString(r.stdout) {
			t.Errorf("no match for %s in\n%s", want, r.stdout)
		}
	}
}

func TestInspectJSON(t *testing.T) {
	r := call(t, "inspect", "--json", "--sample")
	var backups []tree.BackupReport
	if err := json.Unmarshal([]byte(r.stdout), &backups); err != nil || r.code != 0 {
		t.Fatalf("exit code %d, %v\n%s", r.code, err, r.stdout)
	}
	if len(backups) != 2 || backups[0].Name != "nightly-0412" || backups[0].VM != "webshop" || len(backups[0].Disks) != 1 ||
		backups[0].Disks[0].Format != "raw" || backups[1].Disks[0].Format != "qcow2" ||
		backups[1].Disks[0].Volumes[1].FileSystem == nil || backups[1].Disks[0].Volumes[1].FileSystem.Label != "shop-root" {
		t.Errorf("report:\n%s", r.stdout)
	}
}

// walkOf runs inspect --walk --json and returns the report and the listing.
func walkOf(t *testing.T, code int, args ...string) (walkReport, string) {
	t.Helper()
	list := filepath.Join(t.TempDir(), "listing")
	r := call(t, append([]string{"inspect", "--walk", "--json", "--listing", list}, args...)...)
	var out struct {
		Backups []tree.BackupReport
		Walk    walkReport
	}
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || r.code != code {
		t.Fatalf("exit code %d, want %d; %v\n%s%s", r.code, code, err, r.stdout, r.stderr)
	}
	b, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	if sum(b) != out.Walk.SHA256 {
		t.Errorf("the listing has sha256 %s, the report says %s", sum(b), out.Walk.SHA256)
	}
	return out.Walk, string(b)
}

// TestWalkSample compares a walk with the manifest that sha256sum made.
func TestWalkSample(t *testing.T) {
	m, err := sample.Load()
	if err != nil {
		t.Fatal(err)
	}
	r, list := walkOf(t, 0, "--sample")
	names := int64(0)
	for _, image := range m.Images {
		names += int64(len(image.SHA256))
		for path, want := range image.SHA256 {
			line := regexp.MustCompile(`(?m)^\./` + regexp.QuoteMeta(image.Backup+"/"+image.Disk+path) + ` type=file .*sha256digest=` + want)
			if !line.MatchString(list) {
				t.Errorf("%s: %s is not listed with sha256 %s", image.Backup, path, want)
			}
		}
	}
	if r.Files+r.HardLinks != names || r.HardLinks != 2 || r.Links != 2 || r.FileSystems != 2 || r.Unreadable != 0 || r.Holes == 0 || r.Holes >= r.Bytes {
		t.Errorf("%d names of files; report %+v", names, r)
	}
	for _, want := range []string{
		`type=link mode=0777 uid=0 gid=0 nlink=1 time=\d+\.\d{9} link=\.\./sites-available/shop\.conf\n`,
		`docs/handbook\.txt type=file mode=0644 uid=1000 gid=1000 .* xattr\.user\.classification=` + "696e7465726e616c\n",
		`price-list\.csv type=file .* nlink=2 `,
	} {
		if !regexp.MustCompile(want).MatchString(list) {
			t.Errorf("the listing has no match for %s", want)
		}
	}
	again, _ := walkOf(t, 0, "--sample")
	if again.SHA256 != r.SHA256 {
		t.Errorf("two walks differ: %s, %s", r.SHA256, again.SHA256)
	}
}

// TestWalkFormats: raw, qcow2 and compressed qcow2 of one disk have one sum; another content
// or mode has another.
func TestWalkFormats(t *testing.T) {
	fixture.Need(t, "qemu-img", "debugfs")
	dir := t.TempDir()
	raw := guest(t)
	want, _ := walkOf(t, 0, "--disk", "b/d="+raw)
	for name, args := range map[string][]string{"plain": nil, "zlib": {"-c"}, "zstd": {"-c", "-o", "compression_type=zstd"}} {
		img := filepath.Join(dir, name+".qcow2")
		fixture.Run(t, "qemu-img", append(append([]string{"convert", "-O", "qcow2"}, args...), raw, img)...)
		if got, _ := walkOf(t, 0, "--disk", "b/d="+img); got.SHA256 != want.SHA256 || got.Bytes != want.Bytes || got.Holes != want.Holes {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	fixture.Run(t, "debugfs", "-w", "-R", "set_inode_field /etc/hosts mode 0100600", raw)
	if got, _ := walkOf(t, 0, "--disk", "b/d="+raw); got.SHA256 == want.SHA256 {
		t.Error("another mode gives the same sum")
	}
}

// TestWalkDamage: what cannot be read is named and counted, and the rest is read.
func TestWalkDamage(t *testing.T) {
	fixture.Need(t, "debugfs")
	raw := guest(t)
	// The inode's checksum is wrong then, because debugfs writes it below the checksum's code.
	b, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	blocks := fixture.Run(t, "debugfs", "-R", "imap /srv/data", raw)
	at := regexp.MustCompile(`located at block (\d+), offset (0x[0-9a-f]+)`).FindStringSubmatch(blocks)
	if at == nil {
		t.Fatalf("debugfs imap: %s", blocks)
	}
	size := regexp.MustCompile(`Block size: +(\d+)`).FindStringSubmatch(fixture.Run(t, "debugfs", "-R", "stats", raw))
	var block, offset, blockSize int64
	for i, v := range map[*int64]string{&block: at[1], &offset: at[2], &blockSize: size[1]} {
		if err := json.Unmarshal([]byte(decimal(v)), i); err != nil {
			t.Fatal(err)
		}
	}
	b[block*blockSize+offset+4] ^= 0xff // i_size
	if err := os.WriteFile(raw, b, 0o600); err != nil {
		t.Fatal(err)
	}
	r, list := walkOf(t, exitUnreadable, "--disk", "b/d="+raw)
	if r.Unreadable != 1 || len(r.Errors) != 1 || r.Errors[0].Path != "/backups/b/d/srv/data" || r.Errors[0].Kind != "corrupt" {
		t.Errorf("report %+v", r)
	}
	if !strings.Contains(list, "./b/d/srv/data error=corrupt\n") || !strings.Contains(list, "./b/d/etc/hosts type=file") {
		t.Errorf("listing:\n%s", list)
	}
	human := call(t, "inspect", "--walk", "--disk", "b/d="+raw)
	if human.code != exitUnreadable || !strings.Contains(human.stdout, `unreadable: "/backups/b/d/srv/data": `) ||
		strings.Count(human.stderr, "\n") != 1 || !strings.Contains(human.stderr, "1 objects") {
		t.Errorf("exit code %d\n%s%s", human.code, human.stdout, human.stderr)
	}
}

// decimal turns 0x... into a JSON number.
func decimal(s string) string {
	if !strings.HasPrefix(s, "0x") {
		return s
	}
	n := 0
	for _, c := range s[2:] {
		n = n*16 + strings.IndexRune("0123456789abcdef", c)
	}
	j, _ := json.Marshal(n)
	return string(j)
}

// TestInspectUnreadable: a disk without anything readable is reported, with exit code 3.
func TestInspectUnreadable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.vmdk")
	if err := os.WriteFile(path, append([]byte("KDMV"), make([]byte, 8192)...), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, more := range [][]string{nil, {"--walk"}} {
		r := call(t, append([]string{"inspect", "--disk", "b/d=" + path}, more...)...)
		if r.code != exitUnreadable || !strings.Contains(r.stdout, "b/d: unreadable") || !strings.Contains(r.stdout, "VMDK") ||
			!strings.Contains(r.stdout, "what to do: ") || !strings.Contains(r.stderr, "1 disks unreadable") {
			t.Errorf("%v: exit code %d\n%s%s", more, r.code, r.stdout, r.stderr)
		}
	}
}

func TestWalkLimits(t *testing.T) {
	for _, limit := range []string{"--max-objects=5", "--max-bytes=1000"} {
		r := call(t, "inspect", "--walk", "--sample", limit)
		name, _, _ := strings.Cut(limit, "=")
		if r.code != exitError || !strings.Contains(r.stderr, "raise "+name) || strings.Count(r.stderr, "\n") != 1 || r.stdout != "" {
			t.Errorf("%s: %+v", limit, r)
		}
	}
}

// TestListingAgainstKernel compares the listing with what the kernel shows of the same image.
func TestListingAgainstKernel(t *testing.T) {
	fixture.NeedRoot(t)
	src := t.TempDir()
	for _, name := range []string{"plain", "with space", "new\nline", "\xff\xfe", "a#b=c", "ümlaut"} {
		if err := os.WriteFile(filepath.Join(src, name), []byte(name), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mknod(filepath.Join(src, "fifo"), unix.S_IFIFO|0o600, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(src, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	raw := fixture.Ext4(t, src, 8<<20)
	_, list := walkOf(t, 0, "--disk", "b/d="+raw)
	manifest := fixture.Manifest(t, fixture.Mount(t, raw, "ext4", "ro,noload", 0, 0))
	for _, p := range manifest.Paths() {
		if strings.HasPrefix(p, "lost+found/") {
			continue
		}
		e := manifest[p]
		path := "./b/d/" + p
		if p == "." {
			path = "./b/d"
		}
		line := listed(path, e)
		if !strings.Contains(list, line) {
			t.Errorf("%q: the kernel's line is not in the listing: %s", p, line)
		}
	}
	if got := strings.Count(list, "\n") - 1; got != len(manifest) {
		t.Errorf("%d lines, want %d", got, len(manifest))
	}
}
