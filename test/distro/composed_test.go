package distro

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vmfr/agent/fsys/fsystest"
	"vmfr/test/fixture"
)

// The layout of a server as an installer with separate volumes makes it.
//
//	system  GPT  p1 vfat /boot/efi | p2 ext4 /boot | p3 xfs / | p4 ext4 /home
//	data0, data1  LVM2 group "data-vg": volume "srv" in two stripes, ext4 /srv
//	archive  xfs without a partition table, /var/archive
const (
	efiSize     = 64 * mib
	bootStart   = espStart + efiSize
	bootSize    = 96 * mib
	sysStart    = bootStart + bootSize
	sysSize     = 1400 * mib
	homeStart   = sysStart + sysSize
	homeSize    = 64 * mib
	systemSize  = homeStart + homeSize + mib
	srvSize     = 64 * mib
	archiveSize = 320 * mib
)

type server struct {
	system, data0, data1, archive string
	srv                           string // the logical volume's content, flat
}

const serverFstab = `# /etc/fstab
PARTLABEL=sys        /            xfs   defaults          0 0
LABEL=boot           /boot        ext4  defaults          0 2
UUID=ABCD-1234       /boot/efi    vfat  umask=0077        0 1
UUID=%s /home  ext4 defaults 0 2
/dev/mapper/data--vg-srv /srv     ext4  defaults          0 2
LABEL=archive        /var/archive xfs   nofail            0 0
UUID=00000000-1111-2222-3333-444444444444 /mnt/gone ext4 defaults 0 2
/srv/shared          /export      none  bind              0 0
/swapfile            none         swap  sw                0 0
tmpfs                /tmp         tmpfs defaults          0 0
`

func makeServer(t *testing.T) server {
	fixture.Need(t, "debootstrap", "sgdisk", "mke2fs", "mkfs.vfat", "mkfs.xfs", "mcopy", "pvcreate", "tar")
	fixture.NeedRoot(t)
	dir := t.TempDir()
	s := server{filepath.Join(dir, "system.raw"), filepath.Join(dir, "data0.raw"), filepath.Join(dir, "data1.raw"),
		filepath.Join(dir, "archive.raw"), filepath.Join(dir, "srv.raw")}
	const homeID = "6f1d2c1e-0f5e-4a53-9d29-94a3b7f0c0de"

	// The files of each volume, in a folder of its own.
	src := filepath.Join(dir, "src")
	for _, d := range []string{"boot/grub", "boot/efi", "efi/EFI/debian", "home/user/.ssh", "srv/www", "archive/2026"} {
		if err := os.MkdirAll(filepath.Join(src, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for p, text := range map[string]string{
		"boot/grub/grub.cfg": "set default=0\n", "boot/vmlinuz": strings.Repeat("kernel ", 100_000), "efi/EFI/debian/grub.cfg": "search.fs_uuid boot\n",
		"home/user/report.odt": "the quarterly report\n", "home/user/.ssh/id": "secret\n", "srv/www/index.html": "<h1>hello</h1>\n", "archive/2026/a.tar": "archive\n",
	} {
		if err := os.WriteFile(filepath.Join(src, p), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	fixture.Run(t, "chown", "-R", "1000:1000", filepath.Join(src, "home/user"))
	fixture.Run(t, "ln", filepath.Join(src, "home/user/report.odt"), filepath.Join(src, "home/user/same.odt"))
	fixture.Run(t, "ln", "-s", "/home/user/report.odt", filepath.Join(src, "srv/www/absolute"))

	fixture.Sparse(t, s.system, systemSize)
	part := func(n int, start, size int64, kind, name string) []string {
		return []string{"-n", fmt.Sprintf("%d:%d:%d", n, start/512, (start+size)/512-1), "-t", fmt.Sprintf("%d:%s", n, kind), "-c", fmt.Sprintf("%d:%s", n, name)}
	}
	var args []string
	args = append(args, part(1, espStart, efiSize, "ef00", "EFI System")...)
	args = append(args, part(2, bootStart, bootSize, "8300", "boot")...)
	args = append(args, part(3, sysStart, sysSize, "8300", "sys")...)
	args = append(args, part(4, homeStart, homeSize, "8302", "home")...)
	fixture.Run(t, "sgdisk", append(args, s.system)...)
	fixture.Run(t, "mkfs.vfat", "-F", "32", "-s", "1", "-i", "ABCD1234", "--offset", fmt.Sprint(espStart/512), s.system, fmt.Sprint(efiSize/1024))
	fixture.Run(t, "mcopy", "-s", "-i", fmt.Sprintf("%s@@%d", s.system, espStart), filepath.Join(src, "efi/EFI"), "::/")
	fixture.Ext4At(t, s.system, bootStart, bootSize, filepath.Join(src, "boot"), "-L", "boot")
	fixture.Ext4At(t, s.system, homeStart, homeSize, filepath.Join(src, "home"), "-U", homeID)

	flat := filepath.Join(dir, "root.raw")
	fixture.Sparse(t, flat, sysSize)
	fixture.Run(t, "mkfs.xfs", "-q", flat)
	root := fixture.Mount(t, flat, "xfs", "", 0, sysSize)
	fixture.Run(t, "tar", "-C", root, "--xattrs", "--xattrs-include=*", "-xpf", minbase(t))
	for _, d := range []string{"boot", "srv", "var/archive", "export", "mnt/gone"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/fstab"), []byte(fmt.Sprintf(serverFstab, homeID)), 0o644); err != nil {
		t.Fatal(err)
	}
	fixture.Unmount(t, root)
	fixture.Run(t, "dd", "if="+flat, "of="+s.system, "bs=1M", fmt.Sprintf("seek=%d", sysStart/mib), "conv=notrunc,sparse", "status=none")

	fixture.Sparse(t, s.archive, archiveSize)
	fixture.Run(t, "mkfs.xfs", "-q", "-L", "archive", s.archive)
	m := fixture.Mount(t, s.archive, "xfs", "", 0, archiveSize)
	fixture.Run(t, "cp", "-a", filepath.Join(src, "archive")+"/.", m)
	fixture.Unmount(t, m)

	fixture.Sparse(t, s.srv, srvSize)
	fixture.Ext4At(t, s.srv, 0, srvSize, filepath.Join(src, "srv"))
	fixture.Stripe(t, s.srv, "data-vg", "srv", srvSize/2+8*mib, s.data0, s.data1)
	return s
}

// TestComposedSystem: a system over four disks appears as its guest mounts it, and equals what
// the kernel shows with the same mounts.
func TestComposedSystem(t *testing.T) {
	if testing.Short() {
		t.Skip("debootstrap takes a minute")
	}
	s := makeServer(t)
	var disks []string
	for name, path := range map[string]string{"rootdisk": s.system, "lvm-a": s.data0, "lvm-b": s.data1, "archive": s.archive} {
		disks = append(disks, "--disk", "b/"+name+"="+path)
	}
	a := startAgent(t, append(disks, "--disk", "lonely/rootdisk="+s.system, "--disk", "lonely/lvm-a="+s.data0)...)
	shown := filepath.Join(a.Mount, "backups/b/rootdisk")

	kernel := fixture.Mount(t, s.system, "xfs", "ro", sysStart, sysSize)
	for _, m := range []struct {
		img, fstype string
		off, size   int64
		at          string
	}{{s.system, "ext4", bootStart, bootSize, "boot"}, {s.system, "ext4", homeStart, homeSize, "home"}, {s.srv, "ext4", 0, srvSize, "srv"}, {s.archive, "xfs", 0, archiveSize, "var/archive"}} {
		fixture.Run(t, "mount", "--bind", fixture.Mount(t, m.img, m.fstype, "ro", m.off, m.size), filepath.Join(kernel, m.at))
		at := filepath.Join(kernel, m.at)
		t.Cleanup(func() { _ = exec.Command("umount", "-l", at).Run() })
	}

	t.Run("files", func(t *testing.T) {
		want, got := comparable(fixture.Manifest(t, kernel)), comparable(fixture.Manifest(t, shown))
		for p := range got { // the kernel here has no vfat: see below
			if strings.HasPrefix(p, "boot/efi/") {
				delete(got, p)
			}
		}
		delete(want, "boot/efi") // there the directory below the mount
		delete(got, "boot/efi")
		if len(want) < 5000 || want["home/user/report.odt"].UID != 1000 || want["boot/vmlinuz"].Size == 0 || want["srv/www/index.html"].Size == 0 || want["var/archive/2026/a.tar"].Size == 0 {
			t.Fatalf("the fixture is not a composed system: %d objects", len(want))
		}
		for _, d := range fsystest.Diff(want, got) {
			t.Error(d)
		}
	})
	t.Run("vfat", func(t *testing.T) {
		if got, err := os.ReadFile(filepath.Join(shown, "boot/efi/EFI/debian/grub.cfg")); err != nil || string(got) != "search.fs_uuid boot\n" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("every disk keeps its folder", func(t *testing.T) {
		if got, err := os.ReadFile(filepath.Join(a.Mount, "backups/b/archive/2026/a.tar")); err != nil || string(got) != "archive\n" {
			t.Errorf("%q, %v", got, err)
		}
		for _, d := range []string{"lvm-a", "lvm-b"} {
			if st, err := os.Stat(filepath.Join(a.Mount, "backups/b", d)); err != nil || !st.IsDir() {
				t.Errorf("%s: %v", d, err)
			}
		}
		ents, err := os.ReadDir(filepath.Join(a.Mount, "backups/b"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range ents {
			if strings.HasPrefix(e.Name(), "rootdisk@") {
				t.Errorf("%s is shown although fstab places it", e.Name())
			}
		}
	})
	t.Run("links of the guest", func(t *testing.T) { // SFTP and HTTPS resolve absolute ones at the composed root
		got := fixture.Run(t, "curl", "-sSf", "--cacert", a.HTTPS.CAFile, "-u", a.HTTPS.User+":"+a.Password(t), a.HTTPS.URL+"/files/backups/b/rootdisk/srv/www/absolute")
		if got != "the quarterly report\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("rsync keeps hard links", func(t *testing.T) {
		dst := t.TempDir()
		fixture.Run(t, "rsync", "-aHAX", "--numeric-ids", shown+"/home", filepath.Join(a.Mount, "backups/b/archive"), dst)
		x, err1 := os.Stat(filepath.Join(dst, "home/user/report.odt"))
		y, err2 := os.Stat(filepath.Join(dst, "home/user/same.odt"))
		if err1 != nil || err2 != nil || !os.SameFile(x, y) {
			t.Errorf("the hard link became two files: %v, %v", err1, err2)
		}
	})
	t.Run("another backup lacks a disk", func(t *testing.T) {
		if ents, err := os.ReadDir(filepath.Join(a.Mount, "backups/lonely/rootdisk/srv")); err != nil || len(ents) != 0 {
			t.Errorf("/srv of a backup without the second stripe shows %d entries, %v", len(ents), err)
		}
		if got, err := os.ReadFile(filepath.Join(a.Mount, "backups/lonely/rootdisk/home/user/report.odt")); err != nil || len(got) == 0 {
			t.Errorf("what is whole is not shown: %v", err)
		}
		b, err := os.ReadFile(filepath.Join(a.Mount, "METADATA.json"))
		if err != nil || !json.Valid(b) {
			t.Fatalf("METADATA.json: %v", err)
		}
		if !strings.Contains(string(b), `"/mnt/gone"`) || !strings.Contains(string(b), "Debian GNU/Linux") {
			t.Errorf("METADATA.json names neither the entry that nothing fits nor the operating system:\n%s", b)
		}
	})
}
