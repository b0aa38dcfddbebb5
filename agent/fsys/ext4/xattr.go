package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	iofs "io/fs"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
)

// Extended attributes ("Extended Attributes" in the kernel's documentation) lie in the inode
// after its extra fields, and in one block of their own. An entry is name length (1), name's prefix
// (1), value's offset (2), value's inode (4), value's size (4), hash (4), name; four zero bytes
// end the list.
const (
	xattrMagic       = 0xEA020000
	xattrHeaderSize  = 32
	xattrEntryHeader = 16
	xattrHashOffset  = 16 // of the checksum in a block's header
)

// Limits of what is returned: Linux lets no value be longer (XATTR_SIZE_MAX), and the sum keeps
// a hostile inode, whose entries may share one value, from filling the memory.
const (
	maxXattrValue = 64 << 10
	maxXattrTotal = 8 << 20
)

// xattrSystem is the prefix number of "system." and so of inline data.
const xattrSystem = 7

// xattrPrefixes are the names that the kernel's numbers stand for. Those of encryption contexts
// and Lustre are not shown by the kernel either.
var xattrPrefixes = map[uint8]string{
	1:  "user.",
	2:  aclAccess,
	3:  aclDefault,
	4:  "trusted.",
	6:  "security.",
	8:  "system.richacl",
	10: "gnu.",
}

type xattrEntry struct {
	index    uint8
	name     []byte
	valueOff int
	valueIno uint32
	size     uint32
}

// xattrArea is one parsed list with the bytes that its offsets count from.
type xattrArea struct {
	num     uint32
	off     int64 // place in the volume for errors, -1: in the inode
	base    []byte
	entries []xattrEntry
}

func (a *xattrArea) bad(reason string, args ...any) error {
	return fsys.Corrupt("ext4", "extended attributes", fsys.Ino(a.num), a.off, reason, args...)
}

// parse reads the list that begins at offset at of base.
func (a *xattrArea) parse(at int) error {
	le := binary.LittleEndian
	for {
		if at+4 > len(a.base) {
			return a.bad("the list has no end")
		}
		if le.Uint32(a.base[at:]) == 0 {
			return nil
		}
		if at+xattrEntryHeader > len(a.base) {
			return a.bad("an entry at %d passes the end", at)
		}
		h := a.base[at : at+xattrEntryHeader]
		e := xattrEntry{index: h[1], valueOff: int(le.Uint16(h[2:])), valueIno: le.Uint32(h[4:]), size: le.Uint32(h[8:])}
		end := at + xattrEntryHeader + int(h[0])
		if end > len(a.base) {
			return a.bad("a name of %d bytes at %d passes the end", h[0], at)
		}
		e.name = a.base[at+xattrEntryHeader : end]
		if bytes.IndexByte(e.name, 0) >= 0 {
			return a.bad("a name with a zero byte at %d", at) // as the kernel judges it
		}
		if h[0] > 0 && (xattrPrefixes[e.index] == aclAccess || xattrPrefixes[e.index] == aclDefault) {
			return a.bad("an access control list named %q at %d", e.name, at)
		}
		a.entries = append(a.entries, e)
		at = (end + 3) &^ 3
	}
}

// value is an entry's value in the area itself, shared and read-only.
func (a *xattrArea) value(e xattrEntry) ([]byte, error) {
	if e.size == 0 {
		return nil, nil
	}
	if uint64(e.valueOff)+uint64(e.size) > uint64(len(a.base)) {
		return nil, a.bad("a value of %d bytes at %d passes the end", e.size, e.valueOff)
	}
	return a.base[e.valueOff : e.valueOff+int(e.size)], nil
}

// parseBodyXattrs reads the attributes in the inode; nil where it has none.
func parseBodyXattrs(n *inode) (*xattrArea, error) {
	if len(n.extra) < 8 || binary.LittleEndian.Uint32(n.extra) != xattrMagic {
		return nil, nil
	}
	a := &xattrArea{num: n.num, off: -1, base: n.extra[4:]}
	return a, a.parse(0)
}

// blockXattrs reads the attributes' block; nil where the inode has none.
func (f *FS) blockXattrs(n *inode) (*xattrArea, error) {
	if n.fileACL == 0 {
		return nil, nil
	}
	b, err := f.block("extended attributes", n.num, n.fileACL)
	if err != nil {
		return nil, err
	}
	a := &xattrArea{num: n.num, off: int64(n.fileACL * f.sb.blockSize), base: b}
	le := binary.LittleEndian
	if le.Uint32(b) != xattrMagic || le.Uint32(b[8:]) != 1 {
		return nil, a.bad("magic is %#08x with %d blocks", le.Uint32(b), le.Uint32(b[8:]))
	}
	if f.sb.metadataCsum() {
		c := crc32cU32(crc32cU32(f.sb.csumSeed, uint32(n.fileACL)), uint32(n.fileACL>>32))
		c = crc32c(c, b[:xattrHashOffset])
		c = crc32c(c, zero4)
		c = crc32c(c, b[xattrHashOffset+4:])
		if want := le.Uint32(b[xattrHashOffset:]); c != want {
			return nil, a.bad("checksum is %#08x, its bytes give %#08x", want, c)
		}
	}
	return a, a.parse(xattrHeaderSize)
}

// Xattrs returns all extended attributes as getxattr(2) shows them to root. POSIX ACLs are in
// the form of system.posix_acl_access.
func (f *FS) Xattrs(ino fsys.Ino) (map[string][]byte, error) {
	n, err := f.inode(ino)
	if err != nil {
		return nil, err
	}
	body, err := parseBodyXattrs(n)
	if err != nil {
		return nil, err
	}
	block, err := f.blockXattrs(n)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	total := 0
	for _, a := range []*xattrArea{body, block} {
		if a == nil {
			continue
		}
		for _, e := range a.entries {
			prefix, ok := xattrPrefixes[e.index]
			name := prefix + string(e.name)
			if _, twice := out[name]; !ok || twice { // the inode's own comes first, as in the kernel
				continue
			}
			if e.size > maxXattrValue {
				return nil, a.bad("a value of %d bytes", e.size)
			}
			if total += int(e.size); total > maxXattrTotal {
				return nil, fmt.Errorf("ext4: %w: inode %d has more than %d bytes of extended attributes", fsys.ErrUnsupported, ino, maxXattrTotal)
			}
			v, err := f.xattrValue(n, a, e)
			if err != nil {
				return nil, err
			}
			if name == aclAccess || name == aclDefault {
				if v, err = convertACL(v); err != nil {
					return nil, a.bad("%s: %v", name, err)
				}
			} else {
				v = append(make([]byte, 0, len(v)), v...) // not a part of a cached chunk
			}
			out[name] = v
		}
	}
	return out, nil
}

// xattrValue reads a value, from an inode of its own where it has one (ea_inode).
func (f *FS) xattrValue(n *inode, a *xattrArea, e xattrEntry) ([]byte, error) {
	if e.valueIno == 0 {
		return a.value(e)
	}
	if !f.sb.hasIncompat(incompatEAInode) {
		return nil, a.bad("a value in inode %d without the feature ea_inode", e.valueIno)
	}
	v, err := f.anyInode(e.valueIno)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, a.bad("a value in inode %d, which is not there", e.valueIno) // n itself is
	}
	if err != nil {
		return nil, fmt.Errorf("attribute of inode %d: %w", n.num, err)
	}
	if !v.has(flagEAInode) || v.size != uint64(e.size) {
		return nil, a.bad("a value of %d bytes in inode %d, which has %d", e.size, e.valueIno, v.size)
	}
	// Lustre's inodes name their owner in place of a hash.
	lustre := v.mtimeRaw == n.num && v.generation == n.generation
	hash := v.atimeRaw
	b := make([]byte, e.size)
	if v.has(flagInline) {
		in, err := f.inlineBytes(v)
		if err != nil {
			return nil, err
		}
		copy(b, in)
	} else if err := extent.ReadAllAt(f.content(v), b, 0); err != nil {
		return nil, fmt.Errorf("attribute of inode %d: %w", n.num, err)
	}
	if got := crc32c(f.sb.csumSeed, b); got != hash && !lustre {
		return nil, a.bad("value in inode %d: hash is %#08x, its bytes give %#08x", e.valueIno, hash, got)
	}
	return b, nil
}
