package tree

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"vmfr/agent/engine"
	"vmfr/agent/fsys"
	"vmfr/agent/volume"
)

// composer gives the file systems of one backup their places:
//
//  1. a disk's own folder shows its only file system, or the one with a system on it;
//  2. every system's fstab is applied below its root, across all disks of the backup, in the
//     order of the disks; a file system that has a place already is shown once more;
//  3. what has no place yet is <disk>@<name>;
//  4. a folder without a file system says why.
type composer struct {
	t      *Tree
	tab    *table
	b      *backup
	dir    *staticNode // /backups/<backup>
	disks  []*diskPlan // sorted by name
	units  []*unit     // of all disks, in the order in which the VM has them
	where  map[*content]*shown
	folder map[*unit]string // of a unit without content: where it is explained or awaited
	mounts []Mount
	made   []madeMount
	err    error // the first: there are too many file systems
}

// diskPlan is a disk while it is being placed.
type diskPlan struct {
	*openedDisk
	path  string
	own   *staticNode
	units []*unit
	names map[string]bool // of the folders beside it
	holds bool            // its own folder is decided by the boot
	shows *unit           // in its own folder
}

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

// shown is where a file system is.
type shown struct {
	path  string
	top   Node
	again []string // aliases
}

// compose places everything of b into tab and reports it. An error says that not all file
// systems have a place.
func (t *Tree) compose(tab *table, b *backup) (BackupReport, error) {
	c := &composer{t: t, tab: tab, b: b, where: map[*content]*shown{}, folder: map[*unit]string{}}
	s := tab.static
	quiet := tab.quiet
	tab.quiet = true
	defer func() { tab.quiet = quiet }()
	mtime := b.folderTime(s.root().mtime)
	c.dir = s.dir(s.dir(s.root(), "backups", s.root().mtime), b.Name, mtime)
	for _, d := range b.disks {
		p := &diskPlan{openedDisk: d, path: b.folder() + d.disk.Name, own: s.dir(c.dir, d.disk.Name, d.mtime), names: map[string]bool{}}
		for _, v := range d.vols {
			p.units = append(p.units, newUnit(p, v, b.boot))
		}
		c.disks = append(c.disks, p)
	}
	c.deal()
	byOrder := slices.Clone(c.disks)
	slices.SortStableFunc(byOrder, func(x, y *diskPlan) int { return cmp.Compare(x.order, y.order) })
	for _, d := range byOrder {
		c.units = append(c.units, d.units...)
	}
	for _, d := range c.disks {
		c.ownFolder(d)
	}
	c.keep()
	roots := c.roots()
	for _, r := range roots {
		c.applyFstab(r)
	}
	c.unhide(roots)
	for _, d := range c.disks {
		c.beside(d)
	}
	return c.report(roots), c.err
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

// ownFolder decides what a disk's own folder shows.
func (c *composer) ownFolder(d *diskPlan) {
	var some, systems []*unit
	waiting := false
	lonely := d.lonely()
	for _, u := range d.units {
		if (u.pending || len(u.shows) > 0) && (lonely || !u.apart) {
			some = append(some, u)
		}
		waiting = waiting || u.pending
		if u.root() != nil {
			systems = append(systems, u)
		}
	}
	key := "disk\x00" + d.disk.Name
	switch {
	case len(systems) == 1:
		d.shows = systems[0]
	case len(systems) == 0 && waiting:
		d.holds = true
		c.hold(key, d.own, d.path)
		return
	case len(some) == 1:
		d.shows = some[0]
	}
	if d.shows == nil {
		return
	}
	if _, ok := c.b.places.index[key]; !ok {
		key = d.shows.key(d.shows.main())
	}
	c.show(d.shows.main(), key, Node{0, d.own.ino}, d.path, Node{})
}

// lonely tells that the disk has nothing of its own: what is apart may stand for it.
func (d *diskPlan) lonely() bool {
	return !slices.ContainsFunc(d.units, func(u *unit) bool { return !u.apart && (u.pending || len(u.shows) > 0 || u.err != nil) })
}

// show places a content over a covered directory and returns its root there. The second
// appearance of one content is an alias. root is where absolute links start: its own root by
// default.
func (c *composer) show(x *content, key string, at Node, path string, root Node) Node {
	i, err := c.t.place(c.b, key)
	if err != nil {
		c.err = err
		return Node{}
	}
	m := &mounted{fs: x.fs, guest: true, root: root, alias: c.where[x] != nil}
	if c.b.places.held[key] {
		m.swap = x.fs.Root()
	}
	top := c.tab.set(i, m)
	c.tab.cover(at, top)
	if w := c.where[x]; w != nil {
		w.again = append(w.again, path)
	} else {
		c.where[x] = &shown{path: path, top: top}
	}
	return top
}

// hold places a folder that the boot will fill, with the reason where the last one failed.
func (c *composer) hold(key string, at *staticNode, path string) {
	c.holdOver(key, Node{0, at.ino}, path, at.mtime, Node{})
}

func (c *composer) holdOver(key string, at Node, path string, mtime time.Time, root Node) {
	name, text := "", ""
	if err := c.b.boot.lastFailure(); err != nil {
		name, text = "ERROR.txt", errorText(path, c.b.boot.engine+" could not start: "+err.Error(), bootAdvice)
	}
	c.say(key, at, name, text, mtime, c.b.boot, root)
	c.b.places.held[key] = true
}

// say places a folder with one file in it.
func (c *composer) say(key string, at Node, name, text string, mtime time.Time, wait *boot, root Node) {
	i, err := c.t.place(c.b, key)
	if err != nil {
		c.err = err
		return
	}
	c.tab.cover(at, c.tab.set(i, &mounted{fs: notice(name, text, mtime, c.tab.changes), wait: wait, root: root}))
}

// system is the root of an installed system.
type system struct {
	u    *unit
	x    *content
	top  Node
	path string
	at   map[*content]string // what its fstab has placed, by mount point
}

// roots places the systems that are not in their disk's own folder, and lists all.
func (c *composer) roots() []*system {
	var all []*system
	for _, u := range c.units {
		x := u.root()
		if x == nil {
			continue
		}
		if c.where[x] == nil {
			c.showBeside(u, x)
		}
		if w := c.where[x]; w != nil {
			all = append(all, &system{u: u, x: x, path: w.path, top: w.top, at: map[*content]string{x: "/"}})
		}
	}
	return all
}

// showBeside gives a content its folder <disk>@<name>.
func (c *composer) showBeside(u *unit, x *content) {
	key := u.key(x)
	if _, ok := c.b.places.names[u.key(nil)]; ok {
		key = u.key(nil)
	}
	name := u.d.besideName(c.b, key, u, x)
	at := c.tab.static.dir(c.dir, u.d.disk.Name+"@"+name, u.d.mtime)
	c.show(x, key, Node{0, at.ino}, u.d.path+"@"+name, Node{})
}

// keep puts back the folders beside the disks that were there before the boot: somebody may
// be reading them, whatever else shows the same files now.
func (c *composer) keep() {
	for _, u := range c.units {
		if _, ok := c.b.places.names[u.key(nil)]; ok && len(u.shows) > 0 {
			c.showBeside(u, u.main())
		}
	}
}

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
		file, text = "ERROR.txt", errorText(c.folder[u], u.err.Error(), u.vol.advice(u.err, c.t.cfg.Fallback != nil))
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
