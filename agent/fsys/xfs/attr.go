package xfs

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// Flags of an attribute: where its value is, and its name space.
const (
	attrLocal      = 0x01
	attrRoot       = 0x02
	attrSecure     = 0x04
	attrParent     = 0x08 // the entry in the parent directory, not an attribute for programs
	attrIncomplete = 0x80 // being made or removed when the guest stopped
)

// Limits of what is returned: Linux lets no value be longer (XATTR_SIZE_MAX), and the sum, with the
// memory that each one takes besides, keeps a hostile inode from filling the memory. It allows
// more names than listxattr(2) can return.
const (
	maxAttrValue = 64 << 10
	maxAttrTotal = 8 << 20
	attrOverhead = 64
)

// maxAttrLeaves is enough for maxAttrTotal in the smallest blocks, each a quarter full.
const maxAttrLeaves = 4 * maxAttrTotal / 512

// A short form: size in all (2), count (1), unused (1); then for each attribute name length (1),
// value length (1), flags (1), name, value.
const (
	attrShortHeader = 4
	attrShortEntry  = 3
)

// A leaf has a header of 32 or 80 bytes, and entries: hash (4), place of the name in the block (2),
// flags (1), unused (1). There lie value length (2), name length (1), name and value; or, with the
// value elsewhere, its logical block (4), its length (4), name length (1) and name.
const (
	attrLeafEntriesV4 = 32
	attrLeafEntriesV5 = 80
	attrEntrySize     = 8
	attrLocalHeader   = 3
	attrRemoteHeader  = 9
)

// attrSet collects attributes as getxattr(2) shows them.
type attrSet struct {
	out   map[string][]byte
	total int
	limit bool // the sum is above the limit
}

// shown tells whether programs see an attribute with these flags.
func shown(flags uint8) bool { return flags&(attrParent|attrIncomplete) == 0 }

// add takes one attribute; v is copied. An access control list is shown in both forms, as the kernel
// does. The error says why a list cannot be one.
func (a *attrSet) add(flags uint8, name, v []byte) error {
	if a.total += len(name) + len(v) + attrOverhead; a.total > maxAttrTotal {
		a.limit = true
		return nil
	}
	prefix := "user."
	switch {
	case flags&attrRoot != 0:
		prefix = "trusted."
	case flags&attrSecure != 0:
		prefix = "security."
	}
	if posix := aclNames[string(name)]; posix != "" && flags&attrRoot != 0 {
		acl, err := convertACL(v)
		if err != nil {
			return err
		}
		a.out[posix] = acl
	}
	a.out[prefix+string(name)] = append(make([]byte, 0, len(v)), v...)
	return nil
}

// Xattrs returns all extended attributes as getxattr(2) shows them to root. POSIX ACLs are in
// the form of system.posix_acl_access, and as trusted.SGI_ACL_FILE.
func (f *FS) Xattrs(ino fsys.Ino) (map[string][]byte, error) {
	n, err := f.inode(ino)
	if err != nil {
		return nil, err
	}
	set := &attrSet{out: map[string][]byte{}}
	switch {
	case n.attr.raw == nil || n.attr.format == formatExtents && n.attr.extents == 0:
	case n.attr.format == formatLocal:
		err = n.shortAttrs(set)
	default:
		err = f.leafAttrs(n, set)
	}
	if err == nil && set.limit {
		err = fmt.Errorf("xfs: %w: inode %d has more than %d bytes of extended attributes", fsys.ErrUnsupported, ino, maxAttrTotal)
	}
	if err != nil {
		return nil, err
	}
	return set.out, nil
}

// shortAttrs reads the attributes in the inode.
func (n *inode) shortAttrs(set *attrSet) error {
	b := n.attr.raw
	bad := func(reason string, args ...any) error { return n.bad("extended attributes", reason, args...) }
	if len(b) < attrShortHeader {
		return bad("a fork of %d bytes", len(b))
	}
	size := int(binary.BigEndian.Uint16(b))
	if size < attrShortHeader || size > len(b) {
		return bad("%d bytes in a fork of %d", size, len(b))
	}
	count := int(b[2])
	b = b[attrShortHeader:size]
	for i := range count {
		if len(b) < attrShortEntry {
			return bad("attribute %d of %d passes the end", i, count)
		}
		nameLen, valueLen, flags := int(b[0]), int(b[1]), b[2]
		b = b[attrShortEntry:]
		if nameLen == 0 || nameLen+valueLen > len(b) {
			return bad("attribute %d of %d: a name of %d bytes and a value of %d pass the end", i, count, nameLen, valueLen)
		}
		name, value := b[:nameLen], b[nameLen:nameLen+valueLen]
		b = b[nameLen+valueLen:]
		if !shown(flags) {
			continue
		}
		if bytes.IndexByte(name, 0) >= 0 {
			return bad("attribute %d of %d has a name with a zero byte", i, count)
		}
		if err := set.add(flags, name, value); err != nil {
			return bad("%s: %v", name, err)
		}
	}
	return nil
}

// leafAttrs reads the attributes in blocks: one leaf, or the chain of them below an index.
func (f *FS) leafAttrs(n *inode, set *attrSet) error {
	m, err := f.mapping(n, &n.attr, "attribute map")
	if err != nil {
		return err
	}
	t := &daTree{f: f, m: m, what: "extended attributes"}
	t.read = func(lblk uint64) ([]byte, int64, error) {
		r, err := m.at(lblk)
		if err != nil || r.Phys == 0 {
			return nil, 0, err
		}
		b, err := f.blocks(t.what, n.num, r.Phys, 1)
		return b, int64(r.Phys * f.sb.blockSize), err
	}
	d, err := t.descend(0, 0)
	if err != nil {
		return err
	}
	leaves := ondisk.NewBudget("chain of leaves", maxAttrLeaves)
	for last := uint32(0); ; {
		if err := t.attrLeaf(d, set); err != nil || set.limit || d.forw == 0 {
			return err
		}
		if d.count > 0 { // a chain that is not in the order of its hashes may be a circle
			e := d.b[attrLeafEntriesV4:]
			if f.sb.v5 {
				e = d.b[attrLeafEntriesV5:]
			}
			if binary.BigEndian.Uint32(e) < last {
				return t.bad(d.off, "the leaves are not in the order of their hashes")
			}
			last = binary.BigEndian.Uint32(e[(d.count-1)*attrEntrySize:])
		}
		if err := leaves.Spend(1); err != nil {
			return t.bad(d.off, "%v", err)
		}
		if d, err = t.block(uint64(d.forw)); err != nil {
			return err
		}
	}
}

// attrLeaf reads the attributes of one leaf.
func (t *daTree) attrLeaf(d *daBlock, set *attrSet) error {
	be := binary.BigEndian
	magic, at := uint16(attrLeafMagicV4), attrLeafEntriesV4
	if t.f.sb.v5 {
		magic, at = attrLeafMagicV5, attrLeafEntriesV5
	}
	if d.magic != magic {
		return t.bad(d.off, "magic of a leaf is %#04x", d.magic)
	}
	b := d.b
	names := at + d.count*attrEntrySize
	if names > len(b) {
		return t.bad(d.off, "%d attributes in a block of %d bytes", d.count, len(b))
	}
	for i := range d.count {
		e := b[at+i*attrEntrySize:]
		flags, pos := e[6], int(be.Uint16(e[4:]))
		if !shown(flags) {
			continue
		}
		header := attrRemoteHeader
		if flags&attrLocal != 0 {
			header = attrLocalHeader
		}
		if pos < names || pos+header > len(b) {
			return t.bad(d.off, "the name of attribute %d lies at byte %d", i, pos)
		}
		nameLen, valueLen := int(b[pos+header-1]), 0 // the name's length comes last
		if flags&attrLocal != 0 {
			valueLen = int(be.Uint16(b[pos:]))
		}
		end := pos + header + nameLen
		if nameLen == 0 || end+valueLen > len(b) {
			return t.bad(d.off, "attribute %d at byte %d: a name of %d bytes and a value of %d pass the end", i, pos, nameLen, valueLen)
		}
		name, value := b[pos+header:end], b[end:end+valueLen]
		if bytes.IndexByte(name, 0) >= 0 {
			return t.bad(d.off, "attribute %d has a name with a zero byte", i)
		}
		if flags&attrLocal == 0 {
			var err error
			if value, err = t.remoteValue(d, uint64(be.Uint32(b[pos:])), uint64(be.Uint32(b[pos+4:]))); err != nil {
				return err
			}
		}
		if err := set.add(flags, name, value); err != nil {
			return t.bad(d.off, "%s: %v", name, err)
		}
		if set.limit {
			return nil
		}
	}
	return nil
}
