package tree

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// applyFstab shows below a system's root what its fstab mounts, upper mount points first.
func (c *composer) applyFstab(r *system) {
	entries := slices.Clone(r.x.fstab)
	slices.SortStableFunc(entries, func(a, b fstabEntry) int { return cmp.Compare(depth(a.dir), depth(b.dir)) })
	for i := range entries {
		e := &entries[i]
		if e.quiet {
			continue
		}
		m := Mount{System: r.path, MountPoint: e.dir, Source: e.source, Type: e.kind, Options: strings.Join(e.options, ","), State: MountIgnored, Note: e.ignore}
		if e.ignore == "" {
			c.mount(r, e, &m)
		}
		c.mounts = append(c.mounts, m)
	}
}

// depth is how many folders a mount point lies below the root.
func depth(dir string) int {
	if dir == "/" {
		return 0
	}
	return strings.Count(dir, "/")
}

// mount applies one entry and fills its report.
func (c *composer) mount(r *system, e *fstabEntry, m *Mount) {
	src := c.find(r, e)
	m.Note = src.note
	u := src.unit
	if u != nil {
		m.Disk, m.Volume = u.d.disk.Name, u.vol.Name
	}
	if e.dir == "/" {
		m.State, m.Path = MountShown, r.path
		if m.Disk = r.u.d.disk.Name; u != r.u {
			m.Note = "the entry names another file system than the one that it is on"
			if u == nil {
				m.Note = "the entry's source was not found (" + src.why + "); it is taken to mean the file system that it is on"
			}
		}
		m.Volume = r.u.vol.Name
		return
	}
	_, noauto := e.option("noauto")
	if _, onAccess := e.option("x-systemd.automount"); noauto && !onAccess {
		m.State = MountNoAuto
		return
	}
	key := "mount\x00" + r.u.key(r.x) + "\x00" + e.dir
	switch {
	case u == nil && src.later:
		m.State, m.Note = MountPending, src.why+"; it may be known when "+c.b.boot.engine+" has started"
		c.await(r, e, m, key)
		return
	case u == nil:
		m.State, m.Note = MountNotFound, src.why
		c.restore(r, e, key)
		return
	case u.pending:
		m.State, m.Note = MountPending, "it is read by "+c.b.boot.engine+", which starts when the folder is opened"
		if c.await(r, e, m, key) && c.folder[u] == "" {
			c.folder[u] = m.Path
		}
		return
	}
	x := u.pick(e)
	switch {
	case x == nil && len(u.shows) == 0 && u.err != nil:
		m.State, m.Note = MountFailed, "it cannot be read: "+u.err.Error()
		c.restore(r, e, key)
		return
	case x == nil:
		m.State, m.Note = MountNotFound, "there is no such subvolume"
		c.restore(r, e, key)
		return
	case r.at[x] != "":
		m.State, m.Note = MountIgnored, "mounted already at "+r.at[x]
		return
	}
	at, path, why := c.mountPoint(r, e.dir)
	if why != "" {
		m.State, m.Note = MountFailed, why
		return
	}
	if _, ok := c.b.places.index[key]; !ok && c.where[x] == nil && !c.used[u.key(x)] {
		key = u.key(x)
	}
	m.State, m.Path = MountShown, path
	r.at[x] = e.dir
	c.show(x, key, at, path, r.top)
	c.made = append(c.made, madeMount{x: x, at: at, path: path, row: len(c.mounts)})
}

// await places a folder at the mount point that the boot will fill.
func (c *composer) await(r *system, e *fstabEntry, m *Mount, key string) bool {
	at, path, why := c.mountPoint(r, e.dir)
	if why != "" {
		if m.Note != "" {
			m.Note += "; "
		}
		m.Note += why
		return false
	}
	m.Path = path
	c.holdOver(key, at, path, r.u.d.mtime, r.top)
	return true
}

// restore shows at a mount point, after a boot that did not bring its source, what the guest's
// own folder has. The folder's index has been handed out, so it shows that from now on.
func (c *composer) restore(r *system, e *fstabEntry, key string) {
	i, ok := c.b.places.index[key]
	if !ok {
		return
	}
	at, _, why := c.mountPoint(r, e.dir)
	if why != "" || at.fs != r.top.fs {
		return
	}
	root := c.tab.mounts[at.fs]
	c.tab.cover(at, c.tab.set(i, &mounted{fs: root.fs, guest: true, swap: root.ino(at.ino), top: Node{i, heldIno}, root: r.top, part: at.fs}))
}

// mountPoint finds the folder of the composed system that is to be covered, and its path.
func (c *composer) mountPoint(r *system, dir string) (at Node, path, why string) {
	w := walk{space: c.tab, stack: []Node{r.top}}
	if err := w.run(dir, true); err != nil {
		if m, _ := c.tab.at(w.top()); m != nil && m.wait != nil {
			return Node{}, "", "the mount point is in a file system that is not read yet"
		}
		return Node{}, "", fmt.Sprintf("the mount point cannot be used: %v", err)
	}
	at = w.top()
	if err := w.mustBeDir(); err != nil {
		return Node{}, "", "the mount point is not a folder"
	}
	switch at {
	case r.top:
		return Node{}, "", "the mount point is the root itself"
	case c.tab.mounts[at.fs].top:
		return Node{}, "", "another file system is mounted there already"
	}
	return at, r.path + "/" + strings.Join(w.names, "/"), ""
}

// madeMount is a mount that was made below a system's root.
type madeMount struct {
	x    *content
	at   Node
	path string
	row  int // in composer.mounts
}

// unhide takes back the mounts that a later one has hidden, so that what they show is found
// beside its disk: an fstab can mount over a folder above.
func (c *composer) unhide(roots []*system) {
	for again := true; again; {
		again = false
		for i, k := range c.made {
			if k.x == nil || c.reaches(roots, k) {
				continue
			}
			delete(c.tab.over, k.at)
			w := c.where[k.x]
			if w.path == k.path {
				delete(c.where, k.x)
				if len(w.again) > 0 {
					c.where[k.x] = &shown{path: w.again[0], again: w.again[1:]}
				}
			} else {
				w.again = slices.DeleteFunc(w.again, func(p string) bool { return p == k.path })
			}
			m := &c.mounts[k.row]
			m.State, m.Path, m.Note = MountFailed, "", "a later entry mounts over it"
			c.made[i].x, again = nil, true
		}
	}
}

// reaches tells whether a mount is found at its path.
func (c *composer) reaches(roots []*system, k madeMount) bool {
	for _, r := range roots {
		rest, ok := strings.CutPrefix(k.path, r.path+"/")
		if !ok {
			continue
		}
		w := walk{space: c.tab, stack: []Node{r.top}}
		return w.run(rest, true) == nil && w.top() == c.tab.over[k.at]
	}
	return false
}
