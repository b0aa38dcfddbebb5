package tree

import (
	"fmt"
	"slices"
	"strings"

	"vmfr/agent/engine"
	"vmfr/agent/volume"
)

// take keeps what a boot has found. What the native engines read stays theirs.
func (t *Tree) take(b *backup, found []engine.Found) {
	for i, f := range found {
		if i == maxFound {
			b.more = len(found) - maxFound
			break
		}
		switch {
		case b.readNatively(f):
		case f.FS != nil:
			x := &content{fs: f.FS, engine: b.boot.engine, label: f.Label, uuid: f.UUID, found: f,
				subvolume: strings.Trim(f.Subvolume, "/"), subvolID: f.SubvolID, usual: f.Default}
			if x.label == "" {
				x.label = f.FS.Info().Label
			}
			t.examine(x)
			b.found = append(b.found, x)
		case f.Err != nil:
			b.refused = append(b.refused, f)
		}
	}
	for _, d := range b.disks {
		for _, v := range d.vols {
			if v.left {
				b.judge(v)
			}
		}
	}
}

// readNatively tells whether a volume that a native engine has opened is what was found.
func (b *backup) readNatively(f engine.Found) bool {
	for _, d := range b.disks {
		for _, v := range d.vols {
			if v.content == nil {
				continue
			}
			if v.LV != nil && f.LV != "" && v.LV.Group == f.VG && v.LV.Name == f.LV ||
				v.LV == nil && f.LV == "" && f.Disk == d.disk.Name && f.Disk != "" && partition(v.Name) == f.Partition {
				return true
			}
		}
	}
	return false
}

// judge says of a volume that was left to the fallback why it shows no files, should none of
// its file systems be found. What a container holds can be found under another name.
func (b *backup) judge(v *openedVolume) {
	apart := func(f engine.Found) bool {
		switch v.sig.Type {
		case "linux_raid_member":
			return f.Disk == "" && f.LV == "" || strings.HasPrefix(deviceName(f.Device), "md")
		case "crypto_LUKS", "LVM2_member":
			return f.LV != ""
		}
		return false
	}
	if slices.ContainsFunc(b.found, func(x *content) bool { return apart(x.found) }) {
		v.err = nil
		return
	}
	v.err = fmt.Errorf("%s found no file system in it that it can read: %w", b.boot.engine, v.err)
}

// deal hands what the fallback has found to the volumes that hold it, and makes volumes of
// what no scan could see.
func (c *composer) deal() {
	if c.b.boot == nil || c.b.boot.awaited() {
		return
	}
	for _, x := range c.b.found {
		u := c.unitFor(x.found)
		u.shows = append(u.shows, x)
	}
	for _, f := range c.b.refused {
		if u := c.unitFor(f); len(u.shows) == 0 {
			u.err = f.Err
		}
	}
}

// unitFor returns the unit that holds what was found.
func (c *composer) unitFor(f engine.Found) *unit {
	home := c.disks[0]
	for _, d := range c.disks {
		if d.disk.Name == f.Disk {
			home = d
		}
		for _, u := range d.units {
			if f.LV != "" && u.vg == f.VG && u.lv == f.LV {
				return u
			}
			if f.LV == "" && f.Disk == d.disk.Name && u.lv == "" && f.Disk != "" && partition(u.vol.Name) == f.Partition {
				return u
			}
			if f.LV == "" && f.Disk == "" && u.vol.Name == deviceName(f.Device) {
				return u
			}
		}
	}
	v := &openedVolume{Volume: volume.Volume{Disk: home.disk.Name, Name: deviceName(f.Device)}, left: true}
	switch {
	case f.LV != "":
		v.Name = mapperName(f.VG, f.LV)
	case f.Disk != "" && f.Partition > 0:
		v.Name = fmt.Sprintf("p%d", f.Partition)
	case f.Disk != "":
		v.Name = volume.Whole
	}
	u := &unit{d: home, vol: v, vg: f.VG, lv: f.LV, apart: f.Disk == ""}
	home.units = append(home.units, u)
	return u
}

// partition is the number in a volume's name, 0 for a whole disk.
func partition(name string) int {
	n := 0
	if _, err := fmt.Sscanf(name, "p%d", &n); err != nil && name != volume.Whole {
		return -1
	}
	return n
}

// deviceName is the last element of the appliance's name for a device.
func deviceName(dev string) string { return dev[strings.LastIndexByte(dev, '/')+1:] }
