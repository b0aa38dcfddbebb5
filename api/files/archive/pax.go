package archive

import (
	"bytes"
	"encoding/binary"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"vmfr/agent/fsys"
)

// block is the unit of a tar archive, in bytes.
const block = 512

// Type flags of the ustar header (POSIX.1-2024, pax, "ustar Interchange Format").
const (
	typeRegular = '0'
	typeLink    = '1'
	typeSymlink = '2'
	typeChar    = '3'
	typeBlock   = '4'
	typeDir     = '5'
	typeFIFO    = '6'
	typePax     = 'x'
)

// header is one member of a tar archive.
type header struct {
	name   string // with a slash at its end for a folder
	flag   byte
	link   string
	size   int64 // of what follows the header, for a sparse file with its map
	attr   fsys.Attr
	xattrs map[string][]byte
	sparse bool
	real   int64 // the size of a sparse file
}

// encoder makes headers. It keeps the memory for them.
type encoder struct {
	out []byte
	records
}

// encode returns the blocks before the content, which are valid until the next call: an
// extended header with whatever the ustar header cannot say, and the ustar header.
//
//	| ustar 'x' | records, padded | ustar | content, padded |
func (c *encoder) encode(h *header) []byte {
	name := h.name
	r := &c.records
	r.b = r.b[:0]
	if !utf8.ValidString(h.name) || !utf8.ValidString(h.link) {
		r.add("hdrcharset", "BINARY") // names are the guest's bytes
	}
	if h.sparse {
		r.add("GNU.sparse.major", "1")
		r.add("GNU.sparse.minor", "0")
		r.add("GNU.sparse.name", name)
		r.add("GNU.sparse.realsize", strconv.FormatInt(h.real, 10))
		name = path.Join(path.Dir(name), "GNUSparseFile.0", path.Base(name))
	} else if len(name) > 100 || !ascii(name) {
		r.add("path", name)
	}
	if len(h.link) > 100 || !ascii(h.link) {
		r.add("linkpath", h.link)
	}
	u := ustar{flag: h.flag, name: name, link: h.link, mode: int64(h.attr.Mode &^ fsys.ModeFmt)}
	u.size = r.number("size", h.size, 1<<33-1)
	u.uid = r.number("uid", int64(h.attr.UID), 1<<21-1)
	u.gid = r.number("gid", int64(h.attr.GID), 1<<21-1)
	if h.flag == typeChar || h.flag == typeBlock {
		u.major = r.number("SCHILY.devmajor", int64(h.attr.Major), 1<<21-1)
		u.minor = r.number("SCHILY.devminor", int64(h.attr.Minor), 1<<21-1)
	}
	u.mtime = max(0, min(h.attr.Mtime.Unix(), 1<<33-1))
	r.time("mtime", h.attr.Mtime)
	r.time("atime", h.attr.Atime)
	r.time("ctime", h.attr.Ctime)
	r.xattrs(h.xattrs)

	x := ustar{flag: typePax, name: "PaxHeaders.0/" + path.Base(h.name), mode: 0o644, size: int64(len(r.b))}
	c.out = x.append(c.out[:0])
	c.out = append(c.out, r.b...)
	c.out = append(c.out, zeros[:padding(int64(len(r.b)))]...)
	c.out = u.append(c.out)
	return c.out
}

// records are the lines of an extended header: "LENGTH KEY=VALUE\n", where the length counts
// the whole line.
type records struct{ b []byte }

func (r *records) add(key, value string) {
	r.b = append(append(r.start(key, len(value)), value...), '\n')
}

func (r *records) addBytes(key string, value []byte) {
	r.b = append(append(r.start(key, len(value)), value...), '\n')
}

// start appends what stands before a value of so many bytes.
func (r *records) start(key string, value int) []byte {
	rest := len(key) + value + 3 // a space, '=' and a newline
	n := rest + digits(rest)
	if digits(n) > digits(rest) {
		n++
	}
	b := append(strconv.AppendInt(r.b, int64(n), 10), ' ')
	return append(append(b, key...), '=')
}

// digits is how many decimal digits n has, which is positive.
func digits(n int) int {
	d := 1
	for ; n >= 10; n /= 10 {
		d++
	}
	return d
}

// number returns v for the ustar header, or 0 and a record where it is more than limit.
func (r *records) number(key string, v, limit int64) int64 {
	if v <= limit {
		return v
	}
	r.add(key, strconv.FormatInt(v, 10))
	return 0
}

// time adds a time with all digits that it has.
func (r *records) time(key string, t time.Time) {
	if t.IsZero() {
		return
	}
	var buf [40]byte
	b := buf[:0]
	sec, nsec := t.Unix(), int64(t.Nanosecond())
	if sec < 0 {
		b = append(b, '-')
		sec = -sec
		if nsec > 0 { // Unix counts up from the second before
			sec, nsec = sec-1, 1e9-nsec
		}
	}
	b = strconv.AppendInt(b, sec, 10)
	if nsec > 0 {
		point := len(b)
		b = strconv.AppendInt(b, 1e9+nsec, 10) // the digit before the nine is the point's place
		b[point] = '.'
		b = bytes.TrimRight(b, "0")
	}
	r.addBytes(key, b)
}

// aclRecords are the attributes that have a record of their own.
var aclRecords = map[string]string{"system.posix_acl_access": "SCHILY.acl.access", "system.posix_acl_default": "SCHILY.acl.default"}

// keyword is the form of an attribute's name in a record, as GNU tar writes it.
var keyword = strings.NewReplacer("%", "%25", "=", "%3D")

// xattrs adds extended attributes, ACLs as text so that every tar understands them.
func (r *records) xattrs(xs map[string][]byte) {
	if len(xs) == 0 {
		return
	}
	names := make([]string, 0, len(xs))
	for n := range xs {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		if key, ok := aclRecords[n]; ok {
			if text, ok := aclText(xs[n]); ok {
				r.add(key, text)
				continue
			}
		}
		r.addBytes("SCHILY.xattr."+keyword.Replace(n), xs[n])
	}
}

// aclText turns the kernel's encoding of an ACL (struct posix_acl_xattr_header, version 2) into
// the text form of acl(5) with numbers for names; false: it is something else.
func aclText(b []byte) (string, bool) {
	if len(b) < 4 || (len(b)-4)%8 != 0 || binary.LittleEndian.Uint32(b) != 2 {
		return "", false
	}
	tags := map[uint16]string{0x01: "user", 0x02: "user", 0x04: "group", 0x08: "group", 0x10: "mask", 0x20: "other"}
	var lines []string
	for e := b[4:]; len(e) > 0; e = e[8:] {
		tag, perm, id := binary.LittleEndian.Uint16(e), binary.LittleEndian.Uint16(e[2:]), binary.LittleEndian.Uint32(e[4:])
		name, ok := tags[tag]
		if !ok || perm > 7 {
			return "", false
		}
		who := ""
		if tag == 0x02 || tag == 0x08 {
			who = strconv.FormatUint(uint64(id), 10)
		}
		p := []byte("---")
		for i, c := range []byte("rwx") {
			if perm&(4>>i) != 0 {
				p[i] = c
			}
		}
		lines = append(lines, name+":"+who+":"+string(p))
	}
	return strings.Join(lines, ","), true
}

// ustar is the 512-byte header.
type ustar struct {
	name, link                  string
	flag                        byte
	mode, uid, gid, size, mtime int64
	major, minor                int64
}

// append adds the header's block. Names are cut where they are too long: then a record has them.
//
//	0    100  108 116 124  136   148      156  157      257   263     265   297   329      337      345    500
//	|name|mode|uid|gid|size|mtime|checksum|type|linkname|magic|version|uname|gname|devmajor|devminor|prefix|
func (u *ustar) append(out []byte) []byte {
	at := len(out)
	out = append(out, zeros[:]...)
	b := out[at:]
	copy(b[0:100], u.name)
	copy(b[157:257], u.link)
	octal(b[100:107], u.mode)
	octal(b[108:115], u.uid)
	octal(b[116:123], u.gid)
	octal(b[124:135], u.size)
	octal(b[136:147], u.mtime)
	b[156] = u.flag
	copy(b[257:], "ustar\x0000")
	octal(b[329:336], u.major)
	octal(b[337:344], u.minor)
	copy(b[148:156], "        ") // counts as spaces in its own sum
	var sum int64
	for _, c := range b {
		sum += int64(c)
	}
	octal(b[148:154], sum)
	b[154] = 0 // and a space behind it
	return out
}

// octal fills b with the digits of v, which is not negative and has no more.
func octal(b []byte, v int64) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = '0' + byte(v&7)
		v >>= 3
	}
}

// padding is how many bytes complete the last block of n.
func padding(n int64) int64 { return -n & (block - 1) }

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
