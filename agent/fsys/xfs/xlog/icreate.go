package xlog

import "encoding/binary"

// An item that initialises inodes, big-endian but for the first two fields:
//
//	0 type  2 regions  4 group  8 first block in it  12 inodes  16 inode size
//	20 blocks  24 generation
const icreateSize = 28

const inodesPerChunk = 64

// clusterBlocks is the length in blocks of a buffer of inodes.
func (g *Geometry) clusterBlocks() uint32 {
	const cluster, smallestInode = 8 << 10, 256
	n := uint32(cluster)
	if g.V5 {
		// Larger inodes make larger buffers, if chunks are aligned to that.
		if big := uint32(cluster) * (g.InodeSize / smallestInode); g.InodeAlign >= big/g.BlockSize {
			n = big
		}
	}
	return max(n/g.BlockSize, 1)
}

// icreate initialises a chunk of inodes, unless a buffer of it was cancelled.
func (p *replay) icreate(it *item) error {
	b := it.regions[0]
	if len(b) < icreateSize {
		return p.log.corrupt("inode chunk item of the log", p.at, "%d bytes", len(b))
	}
	be := binary.BigEndian
	ag, first, count, size, length, generation := be.Uint32(b[4:]), be.Uint32(b[8:]), be.Uint32(b[12:]), be.Uint32(b[16:]), be.Uint32(b[20:]), be.Uint32(b[24:])
	g := p.g
	if it.total != 1 || ag >= g.AGCount || first == 0 || first >= g.AGBlocks || length == 0 || length > g.AGBlocks-first ||
		size != g.InodeSize || count == 0 || count > inodesPerChunk || uint64(length)*uint64(g.BlockSize) != uint64(count)*uint64(size) {
		// A chunk of inodes smaller than a block does not exist.
		return p.log.corrupt("inode chunk item of the log", p.at, "%d inodes of %d bytes in %d blocks from block %d of group %d", count, size, length, first, ag)
	}
	start := (int64(ag)*int64(g.AGBlocks) + int64(first)) * int64(g.BlockSize)
	cluster := g.clusterBlocks()
	sectors := int64(g.BlockSize / basicBlock)
	for i := uint32(0); i < length; i += cluster {
		at := location{start/basicBlock + int64(i)*sectors, cluster * uint32(sectors)}
		if p.cancelled[at] > 0 {
			p.report.Cancelled++
			return nil
		}
	}
	for i := range count {
		off := start + int64(i)*int64(size)
		if off > p.store.base.Size()-int64(size) {
			return p.log.corrupt("inode chunk item of the log", p.at, "inodes behind the end of the device")
		}
		d, err := p.load(off, int(size))
		if err != nil {
			return err
		}
		clear(d)
		be.PutUint16(d, magicInode)
		be.PutUint32(d[92:], generation)
		be.PutUint32(d[dinodeNextUnlinked:], 0xFFFFFFFF)
		d[dinodeVersion] = 2
		if g.V5 {
			d[dinodeVersion] = 3
			agino := uint64(first)<<g.InoPerLog + uint64(i)
			be.PutUint64(d[152:], uint64(ag)<<(g.AGBlockLog+g.InoPerLog)|agino)
			copy(d[dinodeUUID:], g.MetaUUID[:])
			setChecksum(d, dinodeCRC)
		}
		if err := p.save(d, off); err != nil {
			return err
		}
	}
	p.report.InodeChunks++
	return nil
}
