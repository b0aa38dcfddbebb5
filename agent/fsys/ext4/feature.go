package ext4

import (
	"fmt"
	"strings"
)

// Feature bits of the superblock ("Super Block" in the kernel's Documentation/filesystems/ext4).
const (
	compatHasJournal   = 0x4
	compatDirIndex     = 0x20
	compatSparseSuper2 = 0x200
	compatFastCommit   = 0x400

	incompatFiletype   = 0x2
	incompatRecover    = 0x4
	incompatMetaBG     = 0x10
	incompatExtents    = 0x40
	incompat64Bit      = 0x80
	incompatMMP        = 0x100
	incompatFlexBG     = 0x200
	incompatEAInode    = 0x400
	incompatCsumSeed   = 0x2000
	incompatLargeDir   = 0x4000
	incompatInlineData = 0x8000
	incompatEncrypt    = 0x10000
	incompatCasefold   = 0x20000

	roSparseSuper   = 0x1
	roLargeFile     = 0x2
	roBtreeDir      = 0x4
	roHugeFile      = 0x8
	roGDTCsum       = 0x10
	roDirNlink      = 0x20
	roExtraIsize    = 0x40
	roQuota         = 0x100
	roBigalloc      = 0x200
	roMetadataCsum  = 0x400
	roReadonly      = 0x1000
	roProject       = 0x2000
	roSharedBlocks  = 0x4000
	roVerity        = 0x8000
	roOrphanPresent = 0x10000
)

// incompatKnown are the incompatible features that this engine implements (or, as mmp, that
// concern writers only). Any other bit means that reading would be guessing.
const incompatKnown = incompatFiletype | incompatRecover | incompatMetaBG | incompatExtents | incompat64Bit | incompatMMP |
	incompatFlexBG | incompatEAInode | incompatCsumSeed | incompatLargeDir | incompatInlineData | incompatEncrypt | incompatCasefold

// roKnown are the read-only-compatible features whose effect on reading is implemented or nil.
const roKnown = roSparseSuper | roLargeFile | roBtreeDir | roHugeFile | roGDTCsum | roDirNlink | roExtraIsize | roQuota |
	roBigalloc | roMetadataCsum | roReadonly | roProject | roSharedBlocks | roVerity | roOrphanPresent

// ext4Incompat and ext4RO are the features that make an ext4 of an ext2 or ext3, as blkid tells them apart.
const (
	ext4Incompat = incompatExtents | incompat64Bit | incompatMMP | incompatFlexBG | incompatEAInode | incompatCsumSeed |
		incompatLargeDir | incompatInlineData | incompatEncrypt | incompatCasefold
	ext4RO = roHugeFile | roGDTCsum | roDirNlink | roExtraIsize | roBigalloc | roMetadataCsum | roProject | roVerity
)

var incompatNames = map[uint32]string{
	0x1:    "compression",
	0x8:    "journal_dev (this is an external journal, not a file system)",
	0x1000: "dirdata",
}

var roNames = map[uint32]string{0x80: "has_snapshot", 0x800: "replica"}

// featureNames lists the bits by name, or by value where they have none here.
func featureNames(bits uint32, names map[uint32]string) string {
	var out []string
	for b := uint32(1); b != 0; b <<= 1 {
		if bits&b == 0 {
			continue
		}
		n, ok := names[b]
		if !ok {
			n = fmt.Sprintf("unknown feature %#x", b)
		}
		out = append(out, n)
	}
	return strings.Join(out, ", ")
}

func (s *super) hasCompat(b uint32) bool   { return s.compat&b != 0 }
func (s *super) hasIncompat(b uint32) bool { return s.incompat&b != 0 }
func (s *super) hasRO(b uint32) bool       { return s.roCompat&b != 0 }

// metadataCsum tells whether every metadata structure carries a crc32c.
func (s *super) metadataCsum() bool { return s.hasRO(roMetadataCsum) }

// typeName is "ext2", "ext3" or "ext4".
func (s *super) typeName() string {
	switch {
	case s.hasIncompat(ext4Incompat) || s.hasRO(ext4RO):
		return "ext4"
	case s.hasCompat(compatHasJournal):
		return "ext3"
	}
	return "ext2"
}
