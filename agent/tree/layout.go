package tree

import (
	"fmt"
	"time"

	"vmfr/agent/fsys"
)

// unknownDate stands in /restores/<date> for a backup whose time nobody told.
const unknownDate = "unknown-date"

// unknownVM stands in /restores/<date>/<backup>/<vm> for a VM whose name nobody told.
const unknownVM = "vm"

// maxFound is how many file-system indexes are kept for what the boot of one backup may find.
const maxFound = 1024

// places are the file-system indexes that a backup has been given, by what has them. Backups
// and disks come sorted, so the indexes are the same for the same input. An index never gets
// another meaning: what is composed again finds its own.
type places struct {
	index map[string]uint16
	held  map[string]bool   // handed out before it was known what for, see heldIno
	names map[string]string // <disk>@<name> folders that have been shown
	own   map[string]string // by disk: the key of the unit in its own folder, empty: none
	next  int               // kept for after a boot
	limit int
}

// assemble makes the first table.
func (t *Tree) assemble() error {
	var newest time.Time
	for _, b := range t.backups {
		for _, d := range b.disks {
			if d.mtime.After(newest) {
				newest = d.mtime
			}
		}
	}
	if newest.IsZero() {
		newest = time.Unix(0, 0)
	}
	s := newStatic(newest)
	tab := &table{t: t, static: s, over: map[Node]Node{}}
	tab.set(0, &mounted{fs: s})
	t.next = 1
	top := s.dir(s.root(), "backups", newest)
	raw := s.dir(s.root(), "disks", newest)
	restores := s.dir(s.root(), "restores", newest)
	for _, b := range t.backups {
		mtime := b.folderTime(newest)
		s.dir(top, b.Name, mtime)
		rawDir := s.dir(raw, b.Name, mtime)
		for _, d := range b.disks {
			if d.disk.Reader != nil {
				s.file(rawDir, d.disk.Name+".raw", d.disk.Reader, d.mtime, d.disk.Blocks)
			}
			for _, v := range d.vols {
				if v.content != nil {
					t.examine(v.content)
				}
			}
		}
		b.places = places{index: map[string]uint16{}, held: map[string]bool{}, names: map[string]string{}, own: map[string]string{}}
		s.restoreLink(restores, b.Backup, mtime)
	}
	s.text(s.root(), metadataName, "", newest) // for listings; see texts
	s.text(s.root(), readmeName, "", newest)
	for _, b := range t.backups {
		r, err := t.compose(tab, b)
		if err != nil {
			return err
		}
		tab.report = append(tab.report, r)
	}
	t.keepPlaces()
	t.cur.Store(tab)
	for _, name := range []string{metadataName, readmeName} {
		t.texts.node(tab, name) // the first versions do not depend on who looks when
	}
	return nil
}

// keepPlaces divides the indexes that are left among the backups that may need more.
func (t *Tree) keepPlaces() {
	n := 0
	for _, b := range t.backups {
		if b.boot != nil {
			n++
		}
	}
	for _, b := range t.backups {
		if b.boot != nil {
			b.places.next = t.next
			b.places.limit = t.next + min(maxFound, (maxFS-t.next)/n)
			t.next, n = b.places.limit, n-1
		}
	}
}

// place returns the index that key has, or gives it one. New gives them in turn; later there
// are those that were kept for the backup.
func (t *Tree) place(b *backup, key string) (uint16, error) {
	p := &b.places
	if i, ok := p.index[key]; ok {
		return i, nil
	}
	next := &p.next
	limit := p.limit
	if limit == 0 {
		next, limit = &t.next, maxFS
	}
	if *next >= limit {
		return 0, fmt.Errorf("more than %d file systems in one session", maxFS-1)
	}
	i := uint16(*next)
	*next++
	p.index[key] = i
	return i, nil
}

// recompose makes the table that follows a boot of b, good or not, the current one. It is
// called with t.mu.
func (t *Tree) recompose(b *backup) {
	tab := t.cur.Load().copy()
	for i, k := range t.backups {
		if k != b {
			continue
		}
		tab.forget(b)
		r, err := t.compose(tab, b)
		if err != nil {
			r.Warnings = append(r.Warnings, err.Error())
		}
		tab.report[i] = r
	}
	t.cur.Store(tab)
}

// forget takes everything of a backup out of the table. Its nodes stay what they are as far
// as compose puts them back; the others are gone.
func (tab *table) forget(b *backup) {
	s := tab.static
	m := *tab.mounts[0]
	m.fs = s
	tab.mounts[0] = &m
	s.clear(s.dir(s.dir(s.root(), "backups", s.root().mtime), b.Name, s.root().mtime))
	of := map[uint16]bool{}
	for _, i := range b.places.index {
		of[i] = true
		if m := tab.mounts[i]; m != nil {
			left := *m // what compose does not put back is nobody's first appearance
			left.wait, left.alias = nil, true
			tab.mounts[i] = &left
		}
	}
	for from, to := range tab.over {
		if of[to.fs] {
			delete(tab.over, from)
		}
	}
}

func (s *static) restoreLink(restores *staticNode, b Backup, mtime time.Time) {
	date, vm := unknownDate, unknownVM
	if !b.Timestamp.IsZero() {
		date = b.Timestamp.UTC().Format(time.DateOnly)
	}
	if b.VM != "" {
		vm = b.VM
	}
	s.link(s.dir(s.dir(restores, date, mtime), b.Name, mtime), vm, "../../../backups/"+b.Name, mtime)
}

// notice is a folder that says something in one file. version is part of the file's number.
func notice(name, text string, mtime time.Time, version int) *static {
	s := newStatic(mtime)
	s.skip = fsys.Ino(version)
	if name != "" {
		s.text(s.root(), name, text, mtime)
	}
	return s
}
