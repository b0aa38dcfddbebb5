package probe

import "strings"

func filesystem(typ, label, id string) (Signature, bool) {
	return Signature{Kind: KindFilesystem, Type: typ, Label: label, UUID: id}, true
}

// xfs: superblock at 0, big endian.
func xfs(d *device) (Signature, bool) {
	if !d.has(0, "XFSB") {
		return Signature{}, false
	}
	return filesystem("xfs", text(d.bytes(108, 12)), uuid(d.bytes(32, 16)))
}

// Feature bits of the ext2/3/4 superblock that tell the three apart. ext3 is ext2 with a
// journal; any feature outside the two masks is ext4's.
const (
	extCompatJournal    = 0x4
	extIncompatJournal  = 0x8                    // an external journal device
	extIncompatExt3     = 0x2 | 0x4 | 0x8 | 0x10 // filetype, recover, journal_dev, meta_bg
	extROCompatExt3     = 0x1 | 0x2 | 0x4        // sparse_super, large_file, btree_dir
	extSuperblock       = 1024
	extMaxLogBlock      = 6 // 64 KiB blocks
	extMagic            = 0xef53
	extSuperblockLength = 264
)

// ext: ext2, ext3, ext4 and an external journal, superblock at 1024.
func ext(d *device) (Signature, bool) {
	v := d.at(extSuperblock, extSuperblockLength)
	if v.U16(56) != extMagic || v.U32(24) > extMaxLogBlock {
		return Signature{}, false
	}
	label, id := text(v.Bytes(120, 16)), uuid(v.Bytes(104, 16))
	compat, incompat, ro := v.U32(92), v.U32(96), v.U32(100)
	switch {
	case incompat&extIncompatJournal != 0:
		return Signature{Kind: KindContainer, Type: "jbd", Label: label, UUID: id}, true
	case incompat&^extIncompatExt3 != 0 || ro&^extROCompatExt3 != 0:
		return filesystem("ext4", label, id)
	case compat&extCompatJournal != 0:
		return filesystem("ext3", label, id)
	}
	return filesystem("ext2", label, id)
}

// btrfs: primary superblock at 64 KiB.
func btrfs(d *device) (Signature, bool) {
	const super = 64 << 10
	if !d.has(super+0x40, "_BHRfS_M") {
		return Signature{}, false
	}
	v := d.at(super, 1024)
	return filesystem("btrfs", text(v.Bytes(0x12b, 256)), uuid(v.Bytes(0x20, 16)))
}

func squashfs(d *device) (Signature, bool) {
	if !d.has(0, "hsqs") && !d.has(0, "sqsh") {
		return Signature{}, false
	}
	return filesystem("squashfs", "", "")
}

func erofs(d *device) (Signature, bool) {
	v := d.at(1024, 128)
	if v.U32(0) != 0xe0f5e1e2 {
		return Signature{}, false
	}
	return filesystem("erofs", text(v.Bytes(64, 16)), uuid(v.Bytes(48, 16)))
}

func f2fs(d *device) (Signature, bool) {
	if d.at(1024, 4).U32(0) != 0xf2f52010 {
		return Signature{}, false
	}
	return filesystem("f2fs", "", uuid(d.bytes(1024+108, 16)))
}

// apfs: the container superblock's magic follows the object header.
func apfs(d *device) (Signature, bool) {
	if !d.has(32, "NXSB") {
		return Signature{}, false
	}
	return filesystem("apfs", "", uuid(d.bytes(72, 16)))
}

func hfs(d *device) (Signature, bool) {
	switch {
	case d.has(1024, "H+\x00\x04"), d.has(1024, "HX\x00\x05"):
		return filesystem("hfsplus", "", "")
	case d.has(1024, "BD") && d.big(1024+18, 4).U32(0)%512 == 0 && d.big(1024+18, 4).U32(0) != 0:
		return filesystem("hfs", "", "")
	}
	return Signature{}, false
}

// iso9660: primary volume descriptor in sector 16 of 2048 bytes (ECMA-119).
func iso9660(d *device) (Signature, bool) {
	if !d.has(32<<10, "\x01CD001") {
		return Signature{}, false
	}
	return filesystem("iso9660", text(d.bytes(32<<10+40, 32)), isoDate(d.bytes(32<<10+813, 17)))
}

// isoDate turns a volume's 17-byte date into the UUID that Linux uses for it.
func isoDate(b []byte) string {
	if len(b) < 16 {
		return ""
	}
	for _, c := range b[:16] {
		if c < '0' || c > '9' {
			return ""
		}
	}
	s := string(b)
	return strings.Join([]string{s[:4], s[4:6], s[6:8], s[8:10], s[10:12], s[12:14], s[14:16]}, "-")
}

// udf: the volume recognition sequence (ECMA-167) starts where ISO 9660 does.
func udf(d *device) (Signature, bool) {
	if !d.has(32<<10+1, "BEA01") {
		return Signature{}, false
	}
	for off := int64(32<<10 + 2048); off <= 32<<10+4*2048; off += 2048 {
		if d.has(off+1, "NSR02") || d.has(off+1, "NSR03") {
			return filesystem("udf", "", "")
		}
	}
	return Signature{}, false
}

// zfs: the first label's array of uberblocks, 128 KiB into the device; its slots are 1 KiB to
// 8 KiB apart and any of them may be the first one in use.
func zfs(d *device) (Signature, bool) {
	for slot := int64(0); slot < 32; slot++ {
		switch d.at(128<<10+slot<<10, 8).U64(0) {
		case 0x00bab10c, 0x0cb1ba0000000000:
			return Signature{Kind: KindContainer, Type: "zfs_member"}, true
		}
	}
	return Signature{}, false
}

func reiserfs(d *device) (Signature, bool) {
	for _, magic := range []string{"ReIsErFs", "ReIsEr2Fs", "ReIsEr3Fs"} {
		if d.has(64<<10+52, magic) {
			return filesystem("reiserfs", text(d.bytes(64<<10+100, 16)), uuid(d.bytes(64<<10+84, 16)))
		}
	}
	return Signature{}, false
}

func jfs(d *device) (Signature, bool) {
	if !d.has(32<<10, "JFS1") {
		return Signature{}, false
	}
	return filesystem("jfs", text(d.bytes(32<<10+152, 16)), uuid(d.bytes(32<<10+136, 16)))
}

func nilfs2(d *device) (Signature, bool) {
	v := d.at(1024, 256)
	if v.U16(6) != 0x3434 || v.U32(0) != 2 {
		return Signature{}, false
	}
	return filesystem("nilfs2", text(v.Bytes(168, 80)), uuid(v.Bytes(152, 16)))
}

// ufs: UFS1 has its superblock at 8 KiB, UFS2 at 64 KiB; the magic ends both.
func ufs(d *device) (Signature, bool) {
	if d.at(8<<10+1372, 4).U32(0) == 0x00011954 || d.at(64<<10+1372, 4).U32(0) == 0x19540119 {
		return filesystem("ufs", "", "")
	}
	return Signature{}, false
}

// vmfs: the physical extent's header, 1 MiB into the device.
func vmfs(d *device) (Signature, bool) {
	return Signature{Kind: KindContainer, Type: "VMFS_volume_member"}, d.at(1<<20, 4).U32(0) == 0xc001d00d
}
