package ntfs

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"vmfr/agent/fsys"
)

// maxName is the longest name in UTF-16 units.
const maxName = 255

// decodeName returns a name, UTF-16 little-endian, as UTF-8. Half of a surrogate pair, which
// NTFS does not mind, becomes the three bytes that its number would have (WTF-8), as ntfs-3g
// does; so different names stay different and encodeName finds the way back.
func decodeName(b []byte) string {
	le := binary.LittleEndian
	out := make([]byte, 0, len(b)+len(b)/4)
	for i := 0; i+1 < len(b); i += 2 {
		u := rune(le.Uint16(b[i:]))
		switch {
		case u < utf8.RuneSelf:
			out = append(out, byte(u))
		case u < surrogateMin || u > surrogateMax:
			out = utf8.AppendRune(out, u)
		default:
			if u < lowSurrogate && i+3 < len(b) {
				if v := rune(le.Uint16(b[i+2:])); v >= lowSurrogate && v <= surrogateMax {
					out = utf8.AppendRune(out, 0x10000+(u-surrogateMin)<<10+(v-lowSurrogate))
					i += 2
					continue
				}
			}
			out = append(out, 0xE0|byte(u>>12), 0x80|byte(u>>6)&0x3F, 0x80|byte(u)&0x3F)
		}
	}
	return string(out)
}

const (
	surrogateMin = 0xD800
	lowSurrogate = 0xDC00
	surrogateMax = 0xDFFF
)

// encodeName is the inverse of decodeName: false where no name is shown as s.
func encodeName(s string) ([]uint16, bool) {
	if len(s) == 0 || len(s) > 3*maxName {
		return nil, false
	}
	out := make([]uint16, 0, len(s))
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			if i+2 >= len(s) || s[i] != 0xED || s[i+1]&0xE0 != 0xA0 || s[i+2]&0xC0 != 0x80 {
				return nil, false
			}
			r, n = 0xD000|rune(s[i+1]&0x3F)<<6|rune(s[i+2]&0x3F), 3
			// Two halves that belong together are shown as one rune.
			if k := len(out); r >= lowSurrogate && k > 0 && out[k-1] >= surrogateMin && out[k-1] < lowSurrogate {
				return nil, false
			}
			out = append(out, uint16(r))
		} else if r > 0xFFFF {
			r -= 0x10000
			out = append(out, uint16(surrogateMin+r>>10), uint16(lowSurrogate+r&0x3FF))
		} else {
			out = append(out, uint16(r))
		}
		i += n
	}
	return out, len(out) <= maxName
}

// upcase is the volume's table of upper case, $UpCase: the order of its indexes depends on it.
// Units behind its end are their own upper case.
type upcase []uint16

// maxUpcase is the table's size in bytes: one unit for each of 65,536.
const maxUpcase = 128 << 10

const upcaseRecord = 10

func (f *FS) readUpcase() (*upcase, error) {
	n, err := f.object(upcaseRecord)
	if err != nil {
		return nil, err
	}
	b, err := n.value(typeData, maxUpcase)
	if err != nil {
		return nil, err
	}
	if len(b) < 2*128 {
		return nil, fsys.Corrupt("ntfs", "$UpCase", upcaseRecord, -1, "it has %d bytes", len(b))
	}
	t := make(upcase, len(b)/2)
	for i := range t {
		t[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	// A table that is not even right for ASCII would order everything wrongly.
	for c := range 128 {
		want := c
		if 'a' <= c && c <= 'z' {
			want = c - 'a' + 'A'
		}
		if int(t[c]) != want {
			return nil, fsys.Corrupt("ntfs", "$UpCase", upcaseRecord, -1, "the upper case of %q is %#x", rune(c), t[c])
		}
	}
	return &t, nil
}

func (t upcase) of(u uint16) uint16 {
	if int(u) < len(t) {
		return t[u]
	}
	return u
}

// compare orders a name that is looked up and one in an index (UTF-16, little-endian) without
// regard to case: negative where a comes first.
func (t upcase) compare(a []uint16, b []byte) int {
	for i, u := range a {
		if 2*i+1 >= len(b) {
			return 1
		}
		v := binary.LittleEndian.Uint16(b[2*i:])
		if u == v {
			continue
		}
		if d := int(t.of(u)) - int(t.of(v)); d != 0 {
			return d
		}
	}
	return len(a) - len(b)/2
}

// same tells whether two names are equal unit by unit.
func same(a []uint16, b []byte) bool {
	if 2*len(a) != len(b) {
		return false
	}
	for i, u := range a {
		if binary.LittleEndian.Uint16(b[2*i:]) != u {
			return false
		}
	}
	return true
}

// Namespaces of names. A file with a DOS name has it beside its Win32 one, and only that is shown.
const (
	namePOSIX    = 0
	nameWin32    = 1
	nameDOS      = 2
	nameWin32DOS = 3
)

// fileName is the value of a $FILE_NAME attribute, which is also the key of a directory's index:
//
//	0x00 directory (8)   0x08 four times (8 each)   0x28 allocated (8) and data size (8)
//	0x38 file attributes (4)   0x3C reparse tag (4)   0x40 length of the name (1)
//	0x41 namespace (1)   0x42 name
type fileName struct {
	parent    reference
	flags     uint32
	namespace uint8
	name      []byte // UTF-16, little-endian; shared
}

const fileNameFixed = 0x42

func parseFileName(b []byte) (fileName, error) {
	le := binary.LittleEndian
	if len(b) < fileNameFixed {
		return fileName{}, fmt.Errorf("a file name of %d bytes", len(b))
	}
	n := fileNameFixed + 2*int(b[0x40])
	if n == fileNameFixed || n > len(b) || b[0x41] > nameWin32DOS {
		return fileName{}, fmt.Errorf("a name of %d units in namespace %d, in %d bytes", b[0x40], b[0x41], len(b))
	}
	return fileName{reference(le.Uint64(b)), le.Uint32(b[0x38:]), b[0x41], b[fileNameFixed:n:n]}, nil
}
