// Package sddl writes Windows security descriptors as people know them: SIDs and the security
// descriptor definition language.
//
// Source: [MS-DTYP], sections 2.4.2 (SID), 2.4.4 (ACE), 2.4.5 (ACL), 2.4.6 (SECURITY_DESCRIPTOR)
// and 2.5.1 (SDDL). Non-goals: no names of a domain's accounts, which only the domain knows; no
// conditions of callback entries and no claims, which are shown as bytes. Invariants: the input is
// a stranger's: every length is checked, and the text is at most maxRatio times as long as it.
package sddl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Descriptor is a security descriptor in words. Owner and Group are SIDs; empty: there is none.
type Descriptor struct {
	Owner, Group string
	SDDL         string
}

// maxRatio: the shortest entry has 16 bytes and is written in fewer than 16 times that.
const maxRatio = 16

var errShort = errors.New("security descriptor: it ends early")

var le = binary.LittleEndian

// Control bits of a descriptor.
const (
	daclPresent, saclPresent           = 0x0004, 0x0010
	daclAutoReq, saclAutoReq           = 0x0100, 0x0200
	daclInherited, saclInherited       = 0x0400, 0x0800
	daclProtected, saclProtected       = 0x1000, 0x2000
	selfRelative                       = 0x8000
	descriptorHeader, aclHeader, aceID = 20, 8, 4
)

// Parse decodes a self-relative descriptor:
//
//	0          2             4           8           12         16         20
//	| rev | 0  | control     | owner at  | group at  | SACL at  | DACL at  |
func Parse(b []byte) (d Descriptor, err error) {
	if len(b) < descriptorHeader {
		return d, errShort
	}
	control := le.Uint16(b[2:])
	if b[0] != 1 || control&selfRelative == 0 {
		return d, fmt.Errorf("security descriptor: revision %d, control %#04x", b[0], control)
	}
	var text strings.Builder
	for _, part := range []struct {
		at   int
		mark string
		to   *string
	}{{4, "O:", &d.Owner}, {8, "G:", &d.Group}} {
		p, ok, err := piece(b, part.at)
		if err == nil && ok {
			*part.to, _, err = sid(p)
		}
		if err != nil {
			return Descriptor{}, err
		}
		if ok {
			text.WriteString(part.mark + short(*part.to))
		}
	}
	for _, part := range []struct {
		at                           int
		mark                         string
		present, prot, req, inherits uint16
	}{{16, "D:", daclPresent, daclProtected, daclAutoReq, daclInherited}, {12, "S:", saclPresent, saclProtected, saclAutoReq, saclInherited}} {
		if control&part.present == 0 {
			continue
		}
		text.WriteString(part.mark)
		for _, flag := range []struct {
			bit  uint16
			name string
		}{{part.prot, "P"}, {part.req, "AR"}, {part.inherits, "AI"}} {
			if control&flag.bit != 0 {
				text.WriteString(flag.name)
			}
		}
		p, ok, err := piece(b, part.at)
		if err == nil && ok {
			err = acl(&text, p)
		}
		if err != nil {
			return Descriptor{}, err
		}
		if !ok { // a list that is there and is none: nothing is forbidden
			text.WriteString("NO_ACCESS_CONTROL")
		}
	}
	d.SDDL = text.String()
	return d, nil
}

// piece is the rest of b from the offset that is at byte at of its header; false: there is none.
func piece(b []byte, at int) ([]byte, bool, error) {
	off := le.Uint32(b[at:])
	switch {
	case off == 0:
		return nil, false, nil
	case off < descriptorHeader || uint64(off) > uint64(len(b)):
		return nil, false, errShort
	}
	return b[off:], true, nil
}

// sid decodes the SID that b begins with, and returns its length:
//
//	0      1       2                       8
//	| rev  | count | authority (big-endian) | count sub-authorities of 4 bytes
func sid(b []byte) (string, int, error) {
	if len(b) < 8 {
		return "", 0, errShort
	}
	n := 8 + 4*int(b[1])
	if b[0] != 1 || b[1] > 15 {
		return "", 0, fmt.Errorf("security descriptor: SID of revision %d with %d parts", b[0], b[1])
	}
	if len(b) < n {
		return "", 0, errShort
	}
	authority := uint64(binary.BigEndian.Uint16(b[2:]))<<32 | uint64(binary.BigEndian.Uint32(b[4:]))
	var text strings.Builder
	if authority>>32 != 0 {
		fmt.Fprintf(&text, "S-1-0x%X", authority)
	} else {
		fmt.Fprintf(&text, "S-1-%d", authority)
	}
	for at := 8; at < n; at += 4 {
		fmt.Fprintf(&text, "-%d", le.Uint32(b[at:]))
	}
	return text.String(), n, nil
}

// acl writes a list:
//
//	0             2      4       6      8
//	| rev | 0     | size | count | 0    | entries, each: type u8, flags u8, size u16, ...
func acl(text *strings.Builder, b []byte) error {
	if len(b) < aclHeader {
		return errShort
	}
	size, count := int(le.Uint16(b[2:])), int(le.Uint16(b[4:]))
	if size < aclHeader || size > len(b) {
		return errShort
	}
	b = b[aclHeader:size]
	for range count {
		if len(b) < aceID {
			return errShort
		}
		n := int(le.Uint16(b[2:]))
		if n < aceID || n > len(b) {
			return errShort
		}
		ace(text, b[0], b[1], b[aceID:n])
		b = b[n:]
	}
	return nil
}

// Flags of an entry, in the order in which Windows writes them.
var aceFlags = []struct {
	bit  byte
	name string
}{{0x01, "OI"}, {0x02, "CI"}, {0x04, "NP"}, {0x08, "IO"}, {0x10, "ID"}, {0x40, "SA"}, {0x80, "FA"}, {0x20, "CR"}}

// aceTypes are the entries that are a mask and a SID; with objects two GUIDs may stand between.
var aceTypes = map[byte]struct {
	name   string
	object bool
}{
	0x00: {"A", false}, 0x01: {"D", false}, 0x02: {"AU", false}, 0x03: {"AL", false},
	0x05: {"OA", true}, 0x06: {"OD", true}, 0x07: {"OU", true}, 0x08: {"OL", true},
	0x11: {"ML", false}, 0x13: {"SP", false}, 0x14: {"TL", false},
}

// ace writes an entry. What is not understood is written as its type and bytes, which is no SDDL
// any more, but hides nothing.
func ace(text *strings.Builder, kind, flags byte, b []byte) {
	var names strings.Builder
	for _, f := range aceFlags {
		if flags&f.bit != 0 {
			names.WriteString(f.name)
		}
	}
	t, known := aceTypes[kind]
	if known && len(b) >= 4 {
		mask, rest := le.Uint32(b), b[4:]
		var guids [2]string
		ok := true
		if t.object {
			rest, ok = objects(rest, &guids)
		}
		if ok {
			if who, n, err := sid(rest); err == nil && len(rest)-n < 4 { // but for padding nothing follows
				fmt.Fprintf(text, "(%s;%s;%s;%s;%s;%s)", t.name, names.String(), rights(kind, mask), guids[0], guids[1], short(who))
				return
			}
		}
	}
	fmt.Fprintf(text, "(%#02x;%s;%x)", kind, names.String(), b)
}

// objects takes the flags and GUIDs of an object entry off b.
func objects(b []byte, guids *[2]string) ([]byte, bool) {
	if len(b) < 4 {
		return nil, false
	}
	present := le.Uint32(b)
	b = b[4:]
	for i := range guids {
		if present&(1<<i) == 0 {
			continue
		}
		if len(b) < 16 {
			return nil, false
		}
		guids[i] = fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
		b = b[16:]
	}
	return b, true
}

// Rights of files that have a name of their own, and those that are a bit, from the lowest.
var (
	fileRights = map[uint32]string{0x1f01ff: "FA", 0x120089: "FR", 0x120116: "FW", 0x1200a0: "FX"}
	bitRights  = []struct {
		bit  uint32
		name string
	}{
		{0x1, "CC"}, {0x2, "DC"}, {0x4, "LC"}, {0x8, "SW"}, {0x10, "RP"}, {0x20, "WP"}, {0x40, "DT"}, {0x80, "LO"}, {0x100, "CR"},
		{0x10000, "SD"}, {0x20000, "RC"}, {0x40000, "WD"}, {0x80000, "WO"},
		{0x10000000, "GA"}, {0x20000000, "GX"}, {0x40000000, "GW"}, {0x80000000, "GR"},
	}
	labelRights = []string{"NW", "NR", "NX"} // of a mandatory label
)

// rights writes a mask as Windows does: by name, by the names of its bits, or as a number where a
// bit has none.
func rights(kind byte, mask uint32) string {
	if kind == 0x11 {
		text := ""
		for i, name := range labelRights {
			if mask&(1<<i) != 0 {
				text += name
			}
		}
		if mask>>len(labelRights) == 0 {
			return text
		}
	}
	if name, ok := fileRights[mask]; ok {
		return name
	}
	text, left := "", mask
	for _, r := range bitRights {
		if mask&r.bit != 0 {
			text, left = text+r.name, left&^r.bit
		}
	}
	if left != 0 || mask == 0 {
		return fmt.Sprintf("%#x", mask)
	}
	return text
}
