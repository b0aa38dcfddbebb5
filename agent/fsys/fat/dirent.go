package fat

import (
	"encoding/binary"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
)

// A directory is a list of entries of 32 bytes, ended by one that starts with a zero:
//
//	0  name, 8 bytes and 3   14 creation time   20 first cluster, high half (FAT32)   26 low half
//	11 attributes            16 creation date   22 time of the last change            28 size
//	12 case of the name      18 access date     24 its date
//	13 creation, 10 ms
//
// A long name precedes its entry in pieces of 13 UTF-16 units, the last piece first:
//
//	0  number, 0x40 added in the last   11 0x0F   13 checksum of the short name   28 two units
//	1  five units                       12 0      14 six units
const (
	entrySize = 32

	attrReadOnly = 0x01
	attrVolume   = 0x08
	attrDir      = 0x10
	attrLong     = 0x0f
	attrLongMask = 0x3f

	caseBase = 0x08 // the 8 characters are shown in lower case
	caseExt  = 0x10

	markEnd     = 0x00
	markDeleted = 0xe5
	markKanji   = 0x05 // stands for 0xE5 as the first character

	longLast   = 0x40
	maxPieces  = 20 // 255 units
	pieceUnits = 13
	maxUnits   = 255
)

// dirent is one decoded short entry.
type dirent struct {
	name    [11]byte
	attr    uint8
	lcase   uint8
	cluster uint32
	size    uint32

	mtime, mdate, adate, ctime, cdate uint16
	centis                            uint8
}

// decodeDirent decodes an entry of entrySize bytes.
func (g *geometry) decodeDirent(b []byte) dirent {
	le := binary.LittleEndian
	d := dirent{attr: b[11], lcase: b[12], centis: b[13], ctime: le.Uint16(b[14:]), cdate: le.Uint16(b[16:]), adate: le.Uint16(b[18:]),
		cluster: uint32(le.Uint16(b[26:])), mtime: le.Uint16(b[22:]), mdate: le.Uint16(b[24:]), size: le.Uint32(b[28:])}
	copy(d.name[:], b)
	if g.bits == 32 {
		d.cluster |= uint32(le.Uint16(b[20:])) << 16
	}
	return d
}

// isObject tells whether the entry is a file or a directory.
func (d *dirent) isObject() bool {
	return d.name[0] != markEnd && d.name[0] != markDeleted && d.attr&attrVolume == 0
}

func (d *dirent) isDir() bool { return d.attr&attrDir != 0 }

// isDot tells whether the entry is "." or "..".
func (d *dirent) isDot() bool {
	return string(d.name[:]) == ".          " || string(d.name[:]) == "..         "
}

// checksum is what the pieces of the long name carry.
func (d *dirent) checksum() uint8 {
	sum := uint8(0)
	for _, c := range d.name {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}

// shortName is the 8.3 name as Windows shows it where there is no long one.
func (d *dirent) shortName(page *charmap.Charmap) string {
	name := d.name
	if name[0] == markKanji {
		name[0] = markDeleted
	}
	var b strings.Builder
	part := func(p []byte, lower bool) {
		for len(p) > 0 && p[len(p)-1] == ' ' {
			p = p[:len(p)-1]
		}
		for _, c := range p {
			r := page.DecodeByte(c)
			if lower {
				r = unicode.ToLower(r)
			}
			b.WriteRune(r)
		}
	}
	part(name[:8], d.lcase&caseBase != 0)
	if string(name[8:]) != "   " {
		b.WriteByte('.')
		part(name[8:], d.lcase&caseExt != 0)
	}
	return b.String()
}

// longName collects the pieces of a long name.
type longName struct {
	units [maxPieces * pieceUnits]uint16
	total int // pieces; 0: nothing collected
	next  int // number of the piece that must follow, 0: complete
	sum   uint8
}

// add takes a piece. One out of order starts anew or is forgotten, as an orphan is.
func (l *longName) add(b []byte) {
	n := int(b[0] &^ longLast)
	if b[0] == markDeleted || n == 0 || n > maxPieces {
		l.total = 0
		return
	}
	switch {
	case b[0]&longLast != 0:
		l.total, l.next, l.sum = n, n, b[13]
	case l.total == 0 || n != l.next || b[13] != l.sum:
		l.total = 0
		return
	}
	l.next = n - 1
	u := l.units[(n-1)*pieceUnits:]
	for i := range pieceUnits {
		at := 1 + 2*i
		if i >= 5 {
			at = 14 + 2*(i-5)
		}
		if i >= 11 {
			at = 28 + 2*(i-11)
		}
		u[i] = binary.LittleEndian.Uint16(b[at:])
	}
}

// take returns the collected name if it belongs to d, else "", and forgets it.
func (l *longName) take(d *dirent) string {
	total := l.total
	l.total = 0
	if total == 0 || l.next != 0 || l.sum != d.checksum() {
		return ""
	}
	units := l.units[:total*pieceUnits]
	for i, u := range units {
		if u == 0 {
			units = units[:i]
			break
		}
	}
	if len(units) > maxUnits {
		return ""
	}
	return decodeUTF16(units)
}

// decodeUTF16 converts to UTF-8. An unpaired surrogate, which the format allows, becomes the
// three bytes that it would have as a character (WTF-8), so that no two names become one.
func decodeUTF16(units []uint16) string {
	b := make([]byte, 0, len(units)+8)
	for i := 0; i < len(units); i++ {
		r := rune(units[i])
		if utf16.IsSurrogate(r) && i+1 < len(units) {
			if pair := utf16.DecodeRune(r, rune(units[i+1])); pair != unicode.ReplacementChar {
				b = utf8.AppendRune(b, pair)
				i++
				continue
			}
		}
		if utf16.IsSurrogate(r) {
			b = append(b, 0xe0|byte(r>>12), 0x80|byte(r>>6)&0xbf, 0x80|byte(r)&0x3f)
			continue
		}
		b = utf8.AppendRune(b, r)
	}
	return string(b)
}

// presentable tells whether a name can be shown: not "." or "..", no slash, no zero.
func presentable(name string) bool {
	return name != "" && name != "." && name != ".." && strings.IndexByte(name, '/') < 0 && strings.IndexByte(name, 0) < 0
}

// fold brings names that differ in case only together, as Windows' table of capitals does.
func fold(name string) string { return strings.Map(unicode.ToUpper, name) }

// when converts a date (7 bits year since 1980, 4 month, 5 day) and time (5 bits hour, 6
// minute, 5 two seconds). Fields out of range are brought into it; so a date of 0 is
// 1980-01-01, as in the kernel.
func when(date, clock uint16, centis uint8) time.Time {
	year, month, day := 1980+int(date>>9), min(max(int(date>>5&0xf), 1), 12), max(int(date&0x1f), 1)
	if last := time.Date(year, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day(); day > last {
		day = last
	}
	hour, minute, second := min(int(clock>>11), 23), min(int(clock>>5&0x3f), 59), min(2*int(clock&0x1f), 59)
	nsec := min(int(centis), 199) * int(10*time.Millisecond)
	return time.Date(year, time.Month(month), day, hour, minute, second, nsec, time.UTC)
}
