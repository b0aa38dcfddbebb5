package xfs

import (
	"fmt"
	"path/filepath"
	"strings"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
)

// Offsets within the inode that are damaged.
const (
	inoMode    = 2
	inoVersion = 4
	inoFormat  = 5
	inoLinks   = 16
	inoSize    = 56
	inoBlocks  = 64
	inoExtents = 76
	inoForkoff = 82
	inoAformat = 83
	inoFlags   = 90
	inoFlags2  = 120
	inoSelf    = 152
	inoUUID    = 160
	inoFork    = coreV3
)

func sb(off int, v ...byte) func(*hostile) {
	return func(h *hostile) { h.put(off, v...); h.sealSuper() }
}

func inodeBytes(path string, off int, v ...byte) func(*hostile) {
	return func(h *hostile) {
		at := h.inode(path)
		h.put(at+off, v...)
		h.sealInode(at)
	}
}

// bmbt damages the first leaf of the map of "deep".
func bmbt(off int, v ...byte) func(*hostile) {
	return func(h *hostile) { h.put(h.bmbtLeaf()+off, v...); h.sealBmbt(h.bmbtLeaf()) }
}

// data damages the first block of a directory.
func data(path string, off int, v ...byte) func(*hostile) {
	return func(h *hostile) { at := h.block(path, 0); h.put(at+off, v...); h.sealDir(at) }
}

// entry damages an entry in the first block of a directory.
func entry(path string, off int, v ...byte) func(*hostile) {
	return func(h *hostile) {
		h.put(h.entry(path)+off, v...)
		h.sealDir(h.block(filepath.Dir(path), 0))
	}
}

// index damages the root of a directory's index.
func index(path string, off int, v ...byte) func(*hostile) {
	return func(h *hostile) { at := h.block(path, leafBlock); h.put(at+off, v...); h.sealIndex(at) }
}

// attr damages the first block of a file's attributes.
func attr(path string, off int, v ...byte) func(*hostile) {
	return func(h *hostile) { at := h.attrBlock(path, 0); h.put(at+off, v...); h.sealAttr(at) }
}

func short(path string, off int, v ...byte) func(*hostile) {
	return func(h *hostile) { h.put(h.short(path)+off, v...); h.sealInode(h.inode(filepath.Dir(path))) }
}

func shortAttr(path string, off int, v ...byte) func(*hostile) {
	return func(h *hostile) { h.put(h.attrFork(path)+off, v...); h.sealInode(h.inode(path)) }
}

var corrupt = fsys.ErrCorrupt

const (
	firstEntry = "name 000 nnnnnnnnnnnnnnnnnnnn"
	ff         = 0xFF
)

var hostileCases = []hostileCase{
	// The superblock: with one AG there is no copy.
	{"magic", sb(0, 'x'), nil, fsys.ErrNotRecognized, "", ""},
	{"superblock checksum", func(h *hostile) { h.put(120, 11) }, nil, corrupt, "superblock at byte 0 is corrupt: checksum", ""},
	{"block size", sb(4, ff), nil, corrupt, "blocks of", ""},
	{"block size logarithm", sb(120, 63), nil, corrupt, "blocks of 1024 bytes, 2^63", ""},
	{"sector size", sb(102, 0, 77), nil, corrupt, "sectors of 77", ""},
	{"sectors above blocks", sb(121, 12), nil, corrupt, "sectors of 512 bytes, 2^12", ""},
	{"inode size", sb(104, 1, 0), nil, corrupt, "inodes of 256", ""},
	{"inodes in a block", sb(123, 200), nil, corrupt, "2^200 inodes", ""},
	{"directory blocks", sb(192, 7), nil, corrupt, "directory blocks of 2^7", ""},
	{"directory blocks huge", sb(192, ff), nil, corrupt, "directory blocks of 2^255", ""},
	{"no blocks", sb(8, 0, 0, 0, 0, 0, 0, 0, 0), nil, corrupt, "0 blocks in", ""},
	{"blocks huge", sb(8, ff, ff, ff, ff, ff, ff, ff, ff), nil, corrupt, "blocks in", ""},
	{"group size 0", sb(84, 0, 0, 0, 0), nil, corrupt, "allocation groups of 0 blocks", ""},
	{"group size huge", sb(84, ff, ff, ff, ff), nil, corrupt, "allocation groups of", ""},
	{"group logarithm", sb(124, 63), nil, corrupt, "allocation groups of 16384 blocks, 2^63", ""},
	{"no groups", sb(88, 0, 0, 0, 0), nil, corrupt, "in 0 allocation groups", ""},
	{"groups huge", sb(88, ff, ff, ff, ff), nil, corrupt, "allocation groups", ""},
	{"root inode outside", sb(56, ff), nil, corrupt, "root inode", ""},
	{"root inode is another", sb(56, 0, 0, 0, 0, 0, 0, 0x10, 0), stat("."), nil, "", "."},
	{"log outside", sb(48, 0, 0, 0, 0, 0x10), nil, corrupt, "a log of", ""},
	{"log on another device", sb(48, 0, 0, 0, 0, 0, 0, 0, 0), nil, fsys.ErrUnsupported, "on another device", ""},
	{"unknown feature", sb(216, 0x40), nil, fsys.ErrUnsupported, "feature 0x40000000", ""},
	{"metadata directory", func(h *hostile) { h.put(218, h.b[218]|1); h.sealSuper() }, nil, fsys.ErrUnsupported, "metadata directory", ""},
	{"in need of repair", func(h *hostile) { h.put(219, h.b[219]|incompatNeedsRepair); h.sealSuper() }, nil, corrupt, "xfs_repair", ""},
	{"version 3", sb(101, 0xB3), nil, fsys.ErrUnsupported, "version 3", ""},
	{"unfinished", sb(126, 1), nil, corrupt, "did not finish", ""},
	{"another UUID", sb(32, 0x99), nil, corrupt, "", ""}, // the log's records have the right one
	{"group headers", func(h *hostile) { h.put(512, 0); h.put(1024, 0) }, stat("."), nil, "", ""},

	// Inodes.
	{"inode magic", inodeBytes("deep", 0, 'x'), stat("deep"), corrupt, "inode of inode %d at byte", "deep"},
	{"inode checksum", func(h *hostile) { h.put(h.inode("deep")+inoMode, 0x41) }, stat("deep"), corrupt, "inode of inode %d", "deep"},
	{"inode version", inodeBytes("deep", inoVersion, 2), stat("deep"), corrupt, "version 2", "deep"},
	{"inode of another number", inodeBytes("deep", inoSelf, 1), stat("deep"), corrupt, "it was written as inode", "deep"},
	{"inode of another file system", inodeBytes("deep", inoUUID, 0x99), stat("deep"), corrupt, "another file system", "deep"},
	{"mode", inodeBytes("deep", inoMode, 0x01, 0x23), stat("deep"), corrupt, "inode of inode %d", "deep"},
	{"free", inodeBytes("deep", inoMode, 0, 0), stat("deep"), fsystest.ErrAbsent, "", "deep"},
	{"no links", inodeBytes("deep", inoLinks, 0, 0, 0, 0), stat("deep"), fsystest.ErrAbsent, "", "deep"},
	{"size negative", inodeBytes("deep", inoSize, 0x80), stat("deep"), corrupt, "inode of inode %d", "deep"},
	{"size huge", inodeBytes("deep", inoSize, 0x7F, ff, ff, ff), content("deep", 0x7FFFFFFF<<32), nil, "", "deep"},
	{"blocks huge", inodeBytes("deep", inoBlocks, ff), stat("deep"), corrupt, "blocks", "deep"},
	{"size of a directory", inodeBytes("block", inoSize, 0, 0, 0, 9), listing("block"), corrupt, "a directory of", "block"},
	{"short form longer than its fork", inodeBytes("dir", inoSize+6, 2, 0), stat("dir"), corrupt, "512 bytes in a fork of", "dir"},
	{"file in the inode", inodeBytes("good", inoFormat, formatLocal), stat("dir"), nil, "", "dir"},
	{"format of a file", inodeBytes("deep", inoFormat, formatLocal), stat("deep"), corrupt, "in format 1", "deep"},
	{"format of a directory", inodeBytes("block", inoFormat, 9), stat("block"), corrupt, "in format 9", "block"},
	{"format of a device", inodeBytes("device", inoFormat, formatExtents), stat("device"), corrupt, "in format 2", "device"},
	{"format of attributes", inodeBytes("xl", inoAformat, 7), stat("xl"), corrupt, "attributes in format 7", "xl"},
	{"attribute fork outside", inodeBytes("xl", inoForkoff, 200), stat("xl"), corrupt, "attribute fork begins at byte 1600", "xl"},
	{"realtime file", inodeBytes("deep", inoFlags+1, flagRealtime), content("deep", 0), fsys.ErrUnsupported, "realtime", "deep"},
	{"large counters without the feature", inodeBytes("deep", inoFlags2+7, flag2Nrext64|flag2Bigtime), stat("deep"), corrupt, "large extent counters", "deep"},
	{"root is a file", inodeBytes(".", inoMode, 0x81, 0xA4), listing("."), corrupt, "in format 1", "."},

	// Extent lists and trees.
	{"extents above the fork", inodeBytes("few", inoExtents, 0, 0, 0, 99), content("few", 0), corrupt, "99 extents", "few"},
	{"extents huge", inodeBytes("few", inoExtents, ff, ff, ff, ff), content("few", 0), corrupt, "extents in a fork", "few"},
	{"extent outside", inodeBytes("few", inoFork+8, ff, ff, ff), content("few", 0), corrupt, "extent map of inode %d", "few"},
	{"extent in the headers", inodeBytes("few", inoFork, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 1), content("few", 0), corrupt, "outside the allocation groups", "few"},
	{"extent of no blocks", inodeBytes("few", inoFork+13, 0, 0, 0), content("few", 0), corrupt, "extent of 0 blocks", "few"},
	{"extents overlap", inodeBytes("few", inoFork+16, 0, 0, 0, 0, 0, 0, 0, 0), content("few", 0), corrupt, "extent of", "few"},
	{"extent longer than the group", inodeBytes("few", inoFork+13, 0x1F, ff, ff), content("few", 0), corrupt, "extent map of inode %d", "few"},
	{"root level 0", inodeBytes("deep", inoFork, 0, 0), content("deep", 0), corrupt, "a root of level 0", "deep"},
	{"root level huge", inodeBytes("deep", inoFork, ff, ff), content("deep", 0), corrupt, "level 65535", "deep"},
	{"root level does not fall", inodeBytes("deep", inoFork, 0, 2), content("deep", 0), corrupt, "level 0 below level 2", "deep"},
	{"root entries", inodeBytes("deep", inoFork+2, 0, 99), content("deep", 0), corrupt, "with 99 of", "deep"},
	{"root without entries", inodeBytes("deep", inoFork+2, 0, 0), content("deep", 0), corrupt, "with 0 of", "deep"},
	{"root keys out of order", inodeBytes("deep", inoFork+4+8, 0, 0, 0, 0, 0, 0, 0, 0), content("deep", 0), corrupt, "keys out of order", "deep"},
	{"root keys beyond a file's end", inodeBytes("deep", inoFork+4+8, ff), content("deep", 0), corrupt, "keys out of order", "deep"},
	{"child outside", func(h *hostile) {
		at := h.inode("deep")
		h.put64(at+inoFork+bmbtRootHeader+(len(must(h.fs.inode(h.ino("deep"))).data.raw)-4)/16*8, 1<<40)
		h.sealInode(at)
	}, content("deep", 0), corrupt, "a child at address", "deep"},
	{"child is data", func(h *hostile) {
		at := h.inode("deep")
		h.put64(at+inoFork+bmbtRootHeader+(len(must(h.fs.inode(h.ino("deep"))).data.raw)-4)/16*8, uint64(h.block("good", 0)/1024))
		h.sealInode(at)
	}, content("deep", 0), corrupt, "extent map of inode %d at byte", "deep"},
	{"leaf magic", bmbt(0, 'x'), content("deep", 0), corrupt, "magic", "deep"},
	{"leaf checksum", func(h *hostile) { h.put(h.bmbtLeaf()+80, 7) }, content("deep", 0), corrupt, "checksum", "deep"},
	{"leaf of another inode", bmbt(bmbtHeader.owner, 1), content("deep", 0), corrupt, "it belongs to inode", "deep"},
	{"leaf of another place", bmbt(bmbtHeader.blkno, 1), content("deep", 0), corrupt, "it was written for sector", "deep"},
	{"leaf of another file system", bmbt(bmbtHeader.uuid, 0x99), content("deep", 0), corrupt, "another file system", "deep"},
	{"leaf entries", bmbt(6, ff, ff), content("deep", 0), corrupt, "65535 of 59 entries", "deep"},
	{"leaf level", bmbt(4, 0, 3), content("deep", 0), corrupt, "level 3 below level 1", "deep"},
	{"leaf record beyond its range", bmbt(bmbtHeaderV5, 0x40), content("deep", 0), corrupt, "extent of", "deep"},

	// Directories: short form and blocks.
	{"short form count", inodeBytes("dir", inoFork, 99), listing("dir"), corrupt, "of 99 passes the end", "dir"},
	{"short form width", inodeBytes("dir", inoFork+1, 1), listing("dir"), corrupt, "directory of inode %d", "dir"},
	{"short form empty", inodeBytes("dir", inoSize+7, 3), listing("dir"), corrupt, "a short form of 3 bytes", "dir"},
	{"short form name length", short("dir/a", 0, 200), listing("dir"), corrupt, "passes the end", "dir"},
	{"short form name empty", short("dir/a", 0, 0), listing("dir"), corrupt, "passes the end", "dir"},
	{"short form slash", short("dir/a", 3, '/'), listing("dir"), corrupt, "directory of inode %d", "dir"},
	{"short form inode outside", short("dir/a", 5, ff), listing("dir"), corrupt, "for inode", "dir"},
	{"short form lookup beside damage", short("dir/a", 3, '/'), fsystest.ProbeLookup("dir", "sub"), nil, "", "dir"},
	{"data block magic", data("block", 0, 'x'), listing("block"), corrupt, "magic", "block"},
	{"data block checksum", func(h *hostile) { h.put(h.block("block", 0)+80, 7) }, listing("block"), corrupt, "directory of inode %d at byte", "block"},
	{"data block of another inode", data("block", dirHeader.owner, 1), listing("block"), corrupt, "it belongs to inode", "block"},
	{"data block of another place", data("block", dirHeader.blkno, 1), listing("block"), corrupt, "it was written for sector", "block"},
	{"block index count", data("block", 4096-8, ff, ff), listing("block"), corrupt, "an index of", "block"},
	{"block in a larger directory", data("leaf", 0, 'X', 'D', 'B', '3'), listing("leaf"), corrupt, "an index of", "leaf"},
	{"entry name length", entry("block/"+firstEntry, 8, 250), listing("block"), corrupt, "directory of inode %d", "block"},
	{"entry name empty", entry("block/"+firstEntry, 8, 0), listing("block"), corrupt, "directory of inode %d", "block"},
	{"entry slash", entry("block/"+firstEntry, 10, '/'), listing("block"), corrupt, "directory of inode %d", "block"},
	{"entry NUL", entry("block/"+firstEntry, 10, 0), listing("block"), corrupt, "directory of inode %d", "block"},
	{"entry inode outside", entry("block/"+firstEntry, 0, 1), listing("block"), corrupt, "for inode", "block"},
	{"entry tag", entry("block/"+firstEntry, 46, 9), listing("block"), corrupt, "does not end with its offset", "block"},
	{"lookup behind a damaged entry", entry("block/"+firstEntry, 10, '/'), lookup("block", 20), nil, "", "block"},
	{"unused length", entry("block/"+firstEntry, 0, ff, ff, 0, 0), listing("block"), corrupt, "0 unused bytes", "block"},
	{"unused length passes the block", entry("block/"+firstEntry, 0, ff, ff, ff, 0xF8), listing("block"), corrupt, "65528 unused bytes", "block"},
	{"directory that contains its parent", func(h *hostile) {
		h.put64(h.entry("block/"+firstEntry), uint64(h.ino(".")))
		h.sealDir(h.block("block", 0))
	}, listing("block"), nil, "", "block"},
	{"map of a directory", inodeBytes("block", inoExtents, 0, 0, 0, 99), listing("block"), corrupt, "directory map of inode %d", "block"},
	{"directory without blocks", inodeBytes("block", inoExtents, 0, 0, 0, 0), listing("block"), nil, "", "block"},

	// The index of directories: the names do not depend on it.
	{"index magic", index("leaf", daMagic, 0, 0), lookup("leaf", 123), nil, "", "leaf"},
	{"index checksum", func(h *hostile) { h.put(h.block("leaf", leafBlock)+80, 7) }, lookup("leaf", 123), nil, "", "leaf"},
	{"index count", index("leaf", daCountV5, ff, ff), lookup("leaf", 123), nil, "", "leaf"},
	{"index of another inode", index("leaf", daHeader.owner, 1), lookup("leaf", 123), nil, "", "leaf"},
	{"index node count", index("node", daCountV5, ff, ff), lookup("node", 543), nil, "", "node"},
	{"index node without entries", index("node", daCountV5, 0, 0), lookup("node", 543), nil, "", "node"},
	{"index node level", index("node", daCountV5+2, 0, 3), lookup("node", 543), nil, "", "node"},
	{"index node level huge", index("node", daCountV5+2, ff, ff), lookup("node", 543), nil, "", "node"},
	{"index that leads to itself", func(h *hostile) {
		at := h.block("node", leafBlock)
		for i := range int(h.get16(at + daCountV5)) {
			h.put32(at+daEntriesV5+8*i+4, leafBlock)
		}
		h.sealIndex(at)
	}, lookup("node", 543), nil, "", "node"},
	{"index that leads to data", func(h *hostile) {
		at := h.block("node", leafBlock)
		for i := range int(h.get16(at + daCountV5)) {
			h.put32(at+daEntriesV5+8*i+4, 0)
		}
		h.sealIndex(at)
	}, lookup("node", 543), nil, "", "node"},
	{"leaf's entries lead outside", func(h *hostile) {
		at := h.block("leaf", leafBlock)
		for i := range int(h.get16(at + daCountV5)) {
			h.put32(at+daEntriesV5+8*i+4, 0x7FFFFFFF)
		}
		h.sealIndex(at)
	}, lookup("leaf", 123), nil, "", "leaf"},
	{"leaves in a circle of one hash", func(h *hostile) {
		name := fmt.Sprintf("name %03d %s", 543, strings.Repeat("n", 20))
		hash := (&query{name: name}).hash()
		root := h.block("node", leafBlock)
		for i := range int(h.get16(root + daCountV5)) {
			lblk := h.get32(root + daEntriesV5 + 8*i + 4)
			at := h.block("node", uint64(lblk))
			h.put32(at+daForw, lblk)
			for j := range int(h.get16(at + daCountV5)) {
				h.put32(at+daEntriesV5+8*j, hash)
				h.put32(at+daEntriesV5+8*j+4, 0)
			}
			h.sealIndex(at)
		}
	}, lookup("node", 543), nil, "", "node"},

	// Attributes.
	{"short attributes size", shortAttr("xs", 0, ff, ff), xattrs("xs"), corrupt, "65535 bytes in a fork", "xs"},
	{"short attributes count", shortAttr("xs", 2, 99), xattrs("xs"), corrupt, "of 99 passes the end", "xs"},
	{"short attribute name", shortAttr("xs", 4, ff), xattrs("xs"), corrupt, "a name of 255 bytes", "xs"},
	{"short attribute value", shortAttr("xs", 5, ff), xattrs("xs"), corrupt, "a value of 255", "xs"},
	{"short attribute NUL", shortAttr("xs", 8, 0), xattrs("xs"), corrupt, "zero byte", "xs"},
	{"short attribute incomplete", shortAttr("xs", 6, attrIncomplete), xattrs("xs"), nil, "", "xs"},
	{"attribute leaf magic", attr("xl", daMagic, 0, 0), xattrs("xl"), corrupt, "magic of a leaf", "xl"},
	{"attribute leaf checksum", func(h *hostile) { h.put(h.attrBlock("xl", 0)+90, 7) }, xattrs("xl"), corrupt, "extended attributes of inode %d at byte", "xl"},
	{"attribute leaf of another inode", attr("xl", daHeader.owner, 1), xattrs("xl"), corrupt, "it belongs to inode", "xl"},
	{"attribute count", attr("xl", daCountV5, ff, ff), xattrs("xl"), corrupt, "65535 attributes", "xl"},
	{"attribute place", attr("xl", attrLeafEntriesV5+4, ff, ff), xattrs("xl"), corrupt, "lies at byte 65535", "xl"},
	{"attribute place in the header", attr("xl", attrLeafEntriesV5+4, 0, 0), xattrs("xl"), corrupt, "lies at byte 0", "xl"},
	{"attribute value length", func(h *hostile) {
		at := h.attrBlock("xl", 0)
		h.put16(at+int(h.get16(at+attrLeafEntriesV5+4)), 0xFFFF)
		h.sealAttr(at)
	}, xattrs("xl"), corrupt, "a value of 65535", "xl"},
	{"attribute leaves in a circle", func(h *hostile) {
		root := h.attrBlock("xn", 0)
		lblk := h.get32(root + daEntriesV5 + 4)
		at := h.attrBlock("xn", uint64(lblk))
		h.put32(at+daForw, lblk)
		h.sealAttr(at)
	}, xattrs("xn"), corrupt, "order of their hashes", "xn"},
	{"attribute node level", attr("xn", daCountV5+2, 0, 9), xattrs("xn"), corrupt, "a node of level 9", "xn"},
	{"attribute leaf in a hole", attr("xn", daEntriesV5+4, 0x7F), xattrs("xn"), corrupt, "a hole at logical block", "xn"},
	{"attribute tree without blocks", inodeBytes("xl", 80, 0, 0), xattrs("xl"), nil, "", "xl"},
	{"remote value huge", func(h *hostile) {
		at := h.attrBlock("xr", 0)
		h.put32(at+int(h.get16(at+attrLeafEntriesV5+4))+4, 0xFFFFFFFF)
		h.sealAttr(at)
	}, xattrs("xr"), corrupt, "a value of 4294967295 bytes", "xr"},
	{"remote value longer than its blocks", func(h *hostile) {
		at := h.attrBlock("xr", 0)
		h.put32(at+int(h.get16(at+attrLeafEntriesV5+4))+4, 60000)
		h.sealAttr(at)
	}, xattrs("xr"), corrupt, "are expected", "xr"},
	{"remote value without blocks", func(h *hostile) {
		at := h.attrBlock("xr", 0)
		h.put32(at+int(h.get16(at+attrLeafEntriesV5+4)), 0)
		h.sealAttr(at)
	}, xattrs("xr"), corrupt, "a value without blocks", "xr"},
	{"remote value magic", func(h *hostile) { at := h.attrBlock("xr", 1); h.put(at, 'x'); h.seal(at, 1024, 12) }, xattrs("xr"), corrupt, "attribute value of inode %d", "xr"},
	{"remote value checksum", func(h *hostile) { h.put(h.attrBlock("xr", 1)+100, 7) }, xattrs("xr"), corrupt, "checksum", "xr"},
	{"remote value offset", func(h *hostile) { at := h.attrBlock("xr", 1); h.put(at+4, 9); h.seal(at, 1024, 12) }, xattrs("xr"), corrupt, "are expected", "xr"},

	// Symbolic links.
	{"link size 0", inodeBytes("fast", inoSize+7, 0), readlink("fast"), corrupt, "a target of 0 bytes", "fast"},
	{"link size", inodeBytes("slow", inoSize, 0, 0, 0, 0, 0, 0, 0x10, 0), readlink("slow"), corrupt, "a target of 4096", "slow"},
	{"link empty", inodeBytes("fast", inoFork, 0), readlink("fast"), corrupt, "is empty", "fast"},
	{"link magic", func(h *hostile) { at := h.block("slow", 0); h.put(at, 'x'); h.seal(at, 2048, 12) }, readlink("slow"), corrupt, "symbolic link of inode %d", "slow"},
	{"link checksum", func(h *hostile) { h.put(h.block("slow", 0)+100, 'x') }, readlink("slow"), corrupt, "checksum", "slow"},
	{"link owner", func(h *hostile) { at := h.block("slow", 0); h.put(at+32, 1); h.seal(at, 2048, 12) }, readlink("slow"), corrupt, "belongs to inode", "slow"},
	{"link without blocks", inodeBytes("slow", inoExtents, 0, 0, 0, 0), readlink("slow"), corrupt, "0 of 1000 bytes", "slow"},
}
