package tree

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"vmfr/agent/engine"
)

// source finds the volume that an fstab names as an entry's source.
type source struct {
	unit *unit
	note string // how it was found, where that is not beyond doubt
	why  string // it was not found
	// later: a boot may bring it.
	later bool
}

// find resolves e.source for the system r: tags, the links that udev makes in /dev/disk, names of
// logical volumes, and device names by the order of the disks.
func (c *composer) find(r *system, e *fstabEntry) source {
	src := e.source
	if tag, value, ok := strings.Cut(src, "="); ok && !strings.HasPrefix(src, "/") {
		return c.byTag(r, tag, value)
	}
	if link, ok := strings.CutPrefix(src, "/dev/disk/by-"); ok {
		kind, value, _ := strings.Cut(link, "/")
		value = unescapeHex(value)
		switch kind {
		case "uuid", "label", "partuuid", "partlabel":
			return c.byTag(r, strings.ToUpper(kind), value)
		case "id":
			return c.byID(r, value)
		}
		return source{why: "a link of that kind names hardware that a backup does not know"}
	}
	if m := diskName.FindStringSubmatch(src); m != nil {
		return c.byOrder(r, m)
	}
	if name, ok := strings.CutPrefix(src, "/dev/mapper/"); ok {
		return c.byMapper(r, name)
	}
	if vg, lv, ok := strings.Cut(strings.TrimPrefix(src, "/dev/"), "/"); ok && vg != "md" && !strings.Contains(lv, "/") {
		return c.one(r, "no such logical volume", true, func(u *unit) bool { return u.lv != "" && u.lv == lv && u.vg == vg })
	}
	return c.one(r, "no disk of this backup is known by that name", strings.HasPrefix(src, "/dev/md"), func(u *unit) bool {
		for _, x := range u.shows {
			if x.found.Device == src {
				return true
			}
		}
		return false
	})
}

func (c *composer) byTag(r *system, tag, value string) source {
	none := fmt.Sprintf("no file system of this backup has this %s", tag)
	switch strings.ToUpper(tag) {
	case "UUID":
		return c.one(r, none, true, func(u *unit) bool {
			return u.has(func(l, id string) bool { return value != "" && strings.EqualFold(id, value) })
		})
	case "LABEL":
		return c.one(r, none, true, func(u *unit) bool { return u.has(func(l, id string) bool { return value != "" && l == value }) })
	case "PARTUUID":
		return c.one(r, "no partition of this backup has this PARTUUID", false, func(u *unit) bool {
			return u.vol.UUID != "" && strings.EqualFold(u.vol.UUID, value)
		})
	case "PARTLABEL":
		return c.one(r, "no partition of this backup has this PARTLABEL", false, func(u *unit) bool {
			return u.vol.LV == nil && u.vol.Label != "" && u.vol.Label == value
		})
	}
	return source{why: "an unknown kind of name"}
}

// has asks f about the label and UUID of what the unit holds.
func (u *unit) has(f func(label, uuid string) bool) bool {
	for _, x := range u.shows {
		if f(x.label, x.uuid) {
			return true
		}
	}
	// What a container has is its own: nothing inside goes by it.
	return u.pending && u.vol.sig.Kind == engine.KindFilesystem && f(u.vol.sig.Label, u.vol.sig.UUID)
}

// byMapper finds what device-mapper calls name: a logical volume, or an opened LUKS container.
func (c *composer) byMapper(r *system, name string) source {
	s := c.one(r, "", true, func(u *unit) bool { return u.lv != "" && mapperName(u.vg, u.lv) == name })
	if s.unit != nil {
		return s
	}
	spec := r.x.crypt[name]
	s = c.one(r, "no logical volume or opened container of this backup has that name", true, func(u *unit) bool {
		for _, x := range u.shows {
			if x.found.Device == "/dev/mapper/"+name {
				return true
			}
		}
		if u.vol.sig.Type != "crypto_LUKS" {
			return false
		}
		id := u.vol.sig.UUID
		return id != "" && (strings.EqualFold(name, "luks-"+id) || strings.EqualFold(spec, "UUID="+id) || strings.EqualFold(spec, "/dev/disk/by-uuid/"+id)) ||
			u.vol.UUID != "" && strings.EqualFold(spec, "PARTUUID="+u.vol.UUID)
	})
	return s
}

// mapperName is the name that LVM gives a logical volume in /dev/mapper: dashes are doubled.
func mapperName(vg, lv string) string {
	return strings.ReplaceAll(vg, "-", "--") + "-" + strings.ReplaceAll(lv, "-", "--")
}

// byID finds what a link in /dev/disk/by-id tells without naming hardware.
func (c *composer) byID(r *system, id string) source {
	if name, ok := strings.CutPrefix(id, "dm-name-"); ok {
		return c.byMapper(r, name)
	}
	if ids, ok := strings.CutPrefix(id, "dm-uuid-LVM-"); ok && len(ids) == 64 {
		return c.one(r, "no such logical volume", true, func(u *unit) bool {
			return u.vol.LV != nil && strings.ReplaceAll(u.vol.LV.UUID, "-", "") == ids[32:]
		})
	}
	return source{why: "the name has a serial number of hardware, which a backup does not know"}
}

// diskName is a partition or disk by the order in which the kernel found the disks.
var diskName = regexp.MustCompile(`^/dev/(?:(sd|vd|xvd|hd)([a-z]{1,2})([0-9]{0,3})|(nvme|mmcblk)([0-9]{1,3})(?:n1)?(?:p([0-9]{1,3}))?)$`)

// byOrder takes the letter of a device name for the number of the disk in the backup. That
// holds if all names of the fstab are of one bus and the root's own is that of the root's disk.
func (c *composer) byOrder(r *system, m []string) source {
	bus, index, part := nameParts(m)
	for i := range r.x.fstab {
		e := &r.x.fstab[i]
		k := diskName.FindStringSubmatch(e.source)
		if k == nil || e.ignore != "" && !e.quiet {
			continue
		}
		otherBus, otherIndex, _ := nameParts(k)
		switch {
		case otherBus != bus:
			return source{why: "the system has disks of several kinds, so the order of the disks in the backup does not tell which is meant"}
		case e.dir == "/" && c.diskAt(otherIndex) != r.u.d:
			return source{why: "the order of the disks in the backup is not the guest's: the root's own device name leads to another disk"}
		}
	}
	d := c.diskAt(index)
	if d == nil {
		return source{why: fmt.Sprintf("the backup has no disk number %d", index+1)}
	}
	for _, u := range d.units {
		if u.lv == "" && partition(u.vol.Name) == part {
			return source{unit: u, note: fmt.Sprintf("found by the order of the disks: %s is disk %s", m[0], d.disk.Name)}
		}
	}
	return source{why: fmt.Sprintf("disk %s has no such partition", d.disk.Name)}
}

func (c *composer) diskAt(order int) *diskPlan {
	for _, d := range c.disks {
		if d.order == order {
			return d
		}
	}
	return nil
}

// nameParts splits a match of diskName: "b" is disk 1, "aa" disk 26.
func nameParts(m []string) (bus string, index, part int) {
	if m[1] != "" {
		for _, ch := range m[2] {
			index = index*26 + int(ch-'a') + 1
		}
		part, _ = strconv.Atoi(m[3]) // digits, or empty: the whole disk
		return m[1], index - 1, part
	}
	index, _ = strconv.Atoi(m[5])
	part, _ = strconv.Atoi(m[6])
	return m[4], index, part
}

// one is the unit for which is holds. Of several, clones of each other, the system's own disk
// comes first.
func (c *composer) one(r *system, why string, later bool, is func(*unit) bool) source {
	var all []*unit
	for _, u := range c.units {
		if (u.pending || len(u.shows) > 0 || u.err != nil) && is(u) {
			all = append(all, u)
		}
	}
	if len(all) == 0 {
		return source{why: why, later: later && c.b.boot.awaited()}
	}
	s := source{unit: all[0]}
	for _, u := range all {
		if u.d == r.u.d {
			s.unit = u
			break
		}
	}
	if len(all) > 1 {
		s.note = fmt.Sprintf("%d volumes of the backup answer to this name; %s on %s is taken", len(all), s.unit.vol.Name, s.unit.d.disk.Name)
	}
	return s
}

// unescapeHex decodes \xNN, as udev writes what is no plain letter in a link's name.
func unescapeHex(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x' {
			if n, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
