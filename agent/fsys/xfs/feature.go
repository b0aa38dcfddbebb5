package xfs

import (
	"fmt"
	"math/bits"
	"strings"
)

// sb_versionnum: the version in the low bits, and what versions up to 4 call features.
const (
	versionMask  = 0x000F
	version4     = 4
	version5     = 5
	versionLogV2 = 0x0400
	versionDirV2 = 0x2000
	versionCI    = 0x4000 // names are compared without regard to ASCII and Latin-1 case
	versionMore  = 0x8000 // sb_features2 counts
)

// sb_features2.
const (
	features2CRC   = 0x100
	features2Ftype = 0x200
)

// sb_features_ro_compat: none of them concerns reading.
const roKnown = 0x1 | 0x2 | 0x4 | 0x8

var roNames = map[uint32]string{0x1: "finobt", 0x2: "rmapbt", 0x4: "reflink", 0x8: "inobtcount"}

// sb_features_incompat.
const (
	incompatFtype       = 0x001
	incompatSparse      = 0x002
	incompatMetaUUID    = 0x004
	incompatBigtime     = 0x008
	incompatNeedsRepair = 0x010
	incompatNrext64     = 0x020
	incompatExchange    = 0x040
	incompatParent      = 0x080
	incompatMetadir     = 0x100
	incompatZoned       = 0x200
	incompatZoneGaps    = 0x400

	incompatKnown = incompatFtype | incompatSparse | incompatMetaUUID | incompatBigtime | incompatNeedsRepair |
		incompatNrext64 | incompatExchange | incompatParent
)

var incompatNames = map[uint32]string{
	incompatFtype: "ftype", incompatSparse: "sparse inodes", incompatMetaUUID: "meta_uuid", incompatBigtime: "bigtime",
	incompatNeedsRepair: "needsrepair", incompatNrext64: "nrext64", incompatExchange: "exchange-range", incompatParent: "parent pointers",
	incompatMetadir: "metadata directory", incompatZoned: "zoned", incompatZoneGaps: "zone gaps",
}

// featureNames lists set bits for a person.
func featureNames(set uint32, names map[uint32]string) string {
	var out []string
	for ; set != 0; set &= set - 1 {
		bit := uint32(1) << bits.TrailingZeros32(set)
		if name, ok := names[bit]; ok {
			out = append(out, name)
		} else {
			out = append(out, fmt.Sprintf("feature %#x", bit))
		}
	}
	return strings.Join(out, ", ")
}
