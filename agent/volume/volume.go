// Package volume finds the volumes of a backup's disks: GPT and MBR partitions, or the whole
// disk where there is no partition table, and the LVM2 logical volumes over all of them.
//
// Non-goals: it does not look into file systems and repairs nothing; of LVM only what a map of
// extents can express is read (linear, striped), not thin volumes, caches, RAID or snapshots,
// and no volume group inside a logical volume; a table that cannot be trusted is reported, never
// guessed. Invariants: one damaged disk never hides another; partitions are numbered and named
// by UUID as the Linux kernel does; every partition lies inside its disk; disks of two Scans
// never meet; reads and memory are bounded by constants whatever the disks say.
package volume

import (
	"fmt"
	"sort"

	"vmfr/agent/extent"
	"vmfr/agent/probe"
)

// Disk is one disk of a backup, already decoded from its image format.
type Disk struct {
	Name string // unique among the disks of one Scan
	extent.Reader
}

// Whole is the name of the only volume of an unpartitioned disk.
const Whole = "whole"

// Volume is a range of a disk, or a logical volume over one or several, that may hold a file
// system.
type Volume struct {
	Disk string // the Disk's name; of a logical volume the one that its first byte lies on
	// Name is "p1", "p2", ... by partition number, Whole, or of a logical volume what
	// /dev/mapper calls it: "<vg>-<lv>" with the dashes in both doubled. Where several groups
	// of the backup have one name it is "<vg>~<UUID of the group>-<lv>". It is unique on its
	// disk.
	Name     string
	Label    string // GPT partition name, valid UTF-8; chosen by the guest, untrusted
	UUID     string // PARTUUID, lower case; on MBR "<disk signature>-<number in hex>"
	Type     string // GPT type GUID, lower case, or the MBR type as "0x83"
	TypeName string // what Type is called, empty where unknown
	Start    int64  // byte offset on the disk; 0 for a logical volume
	LV       *LV    // nil: not a logical volume
	// Group is the name of the volume group that this volume is a physical volume of. Such a
	// volume holds no file system of its own.
	Group string
	// Err tells why the bytes cannot be read; Reader is nil then. fsys.ErrUnsupported: another
	// engine that sees all disks may (a thin volume); anything else is final (a missing PV).
	Err error
	extent.Reader
}

// LV is what LVM2's metadata says of a logical volume.
type LV struct {
	Group, Name string   // as LVM writes them: /dev/<Group>/<Name>
	UUID        string   // of the LV, as LVM writes it
	Disks       []string // all that its segments lie on, in the order of the scan
}

// Group is one LVM2 volume group of a backup.
type Group struct {
	Name, UUID string
	Disks      []string // of the physical volumes that were found
	Missing    []string // sorted UUIDs of the physical volumes that were not, with their device hint: "abcd... (/dev/vdb1)"
	Warnings   []string // sentences for a person
}

// Table describes how one disk was read.
type Table struct {
	Disk       string
	Scheme     string // "gpt", "mbr" or "none"
	SectorSize int    // bytes: the unit of the table's addresses; 0 for "none"
	ID         string // GPT disk GUID, or MBR disk signature as 8 hex digits
	// Warnings are sentences for a person: what is damaged, missing or left out.
	Warnings []string
	// Err tells why the disk gives no volumes: an I/O error, or a table damaged beyond
	// use (fsys.ErrCorrupt). Other disks are not affected.
	Err error
}

// Result is what Scan found. Tables are in the order of the disks, Volumes by disk, then
// partitions by number, then logical volumes by group and name.
type Result struct {
	Volumes []Volume
	Tables  []Table
	Groups  []Group // sorted by name
}

// Scan reads the partition tables of all disks of one backup. It takes all at once because
// what lies on a disk can depend on another one.
func Scan(disks []Disk) Result {
	var res Result
	for _, d := range disks {
		vols, table := scanDisk(d)
		res.Volumes = append(res.Volumes, vols...)
		res.Tables = append(res.Tables, table)
	}
	scanLVM(&res, disks)
	return res
}

// scanDisk decides what divides a disk.
//
//	sector 0                     GPT header              result
//	0xEE entry (protective)      primary or backup good  gpt; a hybrid's other entries are ignored
//	0xEE entry                   none good               error: a hybrid's entries are not the whole truth
//	other entries                any                     mbr; a GPT beside it is stale
//	no entries, no file system   primary or backup good  gpt, with a warning
//	no entries, file system      primary good            gpt, with a warning
//	no entries, file system      backup good             whole disk; the GPT is stale
//	no entries                   none                    whole disk
func scanDisk(d Disk) ([]Volume, Table) {
	s := &scanner{disk: d, table: Table{Disk: d.Name, Scheme: "none"}}
	vols, err := s.scan()
	if err != nil {
		s.table.Err, vols = err, nil
	}
	sort.SliceStable(vols, func(i, j int) bool { return vols[i].number < vols[j].number })
	out := make([]Volume, 0, len(vols))
	for _, v := range vols {
		out = append(out, v.Volume)
	}
	s.table.Warnings = s.warnings.list()
	return out, s.table
}

// scanner is the state of reading one disk's table.
type scanner struct {
	disk     Disk
	table    Table
	warnings warnings
}

// numbered is a volume with its partition number, 0 for a whole disk.
type numbered struct {
	Volume
	number int
}

func (s *scanner) scan() ([]numbered, error) {
	if s.disk.Size() < mbrSize {
		if s.disk.Size() == 0 {
			s.warnings.add("the disk has a size of 0 bytes")
			return nil, nil
		}
		return s.whole(), nil
	}
	sector, err := s.read(0, mbrSize)
	if err != nil {
		return nil, fmt.Errorf("reading the partition table: %w", err)
	}
	m := parseMBR(sector)
	sig := probe.Identify(s.disk)
	if m.describes(s.disk.Size(), sig) && !m.protective() {
		return s.mbr(m)
	}
	g, err := s.findGPT(m.protective(), sig)
	switch {
	case err != nil:
		return nil, err
	case g != nil:
		return s.gpt(g, m)
	}
	switch {
	case sig.Kind != probe.KindUnknown:
	case m.statuses():
		s.table.Scheme, s.table.SectorSize, s.table.ID = "mbr", mbrSize, m.id()
		s.warnings.add("the partition table has no usable partition; the disk is offered as a whole")
	case m.marked:
		s.warnings.add("sector 0 is marked as a boot sector, but holds neither a partition table nor a known file system; the disk is offered as a whole")
	}
	return s.whole(), nil
}

// whole offers the disk itself as its only volume.
func (s *scanner) whole() []numbered {
	return []numbered{{Volume: Volume{Disk: s.disk.Name, Name: Whole, Reader: s.disk.Reader}}}
}

// read returns n bytes at off, or an error that says where. n is bounded by the caller.
func (s *scanner) read(off int64, n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := extent.ReadFull(s.disk, b, off); err != nil {
		return nil, fmt.Errorf("disk %q, %d bytes at %d: %w", s.disk.Name, n, off, err)
	}
	return b, nil
}

// partition is a table entry in bytes, not yet known to lie inside the disk.
type partition struct {
	number          int
	start, size     int64
	label, id, kind string
}

// cut turns table entries into volumes. Entries outside the disk are left out with a warning;
// overlapping ones are kept with a warning, because the guest can read both.
func (s *scanner) cut(parts []partition, typeName func(string) string) []numbered {
	var vols []numbered
	for _, p := range parts {
		r, err := extent.Section(s.disk.Reader, p.start, p.size)
		if err != nil {
			s.warnings.add("partition %d (bytes %d to %d) reaches past the end of the disk (%d bytes) and is left out; is the image complete?",
				p.number, p.start, p.start+p.size, s.disk.Size())
			continue
		}
		vols = append(vols, numbered{Volume{Disk: s.disk.Name, Name: fmt.Sprintf("p%d", p.number), Label: p.label,
			UUID: p.id, Type: p.kind, TypeName: typeName(p.kind), Start: p.start, Reader: r}, p.number})
	}
	s.warnOverlaps(vols)
	return vols
}

// warnOverlaps compares each volume with the one before it that reaches furthest.
func (s *scanner) warnOverlaps(vols []numbered) {
	byStart := append([]numbered(nil), vols...)
	sort.Slice(byStart, func(i, j int) bool { return byStart[i].Start < byStart[j].Start })
	for i := 1; i < len(byStart); i++ {
		prev, v := byStart[i-1], byStart[i]
		if end := prev.Start + prev.Size(); v.Start < end {
			s.warnings.add("partitions %d and %d overlap; at least one of them holds foreign data", prev.number, v.number)
			if end > v.Start+v.Size() {
				byStart[i] = prev
			}
		}
	}
}

// maxWarnings bounds what one disk can make a person read.
const maxWarnings = 32

type warnings struct {
	first []string
	more  int
}

func (w *warnings) add(format string, args ...any) {
	if len(w.first) == maxWarnings {
		w.more++
		return
	}
	w.first = append(w.first, fmt.Sprintf(format, args...))
}

func (w *warnings) list() []string {
	if w.more > 0 {
		return append(w.first, fmt.Sprintf("and %d more warnings of this kind", w.more))
	}
	return w.first
}
