package volume

import (
	"fmt"
	"hash/crc32"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// An LVM2 physical volume (lvm2's lib/label/label.h and lib/format_text/layout.h), little
// endian. The label lies in one of the first four sectors, normally the second, whatever the
// sector size of the disk:
//
//	0  "LABELONE"      16 CRC of bytes 20 to 512    24 "LVM2 001"
//	8  its own sector  20 offset of the PV header, normally 32
//
// The PV header: 0 UUID (32 characters), 32 size of the device in bytes, 40 two lists of
// (offset, size), each ended by zeros: the data areas, then the metadata areas. What follows
// (version, flags, boot loader areas) is of no use to a reader.
//
// A metadata area starts with a header of one sector; the rest is a ring buffer of texts:
//
//	0  CRC of bytes 4 to 512   20 version 1      32 size of the area, header included
//	4  magic                   24 its own place  40 (offset in the area, size, CRC, flags) of
//	                                                the text in force; others follow
const (
	lvmSector       = 512
	lvmLabelSectors = 4
	lvmLabelMark    = "LABELONE"
	lvmLabelType    = "LVM2 001"
	lvmAreaMagic    = "\x20LVM2\x20x[5A%r0N*>"
	lvmAreaVersion  = 1
	lvmAreaIgnored  = 1 // flag of a text's place: the area holds nothing of worth
	lvmUUIDSize     = 32

	// maxLVMText bounds one text: 1 MiB areas are the default, 16 MiB describe about 30,000
	// logical volumes.
	maxLVMText = 16 << 20
)

// lvmCRC is CRC-32 with LVM's own start value and without the final inversion.
func lvmCRC(b []byte, more ...[]byte) uint32 {
	const start = 0xf597a6cf
	sum := crc32.Update(^uint32(start), crc32.IEEETable, b)
	for _, m := range more {
		sum = crc32.Update(sum, crc32.IEEETable, m)
	}
	return ^sum
}

// lvmLabel is a proven label with its PV header.
type lvmLabel struct {
	uuid  string // as LVM prints it
	size  uint64 // of the device when it became a physical volume, in bytes
	areas []lvmArea
}

// lvmArea is where a metadata area lies on the physical volume, in bytes.
type lvmArea struct{ off, size uint64 }

// readLVMLabel returns the label of r, nil where it has none. An error that wraps
// fsys.ErrCorrupt: there is only a damaged one.
func readLVMLabel(r extent.Reader) (*lvmLabel, error) {
	head := make([]byte, min(lvmLabelSectors*lvmSector, r.Size()))
	if _, err := extent.ReadFull(r, head, 0); err != nil {
		return nil, fmt.Errorf("reading the first %d bytes: %w", len(head), err)
	}
	var damage error
	for at := 0; at+lvmSector <= len(head); at += lvmSector {
		sector := head[at : at+lvmSector]
		if string(sector[:8]) != lvmLabelMark || string(sector[24:32]) != lvmLabelType {
			continue
		}
		l, err := parseLVMLabel(sector, int64(at))
		if err == nil {
			return l, nil
		}
		if damage == nil {
			damage = err
		}
	}
	return nil, damage
}

func parseLVMLabel(sector []byte, at int64) (*lvmLabel, error) {
	bad := func(format string, args ...any) (*lvmLabel, error) {
		return nil, fsys.Corrupt("lvm2", "label", 0, at, format, args...)
	}
	v := ondisk.Little(sector)
	if lvmCRC(sector[20:]) != v.U32(16) {
		return bad("its checksum does not match")
	}
	if v.U64(8) != uint64(at/lvmSector) {
		return bad("it was written for sector %d", v.U64(8))
	}
	if v.U32(20) < 32 || v.U32(20) > lvmSector {
		return bad("its header is at byte %d", v.U32(20))
	}
	in := int(v.U32(20))
	l := &lvmLabel{size: v.U64(in + lvmUUIDSize)}
	var ok bool
	if l.uuid, ok = lvmUUID(string(v.Bytes(in, lvmUUIDSize))); !ok {
		return bad("its UUID is %q", v.Bytes(in, lvmUUIDSize))
	}
	in += lvmUUIDSize + 8
	for lists := 0; lists < 2 && v.Err() == nil; in += 16 {
		a := lvmArea{v.U64(in), v.U64(in + 8)}
		switch {
		case a.off == 0:
			lists++
		case lists == 1:
			l.areas = append(l.areas, a)
		}
	}
	if err := v.Err(); err != nil {
		return bad("its lists of areas have no end")
	}
	return l, nil
}

// lvmUUID groups 32 characters as LVM prints them: 6-4-4-4-4-4-6.
func lvmUUID(s string) (string, bool) {
	if len(s) != lvmUUIDSize {
		return "", false
	}
	for _, c := range []byte(s) {
		if !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '!' || c == '#') {
			return "", false
		}
	}
	out := s[:6]
	for i := 6; i < 26; i += 4 {
		out += "-" + s[i:i+4]
	}
	return out + "-" + s[26:], true
}

// readLVMText returns the text in force of a metadata area, nil where the area holds none.
func readLVMText(r extent.Reader, a lvmArea, budget *ondisk.Budget) ([]byte, error) {
	bad := func(structure string, format string, args ...any) ([]byte, error) {
		return nil, fsys.Corrupt("lvm2", structure, 0, int64(min(a.off, 1<<62)), format, args...)
	}
	off, _, ok := ondisk.Range(a.off, lvmSector, 1, r.Size())
	if !ok || a.size < lvmSector {
		return bad("metadata area", "it has %d bytes and the volume ends at byte %d", a.size, r.Size())
	}
	header := make([]byte, lvmSector)
	if _, err := extent.ReadFull(r, header, off); err != nil {
		return nil, fmt.Errorf("lvm2: metadata area at byte %d: %w", off, err)
	}
	v := ondisk.Little(header)
	size := v.U64(32)
	switch {
	case lvmCRC(header[4:]) != v.U32(0):
		return bad("metadata area", "the checksum of its header does not match")
	case string(header[4:20]) != lvmAreaMagic:
		return bad("metadata area", "its magic is %q", header[4:20])
	case v.U32(20) != lvmAreaVersion:
		return nil, fmt.Errorf("%w: version %d of LVM metadata areas", fsys.ErrUnsupported, v.U32(20))
	case v.U64(24) != a.off:
		return bad("metadata area", "it was written for byte %d", v.U64(24))
	}
	if _, _, ok := ondisk.Range(a.off, size, 1, r.Size()); !ok || size <= lvmSector {
		return bad("metadata area", "it has %d bytes and the volume ends at byte %d", size, r.Size())
	}
	in, n, sum, flags := v.U64(40), v.U64(48), v.U32(56), v.U32(60)
	if in == 0 || flags&lvmAreaIgnored != 0 {
		return nil, nil
	}
	if in < lvmSector || in >= size || n == 0 || n > size-lvmSector {
		return bad("metadata text", "it has %d bytes from byte %d of an area of %d", n, in, size)
	}
	if n > maxLVMText {
		return nil, fmt.Errorf("%w: LVM metadata of %d bytes (at most %d)", fsys.ErrUnsupported, n, maxLVMText)
	}
	if err := budget.Spend(int64(n)); err != nil {
		return nil, fmt.Errorf("%w: %w", fsys.ErrUnsupported, err)
	}
	// The text goes on behind the header where it meets the end of the area.
	text := make([]byte, n)
	first := min(n, size-in)
	if _, err := extent.ReadFull(r, text[:first], int64(a.off+in)); err != nil {
		return nil, fmt.Errorf("lvm2: metadata text at byte %d: %w", a.off+in, err)
	}
	if _, err := extent.ReadFull(r, text[first:], int64(a.off+lvmSector)); err != nil {
		return nil, fmt.Errorf("lvm2: metadata text at byte %d: %w", a.off+lvmSector, err)
	}
	if lvmCRC(text) != sum {
		return bad("metadata text", "its checksum does not match")
	}
	return text, nil
}
