package xfs

import (
	"encoding/binary"
	"hash/crc32"

	"vmfr/agent/fsys"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var zero4 = make([]byte, 4)

// crcWithout is the CRC-32C of b with the four bytes at off as zeros. It is stored there in
// little-endian order, unlike all else.
func crcWithout(b []byte, off int) uint32 {
	c := crc32.Update(0, castagnoli, b[:off])
	c = crc32.Update(c, castagnoli, zero4)
	return crc32.Update(c, castagnoli, b[off+4:])
}

// selfDescribed is where a kind of block keeps what version 5 added: its checksum, its own address
// in 512-byte units, the file system's UUID and the inode that owns it.
type selfDescribed struct {
	crc, blkno, uuid, owner int
}

var (
	bmbtHeader   = selfDescribed{crc: 64, blkno: 24, uuid: 40, owner: 56}
	dirHeader    = selfDescribed{crc: 4, blkno: 8, uuid: 24, owner: 40}
	daHeader     = selfDescribed{crc: 12, blkno: 16, uuid: 32, owner: 48}
	remoteHeader = selfDescribed{crc: 12, blkno: 40, uuid: 16, owner: 32}
)

// verify checks a block of version 5 that lies at byte off of the volume and belongs to inode ino.
func (s *super) verify(b []byte, h selfDescribed, what string, ino uint64, off int64) error {
	be := binary.BigEndian
	bad := func(reason string, args ...any) error {
		return fsys.Corrupt("xfs", what, fsys.Ino(ino), off, reason, args...)
	}
	if got, want := crcWithout(b, h.crc), binary.LittleEndian.Uint32(b[h.crc:]); got != want {
		return bad("checksum is %#08x, its bytes give %#08x", want, got)
	}
	if [16]byte(b[h.uuid:]) != s.metaUUID {
		return bad("it belongs to another file system (%x)", b[h.uuid:h.uuid+16])
	}
	if at := be.Uint64(b[h.blkno:]); at != uint64(off)/512 {
		return bad("it was written for sector %d", at)
	}
	if owner := be.Uint64(b[h.owner:]); owner != ino {
		return bad("it belongs to inode %d", owner)
	}
	return nil
}
