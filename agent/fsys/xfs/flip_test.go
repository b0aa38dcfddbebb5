package xfs

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"vmfr/agent/extent"
	"vmfr/agent/fsys/fsystest"
	"vmfr/agent/ondisk"
)

// TestFlippedBytes damages the metadata of a version 4 file system, which has no checksums, at random:
// the parsers see every damage. VMFR_FLIPS sets how often, and so where a failing run is found again.
func TestFlippedBytes(t *testing.T) {
	flips := 60
	if s := os.Getenv("VMFR_FLIPS"); s != "" {
		flips, _ = strconv.Atoi(s)
	}
	h := &hostile{b: fsystest.Stored(t, "v4-old")}
	var hot []int
	for off := 0; off+512 <= len(h.b); off += 256 {
		v := ondisk.Big(h.b[off : off+512])
		switch {
		case v.U16(0) == inodeMagic && v.U16(2) != 0,
			off%512 == 0 && (v.U32(0) == bmbtMagicV4 || v.U32(0) == dirDataMagicV4 || v.U32(0) == dirBlockMagicV4),
			off%512 == 0 && (v.U16(daMagic) == daNodeMagicV4 || v.U16(daMagic) == attrLeafMagicV4 || v.U16(daMagic) == leafNMagicV4 || v.U16(daMagic) == leaf1MagicV4):
			hot = append(hot, off)
		}
	}
	for seed := range flips {
		rng := rand.New(rand.NewPCG(uint64(seed), 5))
		for range 1 + rng.IntN(60) {
			off := hot[rng.IntN(len(hot))]
			at := rng.IntN(128) // headers matter most
			if rng.IntN(3) == 0 {
				at = rng.IntN(256)
			}
			h.put(off+at, []byte{0, 0xFF, 1, byte(rng.Uint32()), h.b[off+at] ^ 1<<rng.IntN(8)}[rng.IntN(5)])
		}
		fs, err := Open(extent.Bytes(h.b), Options{})
		if err == nil {
			err = survey(fs)
		}
		if err != nil && !ofKnownKind(err) {
			t.Errorf("seed %d: %v", seed, err)
		}
		h.restore()
	}
	t.Logf("%d blocks and inodes", len(hot))
}
