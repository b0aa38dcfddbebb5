package tree

import (
	"fmt"
	"slices"
	"strings"
)

// report sums up what was composed.
func (c *composer) report(roots []*system) BackupReport {
	r := BackupReport{Name: c.b.Name, VM: c.b.VM, Path: strings.TrimSuffix(c.b.folder(), "/"), Disks: []DiskReport{}, Mounts: c.mounts}
	if !c.b.Timestamp.IsZero() {
		ts := c.b.Timestamp.UTC()
		r.Timestamp = &ts
	}
	for _, s := range roots {
		os := *s.x.system
		if os.ID == "" && os.Name == "" { // perhaps because /usr had to be mounted first
			if known := (single{c.tab, s.top}).linux(); known != nil {
				os = *known
			}
		}
		os.Path = s.path
		r.OperatingSystems = append(r.OperatingSystems, os)
		for _, n := range s.x.notes {
			r.Warnings = append(r.Warnings, s.path+": "+n)
		}
	}
	if c.b.more > 0 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("%s found %d more file systems than the %d that are shown", c.b.boot.engine, c.b.more, maxFound))
	}
	for _, g := range c.b.groups {
		r.VolumeGroups = append(r.VolumeGroups, VolumeGroup{Name: g.Name, UUID: g.UUID, Disks: g.Disks, Missing: g.Missing, Warnings: g.Warnings})
	}
	for _, d := range c.disks {
		r.Disks = append(r.Disks, c.reportDisk(d))
	}
	for i, d := range c.disks {
		c.explain(d, r.Disks, i)
	}
	return r
}

func (c *composer) reportDisk(d *diskPlan) DiskReport {
	r := DiskReport{Name: d.disk.Name, Source: d.disk.Source, Format: d.disk.Format, Path: d.path, Volumes: []VolumeReport{}}
	if d.disk.Err != nil {
		r.State = StateUnreadable
		r.Error = d.disk.Err.Error()
		r.Advice = "Check that the image is complete and of the stated format."
		return r
	}
	r.VirtualSize = d.disk.Reader.Size()
	r.RawPath = "/disks/" + c.b.Name + "/" + d.disk.Name + ".raw"
	if t := d.table; t != nil {
		r.Table = &TableReport{Scheme: t.Scheme, SectorSize: t.SectorSize, ID: t.ID}
		r.Warnings = append(r.Warnings, t.Warnings...)
		if t.Err != nil {
			r.Error = t.Err.Error()
			r.Advice = "The partition table cannot be used. The whole disk is under /disks for recovery tools; try another backup."
		}
	}
	for _, u := range d.units {
		r.Volumes = append(r.Volumes, c.reportVolume(u))
	}
	r.State = d.state(c.b)
	if r.State == StateUnreadable && r.Error == "" {
		own := r.Volumes
		if !d.lonely() {
			own = own[:len(d.vols)] // without what is apart
		}
		r.explain(own)
	}
	return r
}

func (c *composer) reportVolume(u *unit) VolumeReport {
	v := u.vol
	r := VolumeReport{Name: v.Name, Label: v.Label, UUID: v.UUID, Type: v.Type, TypeName: v.TypeName,
		Start: v.Start, Size: v.size(), Group: v.Group, OpenTime: v.took, Path: c.folder[u]}
	if v.LV != nil {
		r.Logical = &LogicalVolume{Group: v.LV.Group, Name: v.LV.Name, UUID: v.LV.UUID, Disks: v.LV.Disks}
	} else if u.lv != "" {
		r.Logical = &LogicalVolume{Group: u.vg, Name: u.lv}
	}
	switch x := u.main(); {
	case x != nil:
		info := x.fs.Info()
		r.Content = info.Type
		r.FileSystem = &FileSystemReport{
			Type: info.Type, Engine: x.engine, Label: info.Label, UUID: info.UUID, BlockSize: info.BlockSize,
			Total: info.Total, Used: info.Total - min(info.Free, info.Total), Files: info.Files, FreeFiles: info.FreeFiles,
			Journal: info.Journal, Warnings: info.Warnings,
		}
		if w := c.where[x]; w != nil {
			r.Path, r.MountedAt = w.path, w.again
		}
		c.reportSubvolumes(u, &r)
		if v.sig.Type == "crypto_LUKS" {
			r.Content += " in crypto_LUKS"
		}
		return r
	case v.Group != "":
		r.Content = "physical volume of " + v.Group
		return r
	}
	r.Content = describe(v.sig)
	if v.LV != nil && v.Reader == nil {
		r.Content = "logical volume"
	}
	if u.err != nil && !u.pending {
		r.Error = u.err.Error()
		r.Advice = c.t.cfg.advice(v, u.err)
	}
	return r
}

func (c *composer) reportSubvolumes(u *unit, r *VolumeReport) {
	if len(u.shows) < 2 {
		return
	}
	for _, x := range u.shows {
		if w := c.where[x]; w != nil {
			r.Subvolumes = append(r.Subvolumes, SubvolumeReport{Name: x.subvolume, ID: x.subvolID, Path: w.path, MountedAt: w.again})
		}
	}
}

// state judges the disk by its file systems: what holds none (swap, boot loader, empty) does
// not count, and a physical volume is as good as the logical volumes that lie on the disk.
func (d *diskPlan) state(b *backup) State {
	good, bad, pending := 0, 0, 0
	lonely := d.lonely()
	for _, u := range d.units {
		switch {
		case u.apart && !lonely:
		case len(u.shows) > 0:
			good++
		case u.pending:
			pending++
		case u.err != nil:
			bad++
		case u.vol.Group != "":
			g, w, p := b.logical(u.vol.Group, d.disk.Name)
			good, bad, pending = good+g, bad+w, pending+p
		case u.vol.left: // a container whose content was found apart
			good++
		}
	}
	broken := d.table != nil && d.table.Err != nil
	switch {
	case d.disk.Err != nil:
		return StateUnreadable
	case bad == 0 && !broken && pending > 0:
		return StatePending
	case good > 0 && bad == 0 && !broken:
		return StateReadable
	case good+pending > 0:
		return StatePartial
	}
	return StateUnreadable
}

// logical counts the logical volumes of a group that lie on a disk: those that can be read,
// those that cannot, and those that the fallback will tell about. A group without any is as
// good as read.
func (b *backup) logical(group, disk string) (good, bad, pending int) {
	for _, d := range b.disks {
		for _, v := range d.vols {
			if v.LV == nil || v.LV.Group != group || !slices.Contains(v.LV.Disks, disk) {
				continue
			}
			switch {
			case v.left && b.boot.awaited():
				pending++
			case v.err != nil && !b.has(v):
				bad++
			default:
				good++
			}
		}
	}
	if good+bad+pending == 0 {
		good = 1
	}
	return good, bad, pending
}

// has tells whether the fallback found a logical volume.
func (b *backup) has(v *openedVolume) bool {
	return slices.ContainsFunc(b.found, func(x *content) bool { return x.found.LV == v.LV.Name && x.found.VG == v.LV.Group })
}

// explain says why no file system is served, from what the volumes hold.
func (r *DiskReport) explain(volumes []VolumeReport) {
	var why []string
	for _, v := range volumes {
		if v.Error != "" {
			why = append(why, v.Name+": "+v.Error)
			if r.Advice == "" {
				r.Advice = v.Advice
			}
		} else {
			why = append(why, v.Name+" holds "+v.Content)
		}
	}
	if len(why) == 0 {
		why = []string{"nothing that is known was found on it"}
	}
	r.Error = "no file system that can be served: " + strings.Join(why, "; ")
	if r.Advice == "" {
		r.Advice = "The whole disk is under /disks for other tools."
	}
}

// explain fills the own folder of a disk that shows no file system there.
func (c *composer) explain(d *diskPlan, all []DiskReport, i int) {
	r := all[i]
	if d.shows != nil || d.holds {
		return
	}
	name, text := readmeName, ""
	switch groups := d.groups(); {
	case r.State == StateUnreadable:
		name, text = "ERROR.txt", errorText(r.Path, r.Error, r.Advice)
	case len(groups) > 0 && !d.anyShown():
		text = fmt.Sprintf("This disk holds physical volumes of the volume group %s.\nIts logical volumes are in these folders:\n\n", strings.Join(groups, ", "))
		text += c.logicalPaths(groups, all)
	default:
		text = diskText(r, "This disk has several file systems and none that stands for the disk.\nThey are in these folders:\n")
	}
	key := "disk\x00" + d.disk.Name
	if c.b.places.held[key] {
		c.say(key, Node{0, d.own.ino}, name, text, d.mtime, nil, Node{})
		return
	}
	c.tab.static.text(d.own, name, text, d.mtime)
}

// groups are the volume groups that the disk has physical volumes of.
func (d *diskPlan) groups() []string {
	var all []string
	for _, u := range d.units {
		if g := u.vol.Group; g != "" && !slices.Contains(all, g) {
			all = append(all, g)
		}
	}
	return all
}

func (d *diskPlan) anyShown() bool {
	return slices.ContainsFunc(d.units, func(u *unit) bool { return len(u.shows) > 0 || u.pending })
}

// logicalPaths lists where the logical volumes of groups are.
func (c *composer) logicalPaths(groups []string, all []DiskReport) string {
	var b strings.Builder
	for _, d := range all {
		for _, v := range d.Volumes {
			if v.Logical == nil || !slices.Contains(groups, v.Logical.Group) {
				continue
			}
			path := v.Path
			if path == "" {
				path = d.Path
			}
			fmt.Fprintf(&b, "  %s  (%s, %s)\n", path, v.Name, v.Content)
		}
	}
	return b.String()
}
