package tree

import (
	"cmp"
	"slices"
	"time"
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
	used   map[string]bool  // keys of indexes that have their place
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

// shown is where a file system is.
type shown struct {
	path  string
	top   Node
	again []string // aliases
}

// compose places everything of b into tab and reports it. An error says that not all file
// systems have a place.
func (t *Tree) compose(tab *table, b *backup) (BackupReport, error) {
	c := &composer{t: t, tab: tab, b: b, where: map[*content]*shown{}, folder: map[*unit]string{}, used: map[string]bool{}}
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
	before, known := c.b.places.own[d.disk.Name]
	switch {
	case known: // whatever a boot has brought besides
		for _, u := range d.units {
			if before != "" && u.key(nil) == before {
				d.shows = u
			}
		}
	case len(systems) == 1:
		d.shows = systems[0]
	case len(systems) == 0 && waiting:
		d.holds = true
		c.hold(key, d.own, d.path)
		return
	case len(some) == 1:
		d.shows = some[0]
	}
	c.b.places.own[d.disk.Name] = ""
	if d.shows == nil {
		return
	}
	c.b.places.own[d.disk.Name] = d.shows.key(nil)
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
	c.used[key] = true
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
	for c.used[key] { // the folder that was there before the boot shows another subvolume
		key += "\x00"
	}
	c.showBesideAs(key, u, x)
}

func (c *composer) showBesideAs(key string, u *unit, x *content) {
	name := u.d.besideName(c.b, key, u, x)
	at := c.tab.static.dir(c.dir, u.d.disk.Name+"@"+name, u.d.mtime)
	c.show(x, key, Node{0, at.ino}, u.d.path+"@"+name, Node{})
}

// keep puts back the folders beside the disks that were there before the boot: somebody may
// be reading them, whatever else shows the same files now.
func (c *composer) keep() {
	for _, u := range c.units {
		if _, ok := c.b.places.names[u.key(nil)]; ok && len(u.shows) > 0 {
			c.showBesideAs(u.key(nil), u, u.main())
		}
	}
}
