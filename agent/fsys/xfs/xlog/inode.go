package xlog

import (
	"bytes"
	"encoding/binary"

	"vmfr/agent/fsys"
)

// An inode item's format, little-endian; machines of 32 bits leave out the padding at 12. Behind
// it the inode's core, and the forks that changed.
//
//	0 type  2 regions  4 fields  8 bytes of the attribute fork  10 bytes of the data fork
//	12 padding  16 inode  24 device number (16 bytes)  40 sector of the buffer
//	48 sectors of the buffer  52 the inode's offset in it
const (
	inodeFormatSize   = 56
	inodeFormatSize32 = 52

	fieldDataLocal   = 0x002
	fieldDataExtents = 0x004
	fieldDataRoot    = 0x008
	fieldDevice      = 0x010
	fieldAttrLocal   = 0x040
	fieldAttrExtents = 0x080
	fieldAttrRoot    = 0x100
	fieldDataOwner   = 0x200 // the blocks of the data fork's tree were another inode's
	fieldAttrOwner   = 0x400

	fieldsData = fieldDataLocal | fieldDataExtents | fieldDataRoot
	fieldsAttr = fieldAttrLocal | fieldAttrExtents | fieldAttrRoot
)

// inodeFormat is the decoded format of an inode item.
type inodeFormat struct {
	location
	fields uint32
	ino    uint64
	device uint32
	offset int64
}

func (p *replay) parseInode(it *item) (inodeFormat, error) {
	b := it.regions[0]
	at := 16
	switch len(b) {
	case inodeFormatSize:
	case inodeFormatSize32:
		at = 12
	default:
		return inodeFormat{}, p.log.corrupt("inode item of the log", p.at, "a format of %d bytes", len(b))
	}
	le := binary.LittleEndian
	f := inodeFormat{fields: le.Uint32(b[4:]), ino: le.Uint64(b[at:]), device: le.Uint32(b[at+8:]), offset: int64(int32(le.Uint32(b[at+36:])))}
	f.daddr, f.blocks = int64(le.Uint64(b[at+24:])), le.Uint32(b[at+32:])
	return f, nil
}

// inode applies an inode item.
func (p *replay) inode(it *item) error {
	f, err := p.parseInode(it)
	if err != nil {
		return err
	}
	if p.cancelled[f.location] > 0 {
		p.report.Cancelled++ // its chunk of inodes was freed
		return nil
	}
	off, n, err := p.bytes(f.location, "inode item of the log")
	if err != nil {
		return err
	}
	corrupt := func(reason string, args ...any) error {
		return fsys.Corrupt("xfs", "inode item of the log", fsys.Ino(f.ino), p.log.off+p.at*basicBlock, reason, args...)
	}
	size := int(p.g.InodeSize)
	if f.offset < 0 || f.offset%chunkSize != 0 || f.offset > int64(n-size) {
		return corrupt("offset %d in a buffer of %d bytes", f.offset, n)
	}
	off += f.offset
	d, err := p.load(off, size)
	if err != nil {
		return err
	}
	if m := binary.BigEndian.Uint16(d); m != magicInode {
		return corrupt("on the disk it has magic number %#x", m)
	}
	if len(it.regions) < 2 || !p.validCore(it.regions[1]) {
		return corrupt("its core has %d bytes or no magic number", len(it.regions[min(1, len(it.regions)-1)]))
	}
	ld := it.regions[1]
	newer := false
	if p.g.V5 {
		lsn := binary.BigEndian.Uint64(d[dinodeLSN:])
		newer = d[dinodeVersion] >= 3 && lsn != 0 && lsn != noLSN && lsn > p.lsn
	} else {
		// The count of writes decides, unless it has just wrapped.
		log, disk := binary.LittleEndian.Uint16(ld[dinodeFlushIter:]), binary.BigEndian.Uint16(d[dinodeFlushIter:])
		if log < disk && (disk != maxFlushIter || log >= maxFlushIter>>1) {
			p.report.Skipped++
			return nil
		}
	}
	if newer {
		p.report.Skipped++
	} else {
		if reason := p.checkCore(ld); reason != "" {
			return corrupt("%s", reason)
		}
		toDisk(d, ld, p.lsn)
		if err := p.forks(it, &f, d); err != nil {
			return corrupt("%s", err.Error())
		}
		p.report.Inodes++
	}
	if p.g.V5 {
		setChecksum(d, dinodeCRC)
	}
	if err := p.save(d, off); err != nil {
		return err
	}
	if p.g.V5 && f.fields&(fieldDataOwner|fieldAttrOwner) != 0 && binary.BigEndian.Uint16(d[dinodeMode:]) != 0 {
		// The trees are walked whether or not the inode was newer: their blocks may not be.
		return p.changeOwners(&f, bytes.Clone(d))
	}
	return nil
}

// validCore tells whether ld is a log dinode of this file system's version.
func (p *replay) validCore(ld []byte) bool {
	size := logDinodeV2
	if p.g.V5 {
		size = logDinodeV3
	}
	if len(ld) != size || binary.LittleEndian.Uint16(ld) != magicInode {
		return false
	}
	return p.g.V5 == (ld[dinodeVersion] >= 3)
}

// checkCore tells what is wrong with a log dinode; "": nothing.
func (p *replay) checkCore(ld []byte) string {
	const typeMask, typeRegular, typeDirectory = 0o170000, 0o100000, 0o040000
	le := binary.LittleEndian
	format := ld[dinodeFormat]
	switch le.Uint16(ld[dinodeMode:]) & typeMask {
	case typeRegular:
		if format != formatExtents && format != formatBtree {
			return "a regular file with a data fork of another format"
		}
	case typeDirectory:
		if format != formatExtents && format != formatBtree && format != formatLocal {
			return "a directory with a data fork of another format"
		}
	}
	extents, attrs := uint64(le.Uint32(ld[dinodeExtents:])), uint64(le.Uint16(ld[dinodeAttrExtents:]))
	if isBit(ld, flags2Nrext64) {
		if !p.g.Nrext64 || le.Uint16(ld[dinodeAttrExtents:]) != 0 {
			return "large extent counters in a file system without"
		}
		extents, attrs = le.Uint64(ld[dinodeBigExtents:]), uint64(le.Uint32(ld[dinodeExtents:]))
	} else if p.g.V5 && le.Uint64(ld[dinodeBigExtents:]) != 0 {
		return "a large extent counter without the flag for it"
	}
	if extents+attrs > le.Uint64(ld[dinodeBlocks:]) {
		return "more extents than blocks"
	}
	if uint32(ld[dinodeForkOff])*8 > p.g.InodeSize {
		return "an attribute fork outside the inode"
	}
	return ""
}
