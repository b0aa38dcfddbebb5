package tree

import (
	"bytes"
	"fmt"
	"path"
	"strings"
)

// Bounds of what is taken from an fstab, which is the guest's. Linux writes a handful of lines.
const (
	maxFstabSize    = 256 << 10 // bytes
	maxFstabLines   = 4096
	maxFstabEntries = 256 // that name something to mount
	maxFstabField   = 4096
)

// fstabEntry is a line of fstab(5), decoded.
type fstabEntry struct {
	line    int // from 1
	source  string
	dir     string // cleaned: "/", "/boot/efi"; empty: no place in the tree
	kind    string // file system type
	options []string
	ignore  string // why this is nothing that a backup's disks hold; empty: it may be
	quiet   bool   // ignored as everybody expects: swap, proc
}

// option returns the value of an option, and whether it is there.
func (e *fstabEntry) option(name string) (string, bool) {
	for _, o := range e.options {
		if key, value, _ := strings.Cut(o, "="); key == name {
			return value, true
		}
	}
	return "", false
}

// parseFstab reads fstab(5): six fields, of which the last three may be missing, separated by
// blanks; "#" begins a comment line; \ooo is a byte in octal. Notes are sentences for a person
// about what was left out.
func parseFstab(text []byte) (entries []fstabEntry, notes []string) {
	if len(text) > maxFstabSize {
		text = text[:maxFstabSize]
		notes = append(notes, fmt.Sprintf("fstab is longer than %d bytes; the rest is not read", maxFstabSize))
	}
	malformed := 0
	for n := 1; len(text) > 0; n++ {
		if n > maxFstabLines || len(entries) >= maxFstabEntries {
			notes = append(notes, fmt.Sprintf("fstab has more than %d lines or %d entries; what follows line %d is not read", maxFstabLines, maxFstabEntries, n-1))
			break
		}
		var line []byte
		line, text, _ = bytes.Cut(text, []byte("\n"))
		f := bytes.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == '\r' })
		if len(f) == 0 || f[0][0] == '#' {
			continue
		}
		e, ok := parseFields(f)
		if !ok {
			malformed++
			continue
		}
		e.line = n
		entries = append(entries, e)
	}
	if malformed > 0 {
		notes = append(notes, fmt.Sprintf("%d lines of fstab are malformed and left out", malformed))
	}
	return entries, notes
}

// parseCrypttab reads crypttab(5): the names of opened containers in /dev/mapper and what they
// are on. The first line of a name counts.
func parseCrypttab(text []byte) map[string]string {
	names := map[string]string{}
	for n := 0; len(text) > 0 && n < maxFstabLines && len(names) < maxFstabEntries; n++ {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte("\n"))
		f := bytes.Fields(line)
		if len(f) < 2 || f[0][0] == '#' || names[string(f[0])] != "" {
			continue
		}
		names[string(f[0])] = unquote(string(f[1]))
	}
	return names
}

// parseFields decodes the fields of one line. It is false for one that mount(8) would refuse.
func parseFields(f [][]byte) (e fstabEntry, ok bool) {
	if len(f) < 2 || len(f[0]) > maxFstabField || len(f[1]) > maxFstabField {
		return e, false
	}
	e.source = unquote(unescapeOctal(f[0]))
	dir := unescapeOctal(f[1])
	if len(f) > 2 {
		e.kind = unescapeOctal(f[2])
	}
	if len(f) > 3 && len(f[3]) <= maxFstabField {
		e.options = strings.Split(unescapeOctal(f[3]), ",")
	}
	if e.source == "" || strings.IndexByte(e.source+dir, 0) >= 0 {
		return e, false
	}
	if strings.HasPrefix(dir, "/") {
		e.dir = path.Clean(dir)
	}
	e.classify(dir)
	return e, true
}

// pseudo are file systems that the kernel makes up, or keeps in memory.
var pseudo = map[string]bool{
	"proc": true, "sysfs": true, "tmpfs": true, "devtmpfs": true, "devpts": true, "ramfs": true, "cgroup": true, "cgroup2": true,
	"debugfs": true, "tracefs": true, "securityfs": true, "configfs": true, "hugetlbfs": true, "mqueue": true, "pstore": true,
	"efivarfs": true, "bpf": true, "binfmt_misc": true, "fusectl": true, "selinuxfs": true, "rpc_pipefs": true, "nfsd": true, "usbfs": true,
}

// remote are those of other machines.
var remote = map[string]bool{
	"nfs": true, "nfs4": true, "cifs": true, "smb3": true, "smbfs": true, "ceph": true, "glusterfs": true, "9p": true, "virtiofs": true,
	"afs": true, "lustre": true, "beegfs": true, "gpfs": true, "ocfs2": true, "gfs2": true, "davfs": true, "sshfs": true,
}

// classify finds what the backup's disks cannot hold, and what is no mount.
func (e *fstabEntry) classify(dir string) {
	bare := strings.TrimPrefix(e.kind, "fuse.")
	_, bind := e.option("bind")
	_, rbind := e.option("rbind")
	switch {
	case e.kind == "swap" || dir == "swap":
		e.ignore, e.quiet = "swap space", true
	case pseudo[e.kind]:
		e.ignore, e.quiet = "made by the kernel", true
	case dir == "none" || dir == "ignore" || e.kind == "ignore":
		e.ignore, e.quiet = "not a mount", true
	case bind || rbind || e.kind == "none" && strings.HasPrefix(e.source, "/") && !strings.HasPrefix(e.source, "/dev/"):
		e.ignore = "a bind mount: its files are at " + e.source
	case remote[bare] || strings.HasPrefix(e.source, "//") || strings.Contains(e.source, ":/"):
		e.ignore = "on another machine, not in this backup"
	case e.kind == "overlay" || e.kind == "aufs" || e.kind == "none" || bare == "mergerfs" || bare == "bindfs":
		e.ignore = "made of other folders by the guest"
	case strings.HasPrefix(e.source, "/dev/sr"), strings.HasPrefix(e.source, "/dev/cdrom"), strings.HasPrefix(e.source, "/dev/dvd"),
		strings.HasPrefix(e.source, "/dev/fd"), strings.HasPrefix(e.source, "/dev/floppy"):
		e.ignore = "a removable medium"
	case e.dir == "":
		e.ignore = "the mount point is not an absolute path"
	case strings.HasPrefix(e.source, "/") && !strings.HasPrefix(e.source, "/dev/"):
		e.ignore = "a file of the guest as a disk; it is not opened"
	}
}

// unescapeOctal decodes \ooo, as in \040 for a blank. Anything else behind a backslash stays.
func unescapeOctal(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b)
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+3 < len(b) && b[i+1] <= '3' && isOctal(b[i+1]) && isOctal(b[i+2]) && isOctal(b[i+3]) {
			out = append(out, (b[i+1]-'0')<<6|(b[i+2]-'0')<<3|(b[i+3]-'0'))
			i += 3
			continue
		}
		out = append(out, b[i])
	}
	return string(out)
}

func isOctal(c byte) bool { return c >= '0' && c <= '7' }

// unquote removes the quotes that a tag's value may have: LABEL="my data".
func unquote(s string) string {
	key, value, ok := strings.Cut(s, "=")
	if !ok || strings.HasPrefix(s, "/") {
		return s
	}
	if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
		value = value[1 : n-1]
	}
	return key + "=" + value
}
