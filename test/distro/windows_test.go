package distro

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// The layout that Windows' setup makes: an EFI system partition, a reserved one, the system.
const (
	msrStart  = espStart + 64*mib
	winStart  = msrStart + 16*mib
	winSize   = 160 * mib
	winDisk   = winStart + winSize + mib
	winFiles  = 2000
	winStream = "[ZoneTransfer]\r\nZoneId=3\r\n"
)

// junction is the reparse data of a folder that stands for another one, see [MS-FSCC] 2.1.2.5.
func junction(target string) []byte {
	units := func(s string) []byte {
		var b []byte
		for _, u := range utf16.Encode([]rune(s)) {
			b = binary.LittleEndian.AppendUint16(b, u)
		}
		return b
	}
	sub, print := units(`\??\`+target), units(target)
	var names []byte
	names = append(append(append(append(names, sub...), 0, 0), print...), 0, 0)
	b := binary.LittleEndian.AppendUint32(nil, 0xA0000003) // IO_REPARSE_TAG_MOUNT_POINT
	for _, n := range []int{8 + len(names), 0, 0, len(sub), len(sub) + 2, len(print)} {
		b = binary.LittleEndian.AppendUint16(b, uint16(n))
	}
	return append(b, names...)
}

// windows returns a disk as a Windows guest has it, and its NTFS alone.
func windows(t *testing.T) (disk, ntfs string) {
	fixture.Need(t, "mkntfs", "ntfs-3g", "sgdisk", "mkfs.vfat", "mcopy", "setfattr")
	fixture.NeedRoot(t)
	dir := t.TempDir()
	ntfs = filepath.Join(dir, "ntfs.raw")
	fixture.Sparse(t, ntfs, winSize)
	fixture.Run(t, "mkntfs", "-q", "-F", "-L", "Windows", ntfs)
	root := filepath.Join(dir, "mnt")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	fixture.Run(t, "ntfs-3g", "-o", "streams_interface=xattr,compression", ntfs, root)
	for _, d := range []string{"Windows/System32/config", "Windows/WinSxS", "Users/alice/Documents", "Documents and Settings"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Files in a folder with this attribute are compressed.
	fixture.Run(t, "setfattr", "-h", "-n", "system.ntfs_attrib_be", "-v", "0x00000810", filepath.Join(root, "Windows/WinSxS"))
	fixture.Run(t, "setfattr", "-h", "-n", "system.ntfs_reparse_data", "-v", fmt.Sprintf("0x%x", junction(`C:\Users`)), filepath.Join(root, "Documents and Settings"))
	files := map[string][]byte{
		"Windows/System32/config/SOFTWARE":   append([]byte("regf"), make([]byte, 8192)...),
		"Windows/WinSxS/text.dll":            bytes.Repeat([]byte("a line that compresses well\r\n"), 20_000),
		"Users/alice/Documents/report.docx":  bytes.Repeat([]byte("PK\x03\x04 content "), 5000),
		"Users/alice/Documents/Bücher €.txt": []byte("names in Unicode\r\n"),
		"pagefile.sys":                       make([]byte, 1<<20),
	}
	for i := range winFiles {
		files[fmt.Sprintf("Users/alice/Documents/file %04d.txt", i)] = fmt.Appendf(nil, "file number %d\r\n", i)
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(root, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	report := filepath.Join(root, "Users/alice/Documents/report.docx")
	fixture.Run(t, "setfattr", "-n", "user.Zone.Identifier", "-v", winStream, report)
	fixture.Run(t, "ln", report, filepath.Join(root, "Users/alice/same.docx"))
	fixture.Run(t, "umount", root)

	disk = filepath.Join(dir, "windows.raw")
	fixture.Sparse(t, disk, winDisk)
	fixture.Run(t, "sgdisk",
		"-n", fmt.Sprintf("1:%d:%d", espStart/512, msrStart/512-1), "-t", "1:ef00",
		"-n", fmt.Sprintf("2:%d:%d", msrStart/512, winStart/512-1), "-t", "2:0c01",
		"-n", fmt.Sprintf("3:%d:%d", winStart/512, (winStart+winSize)/512-1), "-t", "3:0700", disk)
	fixture.Run(t, "mkfs.vfat", "-F", "32", "-s", "1", "-n", "SYSTEM", "--offset", fmt.Sprint(espStart/512), disk, fmt.Sprint((msrStart-espStart)/1024))
	esp := filepath.Join(dir, "EFI/Microsoft/Boot")
	if err := os.MkdirAll(esp, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(esp, "BCD"), []byte("boot configuration"), 0o644); err != nil {
		t.Fatal(err)
	}
	fixture.Run(t, "mcopy", "-s", "-i", fmt.Sprintf("%s@@%d", disk, espStart), filepath.Join(dir, "EFI"), "::/")
	fixture.Run(t, "dd", "if="+ntfs, "of="+disk, "bs=1M", fmt.Sprintf("seek=%d", winStart/mib), "conv=notrunc,sparse", "status=none")
	return disk, ntfs
}

// TestWindows: a Windows guest's disk, compared with what ntfs-3g shows.
func TestWindows(t *testing.T) {
	fixture.Need(t, "curl", "qemu-img")
	disk, ntfs := windows(t)
	qcow := filepath.Join(t.TempDir(), "windows.qcow2")
	fixture.Run(t, "qemu-img", "convert", "-c", "-O", "qcow2", disk, qcow)
	a := startAgent(t, "--disk", "b/system="+qcow+",format=qcow2")
	shown := filepath.Join(a.Mount, "backups/b/system")

	t.Run("files", func(t *testing.T) {
		oracle := filepath.Join(t.TempDir(), "oracle")
		if err := os.Mkdir(oracle, 0o700); err != nil {
			t.Fatal(err)
		}
		fixture.Run(t, "ntfs-3g", "-o", "ro", ntfs, oracle)
		defer fixture.Run(t, "umount", oracle)
		want, got := plain(fixture.Manifest(t, oracle)), plain(fixture.Manifest(t, shown))
		const link = "Documents and Settings" // ntfs-3g resolves it to its own mount point
		if len(want) < winFiles || want["Users/alice/same.docx"].Nlink != 2 || got[link].Target != "Users" {
			t.Fatalf("%d objects, %+v, the junction is %+v", len(want), want["Users/alice/same.docx"], got[link])
		}
		delete(want, link)
		delete(got, link)
		for _, d := range fsystest.Diff(want, got) {
			t.Error(d)
		}
	})
	t.Run("through the junction", func(t *testing.T) {
		if got, err := os.ReadFile(filepath.Join(shown, "Documents and Settings/alice/Documents/Bücher €.txt")); err != nil || string(got) != "names in Unicode\r\n" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("stream", func(t *testing.T) {
		args := []string{"-sSf", "--cacert", a.HTTPS.CAFile, "-u", a.HTTPS.User + ":" + a.Password(t)}
		file := a.HTTPS.URL + "/files/backups/b/system/Users/alice/Documents/report.docx"
		if got := fixture.Run(t, "curl", append(args, file+"?stream=Zone.Identifier")...); got != winStream {
			t.Errorf("by HTTPS: %q", got)
		}
		if got := fixture.Run(t, "getfattr", "--absolute-names", "--only-values", "-n", "user.ads.Zone.Identifier", filepath.Join(shown, "Users/alice/Documents/report.docx")); got != winStream {
			t.Errorf("by FUSE: %q", got)
		}
	})
	t.Run("EFI system partition", func(t *testing.T) {
		if got, err := os.ReadFile(shown + "@SYSTEM/EFI/Microsoft/Boot/BCD"); err != nil || string(got) != "boot configuration" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("metadata", func(t *testing.T) {
		b, err := os.ReadFile(filepath.Join(a.Mount, "METADATA.json"))
		if err != nil {
			t.Fatal(err)
		}
		var m struct {
			Backups []struct {
				OperatingSystems []struct{ Path, Family string }
				Disks            []struct{ State string }
			}
		}
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		x := m.Backups[0]
		if len(x.OperatingSystems) != 1 || x.OperatingSystems[0].Family != "windows" || !strings.HasSuffix(x.OperatingSystems[0].Path, "/b/system") || x.Disks[0].State != "readable" {
			t.Errorf("%+v", x)
		}
	})
}

// plain keeps what both ntfs-3g and we show without options: attributes have other names there,
// and a FUSE mount of ntfs-3g tells neither holes nor the same inode numbers.
func plain(m fsystest.Manifest) fsystest.Manifest {
	for p, e := range m {
		e.Ino, e.Atime, e.Xattrs, e.Data, e.Blocks = 0, 0, nil, nil, -1
		m[p] = e
	}
	return m
}
