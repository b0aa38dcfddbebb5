package ext4

import (
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
)

// What is asked of a damaged image.
var (
	stat, listing, lookup, readlink, xattrs, content = fsystest.ProbeStat, fsystest.ProbeList, fsystest.ProbeLookup,
		fsystest.ProbeReadlink, fsystest.ProbeXattrs, fsystest.ProbeContent
)

// hostileMemory is what one case may allocate: the image has 4 MiB at most, and the metadata cache 8.
const hostileMemory = 48 << 20

// Offsets within the structures that are damaged, as in the kernel's documentation.
const (
	sbAt      = superOffset
	inoMode   = 0x00
	inoSize   = 0x04
	inoLinks  = 0x1A
	inoFlags  = 0x20
	inoBlock  = 0x28
	inoACL    = 0x68
	inoSizeHi = 0x6C
	inoExtra  = 0x80
	inoXattr  = 0xA0 // with 32 extra bytes
)

// hostileCase is a fsystest.Damaged: what mutate does to the image base.
type hostileCase struct {
	name   string
	base   string
	mutate func(h *hostile)
	probe  fsystest.Probe
	kind   error
	text   string
	object string
}

func sb16(off int, v uint16) func(*hostile) { return func(h *hostile) { h.put16(sbAt+off, v) } }
func sb32(off int, v uint32) func(*hostile) { return func(h *hostile) { h.put32(sbAt+off, v) } }

func inode16(path string, off int, v uint16) func(*hostile) {
	return func(h *hostile) { h.put16(h.inode(path)+off, v) }
}

func inode32(path string, off int, v uint32) func(*hostile) {
	return func(h *hostile) { h.put32(h.inode(path)+off, v) }
}

// deepLeaf is the place of the first leaf of the file with many extents.
func deepLeaf(h *hostile) int { return h.at(h.inode("deep") + inoBlock + 12 + 4) }

// attrBlock is the place of the block of attributes.
func attrBlock(h *hostile) int { return h.at(h.inode("xa") + inoACL) }

// bigRoot is the place of the index of the large directory.
func bigRoot(h *hostile) int { return h.block("big", 0) }

const bigName = "name 123 nnnnnnnnnnnnnnnnnnnn"

var corrupt = fsys.ErrCorrupt

var hostileCases = []hostileCase{
	// The superblock: with one group there is no backup.
	{"magic", "plain", sb16(0x38, 0), nil, fsys.ErrNotRecognized, "", ""},
	{"block size", "plain", sb32(0x18, 7), nil, corrupt, "superblock at byte 1024 is corrupt: block size", ""},
	{"block size huge", "plain", sb32(0x18, 0xFFFFFFFF), nil, corrupt, "block size", ""},
	{"inode size 0", "plain", sb16(0x58, 0), nil, corrupt, "inode size 0", ""},
	{"inode size odd", "plain", sb16(0x58, 200), nil, corrupt, "inode size 200", ""},
	{"inode size above a block", "plain", sb16(0x58, 2048), nil, corrupt, "inode size 2048", ""},
	{"no blocks", "plain", sb32(0x04, 0), nil, corrupt, "first data block", ""},
	{"no inodes", "plain", sb32(0x00, 0), nil, corrupt, "0 inodes in", ""},
	{"inodes huge", "plain", sb32(0x00, 0xFFFFFFFF), nil, corrupt, "4294967295 inodes in", ""},
	{"first data block", "plain", sb32(0x14, 3), nil, corrupt, "first data block 3", ""},
	{"first data block huge", "plain", sb32(0x14, 0xFFFFFFFF), nil, corrupt, "first data block", ""},
	{"blocks per group 0", "plain", sb32(0x20, 0), nil, corrupt, "0 blocks per group", ""},
	{"blocks per group huge", "plain", sb32(0x20, 0xFFFFFFF8), nil, corrupt, "blocks per group", ""},
	{"inodes per group 0", "plain", sb32(0x28, 0), nil, corrupt, "0 inodes per group", ""},
	{"inodes per group huge", "plain", sb32(0x28, 0xFFFFFFFF), nil, corrupt, "inodes per group", ""},
	{"descriptor size", "plain", func(h *hostile) {
		h.put32(sbAt+0x60, h.get32(sbAt+0x60)|incompat64Bit)
		h.put16(sbAt+0xFE, 24)
	}, nil, corrupt, "group descriptor size 24", ""},
	{"first inode", "plain", sb32(0x54, 1), nil, corrupt, "first inode 1", ""},
	{"unknown feature", "plain", func(h *hostile) { h.put32(sbAt+0x60, h.get32(sbAt+0x60)|1<<30) }, nil, fsys.ErrUnsupported, "", ""},
	{"external journal device", "plain", func(h *hostile) { h.put32(sbAt+0x60, h.get32(sbAt+0x60)|0x8) }, nil, fsys.ErrUnsupported, "", ""},
	{"compression", "plain", func(h *hostile) { h.put32(sbAt+0x60, h.get32(sbAt+0x60)|0x1) }, nil, fsys.ErrUnsupported, "", ""},
	{"recovery without a journal", "plain", func(h *hostile) { h.put32(sbAt+0x60, h.get32(sbAt+0x60)|incompatRecover) }, nil, corrupt, "no journal", ""},
	{"superblock checksum", "csum", sb16(0x3A, 7), nil, corrupt, "superblock at byte 1024 is corrupt: checksum", ""},
	{"checksum type", "csum", func(h *hostile) { h.put8(sbAt+0x175, 9) }, nil, fsys.ErrUnsupported, "checksum type 9", ""},

	// Group descriptors.
	{"inode table outside", "plain", func(h *hostile) { h.put32(h.group()+8, 1<<30) }, stat("."), corrupt, "descriptor of group 0 at byte 2048 is corrupt: inode table", ""},
	{"inode table at the superblock", "plain", func(h *hostile) { h.put32(h.group()+8, 1) }, stat("."), corrupt, "descriptor of group 0", ""},
	{"inode table at the end", "plain", func(h *hostile) { h.put32(h.group()+8, 1535) }, stat("."), corrupt, "descriptor of group 0", ""},
	{"inode table elsewhere", "plain", func(h *hostile) { h.put32(h.group()+8, h.get32(h.group()+8)+1) }, listing("."), fsystest.ErrAny, "", ""},
	{"descriptor checksum", "csum", func(h *hostile) { h.put8(h.group()+12, 1) }, stat("."), corrupt, "descriptor of group 0 at byte 2048 is corrupt: checksum", ""},
	{"descriptor crc16", "gdt", func(h *hostile) { h.put8(h.group()+12, 1) }, stat("."), corrupt, "descriptor of group 0 at byte 2048 is corrupt: checksum", ""},

	// Inodes.
	{"mode", "plain", inode16("deep", inoMode, 0x0123), stat("deep"), corrupt, "inode of inode %d", "deep"},
	{"no links", "plain", inode16("deep", inoLinks, 0), stat("deep"), fsystest.ErrAbsent, "", "deep"},
	{"size negative", "plain", inode32("deep", inoSizeHi, 0x80000000), stat("deep"), corrupt, "inode of inode %d", "deep"},
	{"size huge", "plain", inode32("deep", inoSizeHi, 0x7FFFFFFF), content("deep", 0x7FFFFFFF<<32), nil, "", "deep"},
	{"size of a directory", "plain", inode32("dir", inoSize, 0xFFFFFFFF), listing("dir"), corrupt, "inode of inode %d is corrupt: a directory of", "dir"},
	{"extra size", "plain", inode16("deep", inoExtra, 999), stat("deep"), corrupt, "inode of inode %d", "deep"},
	{"extra size unaligned", "plain", inode16("deep", inoExtra, 33), stat("deep"), corrupt, "extra bytes", "deep"},
	{"inode checksum", "csum", inode16("deep", inoMode, 0o100600), stat("deep"), corrupt, "inode of inode %d at byte", "deep"},
	{"root is a file", "plain", inode16(".", inoMode, 0o100644), listing("."), fsys.ErrNotDir, "", "."},

	// Extent trees.
	{"extent magic", "plain", inode16("deep", inoBlock, 0), content("deep", 0), corrupt, "extent tree of inode %d is corrupt: magic", "deep"},
	{"extent entries above the limit", "plain", inode16("deep", inoBlock+2, 9), content("deep", 0), corrupt, "9 of 4 entries", "deep"},
	{"extent limit", "plain", inode16("deep", inoBlock+4, 400), content("deep", 0), corrupt, "of 400 entries", "deep"},
	{"extent depth huge", "plain", inode16("deep", inoBlock+6, 0xFFFF), content("deep", 0), corrupt, "depth 65535", "deep"},
	{"extent depth does not fall", "plain", inode16("deep", inoBlock+6, 2), content("deep", 0), corrupt, "depth 0 below depth 2", "deep"},
	{"extent index without entries", "plain", inode16("deep", inoBlock+2, 0), content("deep", 0), corrupt, "without entries", "deep"},
	{"extent child outside", "plain", inode32("deep", inoBlock+12+4, 1<<31), content("deep", 0), corrupt, "extent tree of inode %d", "deep"},
	{"extent child is data", "plain", func(h *hostile) { h.put32(h.inode("deep")+inoBlock+12+4, uint32(h.block("good", 0)/1024)) }, content("deep", 0), corrupt, "magic", "deep"},
	{"extent index that contains itself", "plain", func(h *hostile) {
		leaf := deepLeaf(h)
		copy(h.b[leaf:], h.b[h.inode("deep")+inoBlock:h.inode("deep")+inoBlock+60]) // depth 1 below depth 1
	}, content("deep", 0), corrupt, "depth 1 below depth 1", "deep"},
	{"extent index out of order", "plain", func(h *hostile) { h.put32(h.inode("deep")+inoBlock+24, 0) }, content("deep", 0), corrupt, "out of order", "deep"},
	{"extents overlap", "plain", func(h *hostile) { h.put32(deepLeaf(h)+24, 0) }, content("deep", 0), corrupt, "extent of", "deep"},
	{"extent outside", "plain", func(h *hostile) { h.put32(deepLeaf(h)+12+8, 5000) }, content("deep", 0), corrupt, "outside the file system", "deep"},
	{"extent of no blocks", "plain", func(h *hostile) { h.put16(deepLeaf(h)+12+4, 0) }, content("deep", 0), corrupt, "extent of 0 blocks", "deep"},
	{"extent beyond the leaf's range", "plain", func(h *hostile) { h.put16(deepLeaf(h)+12*84+4, 30000) }, content("deep", 0), corrupt, "extent of 30000 blocks", "deep"},
	{"extent leaf checksum", "csum", func(h *hostile) { h.put16(deepLeaf(h)+12+4, 2) }, content("deep", 0), corrupt, "extent tree of inode %d at byte", "deep"},

	// Block maps.
	{"direct block outside", "ext2", inode32("deep", inoBlock, 1<<31), content("deep", 0), corrupt, "block map of inode %d", "deep"},
	{"direct block in the superblock", "ext2", inode32("deep", inoBlock, 1), content("deep", 0), corrupt, "block map of inode %d", "deep"},
	{"indirect block outside", "ext2", inode32("deep", inoBlock+48, 5000), content("deep", 12<<10), corrupt, "block map of inode %d", "deep"},
	{"indirect block that contains itself", "ext2", func(h *hostile) {
		ind := h.at(h.inode("deep") + inoBlock + 48)
		h.put32(ind, uint32(ind/1024))
	}, content("deep", 12<<10), nil, "", "deep"},
	{"triple indirect block that contains itself", "ext2", func(h *hostile) {
		tri := h.at(h.inode("deep") + inoBlock + 56)
		for i := range 256 {
			h.put32(tri+4*i, uint32(tri/1024))
		}
	}, content("deep", 66_000<<10), nil, "", "deep"},
	{"number in an indirect block outside", "ext2", func(h *hostile) { h.put32(h.at(h.inode("deep")+inoBlock+48), 1<<30) }, content("deep", 12<<10), corrupt, "block map of inode %d at byte", "deep"},

	// Directory blocks.
	{"record length 0", "plain", func(h *hostile) { h.put16(h.record("dir/a")+4, 0) }, listing("dir"), corrupt, "directory of inode %d at byte", "dir"},
	{"record length unaligned", "plain", func(h *hostile) { h.put16(h.record("dir/a")+4, 13) }, listing("dir"), corrupt, "record of 13 bytes", "dir"},
	{"record passes the block", "plain", func(h *hostile) { h.put16(h.record("dir/a")+4, 2000) }, listing("dir"), corrupt, "record of 2000 bytes", "dir"},
	{"name longer than the record", "plain", func(h *hostile) { h.put8(h.record("dir/sub")+6, 250) }, listing("dir"), corrupt, "with a name of 250", "dir"},
	{"inode out of range", "plain", func(h *hostile) { h.put32(h.record("dir/a"), 1<<30) }, listing("dir"), corrupt, "for inode 1073741824", "dir"},
	{"slash in a name", "plain", func(h *hostile) { h.put8(h.record("dir/a")+8, '/') }, listing("dir"), corrupt, "directory of inode %d", "dir"},
	{"NUL in a name", "plain", func(h *hostile) { h.put8(h.record("dir/a")+8, 0) }, listing("dir"), corrupt, "directory of inode %d", "dir"},
	{"empty name", "plain", func(h *hostile) { h.put8(h.record("dir/a")+6, 0) }, listing("dir"), corrupt, "directory of inode %d", "dir"},
	{"directory that contains its parent", "plain", func(h *hostile) { h.put32(h.record("dir/sub"), uint32(rootIno)) }, listing("dir"), nil, "", "dir"},
	{"name of a reserved inode", "plain", func(h *hostile) { h.put32(h.record("dir/a"), 7) }, func(_, fs fsys.FS) error { _, err := fs.Stat(7); return err }, fsystest.ErrAbsent, "", "dir"},
	{"directory block checksum", "csum", func(h *hostile) { h.put8(h.record("dir/a")+8, 'z') }, listing("dir"), corrupt, "directory of inode %d at byte", "dir"},
	{"directory block without its tail", "csum", func(h *hostile) { h.put32(h.block("dir", 0)+1012, 1) }, listing("dir"), corrupt, "ends without a checksum", "dir"},
	{"directory with a hole", "plain", func(h *hostile) { h.put32(h.inode("dir")+inoBlock+12, 5) }, listing("dir"), corrupt, "hole", "dir"},

	// Hashed directories: the names do not depend on the index.
	{"index limit", "plain", func(h *hostile) { h.put16(bigRoot(h)+32, 9999) }, lookup("big", bigName), nil, "", "big"},
	{"index count", "plain", func(h *hostile) { h.put16(bigRoot(h)+34, 9999) }, lookup("big", bigName), nil, "", "big"},
	{"index depth", "plain", func(h *hostile) { h.put8(bigRoot(h)+30, 200) }, lookup("big", bigName), nil, "", "big"},
	{"index hash version", "plain", func(h *hostile) { h.put8(bigRoot(h)+28, 99) }, lookup("big", bigName), nil, "", "big"},
	{"index block outside the directory", "plain", func(h *hostile) {
		for i := range int(h.get16(bigRoot(h) + 34)) {
			h.put32(bigRoot(h)+32+8*i+4, 0x0FFFFFFF)
		}
	}, lookup("big", bigName), nil, "", "big"},
	{"index that leads to itself", "plain", func(h *hostile) {
		h.put8(bigRoot(h)+30, 1)
		for i := range int(h.get16(bigRoot(h) + 34)) {
			h.put32(bigRoot(h)+32+8*i+4, 0)
		}
	}, lookup("big", bigName), nil, "", "big"},
	{"index checksum", "csum", func(h *hostile) { h.put32(bigRoot(h)+40, h.get32(bigRoot(h)+40)+2) }, listing("big"), corrupt, "index checksum", "big"},

	// Extended attributes.
	{"value in the inode outside", "plain", func(h *hostile) { h.put16(h.inode("xa")+inoXattr+4+2, 0xFFF0) }, xattrs("xa"), corrupt, "extended attributes of inode %d", "xa"},
	{"value size", "plain", func(h *hostile) { h.put32(h.inode("xa")+inoXattr+4+8, 0xFFFFFFFF) }, xattrs("xa"), corrupt, "a value of 4294967295 bytes", "xa"},
	{"name length", "plain", func(h *hostile) { h.put8(h.inode("xa")+inoXattr+4, 255) }, xattrs("xa"), corrupt, "extended attributes of inode %d", "xa"},
	{"attribute block outside", "plain", inode32("xa", inoACL, 1<<30), xattrs("xa"), corrupt, "extended attributes of inode %d", "xa"},
	{"attribute block magic", "plain", func(h *hostile) { h.put32(attrBlock(h), 1) }, xattrs("xa"), corrupt, "magic", "xa"},
	{"attribute block count", "plain", func(h *hostile) { h.put32(attrBlock(h)+8, 77) }, xattrs("xa"), corrupt, "77 blocks", "xa"},
	{"attribute block value", "plain", func(h *hostile) { h.put16(attrBlock(h)+32+2, 1020) }, xattrs("xa"), corrupt, "extended attributes of inode %d at byte", "xa"},
	{"attribute list without an end", "plain", func(h *hostile) {
		b := attrBlock(h)
		for off := b + 32; off < b+1024; off += 16 {
			clear(h.b[off : off+16])
			h.put8(off+1, 1)
		}
	}, xattrs("xa"), corrupt, "no end", "xa"},
	{"attribute block checksum", "csum", func(h *hostile) { h.put8(attrBlock(h)+1000, 'X') }, xattrs("xa"), corrupt, "extended attributes of inode %d at byte", "xa"},
	{"access control list", "plain", func(h *hostile) {
		e := h.inode("xa") + inoXattr + 4
		h.put16(e, 2<<8) // no name of its own, of system.posix_acl_access
		clear(h.b[e+16 : e+24])
	}, xattrs("xa"), corrupt, "posix_acl_access", "xa"},
	{"value inode is the file itself", "inline", eaInode(func(h *hostile) uint32 { return uint32(h.ino("ea")) }), xattrs("ea"), corrupt, "extended attributes of inode %d", "ea"},
	{"value inode is a directory", "inline", eaInode(func(h *hostile) uint32 { return uint32(h.ino("dir")) }), xattrs("ea"), corrupt, "extended attributes of inode %d", "ea"},
	{"value inode out of range", "inline", eaInode(func(*hostile) uint32 { return 1 << 30 }), xattrs("ea"), corrupt, "inode %d", "ea"},
	{"value inode deleted", "inline", eaInode(func(*hostile) uint32 { return 60 }), xattrs("ea"), corrupt, "inode %d", "ea"},
	{"value inode's size", "inline", func(h *hostile) { h.put32(h.inodeNum(h.get32(eaEntry(h)+4))+inoSize, 999) }, xattrs("ea"), corrupt, "which has 999", "ea"},
	{"value inode's content", "inline", func(h *hostile) { h.put8(h.at(h.inodeNum(h.get32(eaEntry(h)+4))+inoBlock+12+8), 'x') }, xattrs("ea"), corrupt, "hash is", "ea"},

	// Inline data.
	{"inline data size", "inline", inode32("inline", inoSize, 1000), content("inline", 0), nil, "", "inline"},
	{"inline data without the feature", "plain", func(h *hostile) {
		h.put32(h.inode("xa")+inoFlags, flagInline)
	}, content("xa", 0), corrupt, "inline data in a file system without that feature", "xa"},
	{"inline data outside", "inline", func(h *hostile) { h.put16(h.inode("inline")+inoXattr+4+2, 0x8000) }, content("inline", 0), corrupt, "inode %d", "inline"},
	{"inline directory", "inline", func(h *hostile) { h.put16(h.inode("dir")+inoBlock+4+4, 0) }, listing("dir"), corrupt, "directory of inode %d", "dir"},

	// Symbolic links.
	{"target size 0", "plain", inode32("fast", inoSize, 0), readlink("fast"), corrupt, "symbolic link of inode %d", "fast"},
	{"target in the inode too long", "plain", inode32("fast", inoSize, 60), readlink("fast"), corrupt, "symbolic link of inode %d", "fast"},
	{"target huge", "plain", inode32("slow", inoSize, 0xFFFFFFFF), readlink("slow"), corrupt, "symbolic link of inode %d", "slow"},
	{"target elsewhere", "plain", inode32("slow", inoBlock+12+8, 9999), readlink("slow"), corrupt, "extent tree of inode %d", "slow"},

	// The journal. What its log may hold is the business of package jbd2's tests.
	{"journal superblock", "journal", journal32(0, 0), nil, corrupt, "jbd2: superblock", ""},
	{"journal block size", "journal", journal32(12, 4096), nil, corrupt, "block size 4096", ""},
	{"journal longer than its file", "journal", journal32(16, 5000), nil, corrupt, "length of 5000 blocks", ""},
	{"journal start", "journal", journal32(28, 5000), nil, corrupt, "log begins at block 5000", ""},
	{"journal feature", "journal", journal32(40, 0x80), nil, fsys.ErrUnsupported, "incompatible features", ""},
	{"journal target", "journal", journal32(1024+12, 1<<30), nil, corrupt, "block 1073741824 of a device of 4096", ""},
	{"journal inode is missing", "journal", func(h *hostile) {
		clear(h.b[h.inodeNum(8) : h.inodeNum(8)+256])
		h.put8(sbAt+0xFD, 0) // nor the superblock's copy of it
	}, nil, corrupt, "journal", ""},
	{"journal inode out of range", "journal", func(h *hostile) {
		h.put32(sbAt+0xE0, 1<<30)
		h.put8(sbAt+0xFD, 0)
	}, nil, corrupt, "journal", ""},
	{"journal inode out of range with a copy of its map", "journal", sb32(0xE0, 1<<30), content("good", 0), nil, "", ""},
	{"journal elsewhere", "journal", func(h *hostile) {
		h.put32(sbAt+0xE0, 0)
		h.put32(sbAt+0xE4, 0x0801)
	}, nil, fsys.ErrUnsupported, "on another device", ""},
}

// eaEntry is the place of the entry whose value lies in an inode of its own.
func eaEntry(h *hostile) int {
	at := h.inode("ea")
	for off := at + inoXattr + 4; h.get32(off) != 0; off += 16 + (int(h.b[off])+3)&^3 {
		if string(h.b[off+16:off+16+int(h.b[off])]) == "huge" {
			return off
		}
	}
	blk := h.at(at + inoACL)
	for off := blk + 32; h.get32(off) != 0; off += 16 + (int(h.b[off])+3)&^3 {
		if string(h.b[off+16:off+16+int(h.b[off])]) == "huge" {
			return off
		}
	}
	panic("no such attribute")
}

func eaInode(num func(*hostile) uint32) func(*hostile) {
	return func(h *hostile) { h.put32(eaEntry(h)+4, num(h)) }
}

// journal32 stores a big-endian number at byte off of the journal.
func journal32(off int, v uint32) func(*hostile) {
	return func(h *hostile) {
		n := must(h.fs.anyInode(8))
		at := int(must(h.fs.content(n).run(uint64(off/1024))).Phys)*1024 + off%1024
		h.b[at], h.b[at+1], h.b[at+2], h.b[at+3] = byte(v>>24), byte(v>>16), byte(v>>8), byte(v)
	}
}

// TestHostile damages one structure at a time: the error is of the expected kind and names the
// object, everything else still reads right, and time and memory stay bounded.
func TestHostile(t *testing.T) {
	for _, c := range hostileCases {
		t.Run(c.base+" "+c.name, func(t *testing.T) { c.run(t) })
	}
}

func (c hostileCase) run(t *testing.T) {
	h := newHostile(t, c.base)
	c.mutate(h)
	fsystest.Damaged{
		Whole: h.fs, Open: func() (fsys.FS, error) { return Open(extent.Bytes(h.b), Options{}) },
		Ask: c.probe, Want: c.kind, Text: c.text, Object: c.object, Known: ofKnownKind, Survey: survey, Memory: hostileMemory,
		// Without its group's inodes no file can be read.
		Good: !strings.Contains(c.text, "descriptor of group") && c.kind != fsystest.ErrAny,
	}.Check(t)
}
