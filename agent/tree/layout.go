package tree

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"vmfr/agent/fsys"
)

// unknownDate stands in /restores/<date> for a backup whose time nobody told.
const unknownDate = "unknown-date"

// unknownVM stands in /restores/<date>/<backup>/<vm> for a VM whose name nobody told.
const unknownVM = "vm"

// assemble gives every opened file system its place and number. Backups and disks come sorted,
// so the numbers are the same for the same input.
func assemble(cfg Config, backups []openedBackup) (*Tree, error) {
	var newest time.Time
	for _, b := range backups {
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
	t := &Tree{over: map[Node]Node{}}
	t.mount(s, false)
	t.mounts[0].covered = true

	top := s.dir(s.root(), "backups", newest)
	raw := s.dir(s.root(), "disks", newest)
	restores := s.dir(s.root(), "restores", newest)
	for _, b := range backups {
		mtime := b.mtime(newest)
		dir, rawDir := s.dir(top, b.backup.Name, mtime), s.dir(raw, b.backup.Name, mtime)
		r := BackupReport{Name: b.backup.Name, VM: b.backup.VM, Path: "/backups/" + b.backup.Name, Disks: []DiskReport{}}
		if !b.backup.Timestamp.IsZero() {
			ts := b.backup.Timestamp.UTC()
			r.Timestamp = &ts
		}
		for _, d := range b.disks {
			d.report.Path = r.Path + "/" + d.disk.Name
			if err := t.place(s, dir, d); err != nil {
				return nil, err
			}
			if d.disk.Reader != nil {
				d.report.RawPath = "/disks/" + b.backup.Name + "/" + d.disk.Name + ".raw"
				s.file(rawDir, d.disk.Name+".raw", d.disk.Reader, d.mtime, d.disk.Blocks)
			}
			r.Disks = append(r.Disks, d.report)
		}
		t.report = append(t.report, r)
		s.restoreLink(restores, b.backup, mtime)
	}
	meta, err := json.MarshalIndent(map[string]any{"version": 1, "program": "vmfr " + cfg.Version, "backups": t.report}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("METADATA.json: %w", err)
	}
	s.text(s.root(), "METADATA.json", string(meta)+"\n", newest)
	s.text(s.root(), "README.txt", readme(t.report), newest)
	return t, nil
}

func (b openedBackup) mtime(fallback time.Time) time.Time {
	if !b.backup.Timestamp.IsZero() {
		return b.backup.Timestamp
	}
	for _, d := range b.disks {
		if !d.mtime.IsZero() {
			return d.mtime
		}
	}
	return fallback
}

// mount gives fs the next index and returns its root.
func (t *Tree) mount(fs fsys.FS, guest bool) Node {
	root := Node{uint16(len(t.mounts)), fs.Root()}
	t.mounts = append(t.mounts, mounted{fs: fs, root: root, guest: guest, big: &bigInodes{rows: map[fsys.Ino]uint64{}}})
	return root
}

// place gives the file systems of one disk their folders: the disk's own folder shows the one
// that holds an operating system, or the only one; the others stand beside it as
// <disk>@<label or volume>. A disk or volume that cannot be read is a folder with ERROR.txt.
func (t *Tree) place(s *static, dir *staticNode, d *openedDisk) error {
	own := s.dir(dir, d.disk.Name, d.mtime)
	if d.report.State == StateUnreadable {
		s.text(own, "ERROR.txt", errorText(d.report.Path, d.report.Error, d.report.Advice), d.mtime)
	}
	root := d.chooseRoot()
	names := d.volumeNames()
	for i := range d.vols {
		v, r := d.vols[i], &d.report.Volumes[i]
		at := own
		if i != root {
			if v == nil && (r.Error == "" || d.report.State == StateUnreadable) {
				continue
			}
			at = s.dir(dir, d.disk.Name+"@"+names[i], d.mtime)
			r.Path = d.report.Path + "@" + names[i]
		} else {
			r.Path = d.report.Path
		}
		if v == nil {
			s.text(at, "ERROR.txt", errorText(r.Path, r.Error, r.Advice), d.mtime)
			continue
		}
		if len(t.mounts) >= maxFS {
			return fmt.Errorf("more than %d file systems in one session", maxFS)
		}
		t.over[Node{0, at.ino}] = t.mount(v, true)
	}
	if d.report.State != StateUnreadable && root < 0 {
		s.text(own, "README.txt", "This disk has several file systems and none that holds an operating system.\nThey are beside this folder:\n\n"+
			beside(d.report), d.mtime)
	}
	return nil
}

func beside(d DiskReport) string {
	var b strings.Builder
	for _, v := range d.Volumes {
		if v.Path != "" {
			fmt.Fprintf(&b, "  %s  (%s)\n", v.Path, v.Content)
		}
	}
	return b.String()
}

// chooseRoot returns the index of the volume shown as the disk itself, or -1.
func (d *openedDisk) chooseRoot() int {
	only, systems := -1, []int(nil)
	n := 0
	for i, v := range d.vols {
		if v == nil {
			continue
		}
		only = i
		n++
		if holdsSystem(v) {
			systems = append(systems, i)
		}
	}
	switch {
	case n == 1:
		return only
	case len(systems) == 1:
		return systems[0]
	}
	return -1
}

// holdsSystem tells whether a Linux system is installed in fs: os-release(5) is in one of two places.
func holdsSystem(fs fsys.FS) bool {
	for _, path := range [][]string{{"etc", "os-release"}, {"usr", "lib", "os-release"}} {
		ino, err := fs.Root(), error(nil)
		for _, name := range path {
			if ino, err = fs.Lookup(ino, name); err != nil {
				break
			}
		}
		if err == nil {
			return true
		}
	}
	return false
}

// volumeNames names the volumes for <disk>@<name>: by the file system's label where it is a
// plain name that no other volume of the disk has, by the volume's own name otherwise.
func (d *openedDisk) volumeNames() []string {
	count := map[string]int{}
	for _, v := range d.report.Volumes {
		count[v.Name]++
		if v.FileSystem != nil {
			count[v.FileSystem.Label]++
		}
	}
	names := make([]string, len(d.report.Volumes))
	for i, v := range d.report.Volumes {
		names[i] = v.Name
		if v.FileSystem != nil && validName.MatchString(v.FileSystem.Label) && count[v.FileSystem.Label] == 1 {
			names[i] = v.FileSystem.Label
		}
	}
	return names
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

func errorText(path, why, advice string) string {
	return fmt.Sprintf("%s cannot be shown.\n\nWhat was found:\n  %s\n\nWhat to do:\n  %s\n", path, why, advice)
}

func readme(backups []BackupReport) string {
	var b strings.Builder
	b.WriteString("Files of virtual machine backups, read-only.\n\n" +
		"  /backups/<backup>/<disk>/     the files of a disk as they were at the time of the backup\n" +
		"  /backups/<backup>/<disk>@..   further file systems of that disk\n" +
		"  /disks/<backup>/<disk>.raw    the whole disk, byte by byte, for forensic tools\n" +
		"  /restores/<date>/...          the same backups by date and VM\n" +
		"  /METADATA.json                how every disk was read, with all errors and warnings\n\nHere:\n\n")
	for _, r := range backups {
		for _, d := range r.Disks {
			fmt.Fprintf(&b, "  %s  %s, %d MiB\n", d.Path, d.State, d.VirtualSize>>20)
			if d.Error != "" {
				fmt.Fprintf(&b, "      error: %s\n", d.Error)
			}
			for _, w := range d.Warnings {
				fmt.Fprintf(&b, "      warning: %s\n", w)
			}
			for _, v := range d.Volumes {
				if v.FileSystem == nil {
					continue
				}
				fmt.Fprintf(&b, "      %s: %s, read by %s, journal %s\n", v.Path, v.FileSystem.Type, v.FileSystem.Engine, v.FileSystem.Journal)
				for _, w := range v.FileSystem.Warnings {
					fmt.Fprintf(&b, "      warning: %s\n", w)
				}
			}
		}
	}
	return b.String()
}
