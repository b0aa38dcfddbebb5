package archive

import (
	"bytes"
	"encoding/binary"
	"fmt"
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

// encode returns the blocks before the content: an extended header with whatever the ustar
// header cannot say, and the ustar header.
//
//	| ustar 'x' | records, padded | ustar | content, padded |
func (h *header) encode() []byte {
	name := h.name
	var r records
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

	out := make([]byte, 0, 3*block+len(r.b))
	x := ustar{flag: typePax, name: "PaxHeaders.0/" + path.Base(h.name), mode: 0o644, size: int64(len(r.b))}
	out = x.append(out)
	out = append(out, r.b...)
	out = append(out, make([]byte, padding(int64(len(r.b))))...)
	return u.append(out)
}

// records are the lines of an extended header: "LENGTH KEY=VALUE\n", where the length counts
// the whole line.
type records struct{ b []byte }

func (r *records) add(key, value string) {
	rest := len(key) + len(value) + 3 // a space, '=' and a newline
	n := rest + len(strconv.Itoa(rest))
	if len(strconv.Itoa(n)) > len(strconv.Itoa(rest)) {
		n++
	}
	r.b = append(r.b, fmt.Sprintf("%d %s=%s\n", n, key, value)...)
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
	sec, nsec, sign := t.Unix(), int64(t.Nanosecond()), ""
	if sec < 0 {
		sign, sec = "-", -sec
		if nsec > 0 { // Unix counts up from the second before
			sec, nsec = sec-1, 1e9-nsec
		}
	}
	s := sign + strconv.FormatInt(sec, 10)
	if nsec > 0 {
		s += strings.TrimRight(fmt.Sprintf(".%09d", nsec), "0")
	}
	r.add(key, s)
}

// aclRecords are the attributes that have a record of their own.
var aclRecords = map[string]string{"system.posix_acl_access": "SCHILY.acl.access", "system.posix_acl_default": "SCHILY.acl.default"}

// keyword is the form of an attribute's name in a record, as GNU tar writes it.
var keyword = strings.NewReplacer("%", "%25", "=", "%3D")

// xattrs adds extended attributes, ACLs as text so that every tar understands them.
func (r *records) xattrs(xs map[string][]byte) {
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
		r.add("SCHILY.xattr."+keyword.Replace(n), string(xs[n]))
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
	var b [block]byte
	copy(b[0:100], u.name)
	copy(b[157:257], u.link)
	octal := func(at, width int, v int64) {
		copy(b[at:], fmt.Sprintf("%0*o", width-1, v))
	}
	octal(100, 8, u.mode)
	octal(108, 8, u.uid)
	octal(116, 8, u.gid)
	octal(124, 12, u.size)
	octal(136, 12, u.mtime)
	b[156] = u.flag
	copy(b[257:], "ustar\x0000")
	octal(329, 8, u.major)
	octal(337, 8, u.minor)
	copy(b[148:156], bytes.Repeat([]byte(" "), 8)) // counts as spaces in its own sum
	var sum int64
	for _, c := range b {
		sum += int64(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(out, b[:]...)
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
