package xfs

import (
	"encoding/binary"
	"errors"
	iofs "io/fs"
	"testing"
	"time"

	"vmfr/agent/fsys"
)

func TestStamp(t *testing.T) {
	big, old := &super{incompat: incompatBigtime}, &super{}
	parts := func(sec int32, nsec uint32) uint64 { return uint64(uint32(sec))<<32 | uint64(nsec) }
	for _, c := range []struct {
		s      *super
		v      uint64
		flags2 uint64
		want   time.Time
	}{
		{old, parts(0, 0), 0, time.Unix(0, 0)},
		{old, parts(-1, 999_999_999), 0, time.Unix(-1, 999_999_999)},
		{old, parts(-1<<31, 0), 0, time.Unix(-1<<31, 0)},
		{old, parts(1<<31-1, 5), 0, time.Unix(1<<31-1, 5)},
		{old, parts(7, 0xFFFFFFFF), 0, time.Unix(7, 0)}, // no such nanosecond
		{big, parts(9, 1), 0, time.Unix(9, 1)},          // an inode from before the upgrade
		{big, 0, flag2Bigtime, time.Unix(-1<<31, 0)},
		{big, 1<<31*1_000_000_000 + 3, flag2Bigtime, time.Unix(0, 3)},
		{big, 1<<64 - 1, flag2Bigtime, time.Unix(16_299_260_425, 709_551_615)},
	} {
		if got := c.s.stamp(c.v, c.flags2); !got.Equal(c.want) {
			t.Errorf("%#x with flags %#x: %v, want %v", c.v, c.flags2, got, c.want)
		}
	}
}

// TestOldInode: inodes of version 1 have a 16-bit link count elsewhere, which no mkfs.xfs of today
// makes.
func TestOldInode(t *testing.T) {
	raw := make([]byte, 256)
	be := binary.BigEndian
	be.PutUint16(raw, inodeMagic)
	be.PutUint16(raw[2:], 0o100644)
	raw[4], raw[5] = 1, formatExtents
	be.PutUint16(raw[6:], 3)
	s := &super{blockSize: 4096, blocks: 1000}
	n, err := s.parseInode(99, raw, 0)
	if err != nil || n.links != 3 {
		t.Errorf("%+v, %v", n, err)
	}
	be.PutUint16(raw[6:], 0)
	be.PutUint32(raw[16:], 3)
	if _, err := s.parseInode(99, raw, 0); !errors.Is(err, iofs.ErrNotExist) {
		t.Error(err)
	}
	raw[4] = 2
	if n, err := s.parseInode(99, raw, 0); err != nil || n.links != 3 {
		t.Errorf("%+v, %v", n, err)
	}
}

// TestNumbers: a number that no inode can have, or that is internal, is not there; one whose place
// holds something else is damage.
func TestNumbers(t *testing.T) {
	h := newHostile(t)
	for _, ino := range []uint64{0, 1, 1 << 20, 1 << 40, 1<<64 - 1, h.fs.sb.internal[0], h.fs.sb.internal[1]} {
		if _, err := h.fs.Stat(fsys.Ino(ino)); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("inode %d: %v", ino, err)
		}
	}
	at := uint64(h.block("good", 0)) / 512 // in the only group an inode's number is its place / 512
	if _, err := h.fs.Stat(fsys.Ino(at)); !errors.Is(err, fsys.ErrCorrupt) {
		t.Errorf("an inode in a file's data: %v", err)
	}
}

// TestParentPointers: they are attributes on the disk and not for programs.
func TestParentPointers(t *testing.T) {
	h := newHostile(t)
	for path, flags := range map[string]int{"xs": h.attrFork("xs") + attrShortHeader + 2, "xl": h.attrBlock("xl", 0) + attrLeafEntriesV5 + 6} {
		before, err := h.openDamaged().Xattrs(h.ino(path))
		if err != nil {
			t.Fatal(err)
		}
		h.put(flags, h.b[flags]|attrParent)
		h.sealInode(h.inode("xs"))
		h.sealAttr(h.attrBlock("xl", 0))
		after, err := h.openDamaged().Xattrs(h.ino(path))
		if err != nil || len(after) != len(before)-1 {
			t.Errorf("%s: %d attributes of %d, %v", path, len(after), len(before), err)
		}
	}
}

// TestPartialListing: the blocks of a directory that are whole are listed however the calls are cut,
// and then comes the damage's error.
func TestPartialListing(t *testing.T) {
	h := newHostile(t)
	n := must(h.fs.inode(h.ino("node")))
	h.put(h.block("node", 4)+100, 0xAA) // the second directory block, unsealed
	fs := h.openDamaged()
	lengths := map[int]bool{}
	for _, batch := range []int{1, 7, 64, 5000} {
		buf := make([]fsys.Dirent, batch)
		count, from := 0, fsys.Cookie(0)
		for {
			k, err := fs.ReadDir(fsys.Ino(n.num), from, buf)
			if count += k; err != nil {
				if !errors.Is(err, fsys.ErrCorrupt) {
					t.Errorf("batches of %d end with %v", batch, err)
				}
				break
			}
			from = buf[k-1].Next
		}
		lengths[count] = true
		if count < 500 || count >= 700 {
			t.Errorf("batches of %d list %d of 700 names", batch, count)
		}
	}
	if len(lengths) != 1 {
		t.Errorf("the numbers of names differ: %v", lengths)
	}
}
