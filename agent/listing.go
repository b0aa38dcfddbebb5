package main

import (
	"bytes"
	"fmt"
	"sort"
	"strings"

	"vmfr/agent/fsys"
	"vmfr/agent/tree"
)

// The listing is a text in the full-path form of mtree(5): the header, then one line for each
// name, file system by file system in the order of their paths, a directory before its entries
// and the entries of a directory ordered by their bytes. Every file system is in it once.
// It depends on what the guest wrote alone: not on the image's format, the machine, the time
// or the order of reading.
//
//	./<backup>/<disk>[@<volume>]/<path> type=file mode=0644 uid=0 gid=0 nlink=1 time=1775896200.000000000 size=17 sha256digest=...
//
//	type    file, dir, link, block, char, fifo, socket
//	time    modification, in seconds since 1970 with nanoseconds
//	link    target of a symbolic link
//	device  linux,MAJOR,MINOR of a device node
//	xattr.NAME=HEX  an extension of mtree: extended attributes by name
//	error=KIND      an extension: what could not be read; sha256digest is missing then
//
// Bytes of names other than letters, digits and ,-./:@_+%^~ are \ooo, three octal digits.
const listingHeader = "#mtree\n"

var typeNames = map[uint32]string{
	fsys.ModeRegular: "file", fsys.ModeDir: "dir", fsys.ModeSymlink: "link", fsys.ModeBlock: "block",
	fsys.ModeChar: "char", fsys.ModeFIFO: "fifo", fsys.ModeSocket: "socket",
}

// writeLine appends the line of o.
func writeLine(b *bytes.Buffer, o *object) {
	src := o
	if o.same != nil {
		src = o.same // content and xattrs belong to the inode
	}
	b.WriteString("./")
	writeName(b, o.path)
	a := src.attr
	if kind, ok := typeNames[a.Mode&fsys.ModeFmt]; ok {
		fmt.Fprintf(b, " type=%s mode=%04o uid=%d gid=%d nlink=%d time=%d.%09d", kind, a.Mode&0o7777, a.UID, a.GID, a.Nlink,
			a.Mtime.Unix(), a.Mtime.Nanosecond())
		switch a.Mode & fsys.ModeFmt {
		case fsys.ModeRegular:
			fmt.Fprintf(b, " size=%d", a.Size)
		case fsys.ModeBlock, fsys.ModeChar:
			fmt.Fprintf(b, " device=linux,%d,%d", a.Major, a.Minor)
		case fsys.ModeSymlink:
			b.WriteString(" link=")
			writeName(b, src.target)
		}
	}
	if src.sum != "" {
		b.WriteString(" sha256digest=" + src.sum)
	}
	names := make([]string, 0, len(src.xattrs))
	for n := range src.xattrs {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		b.WriteString(" xattr.")
		writeName(b, n)
		fmt.Fprintf(b, "=%x", src.xattrs[n])
	}
	if src.err != nil {
		b.WriteString(" error=" + tree.KindOf(src.err).String())
	}
	b.WriteByte('\n')
}

// writeName encodes a name as vis(3) does with VIS_OCTAL.
func writeName(b *bytes.Buffer, s string) {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(",-./:@_+%^~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(b, "\\%03o", c)
		}
	}
}
