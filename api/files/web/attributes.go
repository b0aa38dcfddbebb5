package web

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"
)

// attribute is an extended attribute for people.
type attribute struct {
	Name  string
	Value string
	Kind  string // "acl", "text", "hex"
	Size  int
	Cut   bool
}

// maxAttribute is how much of a value is shown, in bytes.
const maxAttribute = 1024

func attributes(xs map[string][]byte) []attribute {
	var out []attribute
	for n, v := range xs {
		a := attribute{Name: n, Size: len(v)}
		if acl, ok := posixACL(v); ok && strings.HasPrefix(n, "system.posix_acl_") {
			a.Value, a.Kind = acl, "acl"
		} else {
			if len(v) > maxAttribute {
				v, a.Cut = v[:maxAttribute], true
			}
			text := strings.TrimSuffix(string(v), "\x00")
			if utf8.ValidString(text) && controls([]byte(text)) == 0 {
				a.Value, a.Kind = text, "text"
			} else {
				a.Value, a.Kind = hex.EncodeToString(v), "hex"
			}
		}
		out = append(out, a)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// posixACL writes the value of system.posix_acl_* as getfacl -n does. Its form is linux/posix_acl_xattr.h's,
// little-endian:
//
//	0           4
//	| version 2 | { tag u16, permissions u16, id u32 } ...
func posixACL(v []byte) (string, bool) {
	if len(v) < 4 || len(v)%8 != 4 || binary.LittleEndian.Uint32(v) != 2 {
		return "", false
	}
	var lines []string
	for e := v[4:]; len(e) > 0; e = e[8:] {
		tag, perm, id := binary.LittleEndian.Uint16(e), binary.LittleEndian.Uint16(e[2:]), binary.LittleEndian.Uint32(e[4:])
		var who string
		switch tag {
		case 0x01:
			who = "user:"
		case 0x02:
			who = fmt.Sprintf("user:%d", id)
		case 0x04:
			who = "group:"
		case 0x08:
			who = fmt.Sprintf("group:%d", id)
		case 0x10:
			who = "mask:"
		case 0x20:
			who = "other:"
		default:
			return "", false
		}
		bits := []byte("rwx")
		for i := range bits {
			if perm>>(2-i)&1 == 0 {
				bits[i] = '-'
			}
		}
		lines = append(lines, who+":"+string(bits))
	}
	return strings.Join(lines, "\n"), true
}
