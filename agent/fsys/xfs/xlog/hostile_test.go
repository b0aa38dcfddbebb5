package xlog_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/fsys/xfs/xlog"
)

// block is a place on the device for buffers of these tests, in bytes and sectors.
const (
	blockAt    = 64 << 10
	blockDaddr = blockAt / basicBlock
	inodesAt   = 128 << 10
	inodes     = inodesAt / basicBlock
)

// withInode puts a free inode on the device.
func withInode(b *builder, lsn uint64) {
	d := b.m.b[inodesAt : inodesAt+512]
	copy(d, "IN")
	d[4] = 2
	if b.m.g.V5 {
		d[4] = 3
		binary.BigEndian.PutUint64(d[112:], lsn)
	}
}

// TestItems has one transaction for each rule, in logs of versions 4 and 5 alike.
func TestItems(t *testing.T) {
	chunk := bytes.Repeat([]byte("chunk..."), 16)
	attr := slices.Clip(le(uint16(0x1246), uint16(1), uint32(0), uint64(7)))
	core := func(b *builder, change func(d []byte)) []byte {
		d := logDinode(b.m.g.V5, 1, 100)
		if change != nil {
			change(d)
		}
		return d
	}
	inode := func(fields uint32, change func(d []byte), forks ...[]byte) func(b *builder) [][]byte {
		return func(b *builder) [][]byte {
			withInode(b, 0)
			return append([][]byte{inodeItem(uint16(2+len(forks)), fields|1, 1, inodes, 8, 0), core(b, change)}, forks...)
		}
	}
	items := func(regions ...[]byte) func(*builder) [][]byte { return func(*builder) [][]byte { return regions } }
	for _, c := range []struct {
		name  string
		items func(b *builder) [][]byte
		err   error  // nil: it is replayed
		says  string // in the error
		check func(r xlog.Report) bool
	}{
		{name: "a buffer", items: items(bufferItem(2, 0, 8, blockDaddr, 2), chunk), check: func(r xlog.Report) bool { return r.Buffers == 1 && r.Patched == 128 }},
		{name: "a buffer in two regions", items: items(bufferItem(3, 0, 8, blockDaddr, 6), chunk, chunk), check: func(r xlog.Report) bool { return r.Patched == 256 }},
		{name: "a cancelled buffer", items: items(bufferItem(1, 2, 8, blockDaddr), bufferItem(2, 0, 8, blockDaddr, 1), chunk),
			check: func(r xlog.Report) bool { return r.Cancelled == 2 && r.Buffers == 0 }},
		{name: "a dquot buffer", items: items(bufferItem(2, 4, 8, blockDaddr, 1), chunk), check: func(r xlog.Report) bool { return r.Buffers == 0 && r.Patched == 0 }},
		{name: "a dquot", items: items(le(uint16(0x123d), uint16(2), uint32(0)), chunk), check: func(r xlog.Report) bool { return r.Patched == 0 }},
		{name: "quota off", items: items(le(uint16(0x123e), uint16(1), uint32(0))), check: func(r xlog.Report) bool { return r.Patched == 0 }},
		{name: "missing data", items: items(bufferItem(1, 0, 8, blockDaddr, 1)), err: fsys.ErrCorrupt, says: "bitmap"},
		{name: "short data", items: items(bufferItem(2, 0, 8, blockDaddr, 1), chunk[:100]), err: fsys.ErrCorrupt, says: "region"},
		{name: "data behind the buffer", items: items(bufferItem(2, 0, 1, blockDaddr, 1<<4), chunk), err: fsys.ErrCorrupt, says: "region"},
		{name: "a bitmap behind the format", items: items(bufferItem(2, 0, 8, blockDaddr, 1)[:20], chunk), err: fsys.ErrCorrupt, says: "format"},
		{name: "a buffer behind the device", items: items(bufferItem(2, 0, 8, builtSize/512-7, 1), chunk), err: fsys.ErrCorrupt, says: "sectors"},
		{name: "a buffer before the device", items: items(bufferItem(2, 0, 8, -8, 1), chunk), err: fsys.ErrCorrupt, says: "sectors"},
		{name: "a buffer too large", items: items(bufferItem(2, 0, 0xFFFF, 0, 1), chunk), err: fsys.ErrCorrupt, says: "sectors"},
		{name: "an empty buffer", items: items(bufferItem(2, 0, 0, 0, 1), chunk), err: fsys.ErrCorrupt, says: "sectors"},
		{name: "0 as next unlinked inode", items: items(bufferItem(2, 1, 8, blockDaddr, 1), make([]byte, 128)), err: fsys.ErrCorrupt, says: "unlinked"},
		{name: "an item of no known type", items: items(le(uint16(0x1238), uint16(1), uint32(0))), err: fsys.ErrUnsupported, says: "0x1238"},
		{name: "an item of no regions", items: items(le(uint16(0x123c), uint16(0))), err: fsys.ErrCorrupt},
		{name: "an item of too many regions", items: items(le(uint16(0x123c), uint16(300))), err: fsys.ErrCorrupt},
		{name: "an unfinished item", items: items(bufferItem(3, 0, 8, blockDaddr, 3), chunk), err: fsys.ErrCorrupt, says: "2 of 3"},

		{name: "an extent to free", items: items(intent(0x1236, 5)), check: func(r xlog.Report) bool { return r.Intents == 1 }},
		{name: "a freed extent", items: items(intent(0x1236, 5), intent(0x1237, 5)), check: func(r xlog.Report) bool { return r.Intents == 0 }},
		{name: "another freed extent", items: items(intent(0x1236, 5), intent(0x1237, 6)), check: func(r xlog.Report) bool { return r.Intents == 1 }},
		{name: "reverse map and count", items: items(intent(0x1240, 5), intent(0x1242, 5), intent(0x124a, 5), intent(0x124c, 1), intent(0x124e, 1)),
			check: func(r xlog.Report) bool { return r.Intents == 5 }},
		{name: "a mapping to change", items: items(intent(0x1244, 5)), err: fsys.ErrUnsupported, says: "mapping"},
		{name: "a changed mapping", items: items(intent(0x1244, 5), intent(0x1245, 5)), check: func(r xlog.Report) bool { return r.Intents == 0 }},
		{name: "an attribute to change", items: items(attr), err: fsys.ErrUnsupported, says: "attribute"},
		{name: "a parent pointer to change", items: items(append(attr, le(uint64(128), uint32(4), uint32(9))...)), check: func(r xlog.Report) bool { return r.Intents == 1 }},
		{name: "an attribute to replace", items: items(append(attr, le(uint64(128), uint32(3), uint32(9))...)), err: fsys.ErrUnsupported, says: "attribute"},
		{name: "a changed attribute", items: items(attr, intent(0x1247, 7)), check: func(r xlog.Report) bool { return r.Intents == 0 }},
		{name: "files to exchange", items: items(intent(0x1248, 5)), err: fsys.ErrUnsupported, says: "exchanging"},
		{name: "a short intent", items: items(intent(0x1248, 5)[:12]), err: fsys.ErrCorrupt},

		{name: "an inode", items: inode(0, nil), check: func(r xlog.Report) bool { return r.Inodes == 1 && r.Patched > 0 }},
		{name: "an inode of 32-bit machines", items: func(b *builder) [][]byte {
			withInode(b, 0)
			f := inodeItem(2, 1, 1, inodes, 8, 0)
			return [][]byte{slices.Delete(f, 12, 16), core(b, nil)}
		}, check: func(r xlog.Report) bool { return r.Inodes == 1 }},
		{name: "an inode in a freed chunk", items: func(b *builder) [][]byte {
			return append(inode(0, nil)(b), bufferItem(1, 2, 8, inodes))
		}, check: func(r xlog.Report) bool { return r.Inodes == 0 && r.Cancelled == 2 }},
		{name: "an inode where there is none", items: func(b *builder) [][]byte { return [][]byte{inodeItem(2, 1, 1, inodes, 8, 0), core(b, nil)} },
			err: fsys.ErrCorrupt, says: "magic"},
		{name: "an inode behind its buffer", items: func(b *builder) [][]byte { return [][]byte{inodeItem(2, 1, 1, inodes, 8, 4096), core(b, nil)} },
			err: fsys.ErrCorrupt, says: "offset"},
		{name: "an inode before its buffer", items: func(b *builder) [][]byte { return [][]byte{inodeItem(2, 1, 1, inodes, 8, -512), core(b, nil)} },
			err: fsys.ErrCorrupt, says: "offset"},
		{name: "an inode without a core", items: func(b *builder) [][]byte { withInode(b, 0); return [][]byte{inodeItem(1, 1, 1, inodes, 8, 0)} },
			err: fsys.ErrCorrupt, says: "core"},
		{name: "a core without magic", items: inode(0, func(d []byte) { d[0] = 0 }), err: fsys.ErrCorrupt, says: "core"},
		{name: "a format of another length", items: func(b *builder) [][]byte {
			withInode(b, 0)
			return [][]byte{append(inodeItem(2, 1, 1, inodes, 8, 0), 0, 0, 0, 0), core(b, nil)}
		}, err: fsys.ErrCorrupt, says: "format"},
		{name: "a local regular file", items: inode(0, func(d []byte) { d[5] = 1 }), err: fsys.ErrCorrupt, says: "regular"},
		{name: "more extents than blocks", items: inode(0, func(d []byte) { d[76] = 1 }), err: fsys.ErrCorrupt, says: "extents"},
		{name: "a fork behind the inode", items: inode(0, func(d []byte) { d[82] = 200 }), err: fsys.ErrCorrupt, says: "fork"},
		{name: "extents", items: inode(4, nil, make([]byte, 16)), check: func(r xlog.Report) bool { return r.Inodes == 1 }},
		{name: "extents that do not fit", items: inode(4, nil, make([]byte, 512)), err: fsys.ErrCorrupt, says: "fit"},
		{name: "missing extents", items: inode(4, nil), err: fsys.ErrCorrupt, says: "missing"},
		{name: "attributes without a fork", items: inode(0x40, nil, make([]byte, 16)), err: fsys.ErrCorrupt, says: "fit"},
		{name: "a root that is too short", items: inode(8, nil, make([]byte, 20)), err: fsys.ErrCorrupt, says: "fit"},
		{name: "a root of too many records", items: inode(8, nil, append([]byte{0, 0, 0, 0, 0, 1, 0xFF, 0xFF}, make([]byte, 100)...)), err: fsys.ErrCorrupt, says: "fit"},
		{name: "a root", items: inode(8, nil, append([]byte{0, 0, 0, 0, 0, 1, 0, 1}, make([]byte, 100)...)), check: func(r xlog.Report) bool { return r.Inodes == 1 }},

		{name: "new inodes", items: items(icreate(0, 32, 64, 512, 8)), check: func(r xlog.Report) bool { return r.InodeChunks == 1 && r.Patched == 64*128*2 }},
		{name: "new inodes that were freed", items: items(icreate(0, 32, 64, 512, 8), bufferItem(1, 2, 32, inodes)),
			check: func(r xlog.Report) bool { return r.InodeChunks == 0 }},
		{name: "new inodes in no group", items: items(icreate(1, 32, 64, 512, 8)), err: fsys.ErrCorrupt},
		{name: "new inodes behind the group", items: items(icreate(0, 1020, 64, 512, 8)), err: fsys.ErrCorrupt},
		{name: "new inodes of another size", items: items(icreate(0, 32, 64, 256, 8)), err: fsys.ErrCorrupt},
		{name: "too many new inodes", items: items(icreate(0, 32, 512, 512, 64)), err: fsys.ErrCorrupt},
		{name: "new inodes that do not fill their blocks", items: items(icreate(0, 32, 32, 512, 8)), err: fsys.ErrCorrupt},
		{name: "a short chunk item", items: items(icreate(0, 32, 64, 512, 8)[:20]), err: fsys.ErrCorrupt},
	} {
		for _, v5 := range []bool{true, false} {
			t.Run(map[bool]string{true: "v5 ", false: "v4 "}[v5]+c.name, func(t *testing.T) {
				if !v5 && c.name == "new inodes" {
					c.check = func(r xlog.Report) bool { return r.InodeChunks == 1 }
				}
				if !v5 && strings.HasPrefix(c.name, "new inodes that were freed") {
					c.items = items(icreate(0, 32, 64, 512, 8), bufferItem(1, 2, 16, inodes))
				}
				b := newBuilder(v5)
				b.record(transaction(1, c.items(b)...)...)
				_, r, err := b.replay()
				switch {
				case !errors.Is(err, c.err) || c.err == nil && err != nil:
					t.Fatalf("error %v, want %v", err, c.err)
				case err != nil && !strings.Contains(err.Error(), c.says):
					t.Errorf("%q does not say %q", err, c.says)
				case err == nil && (r.Transactions != 1 || !c.check(r)):
					t.Errorf("%+v: not what was to be", r)
				}
			})
		}
	}
}

func icreate(ag, agbno, count, size, blocks uint32) []byte {
	b := le(uint16(0x123f), uint16(1))
	for _, v := range []uint32{ag, agbno, count, size, blocks, 99} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// TestRecords is about how records and operations are put together.
func TestRecords(t *testing.T) {
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 8)
	item := bufferItem(2, 0, 8, blockDaddr, 2)
	good := transaction(1, item, chunk)
	header := good[1]
	for _, c := range []struct {
		name  string
		build func(b *builder)
		err   error
		patch bool // the chunk is on the device
	}{
		{name: "whole", build: func(b *builder) { b.record(good...) }, patch: true},
		{name: "split between records", build: func(b *builder) { b.record(good[:3]...); b.record(good[3:]...) }, patch: true},
		{name: "a region split", build: func(b *builder) {
			b.record(good[0], good[1], good[2], op(1, flagContinue, chunk[:64]))
			b.record(op(1, flagWasContinued|flagEnd, chunk[64:]), good[4])
		}, patch: true},
		{name: "a region split in three", build: func(b *builder) {
			b.record(good[0], good[1], good[2], op(1, flagContinue, chunk[:32]))
			b.record(op(1, flagWasContinued|flagContinue, chunk[32:64]))
			b.record(op(1, flagWasContinued|flagEnd, chunk[64:]), good[4])
		}, patch: true},
		{name: "a region split before its first byte", build: func(b *builder) {
			b.record(good[0], good[1], good[2], op(1, flagContinue, nil), good[3], good[4])
		}, patch: true},
		{name: "the header split", build: func(b *builder) {
			b.record(good[0], op(1, flagContinue, header[12:20]))
			b.record(op(1, flagWasContinued|flagEnd, header[20:]), good[2], good[3], good[4])
		}, patch: true},
		{name: "two transactions interleaved", build: func(b *builder) {
			other := transaction(2, bufferItem(2, 0, 8, blockDaddr+8, 1), chunk)
			b.record(good[0], other[0], good[1], other[1], other[2], good[2], good[3], other[3], good[4])
		}, patch: true},
		{name: "no commit", build: func(b *builder) { b.record(good[:4]...) }},
		{name: "the rest of a transaction from before the tail", build: func(b *builder) { b.record(append([][]byte{op(9, 0, chunk), op(9, flagCommit, nil)}, good...)...) }, patch: true},
		{name: "ended by an unmount", build: func(b *builder) { b.record(append(good[:4:4], op(1, flagUnmount, nil), good[4])...) }},
		{name: "fewer operations than the record says", build: func(b *builder) { b.raw(bytes.Join(good, nil), 100) }, patch: true},
		{name: "more operations than the record says", build: func(b *builder) { b.raw(bytes.Join(good, nil), 4) }},
		{name: "no header", build: func(b *builder) { b.record(good[0], good[2], good[3], good[4]) }, err: fsys.ErrCorrupt},
		{name: "a long header", build: func(b *builder) { b.record(good[0], op(1, 0, append(header[12:], 0)), good[4]) }, err: fsys.ErrCorrupt},
		{name: "started twice", build: func(b *builder) { b.record(append([][]byte{good[0]}, good...)...) }, err: fsys.ErrCorrupt},
		{name: "flags that exclude each other", build: func(b *builder) { b.record(good[0], op(1, flagCommit|flagUnmount, nil)) }, err: fsys.ErrCorrupt},
		{name: "a rest of nothing", build: func(b *builder) { b.record(good[0], good[1], op(1, flagWasContinued, chunk)) }, err: fsys.ErrCorrupt},
		{name: "another client", build: func(b *builder) { o := op(1, 0, nil); o[8] = 1; b.record(o) }, err: fsys.ErrCorrupt},
		{name: "an operation behind the record", build: func(b *builder) { o := op(1, 0, nil); o[7] = 99; b.record(o) }, err: fsys.ErrCorrupt},
		{name: "half an operation header", build: func(b *builder) { b.raw(append(op(9, 0, nil), 1, 2, 3), 2) }, err: fsys.ErrCorrupt},
		{name: "of another file system", build: func(b *builder) { b.m.g.UUID[0]++; b.record(good...); b.m.g.UUID[0]-- }, err: fsys.ErrCorrupt},
		{name: "in no format", build: func(b *builder) { b.record(good...); b.m.log()[303] = 0; b.seal(0) }, err: fsys.ErrCorrupt},
		{name: "of a big-endian machine", build: func(b *builder) { b.record(good...); b.m.log()[303] = 2; b.seal(0) }, err: fsys.ErrUnsupported},
		{name: "of an unknown version", build: func(b *builder) { b.record(good...); b.m.log()[11] = 4; b.seal(0) }, err: fsys.ErrCorrupt},
		{name: "a log buffer of 1 GiB", build: func(b *builder) { b.record(good...); b.m.log()[320] = 0x40; b.seal(0) }, err: fsys.ErrCorrupt},
		{name: "a checksum of 32-bit machines", build: func(b *builder) {
			b.record(good...)
			log := b.m.log()
			clear(log[32:36])
			sum := append(bytes.Clone(log[:324]), log[basicBlock:basicBlock+int(binary.BigEndian.Uint32(log[12:]))]...)
			binary.LittleEndian.PutUint32(log[32:], castagnoli(sum))
		}, patch: true},
		{name: "no checksum", build: func(b *builder) { b.record(good...); clear(b.m.log()[32:36]) }, err: fsys.ErrCorrupt},
		{name: "features of later kernels", build: func(b *builder) { b.record(good...); b.m.g.LogIncompat = 2 }, err: fsys.ErrUnsupported},
		{name: "logged attributes", build: func(b *builder) { b.record(good...); b.m.g.LogIncompat = 1 }, patch: true},
		{name: "a superblock from after the log", build: func(b *builder) { b.record(good...); b.m.g.LSN = 2 << 32 }, err: fsys.ErrCorrupt},
		{name: "on another device", build: func(b *builder) { b.m.g.LogStart = 0 }, err: fsys.ErrUnsupported},
		{name: "behind the device", build: func(b *builder) { b.m.g.LogStart = builtSize/4096 - 1 }, err: fsys.ErrCorrupt},
		{name: "never written", build: func(*builder) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBuilder(true)
			c.build(b)
			dev, _, err := b.replay()
			if !errors.Is(err, c.err) || c.err == nil && err != nil {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			got := make([]byte, 128)
			if _, err := extent.ReadFull(dev, got, blockAt+128); err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(got, chunk) != c.patch {
				t.Errorf("patched: %v, want %v", !c.patch, c.patch)
			}
		})
	}
}

// TestLimits: logs that would need more memory than a replay may have are not supported.
func TestLimits(t *testing.T) {
	b := newBuilder(true)
	b.m.g.AGBlocks, b.m.g.LogBlocks = 1<<28, 1<<20
	b.m.g.AGBlockLog = 28
	huge := extent.Zeros(1 << 40)
	if _, _, err := xlog.Replay(huge, b.m.g); !errors.Is(err, fsys.ErrUnsupported) {
		t.Errorf("a log of 4 GiB: %v", err)
	}
	// A chunk of inodes costs the log 40 bytes, and memory 16 KiB.
	b = newBuilder(true)
	b.m.g.AGBlocks, b.m.g.AGBlockLog = 1<<28, 28
	tid := uint32(0)
	for range 30 {
		var ops [][]byte
		for range 300 {
			tid++
			ops = append(ops, transaction(tid, icreate(0, 4096+tid*8, 64, 512, 8))...)
		}
		data := bytes.Join(ops, nil)
		if len(data) > 32<<10 {
			t.Fatal("the record is too long")
		}
		b.raw(data, len(ops))
	}
	dev, err := extent.Overlay(huge, []extent.Patch{{Off: builtLogAt, Data: extent.Bytes(b.m.log())}})
	if err != nil {
		t.Fatal(err)
	}
	if _, r, err := xlog.Replay(dev, b.m.g); !errors.Is(err, fsys.ErrUnsupported) {
		t.Errorf("inodes without end: %+v, %v", r, err)
	}
}
