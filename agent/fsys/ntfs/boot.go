package ntfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

const (
	bootSize = 512
	// maxCluster is the largest cluster in bytes that Windows makes (since Windows 10 1709).
	maxCluster = 2 << 20
	// minRecordSize and maxRecordSize bound an MFT record; Windows makes 1024 and 4096.
	minRecordSize, maxRecordSize = 512, 4096
	// maxIndexBlock bounds a block of an index; Windows makes 4096.
	minIndexBlock, maxIndexBlock = 512, 64 << 10
)

// boot is what the boot sector tells.
//
//	0x03 OEM id "NTFS    "   0x0B bytes per sector (2)   0x0D sectors per cluster (1)
//	0x28 sectors (8)   0x30 cluster of $MFT (8)   0x38 cluster of $MFTMirr (8)
//	0x40 clusters per MFT record (1)   0x44 clusters per index block (1)   0x48 serial number (8)
type boot struct {
	sector   uint64 // bytes
	cluster  uint64 // bytes
	sectors  uint64 // of the file system, without the backup boot sector
	clusters uint64
	mft      uint64 // cluster
	mirror   uint64 // cluster
	record   int    // bytes of an MFT record
	serial   uint64
}

// bytes is the size of the file system.
func (b *boot) bytes() uint64 { return b.sectors * b.sector }

var oemID = []byte("NTFS    ")

// readBoot reads the boot sector, or where that is damaged its backup in the last sector of the
// volume, with a warning.
func readBoot(r extent.Reader) (*boot, string, error) {
	raw := make([]byte, bootSize)
	if r.Size() < bootSize {
		return nil, "", fsys.ErrNotRecognized
	}
	if _, err := extent.ReadFull(r, raw, 0); err != nil {
		return nil, "", fmt.Errorf("ntfs: boot sector: %w", err)
	}
	ours := bytes.Equal(raw[3:11], oemID)
	if !ours && (len(bytes.Trim(raw, "\x00")) > 0 || otherFormat(r)) {
		return nil, "", fsys.ErrNotRecognized
	}
	primary := fsys.ErrNotRecognized
	if ours {
		b, err := parseBoot(raw, 0)
		if err == nil || errors.Is(err, fsys.ErrUnsupported) {
			return b, "", err
		}
		primary = err
	}
	for _, size := range []int64{512, 1024, 2048, 4096} {
		at := r.Size() - size
		if at < bootSize {
			break
		}
		if _, err := extent.ReadFull(r, raw, at); err != nil || !bytes.Equal(raw[3:11], oemID) {
			continue
		}
		// The backup must be that of a file system which ends just before it.
		if b, err := parseBoot(raw, at); err == nil && b.bytes() == uint64(at) {
			return b, "the boot sector is damaged, and its backup at the end of the volume is used: a file system check in the guest is due", nil
		}
	}
	return nil, "", primary
}

// otherFormat tells whether a device whose first sector is empty holds another file system: one
// made over NTFS can leave the backup of the boot sector, and files, in place.
func otherFormat(r extent.Reader) bool {
	for _, s := range []struct {
		off   int64
		magic string
	}{{1024 + 56, "\x53\xef"}, {64<<10 + 64, "_BHRfS_M"}, {512, "LABELONE"}, {4086, "SWAPSPACE2"}, {32769, "CD001"}, {1024, "\x10\x20\xf5\xf2"}} {
		b := make([]byte, len(s.magic))
		if _, err := extent.ReadFull(r, b, s.off); err == nil && string(b) == s.magic {
			return true
		}
	}
	return false
}

// parseBoot decodes a boot sector with the OEM id; at is its place, for errors.
func parseBoot(raw []byte, at int64) (*boot, error) {
	le := binary.LittleEndian
	bad := func(reason string, args ...any) error {
		return fsys.Corrupt("ntfs", "boot sector", 0, at, reason, args...)
	}
	b := &boot{
		sector: uint64(le.Uint16(raw[0x0B:])), sectors: le.Uint64(raw[0x28:]),
		mft: le.Uint64(raw[0x30:]), mirror: le.Uint64(raw[0x38:]), serial: le.Uint64(raw[0x48:]),
	}
	if b.sector < 256 || b.sector > 4096 || bits.OnesCount64(b.sector) != 1 {
		return nil, bad("%d bytes per sector", b.sector)
	}
	// Above 0x80 the byte is the negative logarithm of the sectors.
	perCluster := uint64(raw[0x0D])
	if perCluster > 0x80 {
		shift := 256 - perCluster
		if shift > 31 {
			return nil, bad("%#x sectors per cluster", raw[0x0D])
		}
		perCluster = 1 << shift
	}
	if bits.OnesCount64(perCluster) != 1 {
		return nil, bad("%d sectors per cluster", perCluster)
	}
	b.cluster = b.sector * perCluster
	if b.cluster < 512 || b.cluster > maxCluster {
		return nil, fmt.Errorf("ntfs: %w: clusters of %d bytes", fsys.ErrUnsupported, b.cluster)
	}
	// Byte offsets in the volume must be offsets of Go's I/O.
	if n, ok := ondisk.Mul(b.sectors, b.sector); !ok || n > math.MaxInt64 || b.sectors == 0 {
		return nil, bad("%d sectors of %d bytes", b.sectors, b.sector)
	}
	b.clusters = b.bytes() / b.cluster
	if b.mft >= b.clusters {
		return nil, bad("the master file table is at cluster %d of %d", b.mft, b.clusters)
	}
	// A positive size is in clusters, a negative one a logarithm of bytes.
	size := func(v int8) uint64 {
		if v > 0 {
			return uint64(v) * b.cluster
		}
		return 1 << min(63, uint64(-int64(v)))
	}
	n := size(int8(raw[0x40]))
	if n < minRecordSize || n > maxRecordSize || bits.OnesCount64(n) != 1 {
		return nil, bad("MFT records of %d bytes", n)
	}
	b.record = int(n)
	if b.mirror >= b.clusters {
		b.mirror = 0 // it is of use only where the table's start cannot be read
	}
	return b, nil
}
