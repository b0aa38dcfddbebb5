package ntfs

import (
	"encoding/binary"
	"fmt"
	"strings"

	"vmfr/agent/fsys"
)

const (
	// maxSymlink is the longest target in bytes that Linux takes (PATH_MAX less the final NUL).
	maxSymlink = 4095
	// maxPathDepth bounds the directories on the way to the root: a longer one would not fit in a
	// target as "../" for each.
	maxPathDepth = maxSymlink / len("../")
	// symlinkRelative in a symbolic link: the target is not a full path.
	symlinkRelative = 1
)

// Readlink returns a symbolic link's target. One inside the volume is relative to the link's own
// directory, with slashes, its names in the case that they really have; every other is as
// Windows has it, with backslashes ("\??\D:\Data", "\??\Volume{...}\").
//
// A drive's letter is not in the volume. Where Windows is installed on it the letter is its own
// if it is that of the junction "Documents and Settings" which every Windows makes, or C. On
// another volume every letter but C, which is the one with Windows, means this volume if the whole
// path is there. fsys.ErrNotLink; fsys.ErrCorrupt; fsys.ErrUnsupported.
func (f *FS) Readlink(ino fsys.Ino) (string, error) {
	n, err := f.node(ino)
	if err != nil {
		return "", err
	}
	k, err := n.kind()
	if err != nil {
		return "", err
	}
	if k.mode != fsys.ModeSymlink {
		return "", fsys.ErrNotLink
	}
	return f.readlink(n, k)
}

func (f *FS) readlink(n *object, k kind) (string, error) {
	bad := func(reason string, args ...any) (string, error) {
		return "", fsys.Corrupt("ntfs", "symbolic link", fsys.Ino(n.rec.num), -1, reason, args...)
	}
	target, err := "", error(nil)
	switch {
	case k.content != nil:
		target = decodeName(k.content[interixMagic:])
	case binary.LittleEndian.Uint32(k.reparse) == tagLxSymlink:
		d := k.reparse[reparseHeader:]
		if len(d) < 4 || binary.LittleEndian.Uint32(d) != 2 {
			return bad("of WSL, in %d bytes", len(d))
		}
		target = string(d[4:])
	default:
		var raw string
		var relative bool
		if raw, relative, err = parseLink(k.reparse); err != nil {
			return bad("%v", err)
		}
		target, err = f.shown(n, raw, relative)
	}
	switch {
	case err != nil:
		return "", err
	case target == "" || strings.ContainsRune(target, 0):
		return bad("the target is %q", target)
	case len(target) > maxSymlink:
		return "", fmt.Errorf("ntfs: %w: the symbolic link %d has a target of %d bytes", fsys.ErrUnsupported, n.rec.num, len(target))
	}
	return target, nil
}

// parseLink decodes a junction or symbolic link: offset and length of the substitute name, the
// same of the one to print (2 each), of a symbolic link flags (4), then the names.
func parseLink(b []byte) (target string, relative bool, err error) {
	le := binary.LittleEndian
	d := b[reparseHeader:]
	if n := int(le.Uint16(b[4:])); n <= len(d) {
		d = d[:n]
	} else {
		return "", false, fmt.Errorf("%d of %d bytes", len(d), n)
	}
	fixed := 8
	if le.Uint32(b) == tagSymlink {
		fixed = 12
	}
	if len(d) < fixed {
		return "", false, fmt.Errorf("%d bytes", len(d))
	}
	if fixed == 12 {
		relative = le.Uint32(d[8:])&symlinkRelative != 0
	}
	names := d[fixed:]
	at, n := int(le.Uint16(d)), int(le.Uint16(d[2:]))
	if at+n > len(names) || n%2 != 0 {
		return "", false, fmt.Errorf("a name of %d bytes at %d of %d", n, at, len(names))
	}
	return strings.TrimRight(decodeName(names[at:at+n]), "\x00"), relative, nil
}

// shown turns a target of Windows into the one to show.
func (f *FS) shown(n *object, raw string, relative bool) (string, error) {
	dir, err := n.parent()
	if err != nil {
		return "", err
	}
	if relative && !strings.HasPrefix(raw, `\`) {
		parts, _, inside := f.walkPath(dir, splitPath(raw))
		if !inside || len(parts) == 0 {
			return raw, nil
		}
		return strings.Join(parts, "/"), nil
	}
	path := raw // from the root of the volume
	sure := relative
	if !relative {
		letter, rest, ok := driveLetter(raw)
		if !ok || f.system.windows != (letter == f.system.letter) {
			return raw, nil
		}
		path, sure = rest, f.system.windows
	}
	parts, whole, inside := f.walkPath(rootIno, splitPath(path))
	if !inside || !whole && !sure {
		return raw, nil
	}
	depth, err := f.depth(dir)
	if err != nil {
		return "", err
	}
	for range depth {
		parts = append(parts, "")
	}
	copy(parts[depth:], parts)
	for i := range depth {
		parts[i] = ".."
	}
	if len(parts) == 0 {
		return ".", nil
	}
	return strings.Join(parts, "/"), nil
}

// driveLetter splits `\??\C:\path`, in upper case.
func driveLetter(s string) (letter byte, rest string, ok bool) {
	for _, prefix := range []string{`\??\`, `\\?\`, ``} {
		p, found := strings.CutPrefix(s, prefix)
		if !found || len(p) < 2 || p[1] != ':' || len(p) > 2 && p[2] != '\\' {
			continue
		}
		if c := p[0] &^ 0x20; 'A' <= c && c <= 'Z' {
			return c, p[2:], true
		}
	}
	return 0, "", false
}

// splitPath splits at backslashes and leaves out what names nothing.
func splitPath(s string) []string {
	var out []string
	for _, p := range strings.Split(s, `\`) {
		if p != "" && p != "." {
			out = append(out, p)
		}
	}
	return out
}

// walkPath follows a path from a directory, without regard to case and with DOS names, and
// returns the names as they are shown; from the first on that is not there, or whose parent is
// itself a link, as they were asked for. whole: all of them are there. inside: they do not leave the
// root upwards.
func (f *FS) walkPath(dir uint64, parts []string) (out []string, whole, inside bool) {
	if len(parts) > maxSymlink {
		return nil, false, false
	}
	out = make([]string, 0, len(parts))
	lost, under := false, 0 // under: names below the last directory that was found
	for _, p := range parts {
		switch {
		case strings.ContainsAny(p, "/\x00"):
			return nil, false, false
		case p == ".." && lost:
			if under--; under < 0 {
				return nil, false, false // out of what is not known
			}
		case p == "..":
			if dir == rootIno {
				return nil, false, false
			}
			n, err := f.object(dir)
			if err != nil {
				return nil, false, false
			}
			if dir, err = n.parent(); err != nil {
				return nil, false, false
			}
		case lost:
			under++
		default:
			name, num, isDir, err := f.findName(dir, p)
			if err != nil || num == 0 {
				lost, under = true, 1
				break
			}
			p = name
			if dir = num; !isDir {
				// What follows is the business of whoever follows links.
				rest := parts[len(out)+1:]
				for _, q := range rest {
					if strings.ContainsAny(q, "/\x00") {
						return nil, false, false
					}
				}
				return append(append(out, p), rest...), len(rest) == 0, true
			}
		}
		out = append(out, p)
	}
	return out, !lost, true
}

// findName looks up one name without regard to case. num 0: it is not there.
func (f *FS) findName(dir uint64, s string) (shown string, num uint64, isDir bool, err error) {
	u, ok := encodeName(s)
	if !ok || f.upcase == nil {
		return "", 0, false, nil
	}
	d, err := f.object(dir)
	if err != nil {
		return "", 0, false, err
	}
	x, err := d.openIndex(nameI30)
	if err != nil {
		return "", 0, false, err
	}
	ref, err := f.lookup(x, u, true)
	if err != nil || ref == 0 {
		return "", 0, false, err
	}
	n, err := f.object(ref.num())
	if err != nil {
		return "", 0, false, err
	}
	// Its own record has the name in full: of those in this directory the one that was asked
	// for, or the one beside the DOS name that was.
	best := -1
	err = n.each(typeFileName, func(a *attr) bool {
		k, err := parseFileName(a.value)
		if err != nil || k.parent.num() != dir || k.namespace == nameDOS {
			return true
		}
		fit := 0
		if f.upcase.compare(u, k.name) == 0 {
			if fit = 1; same(u, k.name) {
				fit = 2
			}
		}
		if fit > best {
			best, shown = fit, decodeName(k.name)
		}
		return true
	})
	if err != nil || best < 0 || !validName(shown) {
		return "", 0, false, err
	}
	k, err := n.kind()
	return shown, n.rec.num, err == nil && k.mode == fsys.ModeDir, err
}

// parent returns the directory of an object's (first) name.
func (n *object) parent() (uint64, error) {
	found := uint64(0)
	err := n.each(typeFileName, func(a *attr) bool {
		k, err := parseFileName(a.value)
		if err != nil || k.namespace == nameDOS {
			return true
		}
		found = k.parent.num()
		return false
	})
	if err == nil && found == 0 {
		err = fsys.Corrupt("ntfs", "MFT record", fsys.Ino(n.rec.num), -1, "it has no name")
	}
	return found, err
}

// depth counts the directories between dir and the root: 0 for the root itself.
func (f *FS) depth(dir uint64) (int, error) {
	for depth := range maxPathDepth {
		if dir == rootIno {
			return depth, nil
		}
		n, err := f.object(dir)
		if err != nil {
			return 0, fmt.Errorf("the way to the root: %w", err)
		}
		if dir, err = n.parent(); err != nil {
			return 0, err
		}
	}
	return 0, fsys.Corrupt("ntfs", "directory", fsys.Ino(dir), -1, "it has no way to the root of at most %d directories", maxPathDepth)
}

// system is what is known of the Windows on this volume.
type system struct {
	windows bool
	letter  byte // of the volume; C where there is no Windows: the letter that it cannot have
}

// findSystem looks for Windows, and for the letter that its own junction has.
func (f *FS) findSystem() system {
	s := system{letter: 'C'}
	if _, whole, _ := f.walkPath(rootIno, []string{"Windows", "System32", "config"}); !whole {
		return s
	}
	s.windows = true
	_, num, _, err := f.findName(rootIno, "Documents and Settings")
	if err != nil || num == 0 {
		return s
	}
	n, err := f.object(num)
	if err != nil {
		return s
	}
	k, err := n.kind()
	if err != nil || len(k.reparse) < reparseHeader || binary.LittleEndian.Uint32(k.reparse) != tagMountPoint {
		return s
	}
	if raw, _, err := parseLink(k.reparse); err == nil {
		if letter, rest, ok := driveLetter(raw); ok && strings.EqualFold(rest, `\Users`) {
			s.letter = letter
		}
	}
	return s
}
