package probe

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/test/fixture"
)

const mib = 1 << 20

// blkid returns what libblkid finds by its own low-level probe.
func blkid(t *testing.T, path string) map[string]string {
	t.Helper()
	out := fixture.Run(t, "blkid", "--probe", "--usages", "filesystem,raid,crypto,other", "--output", "export", path)
	found := make(map[string]string)
	for _, line := range strings.Split(out, "\n") {
		if k, v, ok := strings.Cut(line, "="); ok {
			found[k] = strings.ReplaceAll(v, `\ `, " ")
		}
	}
	return found
}

// onLoop runs a program on a loop device over the image: what it writes reaches the file.
func onLoop(t *testing.T, path string, args ...string) {
	t.Helper()
	fixture.NeedRoot(t)
	dev := strings.TrimSpace(fixture.Run(t, "losetup", "--find", "--show", path))
	defer func() { _ = exec.Command("losetup", "-d", dev).Run() }()
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "DEV", dev)
	}
	fixture.Run(t, args[0], args[1:]...)
}

// TestLikeBlkid: type, label and UUID of what the standard tools write.
func TestLikeBlkid(t *testing.T) {
	fixture.Need(t, "blkid")
	tool := func(args ...string) func(*testing.T, string) {
		return func(t *testing.T, p string) {
			fixture.Need(t, args[0])
			fixture.Run(t, args[0], append(args[1:], p)...)
		}
	}
	for _, c := range []struct {
		name string
		size int64
		make func(t *testing.T, path string)
		kind Kind
		typ  string
		// partial: label or UUID would need parsing and are left empty
		noLabel, noUUID bool
	}{
		{"ext2", 8 * mib, tool("mke2fs", "-qFt", "ext2", "-L", "two"), KindFilesystem, "ext2", false, false},
		{"ext3", 16 * mib, tool("mke2fs", "-qFt", "ext3"), KindFilesystem, "ext3", false, false},
		{"ext4", 16 * mib, tool("mke2fs", "-qFt", "ext4", "-L", "0123456789abcdef"), KindFilesystem, "ext4", false, false},
		{"ext4 64k", 64 * mib, tool("mke2fs", "-qFt", "ext4", "-b", "65536"), KindFilesystem, "ext4", false, false},
		{"ext4 without a journal", 8 * mib, tool("mke2fs", "-qFt", "ext4", "-O", "^has_journal"), KindFilesystem, "ext4", false, false},
		{"ext4 over swap", 16 * mib, func(t *testing.T, p string) {
			tool("mkswap", "-q")(t, p)
			tool("mke2fs", "-qFt", "ext4")(t, p)
		}, KindFilesystem, "ext4", false, false},
		{"journal device", 16 * mib, tool("mke2fs", "-qFO", "journal_dev"), KindContainer, "jbd", false, false},
		{"xfs", 320 * mib, tool("mkfs.xfs", "-q", "-L", "daten xyz"), KindFilesystem, "xfs", false, false},
		{"btrfs", 128 * mib, tool("mkfs.btrfs", "-q", "-L", "with blanks in it"), KindFilesystem, "btrfs", false, false},
		{"fat12", 1 * mib, tool("mkfs.vfat", "-F", "12", "-n", "SMALL"), KindFilesystem, "vfat", false, false},
		{"fat16", 16 * mib, tool("mkfs.vfat", "-F", "16"), KindFilesystem, "vfat", false, false},
		{"fat32", 64 * mib, tool("mkfs.vfat", "-F", "32", "-n", "EFI SYSTEM"), KindFilesystem, "vfat", false, false},
		{"fat32 with 4096-byte sectors", 300 * mib, tool("mkfs.vfat", "-F", "32", "-S", "4096"), KindFilesystem, "vfat", false, false},
		{"exfat", 16 * mib, tool("mkfs.exfat"), KindFilesystem, "exfat", true, false},
		{"ntfs", 16 * mib, tool("mkntfs", "-FQq", "-L", "windows"), KindFilesystem, "ntfs", true, false},
		{"f2fs", 64 * mib, tool("mkfs.f2fs", "-q"), KindFilesystem, "f2fs", false, false},
		{"squashfs", 0, func(t *testing.T, p string) {
			fixture.Need(t, "mksquashfs")
			fixture.Run(t, "mksquashfs", t.TempDir(), p, "-quiet", "-noappend")
		}, KindFilesystem, "squashfs", false, false},
		{"swap", 16 * mib, tool("mkswap", "-q", "-L", "swp"), KindSwap, "swap", false, false},
		{"swap with 64k pages", 16 * mib, tool("mkswap", "-q", "-p", "65536"), KindSwap, "swap", false, false},
		{"luks1", 16 * mib, luksFormat("luks1"), KindContainer, "crypto_LUKS", false, false},
		{"luks2", 64 * mib, luksFormat("luks2", "--label", "secret"), KindContainer, "crypto_LUKS", false, false},
		{"lvm2", 16 * mib, func(t *testing.T, p string) {
			fixture.Need(t, "pvcreate")
			onLoop(t, p, "pvcreate", "--driverloaded", "n", "--config", `devices{filter=["a|^DEV$|","r|.*|"] use_devicesfile=0} `+
				`activation{udev_sync=0 udev_rules=0} backup{backup=0 archive=0}`, "DEV")
		}, KindContainer, "LVM2_member", false, false},
		{"nothing", 16 * mib, func(*testing.T, string) {}, KindEmpty, "", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			if c.size > 0 {
				fixture.Sparse(t, path, c.size)
			}
			c.make(t, path)
			got := Identify(fixture.OpenRaw(t, path))
			want := Signature{Kind: c.kind}
			if c.typ != "" {
				found := blkid(t, path)
				if found["TYPE"] != c.typ {
					t.Fatalf("blkid says %v", found)
				}
				want.Type, want.Label, want.UUID = c.typ, found["LABEL"], found["UUID"]
			}
			if c.noLabel {
				want.Label = ""
			}
			got.BootSector = false
			if got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if t.Failed() || c.typ == "" {
				return
			}
			// A negative control: the signature is what is looked at.
			if s := Identify(extent.Zeros(c.size)); s.Type != "" || s.Kind != KindEmpty {
				t.Errorf("zeros are %+v", s)
			}
		})
	}
}

func luksFormat(version string, args ...string) func(*testing.T, string) {
	return func(t *testing.T, p string) {
		fixture.Need(t, "cryptsetup")
		cmd := exec.Command("cryptsetup", append(append([]string{"luksFormat", "-q", "--type", version, "--pbkdf", "pbkdf2",
			"--pbkdf-force-iterations", "1000"}, args...), p, "-")...)
		cmd.Stdin = strings.NewReader("pass phrase")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("cryptsetup: %v\n%s", err, out)
		}
	}
}

// TestWritten: formats whose tools need a kernel or are not in Debian, by the bytes that their
// specifications name; blkid is asked where it knows the format.
func TestWritten(t *testing.T) {
	fixture.Need(t, "blkid")
	const size = 4 * mib
	le := func(n uint32) string { return string([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}) }
	for _, c := range []struct {
		typ    string
		kind   Kind
		at     int64
		text   string
		byName bool // blkid finds it by the same bytes
	}{
		{"bcache", KindContainer, 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", false},
		{"bcachefs", KindFilesystem, 4096 + 24, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", false},
		{"BitLocker", KindContainer, 0, "\xeb\x58\x90-FVE-FS-", false},
		{"ReFS", KindFilesystem, 0, "\x00\x00\x00ReFS\x00\x00\x00\x00", true},
		{"linux_raid_member", KindContainer, 4096, le(mdMagic) + le(1), false},
		{"linux_raid_member", KindContainer, 0, le(mdMagic) + le(1), false},
		{"linux_raid_member", KindContainer, size - 8<<10, le(mdMagic) + le(1), false},
		{"linux_raid_member", KindContainer, size - 64<<10, le(mdMagic) + le(0) + le(90), true},
		{"iso9660", KindFilesystem, 32 << 10, "\x01CD001\x01", true},
		{"udf", KindFilesystem, 32 << 10, "\x00BEA01\x01" + strings.Repeat("\x00", 2041) + "\x00NSR03", false},
		{"zfs_member", KindContainer, 128<<10 + 8<<10, "\x0c\xb1\xba\x00\x00\x00\x00\x00", false},
		{"reiserfs", KindFilesystem, 64<<10 + 52, "ReIsEr2Fs", false},
		{"jfs", KindFilesystem, 32 << 10, "JFS1", false},
		{"apfs", KindFilesystem, 32, "NXSB", false},
		{"hfsplus", KindFilesystem, 1024, "H+\x00\x04", false},
		{"hfs", KindFilesystem, 1024, "BD" + strings.Repeat("\x00", 16) + "\x00\x00\x10\x00", false},
		{"erofs", KindFilesystem, 1024, le(0xe0f5e1e2), false},
		{"nilfs2", KindFilesystem, 1024, le(2) + "\x00\x00\x34\x34", false},
		{"ufs", KindFilesystem, 64<<10 + 1372, le(0x19540119), false},
		{"VMFS_volume_member", KindContainer, 1 << 20, le(0xc001d00d), true},
		{"swap", KindSwap, 4086, "S1SUSPEND\x00", false},
	} {
		t.Run(c.typ, func(t *testing.T) {
			b := make([]byte, size)
			copy(b[c.at:], c.text)
			if got := Identify(extent.Bytes(b)); got.Type != c.typ || got.Kind != c.kind {
				t.Errorf("got %+v", got)
			}
			if c.byName {
				path := filepath.Join(t.TempDir(), "image")
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
				if found := blkid(t, path); found["TYPE"] != c.typ {
					t.Errorf("blkid says %v", found)
				}
			}
			b[c.at] ^= 0xff
			b[c.at+int64(len(c.text))-1] ^= 0xff
			if got := Identify(extent.Bytes(b)); got.Type == c.typ {
				t.Errorf("a damaged mark is still %+v", got)
			}
		})
	}
}

// TestBootSectorsThatAreNone: code in sector 0 that only looks like FAT.
func TestBootSectorsThatAreNone(t *testing.T) {
	b := make([]byte, mib)
	copy(b, "\xeb\x63\x90") // as GRUB's master boot record: a jump over an empty parameter block
	b[510], b[511] = 0x55, 0xaa
	if s := Identify(extent.Bytes(b)); s.Kind != KindUnknown || s.BootSector {
		t.Errorf("%+v", s)
	}
}

func TestErrorsAndSmallDevices(t *testing.T) {
	for n := range int64(5000) {
		if s := Identify(extent.Zeros(n)); s.Kind != KindEmpty || s.Err != nil {
			t.Fatalf("%d zeros: %+v", n, s)
		}
	}
	if s := Identify(failing{extent.Zeros(mib)}); s.Kind != KindUnknown || !errors.Is(s.Err, errMedium) {
		t.Errorf("%+v", s)
	}
	if KindEmpty.String() != "empty" || KindSwap.String() != "swap" || KindContainer.String() != "container" ||
		KindFilesystem.String() != "filesystem" || KindUnknown.String() != "unknown" {
		t.Error("names of kinds")
	}
}

var errMedium = errors.New("medium error")

type failing struct{ extent.Reader }

func (failing) ReadAt([]byte, int64) (int, error) { return 0, errMedium }

// counting counts the bytes asked for.
type counting struct {
	extent.Reader
	bytes, reads int
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	c.bytes += len(p)
	c.reads++
	return c.Reader.ReadAt(p, off)
}

// TestBoundedReads: noise on a large device costs no more than the fixed places.
func TestBoundedReads(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 2*mib)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	huge, err := extent.Concat(extent.Bytes(b), extent.Zeros(1<<50))
	if err != nil {
		t.Fatal(err)
	}
	c := &counting{Reader: huge}
	if s := Identify(c); s.Kind != KindUnknown {
		t.Errorf("%+v", s)
	}
	if c.bytes > 100<<10 || c.reads > 100 {
		t.Errorf("%d bytes in %d reads", c.bytes, c.reads)
	}
	t.Logf("%d bytes in %d reads", c.bytes, c.reads)
}

// FuzzIdentify puts bytes at the start, at one other place and at the end of a device.
func FuzzIdentify(f *testing.F) {
	f.Add([]byte("XFSB"), []byte("_BHRfS_M"), uint32(64<<10+0x40))
	f.Add([]byte("LUKS\xba\xbe\x00\x02"), []byte("SWAPSPACE2"), uint32(4086))
	f.Add([]byte("\xeb\x3c\x90mkfs.fat\x00\x02\x04\x04\x00\x02\x00\x02\x00\x80\xf8"), []byte("\x01CD001"), uint32(32<<10))
	f.Add([]byte{}, []byte("LABELONE\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x20\x00\x00\x00LVM2 001"), uint32(512))
	f.Add([]byte{}, []byte("\xfc\x4e\x2b\xa9\x01\x00\x00\x00"), uint32(4096))
	f.Fuzz(func(t *testing.T, head, at []byte, off uint32) {
		b := make([]byte, 192<<10)
		copy(b, head)
		copy(b[min(int(off), len(b)):], at)
		s := Identify(extent.Bytes(b))
		if (s.Kind == KindUnknown || s.Kind == KindEmpty) != (s.Type == "") {
			t.Errorf("%+v", s)
		}
		if s.Kind == KindEmpty && (len(bytes.Trim(head, "\x00")) > 0 && len(head) < headSize) {
			t.Errorf("not empty: %+v", s)
		}
		if strings.ContainsRune(s.Label, 0) || strings.ToValidUTF8(s.Label, "") != s.Label {
			t.Errorf("label %q", s.Label)
		}
	})
}
