package probe

import (
	"fmt"
	"math/bits"

	"vmfr/agent/ondisk"
)

func bootSector(typ, label, id string) (Signature, bool) {
	return Signature{Kind: KindFilesystem, Type: typ, Label: label, UUID: id, BootSector: true}, true
}

func ntfs(d *device) (Signature, bool) {
	v := d.at(0, 512)
	if !d.has(3, "NTFS    ") || !sectorSize(v.U16(11)) {
		return Signature{}, false
	}
	return bootSector("ntfs", "", fmt.Sprintf("%016X", v.U64(72)))
}

func exfat(d *device) (Signature, bool) {
	if !d.has(3, "EXFAT   ") {
		return Signature{}, false
	}
	return bootSector("exfat", "", serial(d.at(100, 4).U32(0)))
}

func refs(d *device) (Signature, bool) {
	if !d.has(3, "ReFS\x00\x00\x00\x00") {
		return Signature{}, false
	}
	return bootSector("ReFS", "", "")
}

// vfat: FAT has no magic that every formatter writes, so the BIOS parameter block must make
// sense as a whole (Microsoft FAT specification, "BPB"). A boot loader that merely leaves room
// for a parameter block, as GRUB does in a master boot record, has zeros there and fails.
func vfat(d *device) (Signature, bool) {
	v := d.at(0, 512)
	perCluster, media := v.U8(13), v.U8(21)
	ok := v.U16(510) == 0xaa55 && sectorSize(v.U16(11)) && bits.OnesCount8(perCluster) == 1 &&
		v.U16(14) > 0 && (v.U8(16) == 1 || v.U8(16) == 2) && (media >= 0xf8 || media == 0xf0) &&
		(v.U16(19) > 0 || v.U32(32) > 0)
	if !ok {
		return Signature{}, false
	}
	if v.U16(22) == 0 { // no 16-bit FAT size: FAT32, whose fields follow a longer block
		if v.U32(36) == 0 {
			return Signature{}, false
		}
		return fatVolume(v, 66)
	}
	if v.U16(17) == 0 { // FAT12 and FAT16 have a fixed root directory
		return Signature{}, false
	}
	return fatVolume(v, 38)
}

// fatVolume reads serial number and label after the extended boot signature at off; 0x28 has
// the number only.
func fatVolume(v *ondisk.View, off int) (Signature, bool) {
	var label, id string
	switch v.U8(off) {
	case 0x29:
		if label = text(v.Bytes(off+5, 11)); label == "NO NAME" {
			label = ""
		}
		fallthrough
	case 0x28:
		id = serial(v.U32(off + 1))
	}
	return bootSector("vfat", label, id)
}

func sectorSize(n uint16) bool {
	return n == 512 || n == 1024 || n == 2048 || n == 4096
}
