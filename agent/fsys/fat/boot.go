package fat

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"strings"

	"vmfr/agent/extent"
	"vmfr/agent/fsys"
	"vmfr/agent/ondisk"
)

// Boot sector, little endian. All variants share the first part; FAT32 has a longer second one.
//
//	11 bytes per sector      19 sectors, 16 bit   FAT12/16        FAT32
//	13 sectors per cluster   21 media             37 state        36 sectors per FAT   44 root cluster
//	14 reserved sectors      22 sectors per FAT   38 signature    40 flags             48 FSInfo sector
//	16 number of FATs        32 sectors, 32 bit   39 serial       42 version           50 backup sector
//	17 root entries                               43 label        65 state, 66 signature, 67 serial, 71 label
//
// Then follow on the volume: reserved sectors, FATs, root directory (FAT12/16), clusters 2, 3, ...
const (
	bootSize    = 512
	minSector   = 512
	maxSector   = 4096
	maxCluster  = 256 << 10 // bytes: 64 sectors of 4 KiB; Windows stops there
	firstData   = 2         // the number of the first cluster
	backupPlace = 6         // the sector of FAT32's copy

	stateDirty  = 0x01
	stateFailed = 0x02

	flagOneFAT = 0x80 // FAT32: only the FAT in the lowest four bits is kept up to date
)

// The most clusters of each variant (the kernel's MAX_FAT12, MAX_FAT16, MAX_FAT32).
const (
	maxFAT12 = 0xff4
	maxFAT16 = 0xfff4
	maxFAT32 = 0x0ffffff6
)

// geometry is the decoded boot sector, validated by parseBoot: positions and sizes are in bytes
// and cannot overflow.
type geometry struct {
	bits      int // 12, 16 or 32
	sector    int64
	cluster   int64
	clusters  uint32 // cluster numbers go from 2 to clusters+1
	fat       int64  // position of the FAT in use
	fatSize   int64
	fixedRoot int64 // position of the root directory of FAT12/16
	fixedSize int64
	rootStart uint32 // first cluster of FAT32's root directory
	data      int64  // position of cluster 2
	fsInfo    int64  // position, 0: none
	oneFAT    bool
	dirty     bool
	label     string
	serial    uint32
	hasSerial bool
}

// end is where the last cluster ends.
func (g *geometry) end() int64 { return g.data + int64(g.clusters)*g.cluster }

// valid tells whether c is the number of a cluster.
func (g *geometry) valid(c uint32) bool { return c >= firstData && c-firstData < g.clusters }

// at is where a valid cluster lies.
func (g *geometry) at(c uint32) int64 { return g.data + int64(c-firstData)*g.cluster }

// readBoot reads the boot sector, or FAT32's copy of it where the first is destroyed.
func readBoot(r extent.Reader) (*geometry, []string, error) {
	if r.Size() < bootSize {
		return nil, nil, fsys.ErrNotRecognized
	}
	b := make([]byte, bootSize)
	if _, err := extent.ReadFull(r, b, 0); err != nil {
		return nil, nil, fmt.Errorf("fat: boot sector: %w", err)
	}
	g, err := parseBoot(b, 0)
	if err == nil {
		var notes []string
		if g.oneFAT {
			notes = append(notes, "only one of the allocation tables is kept up to date, and it is used")
		}
		return g, notes, nil
	}
	if copied := backupBoot(r, b); copied != nil {
		return copied, []string{fmt.Sprintf("the boot sector is damaged (%v); its backup is used", reason(err))}, nil
	}
	return nil, nil, err
}

func reason(err error) string {
	if errors.Is(err, fsys.ErrNotRecognized) {
		return "it is not one of FAT"
	}
	return err.Error()
}

// foreign are signatures of what replaced a FAT32 whose backup boot sector was not overwritten.
var foreign = []struct {
	at   int64
	mark string
}{
	{0, "XFSB"}, {0, "LUKS"}, {3, "NTFS"}, {3, "EXFAT"}, {3, "-FVE-FS-"}, {512, "LABELONE"}, {1080, "\x53\xef"},
	{4086, "SWAP"}, {4096, "\xfc\x4e\x2b\xa9"}, {65600, "_BHRfS_M"},
}

// backupBoot returns what FAT32's backup boot sector says, or nil where there is none, where it
// does not belong to the tables that it describes, or where the volume holds something else now.
func backupBoot(r extent.Reader, primary []byte) *geometry {
	for _, s := range foreign {
		b := make([]byte, len(s.mark))
		if _, err := extent.ReadFull(r, b, s.at); err == nil && string(b) == s.mark {
			return nil
		}
	}
	for sector := int64(minSector); sector <= maxSector; sector *= 2 {
		b := make([]byte, bootSize)
		if _, err := extent.ReadFull(r, b, backupPlace*sector); err != nil {
			return nil
		}
		g, err := parseBoot(b, backupPlace*sector)
		v := ondisk.Little(b)
		if err != nil || g.bits != 32 || g.sector != sector || v.U16(510) != 0xaa55 || v.U16(50) != backupPlace {
			continue
		}
		// The first entry of the FAT repeats the media byte.
		entry := make([]byte, 4)
		if _, err := extent.ReadFull(r, entry, g.fat); err != nil || entry[0] != v.U8(21) || entry[1] != 0xff || entry[2] != 0xff || entry[3]&0xf != 0xf {
			continue
		}
		return g
	}
	return nil
}

// parseBoot decodes one copy of the boot sector with the kernel's checks (fat_read_bpb). Like
// the kernel it does not ask for 55AA at the end. Errors: fsys.ErrNotRecognized;
// fsys.ErrUnsupported; fsys.ErrCorrupt where it is FAT's, but what it describes cannot be.
func parseBoot(b []byte, off int64) (*geometry, error) {
	v := ondisk.Little(b)
	sector, perCluster, reserved, fats := int64(v.U16(11)), int64(v.U8(13)), int64(v.U16(14)), int64(v.U8(16))
	media := v.U8(21)
	if bits.OnesCount64(uint64(sector)) != 1 || sector < minSector || sector > maxSector || bits.OnesCount64(uint64(perCluster)) != 1 ||
		reserved == 0 || fats == 0 || media < 0xf8 && media != 0xf0 {
		return nil, fsys.ErrNotRecognized
	}
	bad := func(format string, args ...any) (*geometry, error) {
		return nil, fsys.Corrupt("fat", "boot sector", 0, off, format, args...)
	}
	g := &geometry{sector: sector, cluster: sector * perCluster}
	entries, total, perFAT := int64(v.U16(17)), int64(v.U16(19)), int64(v.U16(22))
	if total == 0 {
		total = int64(v.U32(32))
	}
	extended := 38
	if perFAT == 0 {
		g.bits, extended = 32, 66
		perFAT = int64(v.U32(36))
		if version := v.U16(42); version != 0 && perFAT != 0 {
			return nil, fmt.Errorf("fat: %w: FAT32 version %d.%d", fsys.ErrUnsupported, version>>8, version&0xff)
		}
		g.rootStart = v.U32(44)
	}
	if perFAT == 0 || total == 0 {
		return nil, fsys.ErrNotRecognized
	}
	if g.cluster > maxCluster {
		return bad("clusters of %d bytes", g.cluster)
	}
	g.fat, g.fatSize = reserved*sector, perFAT*sector
	g.fixedRoot, g.fixedSize = g.fat+fats*g.fatSize, entries*entrySize
	if g.fixedSize%sector != 0 {
		return bad("a root directory of %d entries", entries)
	}
	g.data = g.fixedRoot + g.fixedSize
	if total*sector < g.data+g.cluster {
		return bad("%d sectors have no room for a cluster", total)
	}
	if err := g.count(total*sector, off); err != nil {
		return nil, err
	}
	if g.bits == 32 {
		flags := v.U16(40)
		if g.oneFAT = flags&flagOneFAT != 0; g.oneFAT {
			if int64(flags&0xf) >= fats {
				return bad("FAT %d of %d is in use", flags&0xf, fats)
			}
			g.fat += int64(flags&0xf) * g.fatSize
		}
		if !g.valid(g.rootStart) {
			return bad("the root directory starts at cluster %d of %d", g.rootStart, g.clusters)
		}
		if at := int64(v.U16(48)); at > 0 && at < reserved {
			g.fsInfo = at * sector
		}
		g.fixedRoot = 0
	} else if entries == 0 {
		return bad("no room for the root directory")
	}
	g.dirty = v.U8(extended-1)&stateDirty != 0
	switch v.U8(extended) {
	case 0x29:
		if l := strings.TrimRight(string(bytes.Map(printable, v.Bytes(extended+5, 11))), " "); l != "NO NAME" {
			g.label = l
		}
		fallthrough
	case 0x28:
		g.serial, g.hasSerial = v.U32(extended+1), true
	}
	return g, nil
}

func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return -1
	}
	return r
}

// count finds the number of clusters, and by it whether a FAT that is not FAT32 has 12 or 16
// bits. A FAT that is too short for the volume limits it.
func (g *geometry) count(size, off int64) error {
	n := (size - g.data) / g.cluster
	most := int64(maxFAT32)
	if g.bits != 32 {
		g.bits, most = 12, maxFAT12
		if n > maxFAT12 {
			g.bits, most = 16, maxFAT16
		}
	}
	n = min(n, g.fatSize*8/int64(g.bits)-firstData)
	if n <= 0 || n > most {
		return fsys.Corrupt("fat", "boot sector", 0, off, "%d clusters in FAT%d", n, g.bits)
	}
	g.clusters = uint32(n)
	return nil
}
