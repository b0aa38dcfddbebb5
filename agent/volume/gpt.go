package volume

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"unicode/utf16"

	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
	"vmfr/agent/probe"
)

// GUID partition table (UEFI specification, chapter 5), little endian. The primary header is
// in LBA 1 and names its entries (normally LBA 2) and the backup header (normally the last
// LBA), which has the same fields with its own position and entries:
//
//	0  "EFI PART"      24 this LBA           56 disk GUID           84 entry size
//	8  revision        32 the other header   72 LBA of the entries  88 CRC of the entries
//	12 header size     40 first usable LBA   80 number of entries
//	16 header CRC      48 last usable LBA
//
// An entry: 0 type GUID, 16 GUID, 32 first LBA, 40 last LBA, 48 flags, 56 name in UTF-16.
const (
	gptMark         = "EFI PART"
	gptRevision     = 1 // major
	gptMinHeader    = 92
	gptMinEntry     = 128
	maxGPTEntrySize = 4096 // a power of two times 128; nobody writes more than 128
	maxGPTEntries   = 1024 // 128 everywhere; 1024 x 4096 bytes bound the read to 4 MiB
)

// gptSectors are the sector sizes tried, in this order.
var gptSectors = [...]int64{512, 4096}

// gptTable is a header with its entries, both proven by their checksums.
type gptTable struct {
	sector           int64 // bytes
	lba, other       uint64
	firstUse, endUse uint64 // endUse is exclusive
	id               string
	entriesCRC       uint32
	entrySize        int
	entries          []byte
}

// errNoGPT: there is no header at that place at all, so nothing is damaged.
var errNoGPT = errors.New("no GPT header")

// findGPT returns the disk's table: the primary, or the backup where that is damaged. It
// returns nil where the disk has none, and fsys.ErrCorrupt where it had one.
func (s *scanner) findGPT(announced bool, sig probe.Signature) (*gptTable, error) {
	var damage error
	var candidates []gptPlace
	for _, sector := range gptSectors {
		g, other, err := s.readGPT(gptPlace{sector, 1})
		if err == nil {
			s.checkBackup(g)
			return g, nil
		}
		if !errors.Is(err, errNoGPT) && damage == nil {
			damage = fmt.Errorf("primary GPT: %w", err)
		}
		if other > 1 { // the primary's own word goes last: it is damaged
			candidates = append(candidates, gptPlace{sector, other})
		}
		if last := s.disk.Size()/sector - 1; last > 1 {
			candidates = append([]gptPlace{{sector, uint64(last)}}, candidates...)
		}
	}
	known := sig.Kind != probe.KindUnknown && sig.Kind != probe.KindEmpty
	if !announced && damage == nil && known {
		return nil, nil // a backup that outlived its disk's reformatting
	}
	for _, c := range candidates {
		g, _, err := s.readGPT(c)
		if err == nil {
			if damage == nil {
				damage = errors.New("primary GPT: its header is gone")
			}
			s.warnings.add("%v; the backup table at LBA %d is used", damage, c.lba)
			return g, nil
		}
		if !errors.Is(err, errNoGPT) {
			damage = errors.Join(damage, fmt.Errorf("backup GPT at LBA %d: %w", c.lba, err))
		}
	}
	if damage == nil && announced {
		damage = fsys.Corrupt("gpt", "header", 0, -1, "the MBR announces a GPT, but neither its primary nor its backup header exists")
	}
	if damage == nil || !announced && known {
		return nil, nil
	}
	return nil, fmt.Errorf("no usable copy of the partition table; repair a copy of the raw disk with gdisk or testdisk: %w", damage)
}

// gptPlace is where a header may be.
type gptPlace struct {
	sector int64
	lba    uint64
}

// readGPT reads and proves the header at p and its entries. With an error it still returns
// where the header says that the other one is, if it has a header's mark.
func (s *scanner) readGPT(p gptPlace) (g *gptTable, other uint64, err error) {
	off, _, ok := ondisk.Range(p.lba, 1, uint64(p.sector), s.disk.Size())
	if !ok {
		return nil, 0, errNoGPT
	}
	b, err := s.read(off, int(p.sector))
	if err != nil {
		return nil, 0, err
	}
	if string(b[:len(gptMark)]) != gptMark {
		return nil, 0, errNoGPT
	}
	v := ondisk.Little(b)
	other = v.U64(32)
	bad := func(structure, format string, args ...any) (*gptTable, uint64, error) {
		return nil, other, fsys.Corrupt("gpt", structure, 0, off, format, args...)
	}
	length := v.U32(12)
	if length < gptMinHeader || int64(length) > p.sector {
		return bad("header", "its length is %d bytes", length)
	}
	sum := crc32.NewIEEE()
	sum.Write(b[:16])
	sum.Write(make([]byte, 4)) // the checksum's own place counts as zeros
	sum.Write(b[20:length])
	if sum.Sum32() != v.U32(16) {
		return bad("header", "its checksum does not match")
	}
	if v.U32(8)>>16 != gptRevision {
		return nil, other, fmt.Errorf("%w: GPT revision %#x", fsys.ErrUnsupported, v.U32(8))
	}
	if v.U64(24) != p.lba {
		return bad("header", "it was written for LBA %d, but lies at LBA %d", v.U64(24), p.lba)
	}
	g = &gptTable{sector: p.sector, lba: p.lba, other: other, firstUse: v.U64(40), id: guid(v.Bytes(56, 16)), entriesCRC: v.U32(88)}
	count, size := v.U32(80), v.U32(84)
	if size < gptMinEntry || size > maxGPTEntrySize || size&(size-1) != 0 || count == 0 || count > maxGPTEntries {
		return bad("header", "it has %d entries of %d bytes", count, size)
	}
	if g.endUse, ok = ondisk.Add(v.U64(48), 1); !ok || g.firstUse > g.endUse {
		return bad("header", "its usable range is LBA %d to %d", g.firstUse, v.U64(48))
	}
	g.entrySize = int(size)
	from, ok := ondisk.Mul(v.U64(72), uint64(p.sector))
	if !ok || from < uint64(p.sector) {
		return bad("header", "its entries are at LBA %d", v.U64(72))
	}
	at, n, ok := ondisk.Range(from, uint64(count)*uint64(size), 1, s.disk.Size())
	if !ok {
		return bad("header", "its entries at LBA %d are outside the disk", v.U64(72))
	}
	if g.entries, err = s.read(at, int(n)); err != nil {
		return nil, other, err
	}
	if crc32.ChecksumIEEE(g.entries) != g.entriesCRC {
		return nil, other, fsys.Corrupt("gpt", "partition entries", 0, at, "their checksum does not match")
	}
	return g, other, nil
}

// checkBackup warns where the backup of a good primary is missing, damaged or different.
func (s *scanner) checkBackup(g *gptTable) {
	last := uint64(s.disk.Size()/g.sector) - 1
	switch {
	case g.other > last:
		s.warnings.add("the disk ends before its backup GPT at LBA %d: the image is %d bytes too short", g.other,
			max(0, int64(min(g.other+1, 1<<52))*g.sector-s.disk.Size()))
		return
	case g.other < last:
		s.warnings.add("the backup GPT is not at the end of the disk: the disk was enlarged after it was partitioned")
	}
	b, _, err := s.readGPT(gptPlace{g.sector, g.other})
	switch {
	case err != nil:
		s.warnings.add("the backup GPT at LBA %d is of no use: %v; the primary is intact and used", g.other, err)
	case b.id != g.id || b.entriesCRC != g.entriesCRC:
		s.warnings.add("the backup GPT at LBA %d differs from the primary, which is used", g.other)
	}
}

// gpt lists the partitions of a proven table.
func (s *scanner) gpt(g *gptTable, m mbr) ([]numbered, error) {
	s.table.Scheme, s.table.SectorSize, s.table.ID = "gpt", int(g.sector), g.id
	if !m.protective() {
		s.warnings.add("sector 0 has no protective MBR; the GPT is used all the same")
	}
	for _, e := range m.entries {
		if m.protective() && e.used() && e.kind != mbrProtective {
			s.warnings.add("a hybrid MBR repeats some partitions; the GPT is used")
			break
		}
	}
	var parts []partition
	for i := 0; i*g.entrySize < len(g.entries); i++ {
		v := ondisk.Little(g.entries[i*g.entrySize : (i+1)*g.entrySize])
		kind := guid(v.Bytes(0, 16))
		if kind == "" {
			continue
		}
		first, end := v.U64(32), v.U64(40)+1
		if end <= first { // also where the last LBA is the largest number
			s.warnings.add("partition %d ends (LBA %d) before it starts (LBA %d) and is left out", i+1, v.U64(40), first)
			continue
		}
		off, n, ok := ondisk.Range(first, end-first, uint64(g.sector), s.disk.Size())
		if !ok {
			s.warnings.add("partition %d (LBA %d to %d) reaches past the end of the disk (%d sectors) and is left out; is the image complete?",
				i+1, first, end-1, s.disk.Size()/g.sector)
			continue
		}
		if first < g.firstUse || end > g.endUse {
			s.warnings.add("partition %d (LBA %d to %d) leaves the usable range and may cover the table itself", i+1, first, end-1)
		}
		parts = append(parts, partition{number: i + 1, start: off, size: n, kind: kind,
			id: guid(v.Bytes(16, 16)), label: gptName(v.Bytes(56, 72))})
	}
	return s.cut(parts, gptTypeName), nil
}

// hasGPTMark tells whether a header, good or not, lies at LBA 1.
func (s *scanner) hasGPTMark() bool {
	for _, sector := range gptSectors {
		if _, _, err := s.readGPT(gptPlace{sector, 1}); !errors.Is(err, errNoGPT) {
			return true
		}
	}
	return false
}

// guid formats a GUID, whose first three fields are little endian; zeros give "".
func guid(b []byte) string {
	if len(b) != 16 || strings.Trim(string(b), "\x00") == "" {
		return ""
	}
	be := [16]byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]}
	copy(be[8:], b[8:])
	h := hex.EncodeToString(be[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// gptName decodes a name of up to 36 UTF-16 units, ended by a zero; unpaired surrogates become
// U+FFFD.
func gptName(b []byte) string {
	units := make([]uint16, 0, len(b)/2)
	for i := 0; i+1 < len(b); i += 2 {
		u := uint16(b[i]) | uint16(b[i+1])<<8
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}
