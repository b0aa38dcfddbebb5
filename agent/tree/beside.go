package tree

import (
	"fmt"
	"slices"
	"strings"

	"vmfr/agent/fsys"
)

// beside places what no fstab has, and the explanations.
func (c *composer) beside(d *diskPlan) {
	state := d.state(c.b)
	for _, u := range d.units {
		switch {
		case u.pending:
			if !d.holds && c.folder[u] == "" {
				name := d.besideName(c.b, u.key(nil), u, nil)
				c.folder[u] = d.path + "@" + name
				c.hold(u.key(nil), c.tab.static.dir(c.dir, d.disk.Name+"@"+name, d.mtime), c.folder[u])
			}
		case len(u.shows) > 0:
			c.besideContents(u)
		case c.b.places.held[u.key(nil)] || u.err != nil && (u.apart || state != StateUnreadable):
			c.excuse(u)
		}
	}
}

// excuse gives a unit without files a folder that says why.
func (c *composer) excuse(u *unit) {
	d, key := u.d, u.key(nil)
	name := d.besideName(c.b, key, u, nil)
	c.folder[u] = d.path + "@" + name
	at := c.tab.static.dir(c.dir, d.disk.Name+"@"+name, d.mtime)
	file, text := readmeName, "What this volume holds is shown under the name of what is in it: look beside this folder.\n"
	if u.err != nil {
		file, text = "ERROR.txt", errorText(c.folder[u], u.err.Error(), c.t.cfg.advice(u.vol, u.err))
	}
	if c.b.places.held[key] {
		c.say(key, Node{0, at.ino}, file, text, d.mtime, nil, Node{})
		return
	}
	c.tab.static.text(at, file, text, d.mtime)
}

// besideContents shows what is left of a unit. Of a btrfs that is each subvolume that is not
// inside one that is shown; all of it where that would be too many, or where files lie outside
// the subvolumes.
func (c *composer) besideContents(u *unit) {
	var left []*content
	var whole *content
	for _, x := range u.shows {
		switch {
		case c.where[x] != nil:
		case x.subvolume == "":
			whole = x
		case !c.inside(u, x):
			left = append(left, x)
		}
	}
	if whole != nil && (len(u.shows) == 1 || len(left) > maxSubvolumes || !c.onlySubvolumes(u, whole)) {
		c.showBeside(u, whole)
		return
	}
	for i, x := range left {
		if i < maxSubvolumes && !c.inside(u, x) {
			c.showBeside(u, x)
		}
	}
}

// maxSubvolumes is how many subvolumes of one file system get folders of their own.
const maxSubvolumes = 64

// inside tells whether x is seen in a subvolume above it that has a place.
func (c *composer) inside(u *unit, x *content) bool {
	for _, up := range u.shows {
		if up != x && c.where[up] != nil && within(x.subvolume, up.subvolume) {
			return true
		}
	}
	return false
}

// within tells whether subvolume path p is below dir.
func within(p, dir string) bool {
	p, dir = strings.Trim(p, "/"), strings.Trim(dir, "/")
	return dir == "" || strings.HasPrefix(p, dir+"/")
}

// onlySubvolumes tells whether the top of a btrfs has no names but its subvolumes'.
func (c *composer) onlySubvolumes(u *unit, whole *content) bool {
	s := alone(c.t, whole.fs)
	buf := make([]fsys.Dirent, maxSubvolumes)
	for from := fsys.Cookie(0); ; {
		k, err := s.tab.ReadDir(s.top, from, buf)
		for _, e := range buf[:k] {
			from = e.Next
			if !slices.ContainsFunc(u.shows, func(x *content) bool { return strings.Trim(x.subvolume, "/") == e.Name }) {
				return false
			}
		}
		if err != nil || k == 0 {
			return true
		}
	}
}

// besideName names a folder <disk>@<name>: by the file system's label where it is a plain name
// that no other volume of the disk has, by the volume's own name otherwise. The name stays.
func (d *diskPlan) besideName(b *backup, key string, u *unit, x *content) string {
	if n, ok := b.places.names[key]; ok {
		d.names[n] = true
		return n
	}
	name := plain(u.vol.Name)
	if x != nil && x.subvolume != "" {
		name = plain(name + "-" + x.subvolume)
	} else if x != nil && validName.MatchString(x.label) && d.count(x.label) == 1 {
		name = x.label
	}
	free := name
	for i := 2; d.names[free]; i++ {
		free = fmt.Sprintf("%s.%d", name, i)
	}
	d.names[free] = true
	b.places.names[key] = free
	return free
}

// count is how many volumes of the disk have a name, or a file system with that label.
func (d *diskPlan) count(name string) int {
	n := 0
	for _, u := range d.units {
		if u.vol.Name == name {
			n++
		}
		if x := u.main(); x != nil && x.label == name {
			n++
		}
	}
	return n
}

// plain makes a name of what may have other letters.
func plain(s string) string {
	b := []byte(s)
	for i, ch := range b {
		if ch < 0x80 && !validByte[ch] || ch >= 0x80 {
			b[i] = '_'
		}
	}
	if len(b) > 100 {
		b = b[:100]
	}
	return string(b)
}

var validByte = func() (ok [128]bool) {
	for ch := range ok {
		ok[ch] = validName.MatchString("a" + string(rune(ch)))
	}
	return ok
}()
