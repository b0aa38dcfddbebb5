package xlog

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// Kinds of buffers, as the guest notes them in the item's flags, from version 5 on.
const (
	kindBtree    = 4
	kindAGF      = 5
	kindAGFL     = 6
	kindAGI      = 7
	kindSymlink  = 9
	kindDirBlock = 10
	kindDirData  = 11
	kindDirFree  = 12
	kindLeaf1    = 13
	kindLeafN    = 14
	kindNode     = 15
	kindAttrLeaf = 16
	kindAttrRmt  = 17
	kindSuper    = 18
)

// Magic numbers of metadata blocks of version 5: 32 bits at their beginning, 16 bits at byte 8 in
// the nodes and leaves of directories and attributes, and 16 bits at the beginning of inodes.
const (
	magicSuper    = 0x58465342 // XFSB
	magicAGF      = 0x58414746 // XAGF
	magicAGFL     = 0x5841464c // XAFL
	magicAGI      = 0x58414749 // XAGI
	magicBnobt    = 0x41423342 // AB3B
	magicCntbt    = 0x41423343 // AB3C
	magicInobt    = 0x49414233 // IAB3
	magicFinobt   = 0x46494233 // FIB3
	magicRmapbt   = 0x524d4233 // RMB3
	magicRefcbt   = 0x52334643 // R3FC
	magicBmbt     = 0x424d4133 // BMA3
	magicRTRmap   = 0x4d415052 // MAPR
	magicRTRefc   = 0x52434e54 // RCNT
	magicSymlink  = 0x58534c4d // XSLM
	magicDirBlock = 0x58444233 // XDB3
	magicDirData  = 0x58444433 // XDD3
	magicDirFree  = 0x58444633 // XDF3
	magicAttrRmt  = 0x5841524d // XARM

	magicLeaf1    = 0x3df1
	magicLeafN    = 0x3dff
	magicNode     = 0x3ebe
	magicAttrLeaf = 0x3bee

	magicInode = 0x494e // IN
)

// superAGCount is where sb_agcount is.
const superAGCount = 88

// header is where a kind of metadata block has what recovery needs: byte offsets.
type header struct{ lsn, crc, uuid int }

var (
	shortBtree = header{lsn: 24, crc: 52, uuid: 32}
	longBtree  = header{lsn: 32, crc: 64, uuid: 40}
	dirBlock   = header{lsn: 16, crc: 4, uuid: 24}
	remote     = header{lsn: 48, crc: 12, uuid: 16} // symbolic links; attribute values have no LSN
	daBlock    = header{lsn: 24, crc: 12, uuid: 32}
)

var headers32 = map[uint32]header{
	magicSuper: {lsn: 240, crc: 224, uuid: 32},
	magicAGF:   {lsn: 208, crc: 216, uuid: 64},
	magicAGFL:  {lsn: 24, crc: 32, uuid: 8},
	magicAGI:   {lsn: 320, crc: 312, uuid: 296},
	magicBnobt: shortBtree, magicCntbt: shortBtree, magicInobt: shortBtree, magicFinobt: shortBtree, magicRmapbt: shortBtree, magicRefcbt: shortBtree,
	magicBmbt: longBtree, magicRTRmap: longBtree, magicRTRefc: longBtree,
	magicSymlink:  remote,
	magicDirBlock: dirBlock, magicDirData: dirBlock, magicDirFree: dirBlock,
}

var headersDA = map[uint16]header{magicLeaf1: daBlock, magicLeafN: daBlock, magicNode: daBlock, magicAttrLeaf: daBlock}

// bufferLSN is the LSN up to which buffer b, as it is on the disk, has all changes: noLSN where it
// has none, or is not one of this file system's.
func (p *replay) bufferLSN(b []byte) uint64 {
	if !p.g.V5 {
		return noLSN
	}
	h, ok := headers32[binary.BigEndian.Uint32(b)]
	if !ok {
		h, ok = headersDA[binary.BigEndian.Uint16(b[8:])]
	}
	if !ok {
		return noLSN
	}
	uuid := p.g.MetaUUID
	if binary.BigEndian.Uint32(b) == magicSuper {
		uuid = p.g.UUID
	}
	if !bytes.Equal(b[h.uuid:h.uuid+16], uuid[:]) {
		return noLSN
	}
	return binary.BigEndian.Uint64(b[h.lsn:])
}

// stamp says how a buffer is sealed when it is written.
type stamp struct {
	lsn      uint64
	lsnAt    int // 0: none
	crcAt    int
	perBlock bool // each block of the file system has a header of its own
}

// kinds maps a kind of buffer to the magic numbers that it may have. A buffer that has another one
// is written as it is.
var kinds = map[uint16][]uint32{
	kindBtree: {magicBnobt, magicCntbt, magicInobt, magicFinobt, magicRmapbt, magicRefcbt, magicBmbt, magicRTRmap, magicRTRefc},
	kindAGF:   {magicAGF}, kindAGFL: {magicAGFL}, kindAGI: {magicAGI}, kindSuper: {magicSuper}, kindSymlink: {magicSymlink},
	kindDirBlock: {magicDirBlock}, kindDirData: {magicDirData}, kindDirFree: {magicDirFree}, kindAttrRmt: {magicAttrRmt},
}

var kindsDA = map[uint16]uint16{kindLeaf1: magicLeaf1, kindLeafN: magicLeafN, kindNode: magicNode, kindAttrLeaf: magicAttrLeaf}

// stampOf tells how buffer b of the given kind is sealed; false: not at all.
func stampOf(kind uint16, b []byte) (stamp, bool) {
	if want, ok := kindsDA[kind]; ok {
		return stamp{lsnAt: daBlock.lsn, crcAt: daBlock.crc}, binary.BigEndian.Uint16(b[8:]) == want
	}
	m := binary.BigEndian.Uint32(b)
	for _, want := range kinds[kind] {
		if m != want {
			continue
		}
		if m == magicAttrRmt {
			return stamp{crcAt: remote.crc, perBlock: true}, true
		}
		h := headers32[m]
		return stamp{lsnAt: h.lsn, crcAt: h.crc}, true
	}
	return stamp{}, false
}

// setChecksum stores the CRC-32C of b, computed with zeros in its place, little-endian, at byte at.
func setChecksum(b []byte, at int) {
	clear(b[at : at+4])
	binary.LittleEndian.PutUint32(b[at:], crc32.Checksum(b, castagnoli))
}
