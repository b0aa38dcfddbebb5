package probe

// luks: LUKS1 and LUKS2 On-Disk Format Specification, binary header. The UUID is text at byte
// 168 in both; the label exists in version 2 only.
func luks(d *device) (Signature, bool) {
	if !d.has(0, "LUKS\xba\xbe") {
		return Signature{}, false
	}
	v := d.big(0, 512)
	s := Signature{Kind: KindContainer, Type: "crypto_LUKS", UUID: text(v.Bytes(168, 40))}
	if v.U16(6) == 2 {
		s.Label = text(v.Bytes(24, 48))
	}
	return s, true
}

// lvm2: the label header lies in one of the first four 512-byte sectors; it names the offset
// of the physical volume header, which starts with the UUID of 32 characters.
func lvm2(d *device) (Signature, bool) {
	for off := int64(0); off < 4*512; off += 512 {
		if !d.has(off, "LABELONE") || !d.has(off+24, "LVM2 001") {
			continue
		}
		s := Signature{Kind: KindContainer, Type: "LVM2_member"}
		v := d.at(off, 512)
		if in := v.U32(20); in >= 32 && in <= 512-32 {
			s.UUID = lvmUUID(v.Bytes(int(in), 32))
		}
		return s, true
	}
	return Signature{}, false
}

// lvmUUID groups 32 characters as LVM prints them: 6-4-4-4-4-4-6.
func lvmUUID(b []byte) string {
	for _, c := range b {
		if c < '!' || c > '~' {
			return ""
		}
	}
	if len(b) != 32 {
		return ""
	}
	out := string(b[:6])
	for i := 6; i < 26; i += 4 {
		out += "-" + string(b[i:i+4])
	}
	return out + "-" + string(b[26:])
}

const mdMagic = 0xa92b4efc

// mdRaid: Linux md superblocks. Version 1.1 lies at the start, 1.2 at 4 KiB, 1.0 at least
// 8 KiB before the end on a 4 KiB boundary, 0.90 in the last 64 KiB-aligned 64 KiB.
func mdRaid(d *device) (Signature, bool) {
	sectors := d.r.Size() / 512
	for _, off := range []int64{0, 4096, (sectors - 16) &^ 7 * 512} {
		v := d.at(off, 256)
		if v.U32(0) == mdMagic && v.U32(4) == 1 {
			return Signature{Kind: KindContainer, Type: "linux_raid_member",
				Label: text(v.Bytes(32, 32)), UUID: uuid(v.Bytes(16, 16))}, true
		}
	}
	v := d.at(d.r.Size()&^0xffff-0x10000, 256)
	if v.U32(0) == mdMagic && v.U32(4) == 0 && v.U32(8) >= 90 {
		id := append(append([]byte(nil), big32(v.U32(20))...), big32(v.U32(52))...)
		id = append(append(id, big32(v.U32(56))...), big32(v.U32(60))...)
		return Signature{Kind: KindContainer, Type: "linux_raid_member", UUID: uuid(id)}, true
	}
	return Signature{}, false
}

func big32(n uint32) []byte { return []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)} }

// bcache and bcachefs share the place of their superblock, 4 KiB, and its layout.
func bcache(d *device) (Signature, bool) {
	const magic = 4096 + 24
	switch {
	case d.has(magic, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"):
		return Signature{Kind: KindContainer, Type: "bcache", UUID: uuid(d.bytes(4096+40, 16))}, true
	case d.has(magic, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"):
		return Signature{Kind: KindFilesystem, Type: "bcachefs", UUID: uuid(d.bytes(4096+56, 16)),
			Label: text(d.bytes(4096+72, 32))}, true
	}
	return Signature{}, false
}

// bitlocker: the boot sector's OEM name; Windows Vista starts it with another jump.
func bitlocker(d *device) (Signature, bool) {
	ok := d.has(3, "-FVE-FS-") || d.has(3, "MSWIN4.1") &&
		d.has(424, "\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01") // BitLocker To Go
	return Signature{Kind: KindContainer, Type: "BitLocker", BootSector: true}, ok
}

// swap: the mark ends the first page, whose size is the guest's.
func swap(d *device) (Signature, bool) {
	for _, page := range []int64{4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10} {
		if d.has(page-10, "SWAPSPACE2") {
			v := d.at(1024, 512)
			return Signature{Kind: KindSwap, Type: "swap", UUID: uuid(v.Bytes(12, 16)), Label: text(v.Bytes(28, 16))}, true
		}
		if d.has(page-10, "SWAP-SPACE") || d.has(page-10, "S1SUSPEND\x00") || d.has(page-10, "S2SUSPEND\x00") {
			return Signature{Kind: KindSwap, Type: "swap"}, true
		}
	}
	return Signature{}, false
}
