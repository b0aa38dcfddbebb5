package tree

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vmfr/agent/engine"
	"vmfr/agent/extent"
	"vmfr/agent/volume"
	"vmfr/test/fixture"
)

// lvm runs a program of LVM on some devices alone.
func lvm(t *testing.T, devices []string, program string, args ...string) {
	t.Helper()
	var filter strings.Builder
	for _, d := range devices {
		fmt.Fprintf(&filter, "%q,", "a|^"+d+"$|")
	}
	config := `devices{filter=[` + filter.String() + `"r|.*|"] use_devicesfile=0 external_device_info_source="none"} ` +
		`activation{udev_sync=0 udev_rules=0} backup{backup=0 archive=0} global{event_activation=0}`
	cmd := exec.Command(program, append([]string{"--driverloaded", "n", "--config", config}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, out)
	}
}

// groupOver makes a volume group over whole images with one logical volume of all its space,
// and writes a file system into that.
func groupOver(t *testing.T, group, lv, fsImage string, images ...string) {
	t.Helper()
	fixture.Need(t, "pvcreate", "vgcreate", "lvcreate", "losetup")
	fixture.NeedRoot(t)
	var devices []string
	for _, img := range images {
		dev := strings.TrimSpace(fixture.Run(t, "losetup", "--find", "--show", img))
		defer func() { fixture.Run(t, "losetup", "-d", dev) }()
		devices = append(devices, dev)
	}
	lvm(t, devices, "vgcreate", append([]string{"-q", "-q", "-y", "-s", "64k", group}, devices...)...)
	lvm(t, devices, "lvcreate", "-q", "-q", "-y", "-an", "-Zn", "-Wn", "-l", "100%FREE", "-n", lv, group)
	fixture.Run(t, "sync", slices.Concat(devices, images)...) // and not what all other tests write
	var disks []volume.Disk
	for i, img := range images {
		disks = append(disks, volume.Disk{Name: fmt.Sprint(i), Reader: fixture.OpenRaw(t, img)})
	}
	content, err := os.ReadFile(fsImage)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range volume.Scan(disks).Volumes {
		if v.LV == nil {
			continue
		}
		for off := int64(0); off < int64(len(content)); {
			x, err := v.Extent(off, int64(len(content))-off)
			if err != nil || x.Host == nil {
				t.Fatalf("logical volume at %d: %+v, %v", off, x, err)
			}
			f, err := os.OpenFile(x.Host.Name(), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(content[off:off+x.Len], x.HostOff); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			off += x.Len
		}
		return
	}
	t.Fatal("the logical volume is not found")
}

// guestFiles lays a Debian out in folders: one for each file system.
func guestFiles(t *testing.T, fstab string) string {
	t.Helper()
	dir := t.TempDir()
	for p, content := range map[string]string{
		"root/usr/lib/os-release": "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n",
		"root/etc/fstab":          fstab, "root/etc/hostname": "web", "root/boot/": "", "root/home/": "", "root/srv/": "", "root/mnt/": "",
		"boot/vmlinuz": "kernel", "boot/grub/grub.cfg": "set", "boot/efi/": "",
		"home/ann/notes": "hello", "home/ann/deep/er/file": "x",
		"srv/www/index.html": "<html>", "srv/db/table": "rows",
	} {
		full := filepath.Join(dir, p)
		err := os.MkdirAll(filepath.Dir(full), 0o755)
		if err == nil && strings.HasSuffix(p, "/") {
			err = os.MkdirAll(full, 0o755)
		} else if err == nil {
			err = os.WriteFile(full, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../usr/lib/os-release", filepath.Join(dir, "root/etc/os-release")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestDebian composes a system whose file systems are on partitions, on a second disk and on a
// logical volume over two more, and compares it with the folders that these were made from.
func TestDebian(t *testing.T) {
	fixture.Need(t, "sgdisk", "mke2fs", "mkfs.vfat")
	const mib = 1 << 20
	home := "2d0bd3f4-3b1c-4f57-9a3e-000000000003"
	src := guestFiles(t, "# /etc/fstab: static file system information.\n"+
		"UUID=2d0bd3f4-3b1c-4f57-9a3e-000000000001 /               ext4    errors=remount-ro 0       1\n"+
		"PARTUUID=2D0BD3F4-3B1C-4F57-9A3E-0000000000B0\t/boot ext4 defaults 0 2\n"+
		"PARTLABEL=EFI\\040System /boot/efi vfat umask=0077 0 1\n"+
		"/dev/disk/by-uuid/"+home+" /home ext4 defaults 0 2\n"+
		"/dev/mapper/vg--0-srv--data /srv ext4 defaults,nofail 0 2\n"+
		"UUID=ffffffff-3b1c-4f57-9a3e-000000000009 none swap sw 0 0\n"+
		"/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0\n")
	dir := t.TempDir()
	path := func(name string, size int64) string {
		p := filepath.Join(dir, name)
		fixture.Sparse(t, p, size)
		return p
	}
	sys := path("sys", 64*mib)
	fixture.Run(t, "sgdisk", "-n1:1M:+8M", "-t1:ef00", "-c1:EFI System", "-n2:16M:+16M", "-u2:2d0bd3f4-3b1c-4f57-9a3e-0000000000b0", "-n3:32M:+24M", sys)
	fixture.Run(t, "mkfs.vfat", "--offset", "2048", sys, "8192")
	fixture.Ext4At(t, sys, 16*mib, 16*mib, filepath.Join(src, "boot"))
	fixture.Ext4At(t, sys, 32*mib, 24*mib, filepath.Join(src, "root"), "-U", "2d0bd3f4-3b1c-4f57-9a3e-000000000001", "-L", "root")
	homeDisk := path("home", 8*mib)
	fixture.Ext4At(t, homeDisk, 0, 8*mib, filepath.Join(src, "home"), "-U", home)
	pv1, pv2 := path("pv1", 8*mib), path("pv2", 8*mib)
	groupOver(t, "vg-0", "srv-data", fixture.Ext4(t, filepath.Join(src, "srv"), 12*mib), pv1, pv2)

	backup := Backup{Name: "b"}
	for _, d := range []struct{ name, path string }{{"rootdisk", sys}, {"a-home", homeDisk}, {"pv1", pv1}, {"pv2", pv2}} {
		backup.Disks = append(backup.Disks, Disk{Name: d.name, Reader: fixture.OpenRaw(t, d.path)})
	}
	half := Backup{Name: "half", Disks: []Disk{{Name: "pv1", Reader: fixture.OpenRaw(t, pv1)}, {Name: "empty", Reader: extent.Zeros(mib)}}}
	other := Backup{Name: "other", Disks: []Disk{{Name: "pv2", Reader: fixture.OpenRaw(t, pv2)}, {Name: "pv1", Reader: fixture.OpenRaw(t, pv1)}}}
	tr, err := New(t.Context(), Config{Backups: []Backup{backup, half, other}, Engines: engine.Native()})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	for _, part := range []struct{ from, to string }{{"root", "/"}, {"boot", "/boot"}, {"home", "/home"}, {"srv", "/srv"}} {
		top := filepath.Join(src, part.from)
		err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			want, err := os.ReadFile(p)
			if got := read(t, tr, "/backups/b/rootdisk"+part.to+strings.TrimPrefix(p, top)); got != string(want) {
				t.Errorf("%s: %q, want %q", p, got, want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for p, want := range map[string]string{
		"/backups/b/a-home/ann/notes": "hello", "/backups/b/pv1/www/index.html": "<html>", "/backups/other/pv1/db/table": "rows",
	} {
		if got := read(t, tr, p); got != want {
			t.Errorf("%s: %q", p, got)
		}
	}
	if s := read(t, tr, "/backups/b/pv2/README.txt"); !strings.Contains(s, "physical volumes of the volume group vg-0") || !strings.Contains(s, "/backups/b/pv1  (vg--0-srv--data, ext4)") {
		t.Error(s)
	}
	r := tr.Backups()[0]
	if len(r.VolumeGroups) != 1 || len(r.VolumeGroups[0].Missing) != 0 || r.Disks[2].State != StateReadable {
		t.Errorf("%+v; %+v", r.VolumeGroups, r.Disks)
	}
	if h := tr.Backups()[1]; len(h.VolumeGroups) != 1 || len(h.VolumeGroups[0].Missing) != 1 || h.Disks[1].State != StateUnreadable {
		t.Errorf("%+v; %+v", h.VolumeGroups, h.Disks)
	}
	states := map[string]MountState{}
	for _, m := range r.Mounts {
		states[m.MountPoint] = m.State
	}
	want := map[string]MountState{"/": MountShown, "/boot": MountShown, "/home": MountShown, "/srv": MountShown, "/media/cdrom0": MountIgnored, "/boot/efi": states["/boot/efi"]}
	if fmt.Sprint(states) != fmt.Sprint(want) {
		t.Errorf("mounts %v, want %v", states, want)
	}
	// The EFI partition is under /boot/efi as soon as an engine reads it, and beside the disk before.
	if esp := r.Disks[3].Volumes[0]; (states["/boot/efi"] == MountShown) != (esp.FileSystem != nil) ||
		esp.Path != map[bool]string{true: "/backups/b/rootdisk/boot/efi", false: "/backups/b/rootdisk@p1"}[esp.FileSystem != nil] {
		t.Errorf("the EFI partition: %s, %+v", states["/boot/efi"], esp)
	}
	oneVisit(t, tr)
}
