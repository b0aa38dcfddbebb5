//go:build guestfs

package helper

import (
	"fmt"
	"os"
	"strings"

	"libguestfs.org/guestfs"

	"vmfr/agent/guestfs/wire"
)

// maxRounds bounds containers in containers: LVM in LUKS in LVM in a RAID needs four.
const maxRounds = 6

// holder says what holds a device.
type holder struct {
	disk, part int // disk -1: none alone
	vg, lv     string
	encrypted  bool
}

// scan unlocks, activates and lists. Arrays are assembled by the appliance as it boots; what
// appears inside an unlocked device is looked at in the next round.
func (h *helper) scan(keys []wire.Key) ([]wire.Volume, error) {
	_ = h.g.Vg_activate_all(true) // a group with a missing member fails, the others are active
	seen := map[string]bool{}
	inside := map[string]holder{} // mapped device: what holds its ciphertext
	var all []wire.Volume
	for range maxRounds {
		found, opened := 0, false
		devices, err := h.devices(inside)
		if err != nil {
			return nil, err
		}
		for _, d := range devices {
			if seen[d.name] {
				continue
			}
			seen[d.name] = true
			found++
			tags, err := h.g.Blkid(d.name) // one program's start for all three; without KVM that counts
			kind := tags["TYPE"]
			if err != nil || kind == "" {
				continue // nothing that is known by its signature
			}
			if encryptedType(kind) {
				name, ok := h.unlock(d, kind, keys)
				v := d.volume(kind)
				v.Encrypted = true
				if !ok {
					v.Locked = true
					v.UUID = tags["UUID"]
					all = append(all, v)
					continue
				}
				in := d.holder
				in.encrypted = true
				inside[name] = in
				opened = true
				continue
			}
			all = append(all, h.filesystems(d, kind, tags)...)
			if len(all) > wire.MaxFilesystems {
				return nil, fmt.Errorf("there are more than %d file systems on these disks", wire.MaxFilesystems)
			}
		}
		if opened {
			if err := h.g.Lvm_scan(true); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
		if found == 0 || !opened {
			break
		}
	}
	return dedupe(all), nil
}

// device is a block device of the appliance.
type device struct {
	name string
	holder
}

func (d device) volume(kind string) wire.Volume {
	return wire.Volume{Device: d.name, Disk: d.disk, Partition: d.part, VG: d.vg, LV: d.lv, Encrypted: d.encrypted, Type: kind}
}

// devices lists whatever can hold a file system, disks first, in a fixed order.
func (h *helper) devices(inside map[string]holder) ([]device, error) {
	var out []device
	disks, err := h.g.List_devices()
	if err != nil {
		return nil, err
	}
	for _, d := range disks {
		if i, err := h.g.Device_index(d); err == nil {
			out = append(out, device{d, holder{disk: i}})
		}
	}
	parts, err := h.g.List_partitions()
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		in := holder{disk: -1}
		if disk, err := h.g.Part_to_dev(p); err == nil {
			if i, err := h.g.Device_index(disk); err == nil {
				if n, err := h.g.Part_to_partnum(p); err == nil {
					in = holder{disk: i, part: n}
				}
			}
		}
		out = append(out, device{p, in})
	}
	if mds, err := h.g.List_md_devices(); err == nil {
		for _, m := range mds {
			out = append(out, device{m, holder{disk: -1}})
		}
	}
	for _, m := range sortedKeys(inside) {
		out = append(out, device{m, inside[m]})
	}
	if names, err := h.g.Lvs(); err == nil {
		encrypted := h.encryptedGroups(inside)
		for _, l := range names {
			vg, lv, ok := strings.Cut(strings.TrimPrefix(l, "/dev/"), "/")
			if ok {
				out = append(out, device{l, holder{disk: -1, vg: vg, lv: lv, encrypted: encrypted[vg]}})
			}
		}
	}
	return out, nil
}

// encryptedGroups tells the volume groups that have a physical volume on an unlocked device.
func (h *helper) encryptedGroups(inside map[string]holder) map[string]bool {
	out := map[string]bool{}
	if len(inside) == 0 {
		return out
	}
	vgs, err := h.g.Vgs()
	if err != nil {
		return out
	}
	pvs, err := h.g.Pvs_full()
	if err != nil {
		return out
	}
	byUUID := map[string]bool{}
	for _, p := range *pvs {
		if _, ok := inside[p.Pv_name]; ok {
			byUUID[string(p.Pv_uuid[:])] = true
		}
	}
	for _, vg := range vgs {
		ids, err := h.g.Vgpvuuids(vg)
		if err != nil {
			continue
		}
		for _, id := range ids {
			out[vg] = out[vg] || byUUID[strings.ReplaceAll(id, "-", "")]
		}
	}
	return out
}

// encryptedType tells what a key opens.
func encryptedType(kind string) bool { return kind == "crypto_LUKS" || kind == "BitLocker" }

// unlock tries the keys that are for the device's disk, then those for any.
func (h *helper) unlock(d device, kind string, keys []wire.Key) (string, bool) {
	crypt := "luks"
	if kind == "BitLocker" {
		crypt = "bitlk"
	}
	for _, own := range []bool{true, false} {
		for _, k := range keys {
			if (k.Disk >= 0) != own || own && k.Disk != d.disk {
				continue
			}
			name := fmt.Sprintf("vmfr%d", h.mapped)
			err := h.g.Cryptsetup_open(d.name, string(k.Secret), name, &guestfs.OptargsCryptsetup_open{
				Crypttype_is_set: true, Crypttype: crypt, Readonly_is_set: true, Readonly: false,
			})
			if err == nil {
				h.mapped++
				return "/dev/mapper/" + name, true
			}
		}
	}
	return "", false
}

// filesystems describes what a device holds: nothing, one file system, or a btrfs with all of
// its subvolumes.
func (h *helper) filesystems(d device, kind string, tags map[string]string) []wire.Volume {
	if notFiles(kind) {
		return nil
	}
	v := d.volume(kind)
	v.Label, v.UUID = tags["LABEL"], tags["UUID"]
	if kind != "btrfs" {
		return []wire.Volume{v}
	}
	v.SubvolID, v.Default = btrfsTop, true
	out := []wire.Volume{v}
	subs, def, err := h.subvolumes(d.name)
	if err != nil {
		return out // mounting it will say why
	}
	out[0].Default = def == btrfsTop
	for _, s := range subs {
		sub := v
		sub.Subvolume, sub.SubvolID, sub.Default = s.Btrfssubvolume_path, s.Btrfssubvolume_id, int64(s.Btrfssubvolume_id) == def
		out = append(out, sub)
	}
	return out
}

// subvolumes lists a btrfs' subvolumes and its default. Asked by its device, libguestfs would
// mount the default and name the others as they are seen from there.
func (h *helper) subvolumes(device string) ([]guestfs.BTRFSSubvolume, int64, error) {
	const at = "/subvolumes"
	if err := h.g.Mkmountpoint(at); err != nil {
		return nil, 0, err
	}
	defer func() { _ = h.g.Rmmountpoint(at) }()
	options := fmt.Sprintf("ro,subvolid=%d", btrfsTop)
	if err := h.g.Mount_options(options, device, at); err != nil {
		if err := h.g.Mount_options(options+",degraded", device, at); err != nil {
			return nil, 0, err
		}
	}
	defer func() { _ = h.g.Umount(at, nil) }()
	subs, err := h.g.Btrfs_subvolume_list(at)
	if err != nil {
		return nil, 0, err
	}
	def, err := h.g.Btrfs_subvolume_get_default(at)
	return *subs, def, err
}

// btrfsTop is the id of a btrfs' top-level tree (BTRFS_FS_TREE_OBJECTID).
const btrfsTop = 5

func btrfsOption(options string) bool { return strings.Contains(options, "subvolid=") }

// notFiles tells the signatures, as blkid names them, of what holds no files itself.
func notFiles(kind string) bool {
	switch kind {
	case "swap", "swsuspend", "bcache", "zfs_member", "jbd", "unknown", "drbd", "DM_snapshot_cow", "VMFS_volume_member", "ceph_bluestore":
		return true
	}
	return strings.HasSuffix(kind, "_member") || strings.HasSuffix(kind, "_raid")
}

// dedupe drops a file system's further devices: a btrfs shows on each of its own.
func dedupe(all []wire.Volume) []wire.Volume {
	type id struct {
		uuid string
		sub  uint64
	}
	seen := map[id]bool{}
	out := all[:0]
	for _, v := range all {
		if v.Type == "btrfs" && v.UUID != "" {
			k := id{v.UUID, v.SubvolID}
			if seen[k] {
				continue
			}
			seen[k] = true
		}
		out = append(out, v)
	}
	return out
}
