package ntfs

import (
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
)

// hostileCases change one thing each.
var hostileCases = []hostileCase{
	// The boot sector.
	{"not NTFS", bootSector(func(b []byte) { copy(b[3:], "MSDOS5.0") }), nil, fsys.ErrNotRecognized, "", ""},
	{"sector size 0", boot8(0x0C, 0), nil, corrupt, "boot sector at byte 0 is corrupt: 0 bytes per sector", ""},
	{"sector size odd", boot8(0x0B, 7), nil, corrupt, "519 bytes per sector", ""},
	{"no sectors per cluster", boot8(0x0D, 0), nil, corrupt, "0 sectors per cluster", ""},
	{"three sectors per cluster", boot8(0x0D, 3), nil, corrupt, "3 sectors per cluster", ""},
	{"clusters too large", boot8(0x0D, 0xF3), nil, fsys.ErrUnsupported, "clusters of 4194304 bytes", ""},
	{"clusters far too large", boot8(0x0D, 0x81), nil, corrupt, "0x81 sectors per cluster", ""},
	{"no sectors", boot64(0x28, 0), nil, corrupt, "0 sectors", ""},
	{"sectors huge", boot64(0x28, 1<<63), nil, corrupt, "9223372036854775808 sectors", ""},
	{"table outside", boot64(0x30, 1<<40), nil, corrupt, "at cluster 1099511627776", ""},
	{"record size 0", boot8(0x40, 0), nil, corrupt, "MFT records of 1 bytes", ""},
	{"record size huge", boot8(0x40, 0x81), nil, corrupt, "MFT records of", ""},
	{"volume longer than its device", func(h *hostile) { put64(h.b, 0x28, 1<<30) }, warned("lies behind the end"), nil, "", ""},
	{"backup boot sector", func(h *hostile) { h.b[0x0D] = 0 }, warned("its backup at the end"), nil, "", ""},
	{"empty boot sector", func(h *hostile) { clear(h.b[:512]) }, warned("its backup at the end"), nil, "", ""},
	{"empty boot sector of another format", func(h *hostile) { clear(h.b[:2048]); put16(h.b, 1080, 0xEF53) }, nil, fsys.ErrNotRecognized, "", ""},

	// The master file table.
	{"table's record", func(h *hostile) { clear(h.b[h.record(0) : h.record(0)+1024]) }, warned("mirror is used"), nil, "", ""},
	{"table's record and its mirror", func(h *hostile) {
		clear(h.b[h.record(0) : h.record(0)+1024])
		clear(h.b[h.fs.boot.mirror*512:][:1024])
	}, nil, corrupt, "MFT record at byte", ""},
	{"torn table's record", func(h *hostile) { h.b[h.record(0)+510]++ }, warned("mirror is used"), nil, "", ""},
	{"mirrored volume record", func(h *hostile) { clear(h.b[h.record(3) : h.record(3)+1024]); h.b[h.record(3)] = 'X' }, stat("good"), nil, "", ""},
	{"table without content", func(h *hostile) {
		h.attr(0, typeData, "", func(b []byte) { put32(b, 0, 0x100) })
	}, nil, corrupt, "no plain content", ""},
	{"table of no records", func(h *hostile) { h.attr(0, typeData, "", func(b []byte) { put64(b, 0x38, 0) }) }, nil, fsystest.ErrAbsent, "", ""},
	{"table huge", func(h *hostile) {
		h.attr(0, typeData, "", func(b []byte) { put64(b, 0x28, 1<<50); put64(b, 0x30, 1<<50); put64(b, 0x38, 1<<50) })
	}, stat("good"), nil, "", ""},
	{"root not in use", func(h *hostile) { h.edit(5, func(b []byte) { put16(b, 0x16, 2) }) }, nil, fsystest.ErrAbsent, "", ""},
	{"root no directory", func(h *hostile) { h.edit(5, func(b []byte) { put16(b, 0x16, 1) }) }, nil, corrupt, "not a directory", ""},

	// Records.
	{"torn record", func(h *hostile) { h.b[h.record(uint64(h.ino("dir/a")))+1022]++ }, stat("dir/a"), corrupt, "torn write", ""},
	{"record magic", func(h *hostile) { copy(h.b[h.record(uint64(h.ino("dir/a"))):], "BAAD") }, stat("dir/a"), corrupt, "MFT record of inode %d", "dir/a"},
	{"update sequence outside", func(h *hostile) { put16(h.b, h.record(uint64(h.ino("dir/a")))+4, 0xFFF0) }, stat("dir/a"), corrupt, "update sequence", ""},
	{"update sequence short", func(h *hostile) { put16(h.b, h.record(uint64(h.ino("dir/a")))+6, 2) }, stat("dir/a"), corrupt, "update sequence of 2", ""},
	{"attributes from 0", func(h *hostile) { h.file("dir/a", func(b []byte) { put16(b, 0x14, 0) }) }, stat("dir/a"), corrupt, "attribute at 0", ""},
	{"attributes behind the end", func(h *hostile) { h.file("dir/a", func(b []byte) { put16(b, 0x14, 0xFFF8) }) }, stat("dir/a"), corrupt, "no end", ""},
	{"bytes in use 0", func(h *hostile) { h.file("dir/a", func(b []byte) { put32(b, 0x18, 0) }) }, stat("dir/a"), corrupt, "no end within the 0", ""},
	{"bytes in use huge", func(h *hostile) { h.file("dir/a", func(b []byte) { put32(b, 0x18, 0xFFFFFFFF) }) }, stat("dir/a"), nil, "", ""},
	{"attribute length 0", attrOf("dir/a", typeStandard, func(b []byte) { put32(b, 4, 0) }), stat("dir/a"), corrupt, "a length of 0", ""},
	{"attribute length huge", attrOf("dir/a", typeStandard, func(b []byte) { put32(b, 4, 0xFFFFFFF8) }), stat("dir/a"), corrupt, "a length of 4294967288", ""},
	{"attribute value outside", attrOf("dir/a", typeData, func(b []byte) { put32(b, 0x10, 5000) }), content("dir/a"), corrupt, "a value of 5000 bytes", ""},
	{"attribute value at the end", attrOf("dir/a", typeData, func(b []byte) { put16(b, 0x14, 0xFFFF) }), content("dir/a"), corrupt, "a value of", ""},
	{"attribute name outside", attrOf("dir/a", typeData, func(b []byte) { b[9] = 255 }), content("dir/a"), corrupt, "a name of 510 bytes", ""},
	{"no standard information", attrOf("dir/a", typeStandard, func(b []byte) { put32(b, 0x10, 8) }), stat("dir/a"), corrupt, "standard information of 8 bytes", ""},
	{"file name short", attrOf("dir/a", typeFileName, func(b []byte) { put32(b, 0x10, 10) }), stat("dir/a"), corrupt, "a file name of 10 bytes", ""},
	{"extension of itself", func(h *hostile) { h.file("dir/a", func(b []byte) { put64(b, 0x20, uint64(h.ino("dir/a"))) }) }, stat("dir/a"), fsystest.ErrAbsent, "", ""},

	// Runs: those of victim are "21 06 xx xx 00".
	{"pair of 15 bytes", pairs("victim", func(b []byte) { b[0] = 0xFF }), content("victim"), corrupt, "a pair of 15 and 15 bytes", ""},
	{"pair without a length", pairs("victim", func(b []byte) { b[0] = 0x20 }), content("victim"), corrupt, "a pair of 0 and 2 bytes", ""},
	{"no clusters", pairs("victim", func(b []byte) { b[1] = 0 }), content("victim"), corrupt, "0 clusters from 0 on", ""},
	{"negative clusters", pairs("victim", func(b []byte) { b[1] = 0x86 }), content("victim"), corrupt, "-122 clusters", ""},
	{"more clusters", pairs("victim", func(b []byte) { b[1] = 7 }), content("victim"), corrupt, "7 clusters from 0 on, of 6", ""},
	{"fewer clusters", pairs("victim", func(b []byte) { b[1] = 5 }), content("victim"), corrupt, "it maps 5 clusters of 6", ""},
	{"before the volume", pairs("victim", func(b []byte) { b[3] = 0x80 }), content("victim"), corrupt, "run list of inode %d", "victim"},
	{"behind the volume", pairs("victim", func(b []byte) { copy(b, "\x31\x06\xff\xff\x7f\x00") }), content("victim"), corrupt, "of a volume of", ""},
	{"run list without an end", attrOf("victim", typeData, func(b []byte) {
		put64(b, 0x18, 3)
		copy(b[get16(b, 0x20):], "\x01\x01\x01\x01\x01\x01\x01\x01")
	}), content("victim"), corrupt, "it has no end", ""},
	{"last cluster huge", attrOf("victim", typeData, func(b []byte) { put64(b, 0x18, 1<<61) }), content("victim"), corrupt, "it ends at cluster", ""},
	{"last before first", attrOf("victim", typeData, func(b []byte) { put64(b, 0x10, 9) }), content("victim"), corrupt, "clusters 9 to 5", ""},
	{"first cluster without a list", attrOf("victim", typeData, func(b []byte) { put64(b, 0x10, 5) }), content("victim"), corrupt, "begins at cluster 5", ""},
	{"mapping pairs outside", attrOf("victim", typeData, func(b []byte) { put16(b, 0x20, 5000) }), content("victim"), corrupt, "mapping pairs at 5000", ""},
	{"size above what is allocated", attrOf("victim", typeData, func(b []byte) { put64(b, 0x30, 1<<40) }), stat("victim"), corrupt, "1099511627776 bytes of data", ""},
	{"size above the runs", attrOf("victim", typeData, func(b []byte) { put64(b, 0x28, 1<<40); put64(b, 0x30, 1<<40); put64(b, 0x38, 1<<40) }), content("victim"), corrupt, "cluster 6 is not mapped", ""},
	{"allocated huge", attrOf("victim", typeData, func(b []byte) { put64(b, 0x28, 1<<63) }), stat("victim"), corrupt, "MFT record of inode %d", "victim"},
	{"encrypted", attrOf("victim", typeData, func(b []byte) { put16(b, 0xC, attrEncrypted) }), content("victim"), fsys.ErrNoKey, "inode %d: encrypted by the guest (EFS)", "victim"},

	// The attribute list.
	{"list entry of no bytes", listOf(func(_ *hostile, b []byte) { put16(b, 4, 0) }), stat("deep"), corrupt, "attribute list of inode %d is corrupt: an entry of 0 bytes", "deep"},
	{"list entry huge", listOf(func(_ *hostile, b []byte) { put16(b, 4, 0xFFF8) }), stat("deep"), corrupt, "an entry of 65528 bytes", ""},
	{"list entry's name", listOf(func(_ *hostile, b []byte) { b[6] = 200 }), stat("deep"), corrupt, "a name of 400 bytes", ""},
	{"list of a free record", listOf(func(_ *hostile, b []byte) { put64(b, dataEntry(b, 1)+0x10, 1<<48|4000) }), content("deep"), corrupt, "in record 4000, which is free", ""},
	{"list of another's record", listOf(func(h *hostile, b []byte) { put64(b, dataEntry(b, 1)+0x10, uint64(h.ino("good"))) }), content("deep"), corrupt, "which belongs to record 0", ""},
	{"list of the record itself", listOf(func(h *hostile, b []byte) { put64(b, dataEntry(b, 1)+0x10, uint64(h.ino("deep"))) }), content("deep"), corrupt, "is not in record", ""},
	{"list of a stale record", listOf(func(_ *hostile, b []byte) { put16(b, dataEntry(b, 1)+0x16, 77) }), content("deep"), corrupt, "in use 77 of record", ""},
	{"list out of order", listOf(func(_ *hostile, b []byte) { put64(b, dataEntry(b, 1)+8, 1<<40) }), content("deep"), corrupt, "attribute list of inode %d", "deep"},
	{"list with two starts", listOf(func(_ *hostile, b []byte) { put64(b, dataEntry(b, 1)+8, 0) }), content("deep"), corrupt, "clusters from 0 on follow those from 0 on", ""},
	{"list of huge size", attrOf("deep", typeList, func(b []byte) {
		if b[8] == 0 {
			put32(b, 0x10, 1<<20)
		} else {
			put64(b, 0x28, 1<<30)
			put64(b, 0x30, 1<<30)
		}
	}), stat("deep"), corrupt, "of inode %d", "deep"},
	{"torn extension record", func(h *hostile) { h.b[h.record(extension(h))+510]++ }, content("deep"), corrupt, "torn write", ""},
	{"extension record of another", func(h *hostile) { h.edit(extension(h), func(b []byte) { put64(b, 0x20, 1<<48|5) }) }, content("deep"), corrupt, "which belongs to record 5", ""},
	{"extension record is not a file", func(*hostile) {}, func(whole, fs fsys.FS) error {
		_, err := fs.Stat(fsys.Ino(extension(&hostile{fs: whole.(*FS)})))
		return err
	}, fsystest.ErrAbsent, "", ""},

	// Indexes.
	{"index block size 0", rootOf("big", func(b []byte) { put32(b, 8, 0) }), listDir("big"), corrupt, "index root of inode %d is corrupt: blocks of 0 bytes", "big"},
	{"index block size odd", rootOf("big", func(b []byte) { put32(b, 8, 4095) }), listDir("big"), corrupt, "blocks of 4095 bytes", ""},
	{"index block size huge", rootOf("big", func(b []byte) { put32(b, 8, 1<<31) }), lookup("big", "x"), corrupt, "blocks of 2147483648", ""},
	{"root's entries outside", rootOf("big", func(b []byte) { put32(b, 0x10, 0x1000) }), listDir("big"), corrupt, "entries from byte 4096", ""},
	{"root's end outside", rootOf("big", func(b []byte) { put32(b, 0x14, 0xFFFFFFFF) }), listDir("big"), corrupt, "to 4294967295", ""},
	{"root's entry of no bytes", rootOf("big", func(b []byte) { put16(b, 0x20+8, 0) }), listDir("big"), corrupt, "an entry of 0 bytes", ""},
	{"root's child outside", rootOf("big", func(b []byte) { put64(b, 0x20+get16(b, 0x28)-8, 9999*8) }), lookup("big", "aaa"), corrupt, "index block 9999 of inode", ""},
	{"root's child odd", rootOf("big", func(b []byte) { put64(b, 0x20+get16(b, 0x28)-8, 1) }), lookup("big", "aaa"), corrupt, "is at 1", ""},
	{"torn index block", func(h *hostile) {
		x := must(h.object("big").openIndex(nameI30))
		_, at, _ := x.alloc.(*stream).Span(int64(h.leaf()*x.block), 1)
		h.b[at+510]++
	}, listDir("big"), corrupt, "torn write", ""},
	{"index block's number", func(h *hostile) { h.block("big", h.leaf(), func(b []byte) { put64(b, 0x10, 800) }) }, listDir("big"), corrupt, "it says it is block 800", ""},
	{"index block's entries outside", func(h *hostile) { h.block("big", h.leaf(), func(b []byte) { put32(b, 0x1C, 0xFFFF) }) }, listDir("big"), corrupt, "to 65535", ""},
	{"entry of no bytes", firstEntry(func(b []byte) { put16(b, 8, 0) }), listDir("big"), corrupt, "an entry of 0 bytes", ""},
	{"entry past the end", firstEntry(func(b []byte) { put16(b, 8, 0xFFF8) }), listDir("big"), corrupt, "an entry of 65528 bytes", ""},
	{"entry's key past its end", firstEntry(func(b []byte) { put16(b, 10, 0xFFFF) }), listDir("big"), corrupt, "a key of 65535 bytes", ""},
	{"entry's name past its key", firstEntry(func(b []byte) { b[0x50] = 255 }), listDir("big"), corrupt, "a name of 255 units", ""},
	{"entry without a name", firstEntry(func(b []byte) { b[0x50] = 0 }), listDir("big"), corrupt, "a name of 0 units", ""},
	{"entry's namespace", firstEntry(func(b []byte) { b[0x51] = 9 }), listDir("big"), corrupt, "in namespace 9", ""},
	{"name with a slash", firstEntry(func(b []byte) { put16(b, 0x52, '/') }), listDir("big"), corrupt, `has the name "/ame`, ""},
	{"name of a dot", firstEntry(func(b []byte) { b[0x50] = 1; put16(b, 0x52, '.') }), listDir("big"), corrupt, `has the name "."`, ""},
	{"stale entry", firstEntry(func(b []byte) { put16(b, 6, 999) }), statAll("big"), corrupt, "is not there any more", ""},
	{"entry of a free record", firstEntry(func(b []byte) { put64(b, 0, 1<<48|4000) }), statAll("big"), corrupt, "directory entry of inode 4000", ""},
	{"entry of a record outside", firstEntry(func(b []byte) { put64(b, 0, 1<<48-1) }), statAll("big"), corrupt, "directory entry", ""},
	{"entry that is its own parent", func(h *hostile) {
		i := h.leaf()
		h.block("big", i, func(b []byte) {
			e := b[0x18+get32(b, 0x18):]
			put16(e, 12, entryChild)
			put16(e, 10, uint16(get16(e, 10)-8))
			e[0x50] -= 4
			put64(e, get16(e, 8)-8, i*8)
		})
	}, lookup("big", "name 000"), corrupt, "has a loop", ""},
	{"no bitmap", func(h *hostile) {
		h.attr(uint64(h.ino("big")), typeBitmap, "$I30", func(b []byte) { put32(b, 0, 0xB1) })
	}, listDir("big"), corrupt, "no bitmap", ""},
	{"bitmap full", func(h *hostile) {
		h.attr(uint64(h.ino("big")), typeBitmap, "$I30", func(b []byte) { b[get16(b, 0x14)+1] = 0xFF })
	}, listDir("big"), nil, "", ""},
	{"blocks huge", func(h *hostile) {
		h.attr(uint64(h.ino("big")), typeIndexAlloc, "$I30", func(b []byte) { put64(b, 0x28, 1<<50); put64(b, 0x30, 1<<50) })
	}, listDir("big"), corrupt, "bytes of blocks", ""},

	// Reparse points and links.
	{"reparse data longer than its attribute", valueOf("link", typeReparse, func(b []byte) { put16(b, 4, 5000) }), readlink("link"), corrupt, "symbolic link of inode %d", "link"},
	{"target outside", valueOf("link", typeReparse, func(b []byte) { put16(b, 8, 0xFFF0) }), readlink("link"), corrupt, "a name of", ""},
	{"target of odd length", valueOf("link", typeReparse, func(b []byte) { put16(b, 10, 3) }), readlink("link"), corrupt, "a name of 3 bytes", ""},
	{"no target", valueOf("link", typeReparse, func(b []byte) { put16(b, 10, 0) }), readlink("link"), corrupt, `the target is ""`, ""},
	{"target with a zero", valueOf("link", typeReparse, func(b []byte) { put16(b, 22, 0) }), readlink("link"), corrupt, "the target is", ""},
	{"link of 4 bytes", attrOf("link", typeReparse, func(b []byte) { put32(b, 0x10, 4) }), content("link"), corrupt, "reparse point of inode %d", "link"},
	{"unknown tag", valueOf("link", typeReparse, func(b []byte) { put32(b, 0, 0x80001234) }), content("link"), fsys.ErrUnsupported, "reparse tag 0x80001234", ""},
	{"no way to the root", func(h *hostile) {
		dir := uint64(h.ino("dir"))
		h.attr(dir, typeFileName, "", func(b []byte) { put64(b, get16(b, 0x14), dir) })
	}, readlink("dir/rooted"), corrupt, "no way to the root", ""},

	// Compressed content.
	{"chunk without its mark", func(h *hostile) { unit(h)[1] &^= 0x70 }, content("c/text"), corrupt, "compressed content of inode %d at byte 0 is corrupt: a chunk without its signature", "c/text"},
	{"reference before the chunk", func(h *hostile) { unit(h)[2] = 0xFF }, content("c/text"), corrupt, "a reference outside its chunk", ""},
	{"compression unit huge", attrOf("c/text", typeData, func(b []byte) { b[0x22] = 200 }), content("c/text"), fsys.ErrUnsupported, "compressed by method 1 in units of", ""},
	{"compression unit of one cluster", attrOf("c/text", typeData, func(b []byte) { b[0x22] = 0 }), content("c/text"), fsys.ErrUnsupported, "in units of 512 bytes", ""},
	{"compression method", attrOf("c/text", typeData, func(b []byte) { b[0xC] = 7 }), content("c/text"), fsys.ErrUnsupported, "method 7", ""},

	// Streams, security, state.
	{"encrypted stream", func(h *hostile) {
		h.attr(uint64(h.ino("ads")), typeData, "mapped", func(b []byte) { put16(b, 0xC, attrEncrypted) })
	}, func(whole, fs fsys.FS) error {
		_, err := fs.(*FS).OpenStream(must(fsystest.Find(whole, "ads")), "mapped")
		return err
	}, fsys.ErrNoKey, "", ""},
	{"stream with a slash", func(h *hostile) {
		h.attr(uint64(h.ino("ads")), typeData, "small", func(b []byte) { put16(b, get16(b, 0xA), '/') })
	}, xattrs("ads"), nil, "", ""},
	{"dirty volume", func(h *hostile) {
		h.attr(volumeRecord, typeVolumeInfo, "", func(b []byte) { b[get16(b, 0x14)+10] |= volumeDirty })
	}, warned("marked as dirty"), nil, "", ""},
	{"version of the future", func(h *hostile) {
		h.attr(volumeRecord, typeVolumeInfo, "", func(b []byte) { b[get16(b, 0x14)+9] = 2 })
	}, nil, fsys.ErrUnsupported, "version 3.2 of the format", ""},
	{"log in use", restart(0, 0), warned("not cleanly unmounted"), nil, "", ""},
	{"log of nobody", restart(noClient, 0), quiet, nil, "", ""},
	{"log closed", restart(0, restartClean), quiet, nil, "", ""},
	{"log garbled", func(h *hostile) { copy(logFile(h), make([]byte, 9000)) }, warned("cannot be told"), nil, "", ""},
	{"upper case", func(h *hostile) {
		s := must(must(h.fs.object(upcaseRecord)).stream(must(must(h.fs.object(upcaseRecord)).find(typeData, nil))))
		_, at, _ := s.Span(0, 1)
		clear(h.b[at : at+512])
	}, warned("looked up slowly"), nil, "", ""},
}
