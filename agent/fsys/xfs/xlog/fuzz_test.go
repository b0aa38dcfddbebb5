package xlog_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"vmfr/agent/fsys"
	"vmfr/agent/fsys/fsystest"
	"vmfr/agent/fsys/xfs/xlog"
)

func TestSeeds(t *testing.T) {
	if !fsystest.Updating() {
		t.Skip("testdata is not to be made anew")
	}
	m := dirtyImage(t, 24<<20, []string{"-m", "rmapbt=0"}, true, churn(21, 130))
	fsystest.Store(t, "v5", bytes.NewReader(m.b))
}

// stored is an image of testdata.
func stored(t testing.TB, name string) *image { return newImage(fsystest.Stored(t, name)) }

// judge requires of any log, whatever is in it, that a replay ends with an error of a kind or with
// a device that can be read, and always with the same.
func judge(t *testing.T, m *image) {
	t.Helper()
	dev, r, err := m.replay()
	again, r2, err2 := m.replay()
	if r != r2 || (err == nil) != (err2 == nil) || err != nil && err.Error() != err2.Error() {
		t.Fatalf("%+v, %v, and the second time %+v, %v", r, err, r2, err2)
	}
	if err != nil {
		if !errors.Is(err, fsys.ErrCorrupt) && !errors.Is(err, fsys.ErrUnsupported) {
			t.Fatalf("%v is of no kind", err)
		}
		return
	}
	if !r.Dirty {
		if r != (xlog.Report{}) {
			t.Fatalf("clean, and %+v", r)
		}
		return
	}
	var bytes1, bytes2 [64 << 10]byte
	changed := int64(0)
	for off := int64(0); off < dev.Size(); {
		e, err := dev.Extent(off, int64(len(bytes1)))
		if err != nil {
			t.Fatal(err)
		}
		n1, err1 := dev.ReadAt(bytes1[:e.Len], off)
		n2, err2 := again.ReadAt(bytes2[:e.Len], off)
		if n1 != int(e.Len) || n2 != n1 || err1 != nil && err1 != io.EOF || err2 != nil && err2 != io.EOF {
			t.Fatalf("reading %d bytes at %d: %d, %v; %d, %v", e.Len, off, n1, err1, n2, err2)
		}
		if !bytes.Equal(bytes1[:n1], bytes2[:n2]) {
			t.Fatalf("two replays differ near byte %d", off)
		}
		for i := 0; i < n1; i += 128 {
			if !bytes.Equal(bytes1[i:i+128], m.b[off+int64(i):off+int64(i)+128]) {
				changed += 128
			}
		}
		off += e.Len
	}
	if changed > r.Patched {
		t.Fatalf("%d bytes differ, the report says %d", changed, r.Patched)
	}
}

// FuzzLog changes bytes of a real log and computes the checksums of its records anew, so that what
// is behind them is met. The input is a byte that chooses the image and whether checksums are
// mended, and then records of position in the active log (3 bytes) and value.
func FuzzLog(f *testing.F) {
	type base struct {
		*image
		records    []int
		start, end int // of the active log, bytes
	}
	var bases []base
	for _, name := range []string{"v5", "v4"} {
		m := stored(f, name)
		b := base{image: m, records: findRecords(m)}
		first, last := b.records[0]*basicBlock, b.records[len(b.records)-1]*basicBlock
		b.start, b.end = first, last+basicBlock+int(binary.BigEndian.Uint32(m.log()[last+12:]))
		if b.start >= b.end {
			f.Fatal("the log is wrapped")
		}
		bases = append(bases, b)
	}
	for i := range byte(4) {
		f.Add([]byte{i})
		f.Add([]byte{i, 0, 0, 12, 1, 0, 2, 9, 0xFF})
		f.Add([]byte{i, 0, 2, 40, 0x12, 0, 2, 41, 0x12, 0, 3, 0, 7})
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		b := bases[in[0]&1]
		mend := in[0]&2 != 0
		in = in[1:min(len(in), 1+4*256)]
		log := b.log()
		before := bytes.Clone(log[b.start:b.end])
		defer func() { copy(log[b.start:], before) }()
		for ; len(in) >= 4; in = in[4:] {
			at := int(in[0])<<16 | int(in[1])<<8 | int(in[2])
			log[b.start+at%(b.end-b.start)] = in[3]
		}
		if mend {
			for _, blk := range b.records {
				sealRecord(log[blk*basicBlock:])
			}
		}
		judge(t, b.image)
	})
}

// FuzzRecord has one record of any operations. The first byte chooses the version; on the device
// are an inode and blocks of the kinds that a replay looks at.
func FuzzRecord(f *testing.F) {
	chunk := bytes.Repeat([]byte("chunk..."), 16)
	for _, regions := range [][][]byte{
		{bufferItem(2, 0, 8, blockDaddr, 2), chunk},
		{bufferItem(2, 1, 8, inodes, 1), chunk},
		{inodeItem(2, 1, 1, inodes, 8, 0), logDinode(true, 1, 100)},
		{inodeItem(3, 5, 1, inodes, 8, 0), logDinode(true, 1, 100), make([]byte, 16)},
		{inodeItem(3, 0x209, 1, inodes, 8, 0), logDinode(true, 1, 100), append([]byte{0, 0, 0, 0, 0, 1, 0, 1}, make([]byte, 80)...)},
		{icreate(0, 32, 64, 512, 8), intent(0x1236, 5), intent(0x1245, 5)},
	} {
		f.Add(append([]byte{5}, bytes.Join(transaction(1, regions...), nil)...))
	}
	f.Add(append([]byte{4}, bytes.Join(transaction(1, inodeItem(2, 1, 1, inodes, 8, 0), logDinode(false, 1, 100)), nil)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < 2 || len(in) > 32<<10 {
			return
		}
		b := newBuilder(in[0] != 4)
		withInode(b, 0)
		for i, magic := range []string{"BMA3", "XDB3", "XAGI", "XFSB"} {
			copy(b.m.b[blockAt+4096*i:], magic)
		}
		b.raw(in[1:], 1<<20)
		judge(t, b.m)
	})
}
