package tree

import (
	"fmt"
	"strings"
)

// unit is a volume and what it shows: nothing, one file system, or several subvolumes of one.
type unit struct {
	d       *diskPlan
	vol     *openedVolume
	vg, lv  string // of a logical volume
	shows   []*content
	pending bool // the boot will tell
	apart   bool // on no disk that is known: it is shown with the first
	err     error
}

func newUnit(d *diskPlan, v *openedVolume, k *boot) *unit {
	u := &unit{d: d, vol: v, err: v.err}
	if v.LV != nil {
		u.vg, u.lv = v.LV.Group, v.LV.Name
	}
	if v.content != nil {
		u.shows = []*content{v.content}
	}
	u.pending = v.left && k.awaited()
	return u
}

// key names the unit's index; of one of its contents where there are several.
func (u *unit) key(x *content) string {
	k := "volume\x00" + u.d.disk.Name + "\x00" + u.vol.Name
	if x != nil && x.subvolume != "" {
		k += "\x00" + x.subvolume
	}
	return k
}

// main is the content that stands for the whole unit: its system's root, or what a mount
// without options shows that hides nothing.
func (u *unit) main() *content {
	if r := u.root(); r != nil {
		return r
	}
	for _, x := range u.shows {
		if x.subvolume == "" {
			return x
		}
	}
	return u.usual()
}

// usual is what a mount without options shows.
func (u *unit) usual() *content {
	for _, x := range u.shows {
		if x.usual {
			return x
		}
	}
	for _, x := range u.shows {
		if x.subvolume == "" {
			return x
		}
	}
	if len(u.shows) > 0 {
		return u.shows[0]
	}
	return nil
}

// root is the content with a system on it. Snapshots of it have one too, so of several it is
// the one whose own fstab mounts it as the root.
func (u *unit) root() *content {
	var all []*content
	for _, x := range u.shows {
		if x.system != nil {
			all = append(all, x)
		}
	}
	for _, x := range all {
		for _, e := range x.fstab {
			if e.dir == "/" && e.ignore == "" && u.pick(&e) == x {
				return x
			}
		}
	}
	for _, x := range all {
		if x.usual {
			return x
		}
	}
	if len(all) > 0 {
		return all[0]
	}
	return nil
}

// pick is the content that an fstab's options ask for; nil where there is no such subvolume.
func (u *unit) pick(e *fstabEntry) *content {
	if path, ok := e.option("subvol"); ok {
		path = strings.Trim(path, "/")
		for _, x := range u.shows {
			if strings.Trim(x.subvolume, "/") == path {
				return x
			}
		}
		return nil
	}
	if id, ok := e.option("subvolid"); ok {
		for _, x := range u.shows {
			if fmt.Sprint(x.subvolID) == id || x.subvolume == "" && (id == "0" || id == "5") {
				return x
			}
		}
		return nil
	}
	return u.usual()
}
