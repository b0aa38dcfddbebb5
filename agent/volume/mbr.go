package volume

import (
	"fmt"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
	"vmfr/agent/probe"
)

// Master boot record, sector 0, little endian:
//
//	0      boot code
//	440    disk signature, 4 bytes
//	446    four entries of 16 bytes: status(1) chs(3) type(1) chs(3) start(4) sectors(4)
//	510    55 AA
//
// An extended partition holds a chain of extended boot records of the same layout: the data
// entries' starts count from the record itself, the link's from the extended partition.
const (
	mbrSize       = 512
	mbrSignature  = 440
	mbrEntries    = 446
	mbrEntrySize  = 16
	mbrEntryCount = 4

	mbrProtective    = 0xee
	mbrFirstLogical  = 5   // numbers 1 to 4 belong to the primary entries
	maxLogical       = 256 // logical partitions; Linux stops at 255 minors of a disk
	maxExtendedSteps = 2 * maxLogical
)

// mbr is a decoded master or extended boot record.
type mbr struct {
	marked    bool // ends with 55 AA
	signature uint32
	entries   [mbrEntryCount]mbrEntry
}

type mbrEntry struct {
	status, kind   uint8
	start, sectors uint32
}

func parseMBR(sector []byte) mbr {
	v := ondisk.Little(sector)
	m := mbr{marked: v.U16(510) == 0xaa55, signature: v.U32(mbrSignature)}
	for i := range m.entries {
		at := mbrEntries + i*mbrEntrySize
		m.entries[i] = mbrEntry{status: v.U8(at), kind: v.U8(at + 4), start: v.U32(at + 8), sectors: v.U32(at + 12)}
	}
	return m
}

func (m mbr) id() string { return fmt.Sprintf("%08x", m.signature) }

func (e mbrEntry) used() bool     { return e.kind != 0 && e.sectors != 0 }
func (e mbrEntry) extended() bool { return e.kind == 0x05 || e.kind == 0x0f || e.kind == 0x85 }

// statuses tells whether every entry's status byte is one that a partitioning tool writes.
// Boot code or text in the place of a table hardly ever passes.
func (m mbr) statuses() bool {
	for _, e := range m.entries {
		if e.status != 0 && e.status != 0x80 {
			return false
		}
	}
	return m.marked
}

// protective tells whether the table says "this disk is GPT".
func (m mbr) protective() bool {
	for _, e := range m.entries {
		if m.marked && e.kind == mbrProtective {
			return true
		}
	}
	return false
}

// describes tells whether the sector is a partition table with entries, rather than the boot
// sector of a file system on the whole disk. With a file system's signature beside it, the
// entries must be flawless; without one, a single entry that starts on the disk is enough, so
// that a truncated image is reported as what it is.
func (m mbr) describes(size int64, sig probe.Signature) bool {
	if !m.statuses() {
		return false
	}
	flawless, some := true, false
	limit := uint64(size) / mbrSize
	for i, e := range m.entries {
		if !e.used() {
			continue
		}
		end := uint64(e.start) + uint64(e.sectors)
		ok := e.start > 0 && end <= limit
		for _, o := range m.entries[:i] {
			if o.used() && uint64(e.start) < uint64(o.start)+uint64(o.sectors) && uint64(o.start) < end {
				ok = false
			}
		}
		flawless = flawless && ok
		some = some || e.start > 0 && uint64(e.start) < limit
	}
	if sig.Kind == probe.KindUnknown || sig.Kind == probe.KindEmpty {
		return some
	}
	return some && flawless
}

// mbr reads the primary and logical partitions.
func (s *scanner) mbr(m mbr) ([]numbered, error) {
	s.table.Scheme, s.table.ID = "mbr", m.id()
	unit := s.mbrUnit(m)
	s.table.SectorSize = int(unit)
	if s.hasGPTMark() {
		s.warnings.add("the disk also has a GPT that its MBR does not announce; it is taken as a leftover of an earlier use")
	}
	var parts []partition
	next := mbrFirstLogical
	for i, e := range m.entries {
		switch {
		case !e.used():
		case e.extended():
			logical, err := s.logical(m, e, unit, next)
			if err != nil {
				s.warnings.add("logical partitions after number %d may be missing: %v", next+len(logical)-1, err)
			}
			parts = append(parts, logical...)
			next += len(logical)
		case e.start == 0:
			s.warnings.add("partition %d covers the partition table itself and is left out", i+1)
		default:
			parts = append(parts, m.partition(i+1, int64(e.start)*unit, e, unit))
		}
	}
	return s.cut(parts, mbrTypeName), nil
}

// partition converts an entry whose partition starts at byte start. 32-bit sectors of at most
// 4096 bytes cannot overflow an int64.
func (m mbr) partition(number int, start int64, e mbrEntry, unit int64) partition {
	p := partition{number: number, start: start, size: int64(e.sectors) * unit, kind: fmt.Sprintf("0x%02x", e.kind)}
	if m.signature != 0 {
		p.id = fmt.Sprintf("%08x-%02x", m.signature, number)
	}
	return p
}

// logical walks the chain of extended boot records in ext, numbering from first on, and
// returns what it found before an error. Links may point anywhere inside the extended
// partition, also backwards, so a set of visited records ends a loop.
func (s *scanner) logical(m mbr, ext mbrEntry, unit int64, first int) ([]partition, error) {
	base, end := int64(ext.start)*unit, (int64(ext.start)+int64(ext.sectors))*unit
	var parts []partition
	seen := make(map[int64]bool)
	budget := ondisk.NewBudget("chain of extended boot records", maxExtendedSteps)
	for at := base; ; {
		if err := budget.Spend(1); err != nil {
			return parts, err
		}
		if seen[at] {
			return parts, fsys.Corrupt("mbr", "extended boot record", 0, at, "the chain returns to it")
		}
		seen[at] = true
		sector, err := s.read(at, mbrSize)
		if err != nil {
			return parts, err
		}
		rec := parseMBR(sector)
		if !rec.marked {
			return parts, fsys.Corrupt("mbr", "extended boot record", 0, at, "it does not end with 55AA")
		}
		link := int64(-1)
		for i, e := range rec.entries {
			start := at + int64(e.start)*unit
			switch {
			case !e.used():
			case e.extended():
				if link < 0 {
					link = base + int64(e.start)*unit
				}
			case i >= 2 && (start < base || start+int64(e.sectors)*unit > end):
				// The last two entries are unused by definition; like the kernel,
				// take them only where they make sense.
			case len(parts) == maxLogical:
				return parts, fmt.Errorf("more than %d logical partitions", maxLogical)
			default:
				parts = append(parts, m.partition(first+len(parts), start, e, unit))
			}
		}
		if link < 0 {
			return parts, nil
		}
		if link < base || link >= end {
			return parts, fsys.Corrupt("mbr", "extended boot record", 0, at, "its link leaves the extended partition")
		}
		at = link
	}
}

// mbrUnit is the sector size that the table counts in. The table does not record it: it is
// 512 unless nothing recognizable starts at any partition then, while something does when the
// same numbers are read as sectors of 4096 bytes.
func (s *scanner) mbrUnit(m mbr) int64 {
	known := func(unit int64) (inside, found bool) {
		inside = true
		for _, e := range m.entries {
			if !e.used() || e.start == 0 {
				continue
			}
			r, err := extent.Section(s.disk.Reader, int64(e.start)*unit, int64(e.sectors)*unit)
			if err != nil {
				inside = false
				continue
			}
			if e.extended() {
				b, err := s.read(int64(e.start)*unit, mbrSize)
				found = found || err == nil && parseMBR(b).statuses()
				continue
			}
			sig := probe.Identify(r)
			found = found || sig.Kind != probe.KindUnknown && sig.Kind != probe.KindEmpty
		}
		return inside, found
	}
	if _, found := known(mbrSize); found {
		return mbrSize
	}
	if inside, found := known(4096); inside && found {
		s.warnings.add("the partition table counts in sectors of 4096 bytes")
		return 4096
	}
	return mbrSize
}
