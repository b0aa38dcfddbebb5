package tree

import (
	"context"
	"strings"
	"testing"
	"unicode/utf8"

	"vmfr/agent/engine"
	"vmfr/agent/volume"
)

// FuzzGuestFiles composes a backup by a guest's fstab, crypttab and os-release, which are any
// bytes, before and after a boot. Whatever they say: every directory has one path, every file
// is met once by who visits the Roots, IDs stay, and nothing takes long.
func FuzzGuestFiles(f *testing.F) {
	for _, s := range []string{
		"LABEL=data /home x\nUUID=aaaa / ext4\n", "LABEL=data /srv/data x\nLABEL=more /srv/data/sub x\nLABEL=late /l2 x\n",
		"/dev/vdb /mnt/my\\040disk x\n/dev/vdc /home x noauto\n", "LABEL=late / btrfs subvol=a\nLABEL=late /home x subvolid=7\n",
		"LABEL=more /hidden/by x\nLABEL=data /l2/.. x\nLABEL=rootfs /boot x\n", "/dev/mapper/c /home x\n/dev/vg/lv /boot x\n",
	} {
		for _, order := range []uint8{uint8(len(s) & 127), 128} {
			f.Add(s, "c UUID=late none\n", "ID=debian\nPRETTY_NAME=\"a \\\"b\\\"\"\n", order)
		}
	}
	f.Fuzz(func(t *testing.T, fstab, crypttab, release string, order uint8) {
		if len(fstab) > 4096 {
			return
		}
		files := debian(fstab)
		files["etc/crypttab"], files["l2"] = crypttab, "-> hidden/by"
		delete(files, "etc/os-release")
		files["usr/lib/os-release"] = release
		engines := leave(stub{
			"root": fsOf("rootfs", "aaaa", files), "data": fsOf("data", "bbbb", map[string]string{"d": "d", "sub/x": "/"}),
			"more": fsOf("more", "cccc", map[string]string{"m": "m", "etc/fstab": fstab, "etc/os-release": release, "home": "/"}),
		})
		sys := disk("sys", "root")
		if order >= 128 {
			sys.Reader = twoPartitions(t, "root", "btrfs")
		}
		disks := []Disk{sys, disk("two", "data"), disk("three", "more"), disk("four", "btrfs")}
		i := int(order) % len(disks)
		disks[0], disks[i] = disks[i], disks[0]
		a := &appliances{answer: func(context.Context, string, []volume.Disk) ([]engine.Found, error) {
			of := func(sub string, id uint64) engine.Found {
				return engine.Found{Disk: "four", Label: "late", UUID: "late", FS: btrfs(files), Subvolume: sub, SubvolID: id, Default: id == 7}
			}
			second := of("c", 8)
			second.Disk, second.Partition = "sys", 2
			third := second
			third.Subvolume = ""
			return []engine.Found{of("", 5), of("a", 6), of("b", 7), second, third, third, {Device: "/dev/md0", FS: btrfs(files)}}, nil
		}}
		tr, err := New(t.Context(), Config{Backups: []Backup{{Name: "b", Disks: disks}}, Engines: []engine.Engine{engines}, Fallback: a})
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		ids := map[string]uint64{}
		for _, d := range disks {
			p := "/backups/b/" + d.Name
			n, err := tr.Resolve(p, false)
			if err != nil {
				t.Fatal(err)
			}
			ids[p] = tr.ID(n)
		}
		if a.boots.Load() != 0 {
			t.Fatal("it boots by itself")
		}
		r := settled(t, tr)
		for p, id := range ids {
			if n, err := tr.Resolve(p, false); err != nil || tr.ID(n) != id {
				t.Errorf("%s: ID %#x, %v; before the boot %#x", p, tr.ID(n), err, id)
			}
		}
		for _, m := range r.Mounts {
			if m.State != MountShown || m.MountPoint == "/" {
				continue
			}
			n, err := tr.Resolve(m.Path, false)
			if err != nil {
				t.Errorf("%+v: %v", m, err)
			} else if a, err := tr.Attr(n); err != nil || !a.IsDir() || tr.cur.Load().mounts[n.fs].top != n {
				t.Errorf("%+v is no mount: %v", m, err)
			}
		}
		for _, s := range r.OperatingSystems {
			if text := s.ID + s.Version + s.Name; !utf8.ValidString(text) || strings.ContainsAny(text, "\n\x1b\x00") || len(text) > 3*maxOSValue {
				t.Errorf("%q", text)
			}
		}
		if s := metadata("", tr.Backups()); !strings.HasPrefix(s, "{") || len(s) > 1<<20 {
			t.Errorf("METADATA.json has %d bytes", len(s))
		}
	})
}
