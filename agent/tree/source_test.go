package tree

import (
	"fmt"
	"strings"
	"testing"

	"vmfr/agent/engine"
	"vmfr/agent/volume"
)

// vols makes a composer whose disks have the given volumes, in the order of the VM.
func vols(disks ...[]*openedVolume) (*composer, *system) {
	c := &composer{b: &backup{}}
	for i, vs := range disks {
		d := &diskPlan{openedDisk: &openedDisk{disk: Disk{Name: fmt.Sprintf("disk%d", i)}, order: i}}
		for _, v := range vs {
			u := &unit{d: d, vol: v, shows: []*content{v.content}}
			if v.LV != nil {
				u.vg, u.lv = v.LV.Group, v.LV.Name
			}
			d.units = append(d.units, u)
			c.units = append(c.units, u)
		}
		c.disks = append(c.disks, d)
	}
	r := &system{u: c.units[0], x: c.units[0].shows[0]}
	return c, r
}

func vol(name, label, uuid, partLabel, partUUID string) *openedVolume {
	return &openedVolume{Volume: volume.Volume{Name: name, Label: partLabel, UUID: partUUID}, content: &content{label: label, uuid: uuid}}
}

// TestSources is the table of all forms that a source can have.
func TestSources(t *testing.T) {
	lv := vol("vg--0-my--lv", "", "eeee", "", "")
	lv.LV = &volume.LV{Group: "vg-0", Name: "my-lv", UUID: "abcdef-ghij-klmn-opqr-stuv-wxyz-ABCDEF"}
	luks := vol("p1", "", "inner", "", "")
	luks.sig = engine.Signature{Kind: engine.KindContainer, Type: "crypto_LUKS", UUID: "c0ffee"}
	disks := [][]*openedVolume{
		{vol("p1", "", "aaaa", "", "pu1"), vol("p2", "my data", "AB12-CD34", "EFI System", "9a3e0001-02")},
		{vol("whole", "tank/1", "bbbb", "", "")},
		{lv, luks, vol("p7", "", "aaaa", "", "")},
	}
	for _, row := range []struct{ root, source, want string }{
		{"", "UUID=AAAA", "disk0/p1 (2 volumes)"},
		{"", `UUID="ab12-cd34"`, "disk0/p2"},
		{"", "uuid=bbbb", "disk1/whole"},
		{"", "UUID=", ""},
		{"", "LABEL=", ""},
		{"", `LABEL='my\040data'`, "disk0/p2"},
		{"", `LABEL=my\040data`, "disk0/p2"},
		{"", "LABEL=MY DATA", ""},
		{"", "PARTUUID=9A3E0001-02", "disk0/p2"},
		{"", `PARTLABEL=EFI\040System`, "disk0/p2"},
		{"", "ID=x", ""},
		{"", "/dev/disk/by-uuid/bbbb", "disk1/whole"},
		{"", `/dev/disk/by-label/tank\x2f1`, "disk1/whole"},
		{"", `/dev/disk/by-partlabel/EFI\x20System`, "disk0/p2"},
		{"", "/dev/disk/by-partuuid/pu1", "disk0/p1"},
		{"", "/dev/disk/by-path/pci-0000:00:04.0-part1", ""},
		{"", "/dev/disk/by-id/virtio-serial-part1", ""},
		{"", "/dev/disk/by-id/dm-name-vg--0-my--lv", "disk2/vg--0-my--lv"},
		{"", "/dev/disk/by-id/dm-uuid-LVM-" + strings.Repeat("g", 32) + "abcdefghijklmnopqrstuvwxyzABCDEF", "disk2/vg--0-my--lv"},
		{"", "/dev/disk/by-", ""},
		{"", "/dev/mapper/vg--0-my--lv", "disk2/vg--0-my--lv"},
		{"", "/dev/mapper/vg-0-my-lv", ""},
		{"", "/dev/vg-0/my-lv", "disk2/vg--0-my--lv"},
		{"", "/dev/mapper/luks-c0ffee", "disk2/p1"},
		{"", "/dev/mapper/sda3_crypt", "disk2/p1"}, // by crypttab
		{"", "/dev/vda2", "disk0/p2 (by order)"},
		{"", "/dev/sdb", "disk1/whole (by order)"},
		{"", "/dev/xvdc7", "disk2/p7 (by order)"},
		{"", "/dev/nvme0n1p1", "disk0/p1 (by order)"},
		{"", "/dev/nvme1n1", "disk1/whole (by order)"},
		{"", "/dev/vdb1", ""},  // no such partition
		{"", "/dev/vdzz1", ""}, // no such disk
		{"/dev/vda1", "/dev/vdc7", "disk2/p7 (by order)"},
		{"/dev/vdb1", "/dev/vdc7", ""}, // the root is not where it says
		{"/dev/sda1", "/dev/vdc7", ""}, // two kinds of disks
		{"", "/dev/md0", ""}, {"", "/dev", ""}, {"", "/", ""}, {"", "x", ""}, {"", "=", ""}, {"", "/dev/", ""}, {"", "/dev//", ""},
	} {
		c, r := vols(disks...)
		entries, _ := parseFstab([]byte(row.root + " / ext4\n" + row.source + " /mnt ext4\n"))
		if row.root == "" {
			entries, _ = parseFstab([]byte("UUID=aaaa / ext4\n" + row.source + " /mnt ext4\n"))
		}
		r.x.fstab, r.x.crypt = entries, map[string]string{"sda3_crypt": "UUID=C0FFEE"}
		if len(entries) != 2 {
			continue // refused by the parser: cannot be found either
		}
		s := c.find(r, &entries[1])
		got := ""
		if s.unit != nil {
			got = s.unit.d.disk.Name + "/" + s.unit.vol.Name
			if strings.Contains(s.note, "order") {
				got += " (by order)"
			} else if s.note != "" {
				got += " (" + strings.Join(strings.Fields(s.note)[:2], " ") + ")"
			}
		} else if s.why == "" {
			t.Errorf("%s: neither found nor a reason", row.source)
		}
		if got != row.want {
			t.Errorf("%s with root %s: %q (%s), want %q", row.source, row.root, got, s.why, row.want)
		}
	}
}

func TestParseFstab(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"# comment\n\n   # another\n", ""},
		{"/dev/vda1 / ext4 defaults 0 1", "/dev/vda1 / ext4"},
		{"\t/dev/vda1\t\t/ \text4\r\n", "/dev/vda1 / ext4"},
		{`LABEL=a\040b /m\011n\134x ext4`, "LABEL=a b /m\tn\\x ext4"},
		{`LABEL=a\777 /m\04 ext4`, `LABEL=a\777 /m\04 ext4`},
		{"/dev/vda1 //a/../b/ ext4", "/dev/vda1 /b ext4"},
		{"/dev/vda1 /x\\000y ext4", ""},
		{"one", ""},
		{"/dev/vda1 relative ext4", "/dev/vda1  ext4: the mount point is not an absolute path"},
		{"/dev/vda1 none swap", "/dev/vda1  swap: swap space"},
		{"/swapfile swap swap", "/swapfile  swap: swap space"},
		{"proc /proc proc", "proc /proc proc: made by the kernel"},
		{"/disk.img /mnt ext4 loop", "/disk.img /mnt ext4: a file of the guest as a disk; it is not opened"},
		{"/a /b none rw,bind", "/a /b none: a bind mount: its files are at /a"},
		{"overlay /x overlay lowerdir=/a", "overlay /x overlay: made of other folders by the guest"},
		{"host:/x /x nfs4", "host:/x /x nfs4: on another machine, not in this backup"},
		{"sshfs#u@h:/x /x fuse.sshfs", "sshfs#u@h:/x /x fuse.sshfs: on another machine, not in this backup"},
	} {
		var got []string
		entries, _ := parseFstab([]byte(c.text))
		for _, e := range entries {
			s := e.source + " " + e.dir + " " + e.kind
			if e.ignore != "" {
				s += ": " + e.ignore
			}
			got = append(got, s)
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("%q: %q, want %q", c.text, strings.Join(got, "|"), c.want)
		}
	}
}

func TestParseCrypttab(t *testing.T) {
	got := parseCrypttab([]byte("# name device key options\n\nsda3_crypt UUID=c0ffee none luks,discard\nsda3_crypt UUID=second\nx\n\tswap\t/dev/vda2 /dev/urandom swap\n"))
	if want := map[string]string{"sda3_crypt": "UUID=c0ffee", "swap": "/dev/vda2"}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	if n := len(parseCrypttab([]byte(strings.Repeat("a b\n", maxFstabLines*2)))); n != 1 {
		t.Errorf("%d entries", n)
	}
}

func TestOSRelease(t *testing.T) {
	for text, want := range map[string]OperatingSystem{
		"ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"": {ID: "debian", Version: "12", Name: "Debian GNU/Linux 12"},
		"# x\nID='a b'\nPRETTY_NAME=\"a\\\"b\\\\c\\$d\"\nNAME=x":            {ID: "a b", Name: `a"b\c$d`},
		"PRETTY_NAME=\x1b[31mred\x00\xff\u202e\n":                           {Name: "[31mred"},
		"PRETTY_NAME=" + strings.Repeat("x", 1000):                          {Name: strings.Repeat("x", maxOSValue)},
		"ID=\"\nVERSION_ID='":                                               {ID: `"`, Version: "'"},
		"":                                                                  {},
	} {
		want.Family = "linux"
		if got := parseOSRelease([]byte(text)); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

// TestSystems: what is taken for an installed system.
func TestSystems(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"etc":           {map[string]string{"etc/os-release": "ID=a"}, "linux a"},
		"usr":           {map[string]string{"usr/lib/os-release": "ID=b"}, "linux b"},
		"absolute link": {map[string]string{"etc/os-release": "-> /usr/lib/x", "usr/lib/x": "ID=c"}, "linux c"},
		"link out":      {map[string]string{"etc/os-release": "-> ../../../../usr/lib/x", "usr/lib/x": "ID=d"}, "linux d"},
		"dangling":      {map[string]string{"etc/os-release": "-> /none"}, ""},
		"loop":          {map[string]string{"etc/os-release": "-> os-release"}, ""},
		"folder":        {map[string]string{"etc/os-release": "/"}, ""},
		"coreos":        {map[string]string{"ostree/deploy/fedora-coreos/deploy/x.0/usr/lib/os-release": "ID=fedora", "boot": "/"}, ""},
		"windows":       {map[string]string{"Windows/System32/config/SOFTWARE": "regf"}, "windows windows"},
		"windows case":  {map[string]string{"WINDOWS/system32/CONFIG/system": "regf"}, "windows windows"},
		"winnt":         {map[string]string{"WINNT/system32/config/SOFTWARE": "regf"}, "windows windows"},
		"no registry":   {map[string]string{"Windows/System32/config/SOFTWARE": "/"}, ""},
		"empty":         {nil, ""},
	} {
		tr := newTree(t, stub{"x": fsOf("", "", c.files)}, Backup{Name: "b", Disks: []Disk{disk("d", "x")}})
		got := ""
		for _, s := range tr.Backups()[0].OperatingSystems {
			got += s.Family + " " + s.ID
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestSeparateUsr: the name of a system whose /usr is a file system of its own.
func TestSeparateUsr(t *testing.T) {
	tr := newTree(t, stub{
		"root": fsOf("", "aaaa", map[string]string{"etc/os-release": "-> ../usr/lib/os-release", "etc/fstab": "LABEL=usr /usr x noauto,x-systemd.automount\n", "usr": "/"}),
		"usr":  fsOf("usr", "", map[string]string{"lib/os-release": "ID=arch"}),
	}, Backup{Name: "b", Disks: []Disk{disk("r", "root"), disk("u", "usr")}})
	if s := tr.Backups()[0].OperatingSystems; len(s) != 1 || s[0].ID != "arch" || read(t, tr, "/backups/b/r/etc/os-release") != "ID=arch" {
		t.Errorf("%+v", s)
	}
}

// TestDualBoot: two systems on different disks claim one data disk, and both show it.
func TestDualBoot(t *testing.T) {
	tr := newTree(t, stub{
		"one":  fsOf("", "aaaa", debian("LABEL=data /home x\nUUID=bbbb /srv/data x")),
		"two":  fsOf("", "bbbb", debian("LABEL=data /home x\n")),
		"data": fsOf("data", "cccc", map[string]string{"f": "x"}),
	}, Backup{Name: "b", Disks: []Disk{disk("z", "one"), disk("y", "two"), disk("data", "data")}})
	want := "/home mounted /backups/b/z/home |/srv/data mounted /backups/b/z/srv/data |/home mounted /backups/b/y/home |"
	if got := mountsOf(tr.Backups()[0]); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	for _, p := range []string{"z/home/f", "y/home/f", "data/f", "z/srv/data/etc/hosts"} {
		if read(t, tr, "/backups/b/"+p) == "" {
			t.Error(p)
		}
	}
	// A system shown inside another is that system's files, not its composition.
	if s, err := names(tr, "/backups/b/z/srv/data/home"); err != nil || s != "" {
		t.Errorf("%q, %v", s, err)
	}
	list(t, tr)
	oneVisit(t, tr)
}
