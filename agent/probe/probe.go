// Package probe tells what a range of bytes holds by the signature that every file system,
// volume manager and encrypted container writes at a fixed place.
//
// Purpose: an error can say "this is xfs", an unknown volume is not shown as a broken file
// system, and a file system on a whole disk is not taken for a partition table. Non-goals: it
// proves nothing about the rest of the volume and checks no checksum; engines do. Invariants:
// a fixed number of small reads whatever the bytes say; no offset or size from disk is
// followed; labels are the guest's and untrusted.
package probe

import (
	"bytes"

	"vmfr/agent/extent"
	"vmfr/agent/ondisk"
)

// Kind is what a signature stands for.
type Kind int

// The kinds. Unknown is the zero value: bytes without a known signature.
const (
	KindUnknown    Kind = iota
	KindEmpty           // the places where signatures lie are all zeros
	KindFilesystem      // holds files
	KindContainer       // holds another device: LUKS, LVM, md RAID, bcache
	KindSwap            // holds no files
)

// String names the kind for JSON and messages.
func (k Kind) String() string {
	switch k {
	case KindEmpty:
		return "empty"
	case KindFilesystem:
		return "filesystem"
	case KindContainer:
		return "container"
	case KindSwap:
		return "swap"
	}
	return "unknown"
}

// Signature is what Identify found. Type, Label and UUID are written as blkid(8) writes them.
type Signature struct {
	Kind  Kind
	Type  string // "ext4", "xfs", "LVM2_member", ...; empty for KindUnknown and KindEmpty
	Label string // valid UTF-8; empty where there is none or finding it means parsing
	UUID  string // empty likewise
	// BootSector tells that the format owns sector 0 (FAT, NTFS, ...): its 55AA mark there
	// is no sign of a partition table.
	BootSector bool
	// Err is an I/O error of the device. What was found before it is still told.
	Err error
}

const (
	headSize = 8 << 10 // most signatures lie in the first 8 KiB: one read
	farSize  = 4 << 10 // the most that is read at any other place
)

// detectors are asked in this order. A container goes before what it contains: a RAID 1 leg
// with its superblock at the end starts like the file system, or the other container, that it
// mirrors.
var detectors = []func(*device) (Signature, bool){
	mdRaid, luks, lvm2, bcache, bitlocker,
	xfs, ext, btrfs, squashfs, erofs, f2fs, ntfs, exfat, refs, vfat, apfs, hfs,
	iso9660, udf, zfs, reiserfs, jfs, nilfs2, ufs, vmfs, swap,
}

// Identify looks for the signatures of r. It reads at most about 100 KiB in small pieces and
// returns KindUnknown, never an error, for bytes that it does not know.
func Identify(r extent.Reader) Signature {
	d := &device{r: r}
	d.head = d.read(0, int(min(headSize, r.Size())))
	for _, detect := range detectors {
		if s, ok := detect(d); ok {
			s.Err = d.err
			return s
		}
	}
	s := Signature{Err: d.err}
	if d.err == nil && !d.nonzero {
		s.Kind = KindEmpty
	}
	return s
}

// device is the bytes being probed, its first headSize bytes read once.
type device struct {
	r       extent.Reader
	head    []byte
	nonzero bool // some byte read so far is not zero
	err     error
}

// at returns a little-endian view of n <= farSize bytes at off, empty where they do not exist
// or cannot be read: its integers are then zero, which is no signature.
func (d *device) at(off int64, n int) *ondisk.View {
	return ondisk.Little(d.bytes(off, n))
}

// big is at for big-endian formats.
func (d *device) big(off int64, n int) *ondisk.View {
	return ondisk.Big(d.bytes(off, n))
}

func (d *device) bytes(off int64, n int) []byte {
	if off >= 0 && off+int64(n) <= int64(len(d.head)) {
		return d.head[off : off+int64(n)]
	}
	if off < 0 || n > farSize || off > d.r.Size()-int64(n) {
		return nil
	}
	return d.read(off, n)
}

func (d *device) read(off int64, n int) []byte {
	b := make([]byte, n)
	if got, err := d.r.ReadAt(b, off); got < n {
		if d.err == nil {
			d.err = err
		}
		return nil
	}
	if !d.nonzero {
		d.nonzero = len(bytes.Trim(b, "\x00")) > 0
	}
	return b
}

// has tells whether the bytes at off are magic.
func (d *device) has(off int64, magic string) bool {
	return string(d.bytes(off, len(magic))) == magic
}
